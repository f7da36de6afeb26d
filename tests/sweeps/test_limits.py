"""Constraints: what may be asked, and how far a trial is from it."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from kdexp.sweeps.limits import Limit, is_feasible, measured, name_problems, read_limits

RECORD = {
    "metrics": {"val": {"best": {"ring/f1": 0.75, "score": 0.5}}},
    "models": {"student": {"parameters": 147, "latency_ms_per_sample": 0.25}},
}


def test_limits_are_read_side_by_side():
    limits, problems = read_limits({"student/parameters": {"max": 100}, "val/score": {"min": 0.25, "max": 0.5}})
    assert problems == []
    assert [str(limit) for limit in limits] == ["student/parameters <= 100", "val/score >= 0.25", "val/score <= 0.5"]
    assert read_limits(None) == ((), [])


@pytest.mark.parametrize(
    ("limit", "violation"),
    [
        (Limit("student/parameters", 100), 47),
        (Limit("student/parameters", 147), 0),
        (Limit("student/parameters", 200), -53),
        (Limit("val/score", 0.75, is_least=True), 0.25),
        (Limit("val/score", 0.25, is_least=True), -0.25),
    ],
)
def test_a_violation_is_above_zero_where_the_limit_is_broken(limit: Limit, violation: float):
    assert limit.violation(measured(RECORD)[limit.name]) == violation


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("student/parameters", ["expected {student/parameters", "'student/parameters'"]),
        ({"student/paramters": {"max": 1}}, ["student/paramters", "did you mean 'student/parameters'?"]),
        ({"train/loss": {"max": 1}}, ["train/loss", "there are: val/score", "val/TASK/METRIC"]),
        ({"val/score": 0.5}, ["constraints.val/score", "with min, max or both", "0.5"]),
        ({"val/score": {}}, ["constraints.val/score", "with min, max or both"]),
        ({"val/score": {"least": 0.5}}, ["constraints.val/score", "'least'"]),
        ({"val/score": {"min": True}}, ["constraints.val/score.min", "finite number", "True"]),
        ({"val/score": {"max": float("inf")}}, ["constraints.val/score.max", "inf"]),
        ({"val/score": {"min": 0.9, "max": 0.5}}, ["constraints.val/score", "nothing keeps both"]),
    ],
)
def test_a_constraint_that_means_nothing_is_named(setting: Any, words: list[str]):
    _, problems = read_limits(setting)
    assert len(problems) == 1
    for word in ["hydra.sweeper.constraints", *words]:
        assert word in problems[0]


def test_all_mistakes_are_named_at_once():
    _, problems = read_limits({"val/scroe": {"max": 1}, "val/score": {"min": 2, "max": 1}, "val/ring/f1": {"mx": 1}})
    assert [problem.split(":")[0].rpartition("constraints.")[2] for problem in problems] == [
        "val/scroe",
        "val/score",
        "val/ring/f1",
    ]


@pytest.mark.parametrize("name", ["val/score", "val/ring/f1", "student/bytes", "student/latency_ms_per_sample"])
def test_what_a_run_may_measure_passes(name: str):
    assert name_problems(name, "objective") == []


def test_a_trial_is_feasible_where_no_constraint_is_above_zero():
    study = optuna.create_study()
    kept, broken, free = study.ask(), study.ask(), study.ask()
    kept.set_constraint("a", 0.0)
    broken.set_constraint("a", -1.0)
    broken.set_constraint("b", 1e-9)
    for trial in (kept, broken, free):
        study.tell(trial, 0.0)
    assert [is_feasible(trial) for trial in study.trials] == [True, False, True]
