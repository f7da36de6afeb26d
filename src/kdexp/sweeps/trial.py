"""A running trial as the job sees it: it reports to the study and asks whether to go on.

The sweeper hands a trial over in the job's environment, so every launcher does it the same way.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from functools import cache, lru_cache

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from kdexp.errors import RunFailed
from kdexp.sweeps import ledger
from kdexp.sweeps.plan import Plan
from kdexp.sweeps.samplers import make_pruner
from kdexp.sweeps.storage import open_storage, patiently

log = logging.getLogger(__name__)
_LOOK_SECONDS = 1.0
VARIABLE = "KDEXP_TRIAL"
"""`<trial id> <study name>`, set by the sweeper for the job."""
COMMAND = "command"
"""The study's attribute with the words of the command that runs it: a job in another process has none of its own."""


@dataclass(frozen=True)
class Pruned:
    """What a pruned trial returns to the sweeper."""

    step: int
    value: float


@dataclass
class StudyTrial:
    """The form of `contracts.Trial` over an Optuna storage."""

    study: optuna.Study
    trial_id: int
    pruner: BasePruner
    command: tuple[str, ...] = ()
    name: str | None = None
    """What the search calls it, where it was named beforehand."""

    def report(self, step: int, value: float) -> None:
        """Raises RunFailed where the study took the trial away: it was held for dead and runs elsewhere."""
        try:
            storage = self.study._storage
            patiently("reporting", lambda: storage.set_trial_intermediate_value(self.trial_id, step, value))
        except UpdateFinishedTrialError:
            raise RunFailed(
                f"trial id {self.trial_id} of {self.study.study_name} was taken for dead and given to another worker"
            ) from None

    def should_prune(self) -> bool:
        def ask() -> bool:
            return bool(self.pruner.prune(self.study, self.study._storage.get_trial(self.trial_id)))

        return patiently("asking whether to prune", ask)


def trial_of_this_job(plan: Plan) -> StudyTrial | None:
    """The trial that the environment names; None in a job that is run again after its trial ended.

    From here on the job's process ends with the one that runs the study, wherever a launcher put it.
    """
    handed = os.environ[VARIABLE]
    number, _, name = handed.partition(" ")
    storage, pruner = _opened(plan.url, plan.heartbeat_seconds), make_pruner(plan.pruner)
    study = patiently("opening the study", lambda: optuna.load_study(study_name=name, storage=storage, pruner=pruner))
    trial = patiently("looking for the trial", lambda: storage.get_trial(int(number)))
    if trial.state != TrialState.RUNNING:
        log.warning("%s=%s names a trial that has ended; this job runs by itself", VARIABLE, handed)
        return None
    _bind_to(trial.user_attrs[ledger.OWNER])
    command = patiently("reading the command", lambda: study.user_attrs.get(COMMAND, ()))
    return StudyTrial(study, int(number), pruner, tuple(command), trial.user_attrs.get(ledger.NAME))


@cache
def _bind_to(owner: str) -> None:
    """Looks every second, in a process that a launcher made, whether the owner of its trial still lives. An owner on
    another host cannot be seen; there the job ends when it reports on a trial that was taken for dead."""
    if owner == ledger.me():
        return

    def look() -> None:
        while not ledger.is_gone(owner):
            time.sleep(_LOOK_SECONDS)
        log.error("the command that runs the study is gone, so this job ends")
        os._exit(1)  # launchers turn signals and exceptions to their own ends

    threading.Thread(target=look, daemon=True, name="bound_to_owner").start()


@lru_cache(maxsize=1)
def _opened(url: str, heartbeat_seconds: int) -> RDBStorage:
    """The storage, opened once for all jobs of this process: each engine holds connections until it is collected."""
    return open_storage(url, heartbeat_seconds, in_mid_study=True)
