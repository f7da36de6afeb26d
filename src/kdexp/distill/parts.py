"""The distillation losses by the name of their part (`distill.weights.NAME`), and settings (`distill.options.NAME`).

A loss's settings are its own keyword parameters; their annotations say what they may be.
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from annotated_types import Gt, Len

from kdexp.contracts import Loss
from kdexp.distill.losses import with_options
from kdexp.distill.losses.attention import attention
from kdexp.distill.losses.contrastive import crd, info_nce
from kdexp.distill.losses.discrepancy import mmd
from kdexp.distill.losses.dist import dist
from kdexp.distill.losses.dkd import dkd
from kdexp.distill.losses.features import cosine, feature_mse
from kdexp.distill.losses.kl import kl, kl_at
from kdexp.distill.losses.pooling import attention_kl, attention_summary
from kdexp.distill.losses.relational import relational, rkd, rkd_park
from kdexp.errors import ConfigError

LOSSES: dict[str, Loss] = {
    "kl": kl,
    "dkd": dkd,
    "dist": dist,
    "feature_mse": feature_mse,
    "crd": crd,
    "rkd": rkd,
    "rkd_park": rkd_park,
    "mmd": mmd,
    "attention": attention,
    "cosine": cosine,
    "info_nce": info_nce,
    "relational": relational,
    "attention_summary": attention_summary,
    "attention_kl": attention_kl,
}
PARTS = ("ce", *LOSSES)
"""All names of a part; the student's own auxiliary parts take others."""

_GIVEN = ("tasks", "temperature", "scale_tau2", "targets", "positions")


def make_loss(name: str, options: Mapping[str, Any], positions: str = "decisions") -> Loss:
    """The loss of a part with its settings fixed. Raises ConfigError with all that is wrong with these."""
    loss, key = LOSSES[name], f"distill.options.{name}"
    hints = {option: hint for option, hint in _settings(loss).items() if option not in _GIVEN}
    there = f"{name} has {', '.join(hints)}" if hints else f"{name} has none"
    problems = [
        f"{key}.{option}: unknown setting, so it would have no effect; {there}"
        for option in options
        if option not in hints
    ]
    problems += [
        f"{key}.{option}: {problem}"
        for option, value in options.items()
        if option in hints and (problem := _problem(value, hints[option]))
    ]
    if problems:
        raise ConfigError(problems)
    if name == "kl":
        loss = kl_at(positions)
    return with_options(loss, **options) if options else loss


def _settings(loss: Loss) -> dict[str, Any]:
    """A loss's keyword parameters with their annotations."""
    hints = typing.get_type_hints(loss, include_extras=True)
    parameters = inspect.signature(loss).parameters.values()
    return {one.name: hints[one.name] for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}


def _problem(value: Any, hint: Any) -> str | None:
    """What is wrong with a switch, a number, or a list of numbers."""
    if hint is bool:
        return None if isinstance(value, bool) else f"must be true or false, got {value!r}"
    kind, *rules = typing.get_args(hint)
    if typing.get_origin(kind) is not tuple:
        return _number_problem(value, rules)
    if not isinstance(value, Sequence) or isinstance(value, str):
        return f"must be a list of numbers, got {value!r}"
    short = [rule.min_length for rule in rules if isinstance(rule, Len) and len(value) < rule.min_length]
    if short:
        return f"must hold at least {short[0]} number, got {list(value)}"
    _, *inner = typing.get_args(typing.get_args(kind)[0])
    return next((problem for one in value if (problem := _number_problem(one, inner))), None)


def _number_problem(value: Any, rules: Sequence[Any]) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return f"must be a finite number, got {value!r}"
    for rule in rules:
        bound: Any = rule.gt if isinstance(rule, Gt) else rule.ge
        if not (value > bound if isinstance(rule, Gt) else value >= bound):
            return f"must be {'above' if isinstance(rule, Gt) else 'at or above'} {bound}, got {value}"
    return None
