"""Reads what a preset weighs: schedules, losses with their settings, features. All that is wrong is told at once.

And the mean of a part over a batch, where samples may have weights of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, get_args

from annotated_types import Interval
from torch import Tensor

from kdexp.contracts import Loss
from kdexp.distill.parts import LOSSES, PARTS, make_loss
from kdexp.distill.projections import Pairing, Side, read_pairs
from kdexp.distill.schedules import Course, ScheduleSetting, make_schedules
from kdexp.errors import ConfigError

POSITIVE = Interval(gt=0)
NOT_NEGATIVE = Interval(ge=0)
FRACTION = Interval(ge=0, le=1)
WeightSettings = dict[str, ScheduleSetting]


@contextmanager
def gathering(problems: list[str]) -> Iterator[None]:
    """Adds what a ConfigError inside says to the list, and goes on."""
    try:
        yield
    except ConfigError as error:
        problems += error.problems


def check_names(weights: WeightSettings, parts: tuple[str, ...]) -> None:
    """Raises ConfigError unless exactly these parts are weighed."""
    problems = [f"distill.weights.{name} is missing" for name in parts if name not in weights]
    problems += [_weighs_nothing(name, parts) for name in weights if name not in parts]
    if problems:
        raise ConfigError(problems)


def check_fused(fused: bool, positions: str, options: Mapping[str, Any] | None = None) -> None:
    """Raises ConfigError for positions that no task which can be fused has, and for a KL that is not fused."""
    problems = []
    if fused and positions not in ("decisions", "all"):
        problems.append(f"distill.fused: tasks that can be fused have no positions; got distill.positions={positions}")
    of_kl = (options or {}).get("kl")
    if fused and isinstance(of_kl, Mapping) and of_kl.get("confidence"):
        problems.append("distill.options.kl.confidence: is not known to the fused KL; set distill.fused to false")
    if problems:
        raise ConfigError(problems)


def check_further(weights: Mapping[str, Any], by: Mapping[str, str]) -> None:
    """Raises ConfigError for a weight of a part that another key weighs, or that does not exist."""
    set_names = [name for name, setting in weights.items() if setting is not None]
    problems = [f"distill.weights.{n}: has no effect, {by[n]} weighs {n}; set it to null" for n in set_names if n in by]
    problems += [_weighs_nothing(name) for name in set_names if name not in PARTS]
    if problems:
        raise ConfigError(problems)


def _weighs_nothing(name: str, parts: tuple[str, ...] = PARTS) -> str:
    return f"distill.weights.{name} weighs nothing: choose among {parts}"


def read_schedules(
    settings: Mapping[str, tuple[ScheduleSetting, Interval]], aux: WeightSettings | None
) -> tuple[dict[str, Course], dict[str, Course]]:
    """The preset's schedules by key below `distill`, and those of auxiliary parts; all problems at once."""
    auxiliary = aux or {}
    taken = [f"distill.aux.{name} has the name of another part; rename it" for name in auxiliary if name in PARTS]
    if taken:
        raise ConfigError(taken)
    keyed = {f"distill.{key}": setting for key, setting in settings.items()}
    keyed |= {f"distill.aux.{name}": (setting, NOT_NEGATIVE) for name, setting in auxiliary.items()}
    schedules = make_schedules(keyed)
    return (
        {key: schedules[f"distill.{key}"] for key in settings},
        {name: schedules[f"distill.aux.{name}"] for name in auxiliary},
    )


class Parts(NamedTuple):
    """What a config weighs by name: the schedules of the preset's own keys, those of the weights, and the losses."""

    own: dict[str, Course]
    weights: dict[str, Course]
    losses: dict[str, Loss]
    pairings: dict[str, Pairing]


def read_parts(
    weighed: Mapping[str, ScheduleSetting],
    own: Mapping[str, tuple[ScheduleSetting, Interval]],
    *,
    own_losses: tuple[str, ...] = (),
    positions: str,
    features: Any = None,
    project: str = "teacher",
    fused: bool,
    options: Mapping[str, Any] | None = None,
    aux: WeightSettings | None,
    problems: Sequence[str] = (),
) -> Parts:
    """The parts that `weights` weighs, beside the losses that the preset weighs by keys of its `own`.

    Raises ConfigError with `problems`, found so far, and all others.
    """
    problems = list(problems)
    given, names = options or {}, [*own_losses, *(name for name in weighed if name in LOSSES)]
    settings = {f"weights.{name}": (setting, NOT_NEGATIVE) for name, setting in weighed.items()}
    with gathering(problems):
        check_fused(fused, positions, given)
    with gathering(problems):
        schedules, extra = read_schedules({**own, **settings}, aux)
    with gathering(problems):
        losses = read_losses(names, given, positions)
    with gathering(problems):
        pairings = read_pairings(names, features, given, project)
    if problems:
        raise ConfigError(problems)
    weights = {name: schedules[f"weights.{name}"] for name in weighed}
    return Parts({key: schedules[key] for key in own}, {**weights, **extra}, losses, pairings)


def read_losses(names: list[str], options: Mapping[str, Any], positions: str) -> dict[str, Loss]:
    """The losses of these parts, with their settings. Raises ConfigError for settings of a part that is not weighed."""
    problems = [
        f"distill.options.{name}: has no effect, distill.weights.{name} is not set"
        for name in options
        if name not in names
    ]
    losses = {}
    for name in names:
        own = options.get(name) or {}
        with gathering(problems):
            if not isinstance(own, Mapping):
                raise ConfigError(f"distill.options.{name}: must be settings by name, got {own!r}")
            losses[name] = make_loss(name, {key: own[key] for key in own if not _is_of_pairs(name, key)}, positions)
    if problems:
        raise ConfigError(problems)
    return losses


def read_pairings(names: list[str], features: Any, options: Mapping[str, Any], project: str) -> dict[str, Pairing]:
    """What each loss on features compares: `features`, unless `options.NAME.features` says other pairs."""
    readers = [name for name in names if LOSSES[name].traits.features]
    own = {name: options[name]["features"] for name in readers if "features" in (options.get(name) or {})}
    problems = []
    if features is not None and set(own) == set(readers):
        problems.append("distill.features: has no effect, no part that is weighed reads it")
    if project not in get_args(Side):
        problems.append(f"distill.project: must be {' or '.join(get_args(Side))}, got {project!r}")
    elif project != "teacher" and not any(LOSSES[name].traits.projected for name in names):
        problems.append(f"distill.project: {project} has no effect, no part that is weighed projects a feature")
    pairings = {}
    for name in readers:
        key = f"distill.options.{name}.features" if name in own else "distill.features"
        with gathering(problems):
            if name not in own and features is None:
                raise ConfigError(f"{key}: missing, {name} compares features; list [[student's, teacher's], ...]")
            pairs = read_pairs(own.get(name, features), key)
            side: Side = "student" if project == "student" else "teacher"
            pairings[name] = Pairing(pairs=pairs, key=key, traits=LOSSES[name].traits, project=side)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return pairings


def check_used(weighed: Mapping[str, Any], temperature: Any, scale_tau2: bool, positions: str, fused: bool) -> None:
    """Raises ConfigError for what only some parts read, where none of these is weighed; and for what they miss."""
    tempered = [name for name in weighed if name in LOSSES and LOSSES[name].traits.uses_temperature]
    problems = []
    if not weighed:
        problems.append("distill.weights: all are null, so there is nothing to train on")
    if tempered and temperature is None:
        problems.append(f"distill.temperature: missing, {', '.join(tempered)} needs it")
    if not tempered and temperature is not None:
        problems.append("distill.temperature: has no effect, no part that is weighed uses it; set it to null")
    if not tempered and not scale_tau2:
        problems.append("distill.scale_tau2: false has no effect, no part that is weighed uses a temperature")
    if "kl" not in weighed and positions != "decisions":
        problems.append(f"distill.positions: {positions} has no effect, only kl reads it, and kl is not weighed")
    if fused and not {"ce", "kl"} <= set(weighed):
        problems.append("distill.fused: has no effect, it takes ce and kl together, and both must be weighed")
    if problems:
        raise ConfigError(problems)


def _is_of_pairs(name: str, key: str) -> bool:
    return key == "features" and LOSSES[name].traits.features is not None


def batch_mean(values_B: Tensor, weights_B: Tensor | None) -> Tensor:
    """Σ_i w_i part_i / Σ_i w_i; of a loss that compares samples, each anchor has its own sample's weight.

    Where all weights are 0 it is 0, and so is its gradient.
    """
    if weights_B is None:
        return values_B.mean()
    total = weights_B.sum()
    # Not a small divisor: its inverse times a part's weight may overflow in the backward pass, and infinity times 0.
    return (weights_B * values_B).sum() / total.where(total != 0, 1.0)
