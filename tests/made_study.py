"""Real Optuna studies in SQLite files, with trial folders as a sweep leaves them; all from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import Trial, TrialState

from kdexp.records import RunFolder, append_line, write_json

MAX_EPOCHS = 8
N = {"train": 1653, "val": 197, "test": 200}
BASE = {"trainer": {"max_epochs": MAX_EPOCHS}, "dataset": {"name": "medpix"}, "seed": 1000}

SPACE = {
    "parameters": {
        "optimizer.lr": {
            "name": "FloatDistribution",
            "attributes": {"low": 1e-4, "high": 0.1, "log": True, "step": None},
        },
        "student.hidden": {"name": "IntDistribution", "attributes": {"low": 16, "high": 256, "log": False, "step": 8}},
        "schedule@distill.weights.kl": {
            "name": "CategoricalDistribution",
            "attributes": {"choices": ["constant", "linear"]},
        },
        "distill.weights.kl.end": {
            "name": "FloatDistribution",
            "attributes": {"low": 0.0, "high": 1.0, "log": False, "step": None},
        },
    },
    "active_when": {"distill.weights.kl.end": {"schedule@distill.weights.kl": ["linear"]}},
    "custom_search_space": None,
    "fixed": {"distill": "alpha_beta"},
    "deleted": [],
}
"""As a sweep writes it into its study."""


def new_study(
    folder: Path, *, directions: Sequence[str] = ("maximize",), name: str = "toy", **attributes: Any
) -> optuna.Study:
    """An empty study in `folder/study.db` with the attributes that a sweep writes."""
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=name,
        storage=f"sqlite:///{folder / 'study.db'}",
        directions=list(directions),
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    written = {
        "metric": "val/score" if len(directions) == 1 else ["val/score", "latency_ms"][: len(directions)],
        "directions": list(directions),
        "space": SPACE,
        "base_overrides": ["dataset=medpix", "trainer.max_epochs=8"],
        "config": BASE,
        "sampler": {"_target_": "optuna.samplers.TPESampler", "seed": 42},
        "pruner": {"_target_": "optuna.pruners.MedianPruner"},
        "n_trials": 30,
    }
    for key, value in (written | attributes).items():
        study.set_user_attr(key, value)
    return study


def suggest(trial: Trial) -> dict[str, Any]:
    """A log scale, a plain one, an integer, a choice, and one that is there only under one choice."""
    params = {
        "optimizer.lr": trial.suggest_float("optimizer.lr", 1e-4, 1e-1, log=True),
        "distill.temperature": trial.suggest_float("distill.temperature", 1, 8),
        "student.hidden": trial.suggest_int("student.hidden", 16, 256),
        "schedule@distill.weights.kl": trial.suggest_categorical("schedule@distill.weights.kl", ["constant", "linear"]),
    }
    if params["schedule@distill.weights.kl"] == "linear":
        params["distill.weights.kl.end"] = trial.suggest_float("distill.weights.kl.end", 0, 1)
    return params


def score(params: dict[str, Any], epoch: int, noise: random.Random) -> float:
    """A made-up learning curve: best near lr 0.01 and temperature 4."""
    quality = math.exp(
        -0.5 * (math.log10(params["optimizer.lr"]) + 2) ** 2 - 0.1 * (params["distill.temperature"] - 4) ** 2
    )
    return 0.4 + 0.5 * quality * (1 - math.exp(-epoch / 3)) + noise.gauss(0, 0.005)


def run_trial(
    study: optuna.Study,
    folder: Path,
    end: str = "complete",
    *,
    epochs: int = MAX_EPOCHS,
    with_folder: bool = True,
    source: str = "real",
    draw: Callable[[Trial], dict[str, Any]] = suggest,
    **attributes: Any,
) -> int:
    """Asks for a trial and, after some epochs, ends it as `complete`, `pruned` or `fail`, or leaves it `running`.

    Returns its number.
    """
    trial = study.ask()
    noise = random.Random(trial.number)
    params = draw(trial)
    known = {"slot": trial.number, "seed": 1000 + trial.number, "drawn_by": dict.fromkeys(params, "TPESampler")}
    for key, value in (known | attributes).items():
        trial.set_user_attr(key, value)
    values = [score(params, epoch, noise) for epoch in range(1, epochs + 1)]
    if len(study.directions) == 1:
        for epoch, value in enumerate(values, 1):
            trial.report(value, epoch)
    if with_folder:
        _write_run(folder, trial.number, params, values, end, source)
    if end == "complete":
        several = len(study.directions) > 1
        study.tell(trial, [max(values), params["student.hidden"] / 100] if several else max(values))
    elif end == "pruned":
        study.tell(trial, state=TrialState.PRUNED)
    elif end == "fail":
        study.tell(trial, state=TrialState.FAIL)
    return trial.number


def _write_run(folder: Path, number: int, params: dict, values: list[float], end: str, source: str) -> None:
    run = RunFolder(folder / "trials" / f"trial_{number:05d}")
    run.path.mkdir(parents=True)
    run.config.write_text(yaml.safe_dump(BASE | {"params": params, "seed": 1000 + number}), encoding="utf-8")
    for epoch, value in enumerate(values, 1):
        append_line(run.metrics, {"epoch": epoch, "val/score": value})
    if end not in ("complete", "pruned"):
        return
    data = {
        "name": "medpix", "source": source, "fingerprint": "0123456789abcdef", "n": N,
        "n_clusters": {"train": 535, "val": 67, "test": 69}, "cluster": "case",
    }  # fmt: skip
    write_json(
        run.record,
        {"status": end, "data": data, "epochs": len(values), "config_hash": f"{number:016x}", "seed": number},
    )


def night(folder: Path, *, n: int = 30, source: str = "real", **attributes: Any) -> optuna.Study:
    """A study as a night leaves it: most trials complete, some pruned, one failed, one cut off and run again, one
    still running and one waiting."""
    study = new_study(folder, **attributes)
    for number in range(n):
        kind = "pruned" if number % 4 == 3 else "complete"
        run_trial(study, folder, kind, epochs=3 if kind == "pruned" else MAX_EPOCHS, source=source)
    run_trial(study, folder, "fail", epochs=1, error="RuntimeError: <script>alert(1)</script> & co", reason="error")
    cut = run_trial(study, folder, "fail", epochs=2, reason="interrupted")
    run_trial(study, folder, "complete", source=source, retry_of=cut, name="again")
    run_trial(study, folder, "running", epochs=4)
    study.enqueue_trial({"optimizer.lr": 0.01})
    return study
