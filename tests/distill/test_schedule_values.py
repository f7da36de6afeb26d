"""Schedules against values worked out by hand, and what is refused."""

from __future__ import annotations

import math

import pytest
from annotated_types import Interval

from kdexp.contracts import Progress
from kdexp.distill.schedules import Complement, Course, at, make_schedule, make_schedules
from kdexp.errors import ConfigError

VALUES = [
    # (settings, progress, value)
    ({"start": 3.0}, 0.5, 3.0),
    ({"start": 3}, 1.0, 3.0),
    ({"name": "linear", "start": 4.0, "end": 1.0}, 0.5, 2.5),
    ({"name": "linear", "start": 4.0, "end": 1.0}, 2 / 3, 2.0),
    # Half a cosine: at a third, cos 60° = 1/2, so a quarter of the way is done: 1 + 3 · 3/4.
    ({"name": "cosine", "start": 4.0, "end": 1.0}, 1 / 3, 3.25),
    ({"name": "cosine", "start": 4.0, "end": 1.0}, 0.5, 2.5),
    # The same factor in the same time: 16 → 1 by halves at each quarter.
    ({"name": "exponential", "start": 16.0, "end": 1.0}, 0.25, 8.0),
    ({"name": "exponential", "start": 16.0, "end": 1.0}, 0.5, 4.0),
    ({"name": "exponential", "start": 1.0, "end": 100.0}, 0.5, 10.0),
    # Four stairs, a quarter of training each: 4, 3, 2, 1.
    ({"name": "step", "start": 4.0, "end": 1.0, "n_steps": 4}, 0.2, 4.0),
    ({"name": "step", "start": 4.0, "end": 1.0, "n_steps": 4}, 0.25, 3.0),
    ({"name": "step", "start": 4.0, "end": 1.0, "n_steps": 4}, 0.74, 2.0),
    ({"name": "step", "start": 4.0, "end": 1.0, "n_steps": 4}, 0.75, 1.0),
    # 0.58 · 50 falls just short of 29 in binary, and is stair 29 all the same.
    ({"name": "step", "start": 0.0, "end": 49.0, "n_steps": 50}, 0.58, 29.0),
    # Warm-up to 4 in the first fifth, held to the half, then down: 3/4 of training is half the way.
    ({"name": "linear", "start": 4, "end": 2, "warmup": 0.2, "warmup_start": 0, "hold": 0.3}, 0.1, 2.0),
    ({"name": "linear", "start": 4, "end": 2, "warmup": 0.2, "warmup_start": 0, "hold": 0.3}, 0.5, 4.0),
    ({"name": "linear", "start": 4, "end": 2, "warmup": 0.2, "warmup_start": 0, "hold": 0.3}, 0.75, 3.0),
    ({"start": 4, "warmup": 0.5, "warmup_start": 0}, 0.25, 2.0),
]


@pytest.mark.parametrize(("settings", "progress", "value"), VALUES)
def test_values_worked_out_by_hand(settings: dict[str, object], progress: float, value: float) -> None:
    assert make_schedule(settings, "distill.temperature")(progress) == pytest.approx(value, abs=1e-12)


def test_four_planned_epochs_of_the_paper_formula() -> None:
    # p = e / (E - 1), v = v0 + (v1 - v0) p, for e = 0 … 3.
    course = make_schedule({"name": "linear", "start": 10.0, "end": 1.0}, "distill.temperature")
    assert [course(epoch / 3) for epoch in range(4)] == pytest.approx([10.0, 7.0, 4.0, 1.0])


@pytest.mark.parametrize("number", [4, 4.0])
def test_a_bare_number_is_a_constant(number: float) -> None:
    assert make_schedule(number, "distill.temperature") == Course(start=4.0)


def test_each_schedule_reads_its_own_clock() -> None:
    now = Progress(epoch=0.5, step=0.75)
    settings = {"name": "linear", "start": 0.0, "end": 1.0}
    assert at(make_schedule({**settings, "per": "epoch"}, "k"), now) == 0.5
    assert at(make_schedule({**settings, "per": "step"}, "k"), now) == 0.75
    assert at(Complement(make_schedule({**settings, "per": "step"}, "k")), now) == 0.25


REFUSED = [
    # (setting, what the message says)
    ({"name": "linaer", "start": 1, "end": 2}, r"k\.name must be one of constant, linear, cosine, exponential, step"),
    ({"name": "linear", "end": 2}, r"k\.start is missing"),
    ({"name": "linear", "start": 1}, r"k\.end is missing"),
    ({"name": "linear", "start": 1, "final": 2}, r"k\.final is no setting of a schedule; there are start, name, end"),
    ({"start": 1, "end": 2}, r"k\.end has no effect on a constant"),
    ({"start": 1, "end": 0}, r"k\.end has no effect on a constant"),
    ({"start": 1, "hold": 0.5}, r"k\.hold has no effect on a constant"),
    ({"start": 1, "n_steps": 4}, r"k\.n_steps has no effect on a constant"),
    ({"name": "cosine", "start": 1, "end": 2, "n_steps": 4}, r"k\.n_steps has no effect on a cosine schedule"),
    ({"name": "step", "start": 1, "end": 2}, r"k\.n_steps must be an integer of at least 2 .* got None"),
    ({"name": "step", "start": 1, "end": 2, "n_steps": 1}, r"k\.n_steps must be .* got 1"),
    ({"name": "step", "start": 1, "end": 2, "n_steps": 2.5}, r"k\.n_steps must be .* got 2\.5"),
    ({"name": "exponential", "start": 0, "end": 2}, r"k\.start must be above 0"),
    ({"name": "exponential", "start": 1, "end": -2}, r"k\.end must be above 0"),
    ({"name": "linear", "start": 2.0, "end": 2}, r"k\.end equals start .* constant: set end or use schedule constant"),
    ({"start": math.nan}, r"k\.start must be a finite number, got nan"),
    ({"start": "2"}, r"k\.start must be a finite number, got '2'"),
    ({"start": True}, r"k\.start must be a finite number, got True"),
    ({"start": None}, r"k\.start must be a finite number, got None"),
    ({"name": "linear", "start": 1, "end": math.inf}, r"k\.end must be a finite number, got inf"),
    ({"name": "linear", "start": 1, "end": 2, "hold": 1.0}, r"k\.hold is a fraction of training"),
    ({"start": 1, "warmup": -0.1}, r"k\.warmup is a fraction of training"),
    ({"start": 1, "warmup": 0.1}, r"k\.warmup_start is missing"),
    ({"start": 1, "warmup_start": 0.1}, r"k\.warmup_start has no effect without a warm-up"),
    (
        {"name": "linear", "start": 1, "end": 2, "hold": 0.5, "warmup": 0.5, "warmup_start": 0},
        r"k\.warmup \+ hold must leave time to move",
    ),
    ({"start": 1, "per": "batch"}, r"k\.per must be epoch or step, got 'batch'"),
    (math.inf, r"k: start must be a finite number, got inf"),
    (None, r"k: start must be a finite number, got None"),
]


@pytest.mark.parametrize(("setting", "message"), REFUSED)
def test_a_setting_that_is_wrong_or_without_effect_is_refused_under_its_key(setting: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_schedule(setting, "k")  # type: ignore[arg-type]


RANGES = [
    # (setting, allowed, message or None)
    (0, Interval(gt=0), "k must stay above 0 for the whole of training, but it reaches 0"),
    (1e-9, Interval(gt=0), None),
    (0, Interval(ge=0), None),
    ({"name": "linear", "start": 4, "end": -1}, Interval(ge=0), r"k must stay at or above 0 .* it reaches -1"),
    ({"start": 4, "warmup": 0.1, "warmup_start": 0}, Interval(gt=0), "k must stay above 0 .* it reaches 0"),
    ({"name": "cosine", "start": 0, "end": 1}, Interval(ge=0, le=1), None),
    ({"name": "cosine", "start": 0, "end": 1.01}, Interval(ge=0, le=1), r"k must stay at or below 1 .* reaches 1\.01"),
    ({"name": "linear", "start": 0, "end": 1}, Interval(ge=0, lt=1), r"k must stay below 1 .* reaches 1"),
]


@pytest.mark.parametrize(("setting", "allowed", "message"), RANGES)
def test_the_range_holds_over_the_whole_course(setting: object, allowed: Interval, message: str | None) -> None:
    if message is None:
        assert make_schedule(setting, "k", allowed).minimum >= 0  # type: ignore[arg-type]
        return
    with pytest.raises(ConfigError, match=message):
        make_schedule(setting, "k", allowed)  # type: ignore[arg-type]


# Here the plain formula overshoots in the last bit (found by search): below, above, above its ends.
OVERSHOOTING = [
    ("linear", 8.29073868186638, 8.290738681866388, 1e-16),
    ("cosine", 4.778479005769481, 4.778479005769476, 0.013971436972139317),
    ("exponential", 8.382251047261226, 8.382251047269609, 0.999999999999),
]


@pytest.mark.parametrize(("name", "start", "end", "progress"), OVERSHOOTING)
def test_rounding_never_carries_a_value_past_its_ends(name: str, start: float, end: float, progress: float) -> None:
    course = Course(name=name, start=start, end=end)
    assert course.minimum <= course(progress) <= course.maximum


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        make_schedules({"a": (-1, Interval(ge=0)), "b": (1, Interval(ge=0)), "c": ({"end": 3}, Interval())})
    assert [problem.split()[0] for problem in raised.value.problems] == ["a", "c.start"]
