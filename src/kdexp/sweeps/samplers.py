"""Samplers and pruners from their option files, and a record of what drew each parameter.

A sampler is built anew for every trial from (seed, slot), so that a study that was stopped and taken up again draws
what an uninterrupted one does, and workers never draw the same. For random, grid, QMC and TPE that holds to the bit
with one worker. CMA-ES draws for the slot too, its state lies in the study; but a generation holds the trials that were
complete when it was closed, so with several workers, or where a draw failed, generations may differ.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna import Study, Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, BruteForceSampler, CmaEsSampler, GridSampler, QMCSampler, RandomSampler
from optuna.samplers.nsgaii import BaseCrossover, BaseMutation
from optuna.trial import FrozenTrial

from kdexp.errors import ConfigError
from kdexp.seeds import derive_seed
from kdexp.sweeps.options import arguments_of, find_class, made
from kdexp.sweeps.slotted import EvolutionBySlot, Exhaustive, PointOfSlot, Recorded, SequenceOfSlots
from kdexp.sweeps.space import Space, Values

SAMPLER, PRUNER = "hydra.sweeper.sampler", "hydra.sweeper.pruner"
GIVEN, ONLY_VALUE = "given", "only value"
TAKES_CONSTRAINTS = ("TPESampler", "GPSampler", "NSGAIISampler", "NSGAIIISampler")
"""Those that heed `trial.set_constraint`."""
_BRANCH = 2**16
"""A slot whose draw failed goes on so many points further along a sequence: beyond every slot, and never the same."""


def make_sampler(node: Mapping[str, Any], *, slot: int, space: Space, n_failures: int = 0) -> Recorded:
    """The sampler for one trial. `n_failures` counts the draws of this slot that failed by themselves, so that the
    next is another. Raises ConfigError with every mistake of the option."""
    found = find_class(node, SAMPLER, "optuna.samplers", BaseSampler)
    base = _base_seed(node)
    seed = derive_seed(base, "slot", slot, n_failures) % 2**32
    arguments = _seeded(found, node, SAMPLER, seed)
    sampler: BaseSampler
    if found is GridSampler:
        sampler = PointOfSlot(_point(space, base, slot))
    elif found is BruteForceSampler:
        sampler = made(Exhaustive, arguments, SAMPLER)
    elif found is QMCSampler:
        inner = arguments.get("independent_sampler") or RandomSampler(seed=seed)
        arguments |= {"seed": base % 2**32, "independent_sampler": inner}  # one sequence for all slots
        sequence: SequenceOfSlots = made(SequenceOfSlots, arguments, SAMPLER)
        sequence.declare(_several(space.distributions), slot + n_failures * _BRANCH)
        sampler = sequence
    elif found is CmaEsSampler:
        evolution: EvolutionBySlot = made(EvolutionBySlot, arguments, SAMPLER)
        evolution.declare(_numeric(space), slot)
        sampler = evolution
    else:
        sampler = made(found, arguments, SAMPLER)
    return Recorded(sampler, found.__name__)


def check_sampler(
    node: Mapping[str, Any],
    space: Space,
    *,
    n_objectives: int = 1,
    has_enqueue: bool = False,
    has_constraints: bool = False,
) -> None:
    """Raises ConfigError where this sampler cannot search this space, before the first trial."""
    make_sampler(node, slot=0, space=space)
    name = _name(node)
    if name == "CmaEsSampler" and n_objectives > 1:
        raise ConfigError(f"{SAMPLER}: CMA-ES has one objective only; for {n_objectives} use tpe, nsgaii or nsgaiii")
    if name == "GridSampler" and has_enqueue:
        raise ConfigError("hydra.sweeper.enqueue: a grid has all its points already; use another sampler beside it")
    if has_constraints and name not in TAKES_CONSTRAINTS:
        raise ConfigError(
            f"hydra.sweeper.constraints: {name} does not heed constraints; use tpe, gp, nsgaii or nsgaiii"
        )
    if is_exhaustive(node):
        space.points()


def is_exhaustive(node: Mapping[str, Any]) -> bool:
    """Whether the sampler tries every combination once, so that a study needs no more trials than there are."""
    return _name(node) in ("GridSampler", "BruteForceSampler")


def n_points(node: Mapping[str, Any], space: Space) -> int | None:
    """How many trials there are for a sampler that tries every combination; None for the others."""
    return len(space.points()) if is_exhaustive(node) and space.extension is None else None


def draws_again(node: Mapping[str, Any]) -> bool:
    """Whether a slot whose trial failed can be given another draw; a grid's point would fail again."""
    return _name(node) != "GridSampler"


def has_no_other(node: Mapping[str, Any], space: Space, n_trials: int) -> bool:
    """Whether nothing else can be drawn in a failed trial's place: its slot has one point, or all have been drawn."""
    points = n_points(node, space)
    return not draws_again(node) or (points is not None and points <= n_trials)


def sampler_warnings(node: Mapping[str, Any], space: Space) -> list[str]:
    """What the asked sampler will not draw in this space, and who will instead; empty where it draws everything."""
    name, several = _name(node), _several(space.distributions)
    if name == "TPESampler" and node.get("multivariate") and not node.get("group"):
        alone = [key for key in several if key not in space.unconditional]
        return (
            [f"{', '.join(alone)}: not in every trial, so drawn at random; tpe_group estimates them"] if alone else []
        )
    takes = {"CmaEsSampler": _numeric(space), "GPSampler": _several(space.unconditional)}.get(name)
    if takes is None:
        return []
    others = [key for key in several if key not in takes]
    kind = "numbers" if name == "CmaEsSampler" else "parameters"
    instead = _name(node.get("independent_sampler") or {"_target_": "RandomSampler"})
    if not takes:
        what = f"{instead} draws {', '.join(others)}" if others else "there is nothing to draw"
        return [f"{name} was asked for and will draw nothing, it takes {kind} that every trial has: {what}"]
    return [f"{', '.join(others)}: drawn by {instead}, {name} takes {kind} that every trial has"] if others else []


def drawn_by(sampler: BaseSampler, study: Study, trial: Trial | FrozenTrial) -> dict[str, str]:
    """What drew each parameter of this trial: a sampler's name; `... (independent)` where it stood in for the one
    that was asked for; `given` for a queued or retried trial's; `only value` where there was nothing to draw."""
    stored = study._storage.get_trial(trial._trial_id)
    given = stored.system_attrs.get("fixed_params", {})
    drawn = sampler.drawn if isinstance(sampler, Recorded) else {}

    def who(name: str) -> str:
        if name in given:
            return GIVEN
        return ONLY_VALUE if stored.distributions[name].single() else drawn.get(name, type(sampler).__name__)

    return {name: who(name) for name in stored.params}


def make_pruner(node: Mapping[str, Any] | None, *, n_objectives: int = 1) -> BasePruner:
    """The pruner of an option. Raises ConfigError with what is wrong with it, and for several objectives."""
    if node is None:
        return NopPruner()
    found = find_class(node, PRUNER, "optuna.pruners", BasePruner)
    if n_objectives > 1 and found is not NopPruner:
        raise ConfigError(
            f"{PRUNER}: {found.__name__} compares one value, and this study has {n_objectives} objectives; "
            "use hydra/sweeper/pruner=nop"
        )
    arguments = arguments_of(found, node, PRUNER)
    inner = arguments.get("wrapped_pruner")
    if isinstance(inner, Mapping):
        arguments["wrapped_pruner"] = make_pruner(inner)
    pruner: BasePruner = made(found, arguments, PRUNER)
    return pruner


def _name(node: Mapping[str, Any]) -> str:
    return str(node.get("_target_", "")).rpartition(".")[2]


def _base_seed(node: Mapping[str, Any]) -> int:
    seed = node.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ConfigError(
            f"{SAMPLER}.seed: must be a whole number from 0, or no study could be continued, got {seed!r}"
        )
    return seed


def _seeded(found: type, node: Mapping[str, Any], key: str, seed: int) -> dict[str, Any]:
    """The option's settings, with what they name built, each part with a seed of its own."""
    settings = arguments_of(found, {"search_space": {}, **node} if found is GridSampler else node, key)
    arguments = {name: _built(value, f"{key}.{name}", seed) for name, value in settings.items()}
    if "seed" in inspect.signature(found).parameters:
        arguments["seed"] = seed
    return arguments


def _built(value: Any, key: str, seed: int) -> Any:
    """A part of a sampler that its option describes: another sampler, a crossover, a mutation, reference points."""
    if isinstance(value, Mapping) and "_target_" in value:
        found = find_class(value, key, "optuna.samplers", (BaseSampler, BaseCrossover, BaseMutation))
        return made(found, _seeded(found, value, key, derive_seed(seed, key) % 2**32), key)
    return np.asarray(value, dtype=float) if key.endswith(".reference_points") and value is not None else value


def _point(space: Space, seed: int, slot: int) -> Values:
    """The slot's own point of the shuffled grid; slots beyond the grid begin it anew."""
    points = space.points()
    order = np.random.default_rng(seed).permutation(len(points))
    return points[order[slot % len(points)]]


def _several(space: Mapping[str, BaseDistribution]) -> dict[str, BaseDistribution]:
    """The parameters that have more than one value."""
    return {name: one for name, one in space.items() if not one.single()}


def _numeric(space: Space) -> dict[str, BaseDistribution]:
    return {
        name: one for name, one in _several(space.unconditional).items() if not isinstance(one, CategoricalDistribution)
    }
