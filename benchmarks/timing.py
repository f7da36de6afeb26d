"""Interleaved rounds of processor time (or the clock, where it is said), and the figures that come of them.

Processor time, all threads of a process together, depends less than the clock on what else the machine does. Variants
take turns within a round, and a ratio is taken within a round, so that what drifts over minutes hits both sides alike.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

Costs = Mapping[str, float]
"""What a run cost by the part that took it, in one unit: seconds of processor time unless a benchmark says another."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much to measure: rounds, epochs of training in each, and whether all variants run once uncounted before."""

    n_rounds: int
    n_epochs: int = 3
    warm_up: bool = True


SMOKE = Plan(n_rounds=1, n_epochs=1, warm_up=False)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured, once per round: one cost over another, or an amount whose unit is in the name. `target` is the
    upper bound aimed at, None for information only."""

    name: str
    per_round: tuple[float, ...]
    target: float | None = None
    digits: int = 3

    @property
    def median(self) -> float:
        return median(self.per_round)


@dataclass(frozen=True)
class Rounds:
    """What each variant cost, round by round."""

    costs: Mapping[str, list[Costs]]

    def ratio(self, name: str, above: str, below: str, part: str, target: float | None = None) -> Figure:
        """Variant `above` over variant `below`, both for the same part."""
        pairs = zip(self.costs[above], self.costs[below], strict=True)
        return Figure(name=name, per_round=tuple(a[part] / b[part] for a, b in pairs), target=target)

    def difference(self, name: str, above: str, below: str, part: str, digits: int) -> Figure:
        """Variant `above` less variant `below`, both for the same part."""
        pairs = zip(self.costs[above], self.costs[below], strict=True)
        return Figure(name=name, per_round=tuple(a[part] - b[part] for a, b in pairs), digits=digits)

    def amount(self, name: str, variant: str, part: str, digits: int) -> Figure:
        """What one variant cost."""
        return Figure(name=name, per_round=tuple(costs[part] for costs in self.costs[variant]), digits=digits)


def interleaved(variants: Mapping[str, Callable[[], Costs]], plan: Plan) -> Rounds:
    """Runs the variants in turns, every other round in reverse order."""
    if plan.warm_up:
        for run in variants.values():
            run()
    costs: dict[str, list[Costs]] = {name: [] for name in variants}
    for number in range(plan.n_rounds):
        for name in list(variants)[:: -1 if number % 2 else 1]:
            gc.collect()  # so that no variant pays for the garbage of another
            costs[name].append(variants[name]())
    return Rounds(costs)
