"""How a number (a weight, a temperature, a learning rate) moves over training: pure functions of progress in [0, 1].

A course has up to three legs: a linear warm-up from `warmup_start` to `start`, a hold at `start`, and the way from
`start` to `end` along the curve that gives the course its name. Every leg reaches its ends exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from annotated_types import Interval

from kdexp.contracts import Progress
from kdexp.errors import ConfigError

Per = Literal["epoch", "step"]
ScheduleSetting = float | dict[str, Any]
"""What a config may hold where a schedule is meant: a number, or a mapping with the fields of `Course`."""

ANYWHERE = Interval()


def linear(start: float, end: float, way: float) -> float:
    return (1 - way) * start + way * end


def cosine(start: float, end: float, way: float) -> float:
    """end + (start - end) (1 + cos π·way) / 2."""
    return linear(start, end, (1 - math.cos(math.pi * way)) / 2)


def exponential(start: float, end: float, way: float) -> float:
    """start · (end / start)^way, a constant factor for equal distances."""
    return start ** (1 - way) * end**way


def stairs(start: float, end: float, way: float, n_steps: int) -> float:
    """`n_steps` stairs of equal width and height; the first lies at `start`, the last at `end`."""
    stair = min(math.floor(way * n_steps + 1e-9), n_steps - 1)  # the margin: 0.58 · 50 is 28.999… in binary
    return linear(start, end, stair / (n_steps - 1))


CURVES: dict[str, Callable[..., float]] = {
    "linear": linear,
    "cosine": cosine,
    "exponential": exponential,
    "step": stairs,
}
NAMES = ("constant", *CURVES)


@dataclass(frozen=True, kw_only=True)
class Course:
    """One value over training. `hold` and `warmup` are fractions of training; `n_steps` belongs to `step` alone.

    Raises ValueError, beginning with the parameter's name, for what is out of range or has no effect.
    """

    start: float
    name: str = "constant"
    end: float | None = None
    n_steps: int | None = None
    hold: float = 0.0
    warmup: float = 0.0
    warmup_start: float | None = None
    per: Per = "epoch"

    def __post_init__(self) -> None:
        _check_values(self)
        _check_warmup(self)
        if self.name == "constant":
            _check_constant(self)
        else:
            _check_curve(self)

    def __call__(self, progress: float) -> float:
        """The value at `progress` in [0, 1]; ValueError outside."""
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must lie in [0, 1], got {progress=}")
        if self.warmup_start is not None and progress < self.warmup:
            return _between(linear, self.warmup_start, self.start, progress / self.warmup)
        if self.end is None:
            return float(self.start)
        begin = self.warmup + self.hold
        way = max(0.0, progress - begin) / (1 - begin)
        stairs_only = () if self.n_steps is None else (self.n_steps,)
        return _between(CURVES[self.name], self.start, self.end, way, *stairs_only)

    @property
    def minimum(self) -> float:
        """The least value of the whole course; exact, since every leg is monotone."""
        return min(self._turns)

    @property
    def maximum(self) -> float:
        """The greatest value of the whole course; exact as well."""
        return max(self._turns)

    @property
    def _turns(self) -> list[float]:
        return [value for value in (self.warmup_start, self.start, self.end) if value is not None]


@dataclass(frozen=True)
class Complement:
    """1 - another course: the weight of the other part of a mixture."""

    of: Course

    @property
    def per(self) -> Per:
        return self.of.per

    def __call__(self, progress: float) -> float:
        return 1 - self.of(progress)


def at(schedule: Course | Complement, progress: Progress) -> float:
    """The schedule's value now, by its own clock (epoch or step)."""
    return schedule(progress.epoch if schedule.per == "epoch" else progress.step)


def make_schedule(setting: ScheduleSetting, key: str, allowed: Interval = ANYWHERE) -> Course:
    """The schedule that a config means: a number is a constant, a mapping holds the fields of `Course`.

    `key` is the full config key. Raises ConfigError under that key, also where any value of the whole course leaves
    `allowed`.
    """
    settings = setting if isinstance(setting, Mapping) else {"start": setting}
    known = [field.name for field in fields(Course)]
    unknown = [str(name) for name in settings if name not in known]
    if unknown:
        raise ConfigError(f"{key}.{unknown[0]} is no setting of a schedule; there are {', '.join(known)}")
    if "start" not in settings:
        raise ConfigError(f"{key}.start is missing; it is the value that the schedule {key} starts from")
    try:
        course = Course(**settings)
    except ValueError as error:
        raise ConfigError(f"{key}.{error}" if isinstance(setting, Mapping) else f"{key}: {error}") from None
    _check_range(course, key, allowed)
    return course


def make_schedules(settings: Mapping[str, tuple[ScheduleSetting, Interval]]) -> dict[str, Course]:
    """`make_schedule` for {key: (setting, allowed)}; one ConfigError lists what is wrong with any of them."""
    courses, problems = {}, []
    for key, (setting, allowed) in settings.items():
        try:
            courses[key] = make_schedule(setting, key, allowed)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return courses


def _between(curve: Callable[..., float], start: float, end: float, *way: float) -> float:
    """A point of the curve; rounding must not carry it past its ends, for which the ranges were checked."""
    low, high = sorted((start, end))
    return float(min(max(curve(start, end, *way), low), high))


def _check_values(course: Course) -> None:
    if course.name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {course.name!r}")
    if course.per not in ("epoch", "step"):
        raise ValueError(f"per must be epoch or step, got {course.per!r}")
    for name in ("start", "end", "hold", "warmup", "warmup_start"):
        value = getattr(course, name)
        if not (value is None and name in ("end", "warmup_start")) and not _is_number(value):
            raise ValueError(f"{name} must be a finite number, got {value!r}")
    for name in ("hold", "warmup"):
        if not 0 <= getattr(course, name) < 1:
            raise ValueError(f"{name} is a fraction of training, at least 0 and below 1, got {getattr(course, name)}")


def _check_warmup(course: Course) -> None:
    if course.warmup and course.warmup_start is None:
        raise ValueError("warmup_start is missing: set the value that the warm-up begins with, or warmup to 0")
    if course.warmup_start is not None and not course.warmup:
        raise ValueError("warmup_start has no effect without a warm-up: set warmup as well, or remove it")
    if course.warmup + course.hold >= 1:
        raise ValueError(f"warmup + hold must leave time to move, below 1, got {course.warmup} + {course.hold}")


def _check_constant(course: Course) -> None:
    for name, idle in (("end", None), ("n_steps", None), ("hold", 0)):
        if getattr(course, name) != idle:
            raise ValueError(f"{name} has no effect on a constant: remove it, or choose {', '.join(CURVES)}")


def _check_curve(course: Course) -> None:
    if course.end is None:
        raise ValueError(f"end is missing: a {course.name} schedule needs the value it goes to")
    if course.end == course.start:
        raise ValueError(f"end equals start ({course.start}), which is a constant: set end or use schedule constant")
    if course.name == "exponential" and not (course.start > 0 and course.end > 0):
        name = "end" if course.start > 0 else "start"
        raise ValueError(f"{name} must be above 0 for an exponential schedule, got {getattr(course, name)}")
    if course.name == "step":
        if not isinstance(course.n_steps, int) or isinstance(course.n_steps, bool) or course.n_steps < 2:
            raise ValueError(f"n_steps must be an integer of at least 2 for a step schedule, got {course.n_steps!r}")
    elif course.n_steps is not None:
        raise ValueError(f"n_steps has no effect on a {course.name} schedule: remove it, or choose step")


def _check_range(course: Course, key: str, allowed: Interval) -> None:
    rules = (
        (allowed.gt, "above", course.minimum, lambda value, bound: value > bound),
        (allowed.ge, "at or above", course.minimum, lambda value, bound: value >= bound),
        (allowed.lt, "below", course.maximum, lambda value, bound: value < bound),
        (allowed.le, "at or below", course.maximum, lambda value, bound: value <= bound),
    )
    for bound, words, extreme, holds in rules:
        if bound is not None and not holds(extreme, bound):
            raise ConfigError(f"{key} must stay {words} {bound} for the whole of training, but it reaches {extreme}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
