"""Trials that are named beforehand: a list of runs, or the best of another study."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from hydra.errors import HydraException
from omegaconf import OmegaConf
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from kdexp.errors import ConfigError, StudyError
from kdexp.sweeps.grammar import plain_value
from kdexp.sweeps.limits import is_feasible
from kdexp.sweeps.space import Space, Values, kept
from kdexp.sweeps.vetting import QUEUE as KEY

_FORMS = (
    "a list of {name: run_a, params: {...}}, a text with a line `run_a key=value ...` each, or {study: NAME, top: 3}"
)


class Queued(NamedTuple):
    """A trial to run as it is; what its parameters leave open is drawn."""

    name: str
    params: Values


def queued_trials(setting: Any, space: Space, studies: Path) -> list[Queued]:
    """The trials that `hydra.sweeper.enqueue` names, with values as the study holds them. `studies` is the folder that
    holds a folder for each study.

    Raises ConfigError with every parameter and value that the space does not have, StudyError where the other study
    cannot be read.
    """
    if not setting:
        return []
    problems: list[str] = []
    queued = [
        Queued(name, _stored(f"{KEY}.{name}", params, space, problems))
        for name, params in _named(setting, studies, problems)
    ]
    names = [trial.name for trial in queued]
    problems += [f"{KEY}: {name!r} is named twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    if problems:
        raise ConfigError(problems)
    return queued


def n_listed(setting: Any) -> int:
    """How many trials a list or a text names; none for the best of another study."""
    if isinstance(setting, str):
        return sum(bool(line.strip()) for line in setting.splitlines())
    return len(setting) if isinstance(setting, list) else 0


def trial_names(sweeper: Mapping[str, Any], words: Sequence[str], studies: Path) -> list[str]:
    """The names of a search's trials, as far as its budget goes. Raises ConfigError where it names none."""
    setting = sweeper.get("enqueue")
    setting = OmegaConf.to_container(setting, resolve=True) if OmegaConf.is_config(setting) else setting
    if not setting:
        raise ConfigError("list_trials: no trial of this search is named beforehand, there is no hydra.sweeper.enqueue")
    params, active_when = kept(sweeper)
    space = Space.read(params, words, active_when)
    return [trial.name for trial in queued_trials(setting, space, studies)[: sweeper["n_trials"]]]


def _named(setting: Any, studies: Path, problems: list[str]) -> list[tuple[str, Mapping[str, Any]]]:
    """Names and parameters, in plain values or, of another study, as it holds them."""
    if isinstance(setting, Mapping):
        return _best_of(setting, studies)
    if isinstance(setting, str):
        return list(_read(setting, problems))
    if not isinstance(setting, list):
        raise ConfigError(f"{KEY}: expected {_FORMS}, got {setting!r}")
    named = []
    for number, entry in enumerate(setting):
        keys = set(entry) if isinstance(entry, Mapping) else set()
        if keys != {"name", "params"} or not isinstance(entry["params"], Mapping):
            problems.append(f"{KEY}[{number}]: expected name and params, got {entry!r}")
        elif not isinstance(entry["name"], str) or not entry["name"].strip():
            problems.append(f"{KEY}[{number}].name: must be a text, got {entry['name']!r}")
        else:
            named.append((entry["name"], entry["params"]))
    return named


def _read(text: str, problems: list[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A trial a line: its name and its parameters as words of an override, without spaces in them."""
    for line in filter(None, map(str.strip, text.splitlines())):
        name, *words = line.split()
        params: dict[str, Any] = {}
        if not words:
            problems.append(f"{KEY}: expected {_FORMS}, got {line!r}")
        for word in words:
            key, equals, value = word.partition("=")
            if key in params:
                problems.append(f"{KEY}.{name}: names {key} twice")
            try:
                params[key] = _meant(value if equals else "=")
            except HydraException:
                problems.append(f"{KEY}.{name}: expected key=value, got {word!r}")
        yield name, params


@cache
def _meant(value: str) -> Any:
    return plain_value(value)


def _stored(key: str, params: Mapping[str, Any], space: Space, problems: list[str]) -> Values:
    """Parameters as the study holds them; a parameter that is not active beside the others is a problem too."""
    values: Values = {}
    known = space.distributions
    for name, value in params.items():
        if name not in known:
            problems.append(f"{key}: {name} is no parameter of this search; there are: {', '.join(known)}")
            continue
        try:
            values[name] = space.words.stored(name, value)
        except ValueError as error:
            problems.append(f"{key}.{name}: {error}")
    if set(values) == set(params):
        problems += [f"{key}.{name}: has no effect beside the others" for name in _idle(values, space)]
    return values


def _idle(values: Values, space: Space) -> Iterator[str]:
    for name in values:
        others = space.conditions.get(name, {})
        settled = all(other in values or other in space.words.fixed for other in others)
        if settled and not space.is_active(name, values):
            yield name


def _best_of(setting: Mapping[str, Any], studies: Path) -> list[tuple[str, Mapping[str, Any]]]:
    unknown = set(setting) - {"study", "top"}
    name, top = setting.get("study"), setting.get("top", 1)
    if unknown or not isinstance(name, str) or not name or "/" in name:
        raise ConfigError(f"{KEY}: expected {_FORMS}, got {dict(setting)!r}")
    if not isinstance(top, int) or isinstance(top, bool) or top < 1:
        raise ConfigError(f"{KEY}.top: must be a whole number, at least 1, got {top!r}")
    path = studies / name / "study.db"
    direction, trials = _complete_trials(path, name)
    if len(trials) < top:
        raise StudyError(f"{KEY}: {path} has {len(trials)} complete trials, asked for the top {top}")
    sign = -1 if direction == optuna.study.StudyDirection.MAXIMIZE else 1
    trials.sort(key=lambda trial: (sign * _value(trial), trial.number))
    return [(f"{name}_{trial.number:05d}", trial.params) for trial in trials[:top]]


def _complete_trials(path: Path, name: str) -> tuple[optuna.study.StudyDirection, list[FrozenTrial]]:
    """The complete trials of a study file, opened for reading alone.

    A study of CMA-ES holds pickles, which only its sampler would load: parameters are read without any sampler.
    """
    with _reading(path) as storage:
        names = {study.study_name: study for study in storage.get_all_studies()}
        if name not in names:
            raise StudyError(f"{path} holds no study {name!r}; it holds: {', '.join(names) or 'none'}")
        study = names[name]
        directions = storage.get_study_directions(study._study_id)
        if len(directions) != 1:
            raise StudyError(f"{KEY}: {name} has {len(directions)} objectives, so no order; list the trials by name")
        complete = storage.get_all_trials(study._study_id, states=(TrialState.COMPLETE,))
        return directions[0], [trial for trial in complete if is_feasible(trial)]


@contextmanager
def _reading(path: Path) -> Iterator[RDBStorage]:
    if not path.is_file():
        there = sorted(folder.parent.name for folder in path.parent.parent.glob("*/study.db"))
        raise StudyError(f"{path} does not exist; there are studies: {', '.join(there) or 'none'}")

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=60, check_same_thread=False)

    storage = None
    try:
        storage = RDBStorage(f"sqlite:///{path}", engine_kwargs={"creator": connect}, skip_table_creation=True)
        yield storage
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        reason = str(getattr(cause, "orig", None) or cause).splitlines()[0]
        raise StudyError(f"{path} cannot be read as a study: {reason}") from None
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None, "a complete trial has a value"
    return trial.value
