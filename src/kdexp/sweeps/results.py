"""What a study leaves: `study_summary.json`, `trials.csv` and `best_config.yaml`, written whole from the study itself.

Everything is read at one moment, so a study that other workers go on with is told consistently.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from kdexp.errors import StudyError
from kdexp.records import read_json, redact, write_json, written_whole
from kdexp.sweeps.summary import no_winner, summarize
from kdexp.sweeps.view import StudyView, best_trial, epochs_run, take_view, utc

SUMMARY, TRIALS, BEST_CONFIG, PLOTS = "study_summary.json", "trials.csv", "best_config.yaml", "plots"
PLOT_LIST = f"{PLOTS}/plots.json"
_MAX_ERROR_CHARACTERS = 2000


@dataclass(frozen=True)
class Results:
    """What was written. `problems` are sentences on what could not be; `warnings` on how far to trust the rest."""

    folder: Path
    summary: Mapping[str, Any]

    @property
    def warnings(self) -> list[str]:
        return list(self.summary["warnings"])

    @property
    def problems(self) -> list[str]:
        return list(self.summary["problems"])

    @property
    def has_winner(self) -> bool:
        """Whether there is a best trial, with its configuration."""
        best = self.summary["best_trial"]
        return best is not None and best["command"] is not None

    def winner_command(self) -> str:
        """The command that trains the best trial's configuration again. Raises StudyError where there is none."""
        if self.has_winner:
            return str(self.summary["best_trial"]["command"])
        reasons = [sentence for sentence in self.problems if sentence.startswith(BEST_CONFIG)]
        raise StudyError(reasons[0] if reasons else f"{BEST_CONFIG}: {no_winner(self.summary)}")


def write_results(study: optuna.Study, folder: Path) -> Results:
    """Writes the three files, at any time: before the first trial, after each, at the end.

    `best_config.yaml` is the best trial's own resolved configuration; without a best trial, with several objectives or
    without that trial's folder it is not there, and `problems` say why. Raises StudyError where the study's own
    attributes contradict each other.
    """
    view = take_view(study, folder)
    best = best_trial(view)
    summary = summarize(view, best)
    summary["problems"] += [*_write_best_config(view, best, summary), *_plot_problems(folder)]
    _write_trials(view, folder / TRIALS)
    write_json(folder / SUMMARY, summary)
    return Results(folder, summary)


def _write_best_config(view: StudyView, best: FrozenTrial | None, summary: Mapping[str, Any]) -> list[str]:
    """Copies the best trial's configuration, or says why not; an older one that no longer holds is taken away."""
    target = view.folder / BEST_CONFIG
    source = view.run_folder(best.number).config if best is not None else None
    if source is not None and source.is_file():
        with written_whole(target) as temporary:
            temporary.write_bytes(source.read_bytes())
        return []
    target.unlink(missing_ok=True)
    if len(view.directions) > 1:
        return []
    if best is None:
        return [f"{BEST_CONFIG}: {no_winner(summary)}"]
    return [
        f"{BEST_CONFIG}: the best trial is {best.number}, but {source} is missing; its parameters are in {TRIALS}, "
        "and `enqueue` runs them again"
    ]


def _plot_problems(folder: Path) -> list[str]:
    """Why a plot of the last drawing is missing."""
    path = folder / PLOT_LIST
    if not path.exists():
        return []
    return [f"plot {problem['name']}: {problem['reason']}" for problem in read_json(path)["problems"]]


def _write_trials(view: StudyView, path: Path) -> None:
    """A row per trial in the order of numbers; numbers in full precision, an absent value empty, None as `null`. A
    constraint's number is above 0 where the trial breaks it."""
    parameters = list(dict.fromkeys(name for trial in view.trials for name in trial.params))
    several = len(view.objectives) > 1
    values = [f"value.{name}" for name in view.objectives] if several else ["value"]
    constraints = _constraints(view)
    head = ["number", "state", *values, *(f"constraint.{name}" for name in constraints)]
    head += [*(f"params.{name}" for name in parameters), "seed", "slot", "epochs"]
    with (
        written_whole(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as stream,
    ):
        table = csv.writer(stream, lineterminator="\n")
        table.writerow([*head, "started", "seconds", "name", "retry_of", "reason", "error"])
        table.writerows(_row(view, trial, parameters, constraints) for trial in view.trials)


def _constraints(view: StudyView) -> list[str]:
    return list(dict.fromkeys(name for trial in view.trials for name in trial.constraints))


def _row(view: StudyView, trial: FrozenTrial, parameters: Sequence[str], constraints: Sequence[str]) -> list[str]:
    attributes, params = trial.user_attrs, redact(trial.params)
    values = trial.values or [None] * len(view.objectives)
    error = redact(str(attributes.get("error") or ""))
    known = [attributes.get("seed"), attributes.get("slot"), epochs_run(view, trial)]
    return [
        str(trial.number),
        trial.state.name.lower(),
        *("" if value is None or math.isnan(value) else repr(value) for value in values),
        *(repr(trial.constraints[name]) if name in trial.constraints else "" for name in constraints),
        *(_cell(params[name]) if name in params else "" for name in parameters),
        *("" if value is None else str(value) for value in known),
        utc(trial.datetime_start) if trial.datetime_start else "",
        "" if trial.duration is None else f"{trial.duration.total_seconds():.3f}",
        *(str(attributes[key]) if attributes.get(key) is not None else "" for key in ("name", "retry_of", "reason")),
        error if len(error) <= _MAX_ERROR_CHARACTERS else error[:_MAX_ERROR_CHARACTERS] + "…",
    ]


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
