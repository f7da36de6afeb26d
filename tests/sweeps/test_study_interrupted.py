"""A study that is stopped by time or kill -9, and one that two commands share."""

from __future__ import annotations

import signal
import time
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from support import CommandLine
from sweeps.quick import folder_of
from sweeps.studies import SEARCH, assert_exact, load

# Time, and two at once


def test_a_time_limit_starts_no_new_trial_and_the_study_goes_on_later(quick_study, tmp_path):
    ended = quick_study("hydra.sweeper.timeout=0.5")
    assert ended.code == 0, ended.err
    states = [trial.state for trial in load(tmp_path).trials]
    assert len(states) < 6 and set(states) <= {TrialState.COMPLETE}
    assert quick_study().code == 0
    assert_exact(load(tmp_path), 6)


@pytest.mark.slow
def test_two_commands_on_one_study_hold_its_budget_together(kdexp):
    words = (*SEARCH, "hydra.sweeper.n_trials=10", "trainer.max_epochs=20")
    both = [kdexp.start(*words, KDEXP_TRUSTED_PACKAGES="rings") for _ in range(2)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    study = load(kdexp.cwd)
    assert_exact(study, 10)
    owners = {trial.user_attrs["owner"] for trial in study.trials}
    assert len(owners) == 2, "the two shared no work, so they were not at it at once"


# Interrupted is uninterrupted


EQUAL = {
    "random": (),
    "qmc": (),
    "tpe": ("hydra.sweeper.sampler.n_startup_trials=3", "hydra.sweeper.sampler.constant_liar=true"),
    "grid": ("distill.weights.kl=choice(0.1,1)", "distill.temperature=choice(1,2)"),
    "cmaes": ("hydra.sweeper.sampler.popsize=3", "student.width=8"),
}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", EQUAL)
def test_a_study_killed_and_given_again_is_the_study_never_killed(kdexp, tmp_path_factory, sampler):
    """One worker and a seeded sampler: every slot has the same parameters and the same value, whatever was killed.
    With several workers that holds for none whose draws depend on the trials before."""
    words = (*SEARCH, f"hydra/sweeper/sampler={sampler}", *EQUAL[sampler], "hydra.sweeper.n_trials=8")
    words += ("trainer.max_epochs=20", "interval.n_resamples=100")
    whole = CommandLine(tmp_path_factory.mktemp("whole"))
    assert whole(*words, KDEXP_TRUSTED_PACKAGES="rings").code == 0
    for wanted in (2, 5):
        process = kdexp.start(*words, KDEXP_TRUSTED_PACKAGES="rings")
        under_way = folder_of(kdexp.cwd) / "trials" / f"trial_{wanted:05d}" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not under_way.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert kdexp(*words, KDEXP_TRUSTED_PACKAGES="rings").code == 0
    study = load(kdexp.cwd)
    assert_exact(study, 8)
    assert len(study.trials) == 10, "two trials were cut off"
    assert _by_slot(study) == _by_slot(load(whole.cwd))


def _by_slot(study: optuna.Study) -> dict[int, tuple[dict[str, Any], list[float]]]:
    done = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    return {trial.user_attrs["slot"]: (trial.params, trial.values) for trial in done}
