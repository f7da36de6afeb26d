"""Samplers that go by a trial's slot, and one that notes what it draws.

Three of Optuna's samplers go by the trial's number or by how often they were asked. Here they go by the slot, so that a
failed or interrupted trial shifts nothing.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, BruteForceSampler, CmaEsSampler, QMCSampler
from optuna.trial import FrozenTrial, TrialState

from kdexp.errors import ConfigError, StudyError
from kdexp.sweeps.options import experimental_is_meant


class Recorded(BaseSampler):
    """A sampler that notes what it draws, and what the samplers inside it draw in its place."""

    def __init__(self, sampler: BaseSampler, label: str, drawn: dict[str, str] | None = None) -> None:
        self.sampler, self.label = sampler, label
        self.drawn: dict[str, str] = {} if drawn is None else drawn
        for name, inner in vars(sampler).items():
            if isinstance(inner, BaseSampler):
                setattr(sampler, name, Recorded(inner, f"{type(inner).__name__} (independent)", self.drawn))

    def reseed_rng(self) -> None:
        self.sampler.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        with experimental_is_meant():
            values = self.sampler.sample_relative(study, trial, search_space)
        self.drawn.update(dict.fromkeys(values, self.label))
        return values

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        self.drawn[param_name] = self.label  # a sampler inside that draws it says so afterwards
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.sampler.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self.sampler.after_trial(study, trial, state, values)


class PointOfSlot(BaseSampler):
    """One point of a grid. Optuna's own gives points out by trial number, and counts a failed one as visited."""

    def __init__(self, point: Mapping[str, Any]) -> None:
        self.point = point

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name not in self.point:
            raise ConfigError(f"{param_name}: is not in the grid; a custom_search_space needs brute_force instead")
        return self.point[param_name]


class Exhaustive(BruteForceSampler):
    """Optuna's own, without stopping a study: the sweep counts by itself, and a study that asks and tells cannot."""

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        return


class SequenceOfSlots(QMCSampler):
    """Optuna's own over the declared space, from the first trial on; a slot's point is the sequence's point of that
    number, where Optuna counts the draws."""

    def declare(self, space: dict[str, BaseDistribution], number: int) -> None:
        self._declared, self._number = {key: one for key, one in space.items() if not one.single()}, number

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._declared

    def _find_sample_id(self, study: Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._number


class EvolutionBySlot(CmaEsSampler):
    """Optuna's own over the declared space: its seed adds the trial's number, here the slot, and a queued trial with
    other parameters does not empty the space. Its state lies pickled in the study, and only what it is made of is
    loaded."""

    def declare(self, space: dict[str, BaseDistribution], slot: int) -> None:
        self._declared, self._slot = space, slot

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._declared

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        of_slot = copy.copy(trial)
        of_slot.number = self._slot
        return super().sample_relative(study, of_slot, search_space)

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            stored = {k: v for k, v in trial.system_attrs.items() if k.startswith(self._attr_key_optimizer)}
            if stored:
                state = bytes.fromhex(self._concat_optimizer_attrs(stored))
                return _StateOfCmaes(io.BytesIO(state), trial.number).load()
        return None


class _StateOfCmaes(pickle.Unpickler):
    """Loads arrays, numbers and CMA-ES itself; a study that asks for anything else would run it."""

    _PARTS = frozenset(
        {
            ("cmaes._cma", "CMA"),
            ("cmaes._sepcma", "SepCMA"),
            ("cmaes._cmawm", "CMAwM"),
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "scalar"),
        }
    )

    def __init__(self, stream: io.BytesIO, number: int) -> None:
        super().__init__(stream)
        self._number = number

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._PARTS:
            raise StudyError(
                f"the state of CMA-ES in trial {self._number} names {module}.{name}, no part of it; it could run "
                "code, so it was not loaded; give the study another name, hydra.sweeper.study_name=..."
            )
        return super().find_class(module, name)
