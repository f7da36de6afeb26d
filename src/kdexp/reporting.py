"""The verb `report`: finished runs, or a study's trials, compared; where test predictions are asked for and missing,
one pass over the test split makes them, into files that no search reads."""

from __future__ import annotations

import glob
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from kdexp.analysis.compared import Entry, Sampling
from kdexp.analysis.comparison import (
    COMPARISON_SCHEMA,
    Question,
    compare_runs,
    refuse_other_data,
    separate,
    with_predictions,
)
from kdexp.analysis.comparison_table import comparison_section, render_comparison, write_tables
from kdexp.analysis.report import COMPARISON, REPORT, write_page, write_study_report
from kdexp.analysis.schedules import analyse, write
from kdexp.analysis.schedules_page import render
from kdexp.analysis.schedules_reading import is_scheduled, read_study
from kdexp.analysis.settings import differing
from kdexp.analysis.study import find_study, is_feasible, ranked, value_column
from kdexp.analysis.trials_table import read_trials
from kdexp.errors import ConfigError, DataError, StudyError
from kdexp.provenance import command_line
from kdexp.records import RunFolder, read_json, write_json

log = logging.getLogger(__name__)

Config = Mapping[str, Any]
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


def report(cfg: Config, words: Sequence[str]) -> dict[str, Any]:
    """Compares, prints, and writes the tables; returns what `comparison.json` holds.

    Raises ConfigError and DataError for what cannot be compared, naming the folder.
    """
    if (cfg["runs"] is None) == (cfg["study"] is None):
        raise ConfigError("report needs either runs=FOLDERS (a glob or a list of run folders) or study=NAME, not both")
    if "/" in (cfg["name"] or ""):
        raise ConfigError(f"name={cfg['name']}: one folder name, without a slash; it lies in <output_root>/reports")
    command = command_line(("report", *words))
    if cfg["study"] is not None:
        if cfg["name"] is not None:
            raise ConfigError("name: has no effect with study=NAME, whose comparison lies in the study's own folder")
        return report_study(cfg, command, chosen_on=cfg["chosen_on"])
    if cfg["chosen_on"] == "test":
        raise ConfigError("chosen_on=test: has no effect with runs=..., where nothing is chosen; leave it out")
    entries, skipped = _read_runs(cfg)
    entries = [entry for part in separate(entries) for entry in _told(part)]
    folder = Path(cfg["paths"]["output_root"]) / "reports" / (cfg["name"] or _default_name(_given(cfg)))
    question = Question(sampling=_sampling(cfg), split=cfg["split"], reference=_reference(cfg, entries))
    found = _compared(entries, question, cfg, folder, command, skipped)
    page = write_page(
        folder / REPORT, "Comparison of runs", ["<h1>Comparison of runs</h1>", comparison_section(found["tables"])]
    )
    log.info("report: %s, with runs.csv and comparison.json beside it", page)
    return found


def report_study(cfg: Config, command: str, *, groups_only: bool = False, chosen_on: str = "val") -> dict[str, Any]:
    """The same for a study's complete trials, the best first; its report.html is written again with what was found.

    `cfg` holds what `ReportConfig` does. Raises StudyError where the study has no complete trial, or where test is to
    choose and has no value of some run.
    """
    folder = find_study(Path(cfg["paths"]["output_root"]), cfg["study"])
    summary, rows = read_json(folder / "study_summary.json"), read_trials(folder / "trials.csv")
    entries, skipped = _read_trials(folder, summary, rows)
    scheduled = any(is_scheduled(entry.settings) for entry in entries)
    if chosen_on == "test" and not scheduled:
        raise ConfigError(
            f"chosen_on=test: has no effect on {cfg['study']}, in which no schedule moves: nothing is chosen"
        )
    if cfg["reference"] is not None:
        entries = _with_outsider(entries, Path(cfg["reference"]))
    objective = str(summary["objectives"][0])
    metric = objective.removeprefix("val/") if objective.startswith("val/") else "score"
    question = Question(
        sampling=_sampling(cfg),
        split=cfg["split"],
        metric=metric,
        smaller_is_better=objective == f"val/{metric}" and summary["directions"][0] == "minimize",
        reference=_reference(cfg, entries),
        order=objective,
        top=cfg["top"],
    )
    home = (folder / COMPARISON).parent
    found = _compared(entries, question, cfg, home, command, skipped, groups_only=groups_only)
    if scheduled:
        _analyse_schedules(folder, cfg, question.reference, chosen_on)
    log.info("report: %s", write_study_report(folder))
    return found


def _analyse_schedules(folder: Path, cfg: Config, reference: Entry | None, chosen_on: str) -> None:
    """Tables, sentences and figures of a study whose temperature or weight of distillation moved; a study that they
    cannot be made of keeps its comparison, unless test was asked to choose."""
    try:
        analysis = analyse(read_study(folder, reference), _sampling(cfg), chosen_on=chosen_on)
    except StudyError as error:
        if chosen_on == "test":
            raise
        log.warning("schedules: %s", error)
        return
    render(analysis, Console(), with_tables=False)
    log.info("schedules: %s, with a CSV for each table beside it", write(analysis, folder)[0])


def _compared(
    entries: Sequence[Entry],
    question: Question,
    cfg: Config,
    folder: Path,
    command: str,
    skipped: Sequence[str],
    *,
    groups_only: bool = False,
) -> dict[str, Any]:
    """Makes a table for each data set, prints and writes them."""
    parts = [list(entries)] if question.reference else separate(entries)
    refuse_other_data(parts[0], question.reference)
    skipped = list(skipped)
    if len(parts) > 1:
        skipped.append(f"the runs were trained on {len(parts)} different data sets or splits: a table for each")
    for sentence in skipped:
        log.warning("%s", sentence)
    if question.split == "test":
        _test_pass([entry for part in parts for entry in with_predictions(part, question)], cfg)
    tables = [compare_runs(part, question) for part in parts]
    found = {
        "schema": COMPARISON_SCHEMA,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "warnings": skipped,
        "tables": tables,
    }
    write_tables(tables, folder)
    write_json(folder / "comparison.json", found)
    render_comparison(tables, Console(), groups_only=groups_only)
    return found


def _test_pass(entries: Sequence[Entry], cfg: Config) -> None:
    """Measures on test what has no predictions there yet and still has its checkpoint."""
    missing = [entry for entry in entries if entry.predictions_file("test") is None]
    able = [entry.folder for entry in missing if entry.has_checkpoint]
    if missing:
        log.info(
            "test pass: %d of %d runs are measured on test now, %d were before, %d have no checkpoint any more",
            len(able),
            len(entries),
            len(entries) - len(missing),
            len(missing) - len(able),
        )
    if able:
        from kdexp.evaluate import evaluate_all

        evaluate_all(able, "test", cfg)


def _sampling(cfg: Config) -> Sampling:
    interval = cfg["interval"]
    return Sampling(n_resamples=interval["n_resamples"], level=interval["level"], seed=interval["seed"])


def _reference(cfg: Config, entries: Sequence[Entry]) -> Entry | None:
    if cfg["reference"] is None:
        return None
    folder = Path(cfg["reference"]).resolve()
    return next(entry for entry in entries if entry.folder.resolve() == folder)


# Which runs


def _read_runs(cfg: Config) -> tuple[list[Entry], list[str]]:
    """Every finished run, and beside it the student that `with_no_kd` trained; and a sentence for each passed over."""
    folders = [folder for pattern in _given(cfg) for folder in _matches(pattern)]
    if cfg["reference"] is not None:
        folders.append(_finished_reference(Path(cfg["reference"])))
    folders = list({folder.resolve(): folder for folder in folders}.values())
    skipped = [why for folder in folders if (why := _unfinished(folder))]
    finished = [folder for folder in folders if not _unfinished(folder)]
    if not finished:
        raise DataError("; ".join(skipped))
    top = os.path.commonpath([folder.parent for folder in finished])
    entries = []
    for folder in finished:
        entry = Entry.read(folder, os.path.relpath(folder, top))
        beside = entry.without_distillation
        entries += [entry] if beside is None else [entry, beside]
    return entries, skipped


def _told(entries: Sequence[Entry]) -> list[Entry]:
    """The same with the settings in which they differ."""
    told = differing([entry.settings for entry in entries])
    return [replace(entry, shown=shown) for entry, shown in zip(entries, told, strict=True)]


def _given(cfg: Config) -> list[str]:
    return [cfg["runs"]] if isinstance(cfg["runs"], str) else list(cfg["runs"])


def _matches(pattern: str) -> list[Path]:
    """The run folders that a pattern means; where it names one folder, that one."""
    if Path(pattern).is_dir():
        found = [Path(pattern)]
    else:
        found = [Path(name) for name in sorted(_globbed(pattern)) if Path(name).is_dir()]
        if not found:
            raise DataError(f"runs={pattern}: there is no such folder; a run folder holds config.yaml and run.json")
    strange = [str(folder) for folder in found if not RunFolder(folder).config.is_file()]
    if strange:
        raise DataError(f"runs={pattern}: {', '.join(strange)}: not a run folder, it holds no config.yaml")
    return found


def _globbed(pattern: str) -> list[str]:
    return glob.glob(pattern, recursive=True)  # noqa: PTH207  (Path.glob takes no absolute pattern)


def _unfinished(folder: Path) -> str | None:
    """Why a run cannot be compared; None where it can."""
    record = RunFolder(folder).record
    if not record.exists():
        return f"{folder} is not finished and is left out; continue it with: python -m kdexp train resume={folder}"
    if read_json(record)["status"] == "pruned":
        return f"{folder} was pruned, not trained to its end, and is left out"
    return None


def _finished_reference(folder: Path) -> Path:
    if not RunFolder(folder).config.is_file():
        raise DataError(f"reference={folder} is not a run folder: it holds no config.yaml")
    if why := _unfinished(folder):
        raise DataError(f"reference={folder}: {why.replace(' and is left out', '')}")
    return folder


def _read_trials(
    folder: Path, summary: Mapping[str, Any], rows: Sequence[Mapping[str, str]]
) -> tuple[list[Entry], list[str]]:
    """The complete trials that keep all constraints and have their records, the best first."""
    entries, skipped = [], []
    n_broken = sum(row["state"] == "complete" and not is_feasible(row) for row in rows)
    if n_broken:
        skipped.append(f"trials that break a constraint of the study are left out: {n_broken}")
    objective, value = str(summary["objectives"][0]), value_column(summary)
    swept = [name for name in (rows[0] if rows else ()) if name.startswith("params.") and name != "params.seed"]
    for row in ranked(rows, summary):
        run = folder / "trials" / f"trial_{int(row['number']):05d}"
        if not RunFolder(run).record.exists():
            skipped.append(f"trial {row['number']} is left out: {run} holds no run.json any more")
            continue
        shown: dict[str, Any] = {} if objective.startswith("val/") else {objective: float(row[value])}
        shown |= {name.removeprefix("params."): _plain(row[name]) for name in swept}
        name = " ".join(["trial", row["number"], *filter(None, [row.get("name")])])
        entries.append(replace(Entry.read(run, name), shown=shown))
    if not entries:
        raise StudyError("; ".join([f"{folder} has no complete trial to compare, of {len(rows)}", *skipped]))
    return entries, skipped


def _with_outsider(entries: list[Entry], reference: Path) -> list[Entry]:
    """The trials, and the reference beside them where it is none of them."""
    if any(entry.folder.resolve() == reference.resolve() for entry in entries):
        return entries
    other = Entry.read(_finished_reference(reference), str(reference))
    told = {**other.settings.values, **other.settings.choices}
    return [*entries, replace(other, shown={name: told.get(name) for name in entries[0].shown})]


def _plain(text: str) -> Any:
    """A cell of trials.csv as a value: a number where it is one, None where it is empty."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text


def _default_name(given: Sequence[str]) -> str:
    """The glob's own name, so that the same command writes the same report; for a list, the time."""
    if len(given) == 1:
        return _NOT_IN_NAMES.sub("_", given[0]).strip("_.") or "runs"
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
