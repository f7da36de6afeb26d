"""What every schedule of `conf/schedule` promises."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from kdexp.distill.schedules import NAMES, Complement, Course, make_schedule

CONF = Path(__file__).parents[2] / "conf" / "schedule"
FILES = sorted(CONF.glob("*.yaml"))
KINDS = [path.stem for path in FILES]
MOVING = [kind for kind in KINDS if kind != "constant"]
GRID = [i / 200 for i in range(201)]
EPOCHS = [epoch / 30 for epoch in range(31)]


def schedule(kind: str, **settings: object) -> Course:
    """The plug-in of `conf/schedule/<kind>.yaml` with some of its keys set."""
    plain = OmegaConf.to_container(OmegaConf.load(CONF / f"{kind}.yaml"))
    assert isinstance(plain, dict) and set(settings) <= set(plain), "only keys that the file has can be overridden"
    return make_schedule({**plain, **settings}, "distill.temperature")


def ends(kind: str) -> dict[str, float]:
    return {"start": 4.0} if kind == "constant" else {"start": 4.0, "end": 0.3}


def test_the_suite_sees_all_schedules() -> None:
    assert len(FILES) >= 5
    assert {"constant", "linear", "cosine", "exponential", "step"} <= set(KINDS)
    # What Python knows and what a config can choose are the same.
    assert set(NAMES) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_named_as_the_schedule_it_holds_and_starts_with_a_start(kind: str) -> None:
    plain = OmegaConf.load(CONF / f"{kind}.yaml")
    assert plain.name == kind
    assert plain.start == 1.0 and plain.per == "epoch"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("legs", [{}, {"warmup": 0.1, "warmup_start": 0.7}, {"warmup": 0.3, "warmup_start": 9.1}])
def test_both_ends_are_reached_exactly(kind: str, legs: dict[str, float]) -> None:
    course = schedule(kind, **ends(kind), **legs)
    assert course(0.0) == legs.get("warmup_start", 4.0)
    assert course(1.0) == ends(kind).get("end", 4.0)


@pytest.mark.parametrize("kind", MOVING)
@pytest.mark.parametrize(("start", "end"), [(0.1, 0.3), (3.0, 0.1), (1e-3, 7.7), (1e8, 1e-8), (1.0, 1.0 - 1e-15)])
def test_ends_are_exact_and_bounds_hold_for_numbers_that_binary_cannot_hold(
    kind: str, start: float, end: float
) -> None:
    course = schedule(kind, start=start, end=end)
    assert (course(0.0), course(1.0)) == (start, end)
    assert all(course.minimum <= course(p) <= course.maximum for p in GRID)
    assert (course.minimum, course.maximum) == (min(start, end), max(start, end))


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_is_finite_and_pure(kind: str) -> None:
    course = schedule(kind, **ends(kind), warmup=0.1, warmup_start=0.5)
    values = [course(p) for p in GRID]
    assert all(isinstance(value, float) and math.isfinite(value) for value in values)
    # Asked again, backwards, and of a twin: the same.
    assert [course(p) for p in reversed(GRID)] == values[::-1]
    assert [schedule(kind, **ends(kind), warmup=0.1, warmup_start=0.5)(p) for p in GRID] == values


@pytest.mark.parametrize("kind", MOVING)
@pytest.mark.parametrize(("start", "end"), [(4.0, 0.3), (0.3, 4.0)])
def test_the_way_from_start_to_end_never_turns_back(kind: str, start: float, end: float) -> None:
    values = [schedule(kind, start=start, end=end)(p) for p in GRID]
    steps = [(after - before) * math.copysign(1, end - start) for before, after in itertools.pairwise(values)]
    assert min(steps) >= -1e-12
    assert len(set(values)) >= 4


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_is_a_straight_line_to_start(kind: str) -> None:
    course = schedule(kind, **ends(kind), warmup=0.2, warmup_start=1.0)
    # 1 → 4 in a fifth of training: a quarter of the way up at 0.05, half at 0.1.
    assert [course(p) for p in (0.0, 0.05, 0.1, 0.2)] == pytest.approx([1.0, 1.75, 2.5, 4.0], abs=1e-12)


@pytest.mark.parametrize("kind", MOVING)
def test_hold_keeps_start_and_the_rest_is_the_whole_curve(kind: str) -> None:
    plain, held = schedule(kind, **ends(kind)), schedule(kind, **ends(kind), warmup=0.25, warmup_start=1.0, hold=0.25)
    assert [held(p) for p in (0.25, 0.3, 0.4, 0.5)] == [4.0] * 4
    # The second half of training walks the curve that the plain one walks in all of it.
    assert [held(0.5 + p / 2) for p in EPOCHS] == pytest.approx([plain(p) for p in EPOCHS], abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("progress", [-1e-9, 1 + 1e-9, math.nan, math.inf])
def test_progress_outside_training_is_refused(kind: str, progress: float) -> None:
    with pytest.raises(ValueError, match="progress must lie in"):
        schedule(kind, **ends(kind))(progress)


@pytest.mark.parametrize("kind", KINDS)
def test_the_clock_is_the_one_that_was_asked_for(kind: str) -> None:
    assert schedule(kind, **ends(kind)).per == "epoch"
    assert schedule(kind, **ends(kind), per="step").per == "step"
    assert Complement(schedule(kind, **ends(kind), per="step")).per == "step"


@pytest.mark.parametrize("kind", MOVING)
def test_a_moving_schedule_whose_ends_are_equal_is_refused(kind: str) -> None:
    with pytest.raises(Exception, match=r"distill\.temperature\.end equals start .*constant"):
        schedule(kind, start=2.0, end=2)
