"""A study read at one moment, with what its trials' run folders say, for all that is told about it afterwards.

Nothing is unpickled: of a trial's system attributes only its constraints are looked at.
"""

from __future__ import annotations

import copy
import logging
import shlex
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kdexp.errors import DataError, StudyError
from kdexp.records import RunFolder, read_json
from kdexp.sweeps.grammar import written

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_SHOWN_ATTRIBUTES = ("slot", "seed", "name")


@dataclass(frozen=True)
class StudyView:
    """A study at one moment.

    `study` is a copy in memory for Optuna's own functions; `trials` carry all their attributes; `records` are the
    `run.json` files of the trials that left one, by trial number.
    """

    study: optuna.Study
    trials: tuple[FrozenTrial, ...]
    attributes: Mapping[str, Any]
    objectives: tuple[str, ...]
    folder: Path
    records: Mapping[int, Mapping[str, Any]]
    problems: tuple[str, ...]

    @property
    def directions(self) -> tuple[str, ...]:
        return tuple(direction.name.lower() for direction in self.study.directions)

    def of(self, *states: TrialState) -> list[FrozenTrial]:
        return [trial for trial in self.trials if trial.state in states]

    def run_folder(self, number: int) -> RunFolder:
        return trial_folder(self.folder, number)


def take_view(study: optuna.Study, folder: Path) -> StudyView:
    """Reads the study and its trials' records. Raises StudyError where `metric` does not fit the directions."""
    trials = tuple(study.get_trials(deepcopy=False))
    attributes = study.user_attrs
    records, problems = _records(trials, folder)
    objectives = _objectives(attributes.get("metric"), study)
    return StudyView(
        study=_copy_in_memory(study, trials, objectives),
        trials=trials,
        attributes=attributes,
        objectives=objectives,
        folder=folder,
        records=records,
        problems=tuple(problems),
    )


def trial_folder(folder: Path, number: int) -> RunFolder:
    """Where a trial's run lies in its study's folder."""
    return RunFolder(folder / "trials" / f"trial_{number:05d}")


def best_trial(view: StudyView) -> FrozenTrial | None:
    """The best complete trial that keeps all constraints, the first of equals; None where there is none or where
    several objectives leave a Pareto set instead."""
    if len(view.directions) > 1:
        return None
    try:
        return view.trials[view.study.best_trial.number]
    except ValueError:  # no complete trial, or none that keeps the constraints
        return None


def from_run_command(run: RunFolder) -> str:
    """The command that trains a run's configuration again, quoted for Hydra and then for the shell."""
    return f"python -m kdexp train {shlex.quote(f'from_run={written(str(run.path))}')}"


def epochs_run(view: StudyView, trial: FrozenTrial) -> int | None:
    """How many epochs a trial trained: its last reported step (steps are epochs from 1), else what its record says."""
    if trial.intermediate_values:
        return max(trial.intermediate_values)
    return _whole(view.records.get(trial.number, {}).get("epochs"))


def planned_epochs(view: StudyView, trial: FrozenTrial) -> int | None:
    """A trial's `trainer.max_epochs`: from its own configuration, its parameters, or the study's base."""
    path = view.run_folder(trial.number).config
    if path.is_file():
        return _max_epochs(path, path.stat().st_mtime_ns)
    return _whole(trial.params.get("trainer.max_epochs", _looked_up(view.attributes.get("config"))))


def one_objective(view: StudyView, number: int) -> optuna.Study:
    """The study as if it had this objective alone, in memory."""
    if len(view.objectives) == 1:
        return view.study
    trials = []
    for trial in view.study.get_trials():
        if trial.values is not None:
            trial.values = [trial.values[number]]
        trials.append(trial)
    direction, name = view.study.directions[number], view.objectives[number]
    return _in_memory(view.study.study_name, [direction], [name], trials)


def seconds(trial: FrozenTrial) -> float | None:
    """How long a trial ran; None where it has not ended."""
    return None if trial.duration is None else trial.duration.total_seconds()


def utc(moment: datetime) -> str:
    """Optuna's times are local and carry no zone."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's log lines and warnings: that a function is experimental, or that it has little to work on."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _records(trials: Iterable[FrozenTrial], folder: Path) -> tuple[dict[int, Mapping[str, Any]], list[str]]:
    records, problems = {}, []
    for trial in trials:
        path = trial_folder(folder, trial.number).record
        if not path.exists():
            continue
        try:
            records[trial.number] = read_json(path)
        except DataError as error:
            problems.append(f"trial {trial.number}: {error}")
    return records, problems


def _copy_in_memory(study: optuna.Study, trials: Iterable[FrozenTrial], names: Sequence[str]) -> optuna.Study:
    """The same study without its storage, its trials carrying no more than what a plot may show."""
    shown = []
    for trial in trials:
        shown.append(copy.copy(trial))
        shown[-1].user_attrs = {key: trial.user_attrs[key] for key in _SHOWN_ATTRIBUTES if key in trial.user_attrs}
        shown[-1].system_attrs = {k: v for k, v in trial.system_attrs.items() if k.split(":")[0] == "constraints"}
    return _in_memory(study.study_name, study.directions, names, shown)


def _in_memory(
    name: str, directions: Sequence[StudyDirection], names: Sequence[str], trials: Iterable[FrozenTrial]
) -> optuna.Study:
    storage = InMemoryStorage()
    with quiet():
        made = optuna.create_study(study_name=name, directions=directions, storage=storage)
        made.set_metric_names(list(names))
    for trial in trials:
        storage.create_new_trial(made._study_id, template_trial=trial)
    return made


def _objectives(metric: Any, study: optuna.Study) -> tuple[str, ...]:
    names = [metric] if isinstance(metric, str) else list(metric or study.metric_names or ())
    n = len(study.directions)
    if not names:
        return ("objective",) if n == 1 else tuple(f"objective {number}" for number in range(n))
    if len(names) != n:
        raise StudyError(f"study {study.study_name}: its attribute metric names {len(names)} objectives, it has {n}")
    return tuple(str(name) for name in names)


@lru_cache(maxsize=10_000)
def _max_epochs(path: Path, modified: int) -> int | None:
    """Of a configuration on disk, read once as long as it stays as it is; None where it is broken or says nothing."""
    try:
        return _whole(_looked_up(yaml.safe_load(path.read_text(encoding="utf-8"))))
    except (yaml.YAMLError, UnicodeDecodeError):
        return None


def _looked_up(config: Any) -> Any:
    trainer = config.get("trainer") if isinstance(config, Mapping) else None
    return trainer.get("max_epochs") if isinstance(trainer, Mapping) else None


def _whole(value: Any) -> int | None:
    """None for what is no number, such as an interpolation that stands unresolved in the study's base."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
