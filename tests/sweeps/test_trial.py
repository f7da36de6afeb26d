"""A job's trial: what its process holds for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest

from kdexp.sweeps import ledger
from kdexp.sweeps.trial import VARIABLE, trial_of_this_job


def n_open(file: Path) -> int:
    """How many of this process's descriptors lead to the file."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(link.readlink() == file for link in links)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors are listed in /proc only")
def test_the_jobs_of_one_process_share_one_way_to_the_study(tmp_path, monkeypatch):
    plan = SimpleNamespace(url=f"sqlite:///{tmp_path}/study.db", heartbeat_seconds=30, pruner=None)
    study = optuna.create_study(storage=plan.url, study_name="many")
    held = []
    for _ in range(5):
        trial = study.ask()
        trial.set_user_attr(ledger.OWNER, ledger.me())
        monkeypatch.setenv(VARIABLE, f"{trial._trial_id} many")
        job = trial_of_this_job(plan)
        job.report(1, 0.5)
        assert not job.should_prune()
        study.tell(trial, 0.5)
        held.append((n_open(tmp_path / "study.db"), job))
    numbers = [number for number, _ in held]
    assert numbers[0] > 0
    assert numbers == [numbers[0]] * 5
