"""What a study aims at, through its command: several objectives, constraints, and points that fail."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from sweeps.quick import QUICK, TWO_GOALS, assert_refused, folder_of, summary_of
from sweeps.studies import assert_exact, load

# One parameter that decides how large the student is, and nothing else that is drawn.
WIDTHS = ("distill.weights.kl=1", "distill.temperature=2", "student.width=choice(4,8,16)")
PARAMETERS = {4: 47, 8: 123, 16: 371}
"""Weights and biases by width w: 2w + w, w² + w, 3w + 3."""


# Several objectives


def _dominates(one: FrozenTrial, other: FrozenTrial) -> bool:
    """At least as high a score and as low a latency, and better in one of them."""
    (score, latency), (other_score, other_latency) = one.values, other.values
    return score >= other_score and latency <= other_latency and one.values != other.values


@pytest.mark.parametrize("sampler", ["nsgaii", "tpe"])
def test_several_objectives_leave_the_pareto_set(quick_study, tmp_path, sampler):
    settings = {"nsgaii": "hydra.sweeper.sampler.population_size=4", "tpe": "hydra.sweeper.sampler.n_startup_trials=4"}
    words = (*TWO_GOALS, f"hydra/sweeper/sampler={sampler}", settings[sampler], "hydra.sweeper.n_trials=8")
    done = quick_study(*words)
    assert done.code == 0, done.err
    found = load(tmp_path)
    assert_exact(found, 8)
    assert f"{sampler}sampler" in {name.lower() for name in summary_of(tmp_path)["drawn_by"]["by_sampler"]}
    front = {t.number for t in found.trials if not any(_dominates(other, t) for other in found.trials)}
    summary = summary_of(tmp_path)
    assert {trial["number"] for trial in summary["pareto_set"]} == front
    assert summary["best_trial"] is None and "the winner again" not in done.text
    assert not (folder_of(tmp_path) / "best_config.yaml").exists()
    kept = {int(path.parts[-3].removeprefix("trial_")) for path in tmp_path.rglob("studies/*/trials/*/*/best.ckpt")}
    assert kept == front
    report = (folder_of(tmp_path) / "report.html").read_text()
    assert "Pareto set" in report and "student/latency_ms_per_sample (minimize)" in report


@pytest.mark.slow
def test_the_plots_of_several_objectives_are_drawn_or_say_why_not(run_main, tmp_path):
    done = run_main(tmp_path, *QUICK, *TWO_GOALS, "hydra/sweeper/sampler=nsgaii", "hydra.sweeper.n_trials=4")
    assert done.code == 0, done.err
    plots = json.loads((folder_of(tmp_path) / "plots" / "plots.json").read_text())
    assert "pareto_front" in {plot["name"] for plot in plots["plots"]}
    assert all(problem["reason"] and "could not draw" not in problem["reason"] for problem in plots["problems"])
    assert "Pareto front" in (folder_of(tmp_path) / "report.html").read_text()


# Constraints


def test_the_best_trial_keeps_the_constraints(quick_study, tmp_path):
    words = (*WIDTHS, "hydra/sweeper/sampler=tpe", "hydra.sweeper.n_trials=6")
    words += ("hydra.sweeper.constraints={student/parameters: {max: 200}, val/score: {min: 0}}",)
    done = quick_study(*words)
    assert done.code == 0, done.err
    found = load(tmp_path)
    assert_exact(found, 6)
    for trial in found.trials:
        size = PARAMETERS[trial.params["student.width"]]
        assert trial.constraints == {"student/parameters <= 200": size - 200, "val/score >= 0": -trial.value}
    small = [trial for trial in found.trials if trial.params["student.width"] != 16]
    assert 0 < len(small) < 6, "the study shows nothing where all trials keep the limit, or none"
    best = max(small, key=lambda trial: trial.value)
    summary = summary_of(tmp_path)
    assert summary["best_trial"]["number"] == best.number
    assert summary["best_trial"]["constraints"] == best.constraints
    assert summary["constraints"] == ["student/parameters <= 200", "val/score >= 0"]
    assert f"{6 - len(small)} of 6 complete trials break a constraint" in done.text
    kept = [path.parts[-3] for path in folder_of(tmp_path).glob("trials/*/checkpoints/best.ckpt")]
    assert kept == [f"trial_{best.number:05d}"]
    # Another limit under the old name is another study.
    other = quick_study(*words[:-1], "hydra.sweeper.constraints={student/parameters: {max: 100}}")
    assert_refused(other, ["constraints: was student/parameters <= 200", "is now student/parameters <= 100"])


def test_a_study_that_no_trial_could_keep_has_no_winner(quick_study, tmp_path):
    done = quick_study(
        *WIDTHS,
        "hydra/sweeper/sampler=tpe",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.constraints={student/parameters: {max: 1}}",
    )
    assert done.code == 0, done.err
    assert "no complete trial keeps the study's constraints" in done.text
    assert "the winner again" not in done.text
    assert summary_of(tmp_path)["best_trial"] is None


def test_a_constraint_on_what_no_trial_measures_is_named(quick_study, tmp_path):
    ended = quick_study(
        "hydra/sweeper/sampler=tpe",
        "hydra.sweeper.constraints={val/ring/f2: {max: 1}}",
        "hydra.sweeper.max_consecutive_failures=1",
    )
    assert_refused(ended, ["hydra.sweeper.constraints", "val/ring/f2", "val/ring/f1"])
    assert [trial.state for trial in load(tmp_path).trials] == [TrialState.FAIL]


@pytest.mark.parametrize(
    ("sampler", "setting"),
    [
        ("tpe", "n_startup_trials=2"),
        ("gp", "n_startup_trials=2"),
        ("nsgaii", "population_size=2"),
        ("nsgaiii", "population_size=2"),
    ],
)
def test_the_samplers_that_heed_constraints_take_them(quick_study, tmp_path, sampler, setting):
    done = quick_study(
        f"hydra/sweeper/sampler={sampler}",
        f"hydra.sweeper.sampler.{setting}",
        "hydra.sweeper.n_trials=4",
        "hydra.sweeper.constraints={student/parameters: {max: 200}}",
        "trainer.max_epochs=1",
    )
    assert done.code == 0, done.err
    assert_exact(load(tmp_path), 4)
    assert f"{sampler}sampler" in {name.lower() for name in summary_of(tmp_path)["drawn_by"]["by_sampler"]}


# Failing trials


@pytest.fixture
def broken_width(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Students of width 8 cannot be built, until the patch is undone."""
    from rings.models import RingNet

    build = RingNet.__init__

    @functools.wraps(build)
    def fails(self: Any, **settings: Any) -> None:
        if settings.get("width") == 8:
            raise RuntimeError("no memory for eight")
        build(self, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RingNet, "__init__", fails)
        yield patch


@pytest.mark.parametrize("sampler", ["grid", "brute_force"])
def test_a_combination_that_always_fails_is_tried_once_and_the_others_are_run(
    quick_study, tmp_path, broken_width, sampler
):
    words = (*WIDTHS, f"hydra/sweeper/sampler={sampler}")
    done = quick_study(*words)
    assert done.code == 0, done.err
    assert "1 of 3 combinations failed" in done.text
    states = {(t.params["student.width"], t.state) for t in load(tmp_path).trials}
    assert states == {(4, TrialState.COMPLETE), (8, TrialState.FAIL), (16, TrialState.COMPLETE)}
    # The same command tries it once more; it goes on where the fault is mended.
    assert quick_study(*words).code == 0
    assert len(load(tmp_path).trials) == 4
    broken_width.undo()
    done = quick_study(*words)
    assert done.code == 0 and "combinations failed" not in done.text
    found = load(tmp_path)
    assert_exact(found, 3)
    assert sorted(t.params["student.width"] for t in found.trials if t.state == TrialState.COMPLETE) == [4, 8, 16]


def test_failures_in_a_row_are_counted_anew_when_the_command_is_given_again(quick_study, tmp_path, broken_width):
    words = ("student.width=choice(8)", "hydra.sweeper.n_trials=2", "hydra.sweeper.max_consecutive_failures=2")
    ended = quick_study(*words)
    assert_refused(ended, ["2 trials in a row failed", "no memory for eight", "give the same command again"])
    assert len(load(tmp_path).trials) == 2
    broken_width.undo()
    assert quick_study(*words).code == 0
    assert_exact(load(tmp_path), 2)
