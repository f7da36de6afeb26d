"""One file per family of losses. A loss is a free function that gives one number per sample and declares its traits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, cast

import torch
from torch import Tensor

from kdexp.contracts import Loss, StudentOutput, TaskSpec, TeacherSignal, Traits
from kdexp.distill.losses.log_probabilities import widen


def declares(traits: Traits) -> Callable[[Callable[..., Tensor]], Loss]:
    """Attaches to a distillation loss what it is; the contract suite reads it and chooses its checks."""

    def attach(function: Callable[..., Tensor]) -> Loss:
        function.traits = traits  # type: ignore[attr-defined]
        return cast("Loss", function)

    return attach


def on_pairs(traits: Traits, *, average: bool = False) -> Callable[[Callable[..., Tensor]], Loss]:
    """Makes a loss of a function (student's feature, teacher's feature) -> (B,): the sum over all pairs, or their mean.

    Both features come in float32 (float64 stays float64), also under autocast. The teacher's may carry the gradient of
    a trained projection, never one to the teacher.
    """

    def attach(function: Callable[..., Tensor]) -> Loss:
        @wraps(function)
        def loss(
            student: StudentOutput,
            signal: TeacherSignal,
            *,
            tasks: tuple[TaskSpec, ...],
            temperature: float,
            scale_tau2: bool,
            **options: Any,
        ) -> Tensor:
            pairs = [(widen(feature), widen(signal.features[name])) for name, feature in student.features.items()]
            with torch.autocast(pairs[0][0].device.type, enabled=False):
                by_pair = torch.stack([function(*pair, **options) for pair in pairs])
            return by_pair.mean(dim=0) if average else by_pair.sum(dim=0)

        return declares(traits)(loss)

    return attach


def with_options(loss: Loss, **options: Any) -> Loss:
    """The same loss with some of its own settings fixed."""
    return declares(loss.traits)(partial(loss, **options))
