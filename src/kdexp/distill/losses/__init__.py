"""One file per family of losses. A loss is a free function that gives one number per sample and declares its traits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from kdexp.contracts import Loss, Traits

if TYPE_CHECKING:
    from torch import Tensor


def declares(traits: Traits) -> Callable[[Callable[..., Tensor]], Loss]:
    """Attaches to a distillation loss what it is; the contract suite reads it and chooses its checks."""

    def attach(function: Callable[..., Tensor]) -> Loss:
        function.traits = traits  # type: ignore[attr-defined]
        return cast("Loss", function)

    return attach
