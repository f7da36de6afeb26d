"""A running trial as the job sees it: it reports to the study and asks whether to go on.

The sweeper hands a trial over in the job's environment, so every launcher does it the same way.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.trial import TrialState

from kdexp.errors import RunFailed
from kdexp.sweeps.plan import Plan
from kdexp.sweeps.samplers import make_pruner
from kdexp.sweeps.storage import open_storage, patiently

log = logging.getLogger(__name__)
VARIABLE = "KDEXP_TRIAL"
"""`<trial id> <study name>`, set by the sweeper for the job."""


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
        trial = self.study._storage.get_trial(self.trial_id)
        return bool(self.pruner.prune(self.study, trial))


def trial_of_this_job(plan: Plan) -> StudyTrial | None:
    """The trial that the environment names; None in a job that is run again after its trial ended."""
    handed = os.environ[VARIABLE]
    number, _, name = handed.partition(" ")
    storage, pruner = open_storage(plan.url, plan.heartbeat_seconds), make_pruner(plan.pruner)
    study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
    if storage.get_trial(int(number)).state != TrialState.RUNNING:
        log.warning("%s=%s names a trial that has ended; this job runs by itself", VARIABLE, handed)
        return None
    return StudyTrial(study, int(number), pruner)
