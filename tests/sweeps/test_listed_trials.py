"""A study of trials that were named beforehand holds exactly these, however often it is cut short or one fails."""

from __future__ import annotations

import json
from pathlib import Path

from optuna.trial import TrialState

from sweeps.quick import Run, assert_refused, folder_of, summary_of
from sweeps.studies import load

SPACE = ("optimizer.lr=choice(0.02,1e30)", "student.width=choice(4,8)", "distill.weights.kl=1", "distill.temperature=2")
LISTED = {"mild": 4, "wide": 8, "third": 4}


def words(names: tuple[str, ...], rate: str = "0.02") -> tuple[str, ...]:
    lines = "\n".join(f"{name} optimizer.lr={rate} student.width={LISTED[name]}" for name in names)
    return (
        *SPACE,
        f'hydra.sweeper.enqueue="{lines}"',
        f"hydra.sweeper.n_trials={len(names)}",
        "hydra.sweeper.pairing=common",
    )


def test_a_list_goes_on_where_the_budget_had_ended(quick_study: Run, tmp_path: Path) -> None:
    every = words(("mild", "wide", "third"))
    assert quick_study(*every, "hydra.sweeper.n_trials=1").code == 0
    done = quick_study(*every)
    assert done.code == 0, done.text
    trials = load(tmp_path).trials
    assert [trial.user_attrs["name"] for trial in trials] == list(LISTED)
    assert [trial.user_attrs["slot"] for trial in trials] == [0, 1, 2]
    assert {trial.user_attrs["seed"] for trial in trials} == {1000}
    assert [trial.params["student.width"] for trial in trials] == [4, 8, 4]
    records = [
        json.loads((folder_of(tmp_path) / "trials" / f"trial_{n:05d}" / "run.json").read_text()) for n in range(3)
    ]
    assert [record["name"] for record in records] == list(LISTED)
    # Alike but for their names, from one seed: the same run.
    assert records[0]["metrics"] == records[2]["metrics"] != records[1]["metrics"]
    assert summary_of(tmp_path)["best_trial"]["name"] in LISTED
    again = quick_study(*every)
    assert again.code == 0 and len(load(tmp_path).trials) == 3


def test_another_list_under_an_old_name_is_refused(quick_study: Run) -> None:
    assert quick_study(*words(("mild", "wide"))).code == 0
    assert_refused(quick_study(*words(("mild", "third"))), ["the list is another one than when rings began"])


def test_a_listed_trial_that_fails_keeps_its_place_and_is_run_again(quick_study: Run, tmp_path: Path) -> None:
    broken = words(("mild", "wide"), rate="1e30")
    for n_tries in (1, 2):
        done = quick_study(*broken)
        assert done.code == 0, done.text
        trials = load(tmp_path).trials
        assert [trial.state for trial in trials] == [TrialState.FAIL] * 2 * n_tries
        assert [trial.user_attrs["name"] for trial in trials] == ["mild", "wide"] * n_tries
        assert "2 of 2 combinations failed and have no other in their place" in done.text
