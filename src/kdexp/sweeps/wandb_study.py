"""A study's own W&B run, beside those of its trials: the table of trials, best-so-far over trials, the plots.

Made from the files that `write_results` and `draw_plots` leave, through the same logger as a training run.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdexp.errors import StudyError
from kdexp.records import fingerprint, read_json, write_json
from kdexp.sweeps.results import PLOT_LIST, PLOTS, SUMMARY, TRIALS
from kdexp.training.loggers import WandbLogger, WandbMode, close_logger, wandb_logger

_LOGGED = "wandb/study_run.json"
_HEADLINES = ("n_trials", "share_pruned", "epochs", "warnings")
_CONFIG = ("study_name", "objectives", "directions", "sampler", "pruner", "space", "data")
_OF_A_TRIAL = ("number", "values", "params", "seed", "epochs", "name")
_OF_THIS_MACHINE = ("error",)
"""Columns that may hold paths; as from a training run, nothing about the machine is sent."""


def log_study(
    folder: Path,
    *,
    project: str = "kdexp",
    entity: str | None = None,
    mode: WandbMode = "auto",
    group: str | None = None,
    tags: Sequence[str] = (),
) -> str | None:
    """Logs the study as one run of job type `study` in the group of its trials (by default the study's name).

    A study that goes on goes on with its run. Online the run takes the trials that it has not; an offline file holds
    all of them, for `wandb sync` replaces what the run held. Returns the run's id, or None where these very results
    were logged before. Raises StudyError where no trial left word of the data it ran on.
    """
    summary, rows = read_json(folder / SUMMARY), _read_rows(folder / TRIALS)
    if summary["data"] is None:
        raise StudyError(f"study {summary['study_name']}: no trial is finished, so there is nothing to log to W&B")
    plots = read_json(folder / PLOT_LIST)["plots"] if (folder / PLOT_LIST).exists() else []
    state = fingerprint(rows, [plot["name"] for plot in plots], project, entity)
    if (folder / _LOGGED).exists() and read_json(folder / _LOGGED)["state"] == state:
        return None
    logger = wandb_logger(
        run_dir=folder,
        config={key: summary[key] for key in _CONFIG},
        source=summary["data"]["source"],
        project=project,
        entity=entity,
        mode=mode,
        group=group or summary["study_name"],
        job_type="study",
        name=summary["study_name"],
        tags=list(tags),
        run_id=_run_id(summary),
    )
    assert isinstance(logger, WandbLogger)
    try:
        _log(logger.experiment, summary, rows, [(plot["name"], folder / PLOTS / plot["png"]) for plot in plots])
        logger.finalize("done")
    finally:
        close_logger(logger)
    write_json(folder / _LOGGED, {"state": state, "run": logger.version})
    return logger.version


def log_verdict(
    folder: Path,
    verdict: Mapping[str, Any],
    *,
    project: str = "kdexp",
    entity: str | None = None,
    mode: WandbMode = "auto",
) -> str | None:
    """Logs a confirmation as one run of job type `verdict` in the study's group: the verdict, a table of its pairs, and
    the forest plot. Returns the run's id."""
    import wandb

    logger = wandb_logger(
        run_dir=folder / "confirm",
        config={key: verdict[key] for key in ("study", "seeds", "margin", "level", "overrides", "no_kd", "condition")},
        source=verdict["data"]["source"],
        project=project,
        entity=entity,
        mode=mode,
        group=verdict["study"],
        job_type="verdict",
        name=f"{verdict['study']} verdict",
    )
    assert isinstance(logger, WandbLogger)
    columns = ("contender", "seed", "test score", "no-KD test score", "difference")
    pairs = [
        [contender["name"], pair["seed"], pair["contender"], pair["baseline"], pair["difference"]]
        for contender in verdict["contenders"]
        for pair in contender["per_seed"]
    ]
    try:
        run = logger.experiment
        run.log(
            {
                "verdict/pairs": wandb.Table(columns=list(columns), data=pairs),
                "verdict/forest": wandb.Image(str(folder / "confirm" / "forest.png")),
            }
        )
        for contender in verdict["contenders"]:
            score = contender["difference"]["score"]
            facts = {key: score[key] for key in ("mean", "low", "high")} | {"p": contender["p_holm"]}
            run.summary.update({f"verdict/{contender['name']}": {"word": contender["verdict"], **facts}})
        logger.finalize("done")
    finally:
        close_logger(logger)
    return logger.version


def _run_id(summary: Mapping[str, Any]) -> str:
    """The same for a study however often it is gone on with, another for a later study of the same name."""
    return fingerprint(summary["study_name"], summary["durations_seconds"]["first_start"])


def _log(run: Any, summary: Mapping[str, Any], rows: list[dict[str, str]], plots: list[tuple[str, Path]]) -> None:
    import wandb

    objectives, directions = summary["objectives"], summary["directions"]
    known = run.summary.get("study/trial", -1) if run.resumed else -1
    for name, direction in zip(objectives, directions, strict=True):
        for metric in (f"study/{name}", f"study/best {name}"):
            run.define_metric(metric, step_metric="study/trial")
        column = "value" if len(objectives) == 1 else f"value.{name}"
        for values in _best_so_far(rows, column, name, direction):
            if values["study/trial"] > known:
                run.log(values)
    table = wandb.Table(columns=list(rows[0]), data=_typed(rows))
    run.log({"study/trials": table, **{f"plots/{name}": wandb.Image(str(path)) for name, path in plots}})
    run.summary.update({f"study/{key}": summary[key] for key in _HEADLINES})
    best = summary["best_trial"]
    run.summary["study/best_trial"] = None if best is None else {key: best[key] for key in _OF_A_TRIAL}
    run.summary["study/pareto_set"] = [trial["number"] for trial in summary["pareto_set"]]


def _best_so_far(rows: Sequence[Mapping[str, str]], column: str, name: str, direction: str) -> list[dict[str, float]]:
    """A row for each complete trial that keeps all constraints: its number, its value, and the best up to it."""
    better = max if direction == "maximize" else min
    made: list[dict[str, float]] = []
    for row in rows:
        broken = [key for key, cell in row.items() if key.startswith("constraint.") and cell and float(cell) > 0]
        if row["state"] != "complete" or broken:
            continue
        value = float(row[column])
        best = better(value, made[-1][f"study/best {name}"]) if made else value
        made.append({"study/trial": int(row["number"]), f"study/{name}": value, f"study/best {name}": best})
    return made


def _typed(rows: Sequence[Mapping[str, str]]) -> list[list[float | str | None]]:
    """Cells by row. A column of numbers becomes one; what is empty in it, None."""
    numeric = {name for name in rows[0] if all(not row[name] or _is_number(row[name]) for row in rows)}
    return [
        [(float(cell) if cell else None) if name in numeric else cell for name, cell in row.items()] for row in rows
    ]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream)
        return [{name: cell for name, cell in row.items() if name not in _OF_THIS_MACHINE} for row in rows]
