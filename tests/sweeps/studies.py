"""Small studies of the rings system, and what must hold for any study."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import NullPool

from support import OUTSIDE, CommandLine, Finished

SEARCH = ("-cd", str(OUTSIDE / "conf"), "hparams_search=rings", "teacher.max_epochs=2")


def load(cwd: Path, url: str | None = None) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    address = url or f"sqlite:///{cwd}/outputs/studies/rings/study.db"
    storage = RDBStorage(address, engine_kwargs={"poolclass": NullPool})  # leaves no connection open
    return optuna.load_study(study_name="rings", storage=storage)


def assert_exact(study: optuna.Study, n_trials: int) -> None:
    """The budget is held exactly, each slot once, nothing runs, and no folder was used twice."""
    trials = study.get_trials()
    finished = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(finished) == n_trials
    assert sorted(trial.user_attrs["slot"] for trial in finished) == list(range(n_trials))
    assert not [trial for trial in trials if trial.state in (TrialState.RUNNING, TrialState.WAITING)]
    assert all(trial.user_attrs["seed"] == 1000 + trial.user_attrs["slot"] for trial in finished)
    for trial in trials:
        retried = trial.user_attrs.get("retry_of")
        if retried is not None:
            assert trials[retried].params == trial.params
            assert trials[retried].user_attrs["slot"] == trial.user_attrs["slot"]


def search(kdexp: CommandLine, *words: str, **extra: str) -> Finished:
    return kdexp(*SEARCH, *words, KDEXP_TRUSTED_PACKAGES="rings", **extra)
