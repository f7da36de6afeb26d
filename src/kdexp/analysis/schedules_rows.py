"""What the analysis of schedules is about: one row per configuration, and the frame in which tables look at them.

T₀ and α₀ are where a schedule starts, T₁ and α₁ where it ends; α stands for the weight of distillation, whatever key
the preset has for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kdexp.analysis.compared import Entry

CONSTANT, ANNEALING, SCHEDULING, COMBINED = "constant", "temperature annealing", "alpha scheduling", "combined"
STRATEGIES = (CONSTANT, ANNEALING, SCHEDULING, COMBINED)


@dataclass(frozen=True, order=True)
class Span:
    """A schedule from `start` to `end` along a curve; a constant has both alike."""

    start: float
    end: float
    curve: str = CONSTANT

    @property
    def moves(self) -> bool:
        return self.curve != CONSTANT

    def __str__(self) -> str:
        return f"{self.start:g}→{self.end:g}" if self.moves else f"{self.start:g}"


@dataclass(frozen=True)
class Metric:
    """A metric by its key in records; `sign` is -1 where smaller is better."""

    key: str
    label: str
    digits: int = 4
    sign: int = 1

    @property
    def best_word(self) -> str:
        return "max" if self.sign > 0 else "min"


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Runs alike but for their seeds. `values` are means over the seeds, by split and metric; a metric that any of the
    runs lacks is absent. `rest` tells, for `temperature` and `weight`, all other settings: two configurations that
    agree there differ in that start alone."""

    name: str
    order: int
    temperature: Span
    weight: Span
    values: Mapping[str, Mapping[str, float]]
    seeds: tuple[int, ...] = (0,)
    rest: Mapping[str, str] = field(default_factory=dict)
    best_epoch: float | None = None
    reached_temperature: float | None = None
    reached_weight: float | None = None
    entries: Mapping[int, Entry] = field(default_factory=dict)

    @property
    def strategy(self) -> str:
        return STRATEGIES[self.temperature.moves + 2 * self.weight.moves]

    def span(self, factor: str) -> Span:
        """Of `temperature` or `weight`."""
        return self.temperature if factor == "temperature" else self.weight

    @property
    def settings(self) -> str:
        return f"T {self.temperature}, α {self.weight}"

    def value(self, split: str, metric: Metric) -> float:
        """NaN where it was not measured."""
        return self.values.get(split, {}).get(metric.key, float("nan"))

    def ended(self) -> bool:
        """Whether the best epoch was trained with the schedules' ends."""
        pairs = ((self.temperature, self.reached_temperature), (self.weight, self.reached_weight))
        return all(reached is not None and np.isclose(reached, span.end) for span, reached in pairs if span.moves)


@dataclass(frozen=True)
class Reference:
    """A model that is no part of the grid: `values` by split and metric, means over `n_seeds` trainings."""

    name: str
    values: Mapping[str, Mapping[str, float]]
    n_seeds: int


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What every table is made of: configurations in the study's order, and by which split they are chosen and quoted.

    `primary` chooses; `second` is told beside it. Numbers are quoted on `split`, choices are made on `chosen_on`.
    """

    configurations: tuple[Configuration, ...]
    primary: Metric
    second: Metric | None
    split: str
    chosen_on: str = "val"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (self.primary,) if self.second is None else (self.primary, self.second)

    def quoted(self, metric: Metric, among: Sequence[Configuration] | None = None) -> np.ndarray:
        return np.array([c.value(self.split, metric) for c in (self.configurations if among is None else among)])

    def chosen(self, metric: Metric, among: Sequence[Configuration] | None = None) -> np.ndarray:
        return np.array([c.value(self.chosen_on, metric) for c in (self.configurations if among is None else among)])

    def ranked(self, metric: Metric) -> list[Configuration]:
        """The best first on the split that chooses; ties by the other metric, then in the study's order."""
        others = [other for other in self.metrics if other != metric]
        known = [c for c in self.configurations if np.isfinite(c.value(self.chosen_on, metric))]

        def key(c: Configuration) -> tuple[float, ...]:
            values = [-one.sign * c.value(self.chosen_on, one) for one in (metric, *others)]
            return (*(value if np.isfinite(value) else np.inf for value in values), c.order)

        return sorted(known, key=key)
