"""Slots whose trial failed where no other can be drawn, and trials that were cut off while they were drawn."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from kdexp.sweeps import ledger
from kdexp.sweeps.samplers import has_no_other
from kdexp.sweeps.space import Space

SPACE = {"x": CategoricalDistribution((1, 2, 3))}


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study()


def add(study: optuna.Study, state: TrialState, x: int | None = None, **attributes: object) -> int:
    value = 0.0 if state == TrialState.COMPLETE else None
    params = {} if x is None else {"x": x}
    study.add_trial(
        create_trial(
            state=state,
            value=value,
            params=params,
            distributions=SPACE if params else {},
            user_attrs=dict(attributes),
            constraints={"size": 1.0} if state == TrialState.FAIL else None,
        )
    )
    return study.get_trials()[-1].number


def test_a_slot_is_spent_where_its_trial_failed_by_itself_and_no_other_holds_it(study):
    add(study, TrialState.FAIL, 1, slot=0, reason="error")
    add(study, TrialState.FAIL, 2, slot=1, reason=ledger.INTERRUPTED)
    add(study, TrialState.FAIL, 3, slot=2, reason="error")
    add(study, TrialState.COMPLETE, 3, slot=2)
    add(study, TrialState.FAIL, slot=3, reason="error")  # cut off before it had a parameter
    trials = study.get_trials()
    assert ledger.spent_slots(trials) == {0}
    assert ledger.free_slot(trials, 5, ledger.spent_slots(trials)) == 1
    assert ledger.next_slot(trials, 1, ledger.spent_slots(trials)) is None


def test_a_failed_combination_is_put_in_line_once_as_it_was(study):
    add(study, TrialState.FAIL, 1, slot=0, seed=1000, reason="error", error="no memory", owner="host:1:1")
    second = add(study, TrialState.FAIL, 1, slot=0, seed=1000, reason="error", error="again", owner="host:1:1")
    ledger.queue_failed(study)
    ledger.queue_failed(study)  # the slot is held now
    (waiting,) = [trial for trial in study.get_trials() if trial.state == TrialState.WAITING]
    assert waiting.params == {"x": 1} and waiting.constraints == {}
    assert waiting.user_attrs == {"slot": 0, "seed": 1000, "retry_of": second}
    assert ledger.spent_slots(study.get_trials()) == set()
    assert study.ask(SPACE).params == {"x": 1}


def test_failures_are_counted_from_a_trial_on(study):
    for number in range(3):
        add(study, TrialState.FAIL, number + 1, slot=number, reason="error")
    assert [ledger.consecutive_failures(study.get_trials(), since) for since in (0, 2, 3)] == [3, 1, 0]


def test_a_trial_of_an_idle_owner_was_cut_off_while_it_was_drawn(study):
    ghost = add(study, TrialState.RUNNING, 1, slot=0, owner=ledger.me())
    add(study, TrialState.RUNNING, 2, slot=1, owner="another-host:1:1")
    assert ledger.bury_the_dead(study) == []
    assert ledger.bury_the_dead(study, idle=ledger.me()) == [ghost]
    assert study.get_trials()[ghost].user_attrs["reason"] == ledger.INTERRUPTED


@pytest.mark.parametrize(
    ("sampler", "n_trials", "expected"),
    [
        ("GridSampler", 3, True),
        ("GridSampler", 2, True),
        ("BruteForceSampler", 3, True),
        ("BruteForceSampler", 2, False),
        ("TPESampler", 3, False),
    ],
)
def test_which_samplers_have_no_other_draw_for_a_failed_slot(sampler: str, n_trials: int, expected: bool):
    node = {"_target_": f"optuna.samplers.{sampler}", "seed": 0}
    assert has_no_other(node, Space.read({"x": "choice(1,2,3)"}), n_trials) is expected
