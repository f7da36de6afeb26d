"""A study survives whatever ends its processes, and holds exactly its budget."""

from __future__ import annotations

import json
import signal
import time

import pytest
from optuna.trial import TrialState

from support import OUTSIDE
from sweeps.studies import SEARCH, assert_exact, load, search


def test_a_study_runs_to_its_budget_prunes_and_leaves_its_files(kdexp):
    done = search(kdexp, "hydra.sweeper.n_trials=12")
    assert done.code == 0, done.err
    study = load(kdexp.cwd)
    assert_exact(study, 12)
    assert any(trial.state == TrialState.PRUNED for trial in study.get_trials())
    for trial in study.get_trials():
        steps = sorted(trial.intermediate_values)
        assert steps == list(range(1, len(steps) + 1))
        if trial.state == TrialState.PRUNED:
            assert len(steps) < 6, "a trial is never pruned at its last epoch"
            assert trial.value == trial.intermediate_values[steps[-1]]
    folder = kdexp.cwd / "outputs" / "studies" / "rings"
    summary = json.loads((folder / "study_summary.json").read_text())
    assert summary["best_trial"]["values"]["val/score"] == study.best_value
    assert (folder / "best_config.yaml").exists()
    assert len((folder / "trials.csv").read_text().splitlines()) == 1 + len(study.trials)
    # Only the best keeps its checkpoints.
    kept = [path.parent.parent.name for path in folder.glob("trials/*/checkpoints/best.ckpt")]
    assert kept == [f"trial_{study.best_trial.number:05d}"]
    assert len(list((kdexp.cwd / "outputs" / "teachers").glob("*/teacher.json"))) == 1


def test_the_printed_command_trains_the_winner_again(kdexp):
    done = search(kdexp, "hydra.sweeper.n_trials=2")
    assert done.code == 0, done.err
    study = load(kdexp.cwd)
    folder = kdexp.cwd / "outputs" / "studies" / "rings" / "trials" / f"trial_{study.best_trial.number:05d}"
    assert f"from_run={folder}" in done.text
    again = kdexp("train", "-cd", str(OUTSIDE / "conf"), f"from_run={folder}", "hydra.run.dir=again",
                  KDEXP_TRUSTED_PACKAGES="rings")  # fmt: skip
    assert again.code == 0, again.err
    record = json.loads((kdexp.cwd / "again" / "run.json").read_text())
    assert record["objective"]["value"] == study.best_value
    assert record["metrics"]["test"], "the winner is tested when it is trained by itself"


@pytest.mark.slow
def test_the_same_command_adds_nothing_to_a_finished_study(kdexp):
    assert search(kdexp, "hydra.sweeper.n_trials=2").code == 0
    before = [trial.params for trial in load(kdexp.cwd).trials]
    assert search(kdexp, "hydra.sweeper.n_trials=2").code == 0
    assert [trial.params for trial in load(kdexp.cwd).trials] == before
    assert search(kdexp, "hydra.sweeper.n_trials=3").code == 0
    study = load(kdexp.cwd)
    assert_exact(study, 3)
    assert [trial.params for trial in study.trials][:2] == before


@pytest.mark.slow
def test_another_space_or_direction_under_an_old_name_is_refused(kdexp):
    assert search(kdexp, "hydra.sweeper.n_trials=1").code == 0
    other = search(kdexp, "hydra.sweeper.direction=minimize")
    assert other.code == 2
    assert "direction: was maximize, is now minimize" in other.text
    wider = search(kdexp, "distill.temperature=interval(1,9)")
    assert wider.code == 2
    assert "distill.temperature" in wider.text
    assert_exact(load(kdexp.cwd), 1)


@pytest.mark.slow
def test_a_job_that_fails_is_fail_with_its_reason_and_does_not_end_the_night(kdexp):
    words = ("hydra.sweeper.n_trials=2", "optimizer.lr=choice(1e30)", "hydra.sweeper.max_consecutive_failures=2")
    ended = search(kdexp, *words)
    assert ended.code == 2
    assert "2 trials in a row failed" in ended.text
    trials = load(kdexp.cwd).trials
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 2
    assert all("no number" in trial.user_attrs["error"] for trial in trials)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_stopped_search_gives_its_trial_back_and_goes_on(kdexp, how):
    process = kdexp.start(*SEARCH, KDEXP_TRUSTED_PACKAGES="rings")
    folder = kdexp.cwd / "outputs" / "studies" / "rings" / "trials"
    while not (folder / "trial_00002" / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(how)
    process.communicate(timeout=60)
    study = load(kdexp.cwd)
    assert not [trial for trial in study.trials if trial.state == TrialState.RUNNING]
    assert search(kdexp).code == 0
    assert_exact(load(kdexp.cwd), 6)
