"""Opens a study: makes it where it is new, refuses it where one of its name is another."""

from __future__ import annotations

import math
import time

import optuna
from hydra.plugins.launcher import Launcher

from kdexp.errors import StudyError
from kdexp.records import redact
from kdexp.sweeps.enqueue import n_listed
from kdexp.sweeps.plan import Plan
from kdexp.sweeps.samplers import has_no_other, make_pruner
from kdexp.sweeps.space import Space, differences
from kdexp.sweeps.storage import open_storage, study_lock
from kdexp.sweeps.sweep import Sweep

_SPACE = "space"
"""The attribute that is written last when a study is made."""


def open_sweep(plan: Plan, space: Space, launcher: Launcher) -> Sweep:
    """Opens the study, making it where it is new. Raises StudyError where one of this name is another study."""
    storage = open_storage(plan.url, plan.heartbeat_seconds)
    with study_lock(storage, plan.url, plan.study_name):
        known = {summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)}
        if plan.study_name in known:
            study = optuna.load_study(study_name=plan.study_name, storage=storage, pruner=make_pruner(plan.pruner))
            _refuse_another_study(study, plan, space)
        else:
            study = optuna.create_study(
                study_name=plan.study_name,
                storage=storage,
                directions=list(plan.directions),  # type: ignore[arg-type]
                pruner=make_pruner(plan.pruner),
            )
        if _SPACE not in study.user_attrs:
            study.set_user_attr("metric", list(plan.objectives))
            study.set_user_attr("constraints", _in_words(plan))
            study.set_user_attr(_SPACE, space.describe())
    deadline = time.monotonic() + (plan.timeout or math.inf)
    final = n_listed(plan.enqueue) >= plan.n_trials or has_no_other(plan.sampler, space, plan.n_trials)
    return Sweep(plan, space, launcher, storage, study, deadline, final)


def _in_words(plan: Plan) -> list[str]:
    return [str(limit) for limit in plan.constraints]


def _refuse_another_study(study: optuna.Study, plan: Plan, space: Space) -> None:
    """Raises StudyError with what differs. One that has no trial yet and was cut off while it was made is no other."""
    directions = tuple(direction.name.lower() for direction in study.directions)
    changes = []
    if directions != plan.directions:
        changes.append(f"direction: was {', '.join(directions)}, is now {', '.join(plan.directions)}")
    attributes = study.user_attrs
    if _SPACE in attributes:
        for name, is_now in (("objective", list(plan.objectives)), ("constraints", _in_words(plan))):
            was = list(attributes.get("metric" if name == "objective" else name, []))
            if was != is_now:
                changes.append(f"{name}: was {', '.join(was) or 'none'}, is now {', '.join(is_now) or 'none'}")
        changes += differences(attributes[_SPACE], space.describe())
    elif study.get_trials(deepcopy=False):
        changes.append("it was not made by kdexp")
    if changes:
        raise StudyError(
            f"the study {plan.study_name!r} in {redact(plan.url)} is another one: {'; '.join(changes)}. "
            "Give this one a name of its own, hydra.sweeper.study_name=..."
        )
