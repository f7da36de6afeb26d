"""Constraints: limits on what a trial measures, such as `{student/parameters: {max: 50000}}`, recorded as Optuna wants
them: a number per limit that is above 0 where the limit is broken."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from kdexp.config import STUDENT_FACTS

KEY = "hydra.sweeper.constraints"
_FORM = "{student/parameters: {max: 50000}}, with min, max or both"


@dataclass(frozen=True)
class Limit:
    """One side of a constraint: `name` shall not be above `bound`, or (`is_least`) not below it."""

    name: str
    bound: float
    is_least: bool = False

    def __str__(self) -> str:
        return f"{self.name} {'>=' if self.is_least else '<='} {self.bound}"

    def violation(self, value: float) -> float:
        """How far a value is beyond the limit; 0 or less where it keeps it."""
        return self.bound - value if self.is_least else value - self.bound


def read_limits(setting: Any) -> tuple[tuple[Limit, ...], list[str]]:
    """The limits of `hydra.sweeper.constraints`, and everything that is wrong with them."""
    if setting is None:
        return (), []
    if not isinstance(setting, Mapping):
        return (), [f"{KEY}: expected {_FORM}, got {setting!r}"]
    limits: list[Limit] = []
    problems: list[str] = []
    for name, bounds in setting.items():
        key = f"{KEY}.{name}"
        problems += name_problems(str(name), key)
        if not isinstance(bounds, Mapping) or not bounds or not set(bounds) <= {"min", "max"}:
            problems.append(f"{key}: expected {_FORM}, got {bounds!r}")
            continue
        odd = [side for side, bound in bounds.items() if not _is_finite_number(bound)]
        problems += [f"{key}.{side}: must be a finite number, got {bounds[side]!r}" for side in odd]
        if not odd and len(bounds) == 2 and bounds["min"] > bounds["max"]:
            problems.append(f"{key}: min {bounds['min']} is above max {bounds['max']}, so nothing keeps both")
        limits += [Limit(str(name), bounds[side], side == "min") for side in bounds if side not in odd]
    return tuple(limits), problems


def name_problems(name: str, key: str) -> list[str]:
    """What can be said against the name of a measured value before anything is measured: which tasks and metrics a
    data set has, only its runs know."""
    there = ["val/score", *(f"student/{one}" for one in STUDENT_FACTS)]
    if name in there or (name.startswith("val/") and name.count("/") >= 2):
        return []
    near = difflib.get_close_matches(name, there, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(there)}, val/TASK/METRIC"
    return [f"{key}: no run measures {name!r}; {hint}"]


def measured(record: Mapping[str, Any]) -> dict[str, float]:
    """What a run's record says of its student, by the names that `objective` and constraints use."""
    values = {f"val/{name}": value for name, value in record["metrics"]["val"]["best"].items()}
    return values | {f"student/{name}": float(value) for name, value in record["models"]["student"].items()}


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a trial keeps all the constraints that were recorded for it."""
    return all(violation <= 0 for violation in trial.constraints.values())


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
