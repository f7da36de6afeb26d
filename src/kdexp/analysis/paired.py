"""Two students compared in pairs: the same seeds, the same test samples, and both kinds of chance counted.

A difference between two ways of training depends on the seed (initial weights, order, dropout) and on which clusters
(cases, trips, events) the test set happens to hold. The p-value asks about seeds; the interval allows for both.

Shape suffixes: S seeds, R draws of clusters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import mpmath
import numpy as np

MAX_SEEDS = 24
"""The sign-flip test looks at all 2^S patterns of signs."""
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of one contender minus the same of the baseline, over paired seeds.

    `low` to `high` is the interval at `level` for other seeds and other clusters; `inner_low` to `inner_high` the
    narrower one (1 - 2·0.05) of a test of equivalence. `effect_size` is the mean over the spread between seeds.
    """

    mean: float
    low: float
    high: float
    inner_low: float
    inner_high: float
    level: float
    per_seed: tuple[float, ...]
    spread_of_seeds: float
    standard_error: float
    standard_error_of_clusters: float
    degrees_of_freedom: float
    effect_size: float | None
    p: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"per_seed": list(self.per_seed)}


def compare(difference_S: np.ndarray, difference_SR: np.ndarray, n_clusters: int, level: float) -> Difference:
    """The difference with its interval and its sign-flip p over seeds.

    `difference_S` holds each seed's difference on the test set as it is, `difference_SR` the same on R draws of its
    clusters, each metric recomputed on each draw; a draw on which it is undefined (NaN) is left out. The variance is
    that over seeds plus that over clusters, with what seeds and clusters do to each other (a seed that is lucky on
    some cases) counted once; the interval is Student's t with Satterthwaite's degrees of freedom (Satterthwaite 1946).
    A plain percentile bootstrap over eight seeds is too narrow, and one that draws seeds and clusters at once counts
    that interaction three times (Owen 2007, "The pigeonhole bootstrap").
    Raises ValueError for fewer than two seeds or two clusters, or where no draw is defined.
    """
    n_seeds = len(difference_S)
    defined = ~np.isnan(difference_SR).any(axis=0)
    if n_seeds < 2 or n_clusters < 2 or defined.sum() < 2:
        raise ValueError(f"a comparison needs two seeds, clusters and draws, got {n_seeds=} {n_clusters=}")
    drawn_SR = difference_SR[:, defined]
    mean = float(difference_S.mean())
    spread = float(difference_S.std(ddof=1))
    of_seeds = spread**2 / n_seeds
    of_mean, of_one = float(drawn_SR.mean(axis=0).var(ddof=1)), float(drawn_SR.var(axis=1, ddof=1).mean())
    interaction = max(of_one - of_mean, 0.0) * n_seeds / (n_seeds - 1)
    of_clusters = max(of_mean - interaction / n_seeds, 0.0)
    error = math.sqrt(of_seeds + of_clusters)
    parts = of_seeds**2 / (n_seeds - 1) + of_clusters**2 / (n_clusters - 1)
    freedom = (of_seeds + of_clusters) ** 2 / parts if parts > 0 else float(n_seeds - 1)
    outer, inner = student_t(0.5 + level / 2, freedom) * error, student_t(1 - ALPHA, freedom) * error
    return Difference(
        mean=mean,
        low=mean - outer,
        high=mean + outer,
        inner_low=mean - inner,
        inner_high=mean + inner,
        level=level,
        per_seed=tuple(map(float, difference_S)),
        spread_of_seeds=spread,
        standard_error=error,
        standard_error_of_clusters=math.sqrt(of_clusters),
        degrees_of_freedom=freedom,
        effect_size=mean / spread if spread > 0 else None,
        p=sign_flip_p(difference_S),
    )


def sign_flip_p(difference_S: np.ndarray) -> float:
    """Two-sided exact p: the share of the 2^S sign patterns whose mean is as far from 0 as the one seen (Fisher 1935).

    If both arms were trained alike, each seed's difference would be as likely with the other sign.
    """
    if len(difference_S) > MAX_SEEDS:
        raise ValueError(f"the exact test takes at most {MAX_SEEDS} seeds, got {len(difference_S)}")
    sums = np.zeros(1)
    for difference in np.asarray(difference_S, dtype=np.float64):
        sums = np.concatenate([sums + difference, sums - difference])
    seen = abs(float(np.sum(difference_S)))
    rounding = 1e-9 * float(np.abs(difference_S).sum())
    return float((np.abs(sums) >= seen - rounding).mean())


def least_p(n_seeds: int, n_contenders: int = 1) -> float:
    """The smallest p that so many seeds can give at all, after Holm over so many contenders."""
    return float(min(1.0, n_contenders * 2.0 ** (1 - n_seeds)))


def seeds_for_a_verdict(n_contenders: int) -> int:
    """The fewest seeds with which "better" can be said: six for one contender."""
    return next(n for n in range(2, MAX_SEEDS + 1) if least_p(n, n_contenders) < ALPHA)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the given order (Holm 1979)."""
    order = np.argsort(np.asarray(p_values), kind="stable")
    adjusted = np.empty(len(p_values))
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return [float(p) for p in adjusted]


def seeds_needed(difference: float, spread_of_seeds: float, n_contenders: int = 1, power: float = 0.8) -> int:
    """How many paired seeds find a true difference of this size at p < .05 with this power, on this test set.

    Normal approximation with a small-sample term (Guenther 1981). Raises ValueError for a difference of 0.
    """
    if difference == 0:
        raise ValueError("no number of seeds finds a difference of 0")
    z_p, z_power = NormalDist().inv_cdf(1 - ALPHA / 2), NormalDist().inv_cdf(power)
    wanted = ((z_p + z_power) * spread_of_seeds / difference) ** 2 + z_p**2 / 2
    return max(math.ceil(wanted), seeds_for_a_verdict(n_contenders))


def student_t(share: float, freedom: float) -> float:
    """Student's t below which this share (at least one half) lies."""
    return _student_t(share, round(min(freedom, 1e6), 2))


@lru_cache(maxsize=4096)
def _student_t(share: float, freedom: float) -> float:
    def below(t: float) -> float:
        tail = mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True) / 2
        return float(1 - tail)

    low, high = 0.0, 1.0
    while below(high) < share:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < share else (low, middle)
    return (low + high) / 2
