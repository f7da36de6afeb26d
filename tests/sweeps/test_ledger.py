"""Slots, owners and retries: what keeps a budget exact and loses nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from kdexp.sweeps import ledger

UNIT = {"x": FloatDistribution(0, 1)}


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(direction="maximize")


def add(study: optuna.Study, state: TrialState, **attributes: object) -> int:
    value = 1.0 if state == TrialState.COMPLETE else None
    params = {"x": 0.25} if state != TrialState.WAITING else {}
    study.add_trial(
        create_trial(
            state=state, value=value, params=params, distributions=UNIT if params else {}, user_attrs=dict(attributes)
        )
    )
    return study.get_trials()[-1].number


def test_a_slot_is_held_by_every_trial_that_has_not_failed(study):
    add(study, TrialState.COMPLETE, slot=0)
    add(study, TrialState.FAIL, slot=1, reason="error")
    add(study, TrialState.PRUNED, slot=2)
    add(study, TrialState.WAITING, slot=3)
    assert ledger.free_slot(study.get_trials(), 5) == 1
    add(study, TrialState.RUNNING, slot=1)
    assert ledger.free_slot(study.get_trials(), 5) == 4
    assert ledger.free_slot(study.get_trials(), 4) is None


def test_a_pruned_trial_is_finished_and_a_failed_one_is_not(study):
    for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING):
        add(study, state, slot=0)
    now = ledger.standing(study.get_trials())
    assert (now.finished, now.pruned, now.failed, now.running) == (2, 1, 1, 1)


def test_failures_in_a_row_pass_over_what_was_only_interrupted(study):
    add(study, TrialState.COMPLETE, slot=0)
    add(study, TrialState.FAIL, slot=1, reason="error")
    add(study, TrialState.FAIL, slot=1, reason=ledger.INTERRUPTED)
    add(study, TrialState.FAIL, slot=1, reason="error")
    assert ledger.consecutive_failures(study.get_trials()) == 2
    assert ledger.failures_in_slot(study.get_trials(), 1) == 2
    add(study, TrialState.COMPLETE, slot=1)
    assert ledger.consecutive_failures(study.get_trials()) == 0


def test_a_trial_whose_process_is_gone_is_buried_and_run_again_as_it_was(study):
    done = subprocess.run(
        [sys.executable, "-c", "from kdexp.sweeps.ledger import me; print(me())"], capture_output=True, text=True
    )
    owner = done.stdout.strip()
    number = add(study, TrialState.RUNNING, slot=4, seed=1004, owner=owner)
    assert ledger.bury_the_dead(study) == [number]
    ledger.queue_retries(study, max_retries=1)
    ledger.queue_retries(study, max_retries=1)  # what is owed is read from the study, so twice is once
    waiting = [trial for trial in study.get_trials() if trial.state == TrialState.WAITING]
    assert len(waiting) == 1
    again = study.ask(UNIT)
    assert again.params == {"x": 0.25}
    assert (again.user_attrs["slot"], again.user_attrs["retry_of"]) == (4, number)
    assert ledger.OWNER not in again.user_attrs


def test_retries_end(study):
    first = add(study, TrialState.FAIL, slot=0, reason=ledger.INTERRUPTED)
    second = add(study, TrialState.FAIL, slot=0, reason=ledger.INTERRUPTED, retry_of=first)
    ledger.queue_retries(study, max_retries=1)
    assert not [trial for trial in study.get_trials() if trial.state == TrialState.WAITING]
    assert ledger.free_slot(study.get_trials(), 1) == 0, "a new draw takes the slot"
    ledger.queue_retries(study, max_retries=2)
    (waiting,) = [trial for trial in study.get_trials() if trial.state == TrialState.WAITING]
    assert waiting.user_attrs["retry_of"] == second


def test_a_trial_of_this_process_is_left_alone(study):
    add(study, TrialState.RUNNING, slot=0, owner=ledger.me())
    assert ledger.bury_the_dead(study) == []


def test_a_process_number_used_again_is_not_its_owner():
    host, pid, _ = ledger.me().rsplit(":", 2)
    assert pid == str(os.getpid())
    assert ledger.is_gone(f"{host}:{pid}:1")
    assert not ledger.is_gone(ledger.me())
    assert not ledger.is_gone("another-host:1:1"), "of another host only a heartbeat tells"
