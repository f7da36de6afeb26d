"""How far a difference between two configurations can be trusted: *distinguishable*, *within noise*, or *not shown*.

`distinguishable` needs what the verdict of a confirmation needs: an exact sign-flip p over seeds below .05 after Holm,
and an interval over seeds and clusters without 0. With too few seeds for such a p nothing is shown, however large the
difference: then it is said how many seeds would show it.

Shape suffixes: S seeds, R draws of clusters.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdexp.analysis.compared import Measured, Sampling, difference, measure_all
from kdexp.analysis.paired import (
    ALPHA,
    MAX_SEEDS,
    compare,
    least_p,
    seeds_for_a_verdict,
    seeds_needed,
    sign_flip_p,
    student_t,
)
from kdexp.analysis.schedules_rows import Configuration, Frame, Metric

DISTINGUISHABLE, WITHIN_NOISE, NOT_SHOWN = "distinguishable", "within noise", "not shown"
OF_SEEDS, OF_SAMPLES, OF_CONFIGURATIONS = "seeds and clusters", "clusters", "configurations"
"""What an interval allows for."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One difference, one minus other, on a split, and what it rests on.

    `p` is over the paired seeds; `spread` the spread of their differences. `n_clusters` is 0 where predictions are
    missing.
    """

    metric: str
    split: str
    difference: float
    low: float | None = None
    high: float | None = None
    interval_of: str | None = None
    n_seeds: int = 1
    n_clusters: int = 0
    p: float | None = None
    spread: float | None = None


def word(evidence: Evidence, p_holm: float | None, n_compared: int) -> str:
    """The verdict on one of `n_compared` differences."""
    enough = p_holm is not None and least_p(evidence.n_seeds, n_compared) < ALPHA
    if not enough or evidence.low is None or evidence.high is None:
        return NOT_SHOWN
    apart = evidence.low > 0 or evidence.high < 0
    return DISTINGUISHABLE if apart and p_holm is not None and p_holm < ALPHA else WITHIN_NOISE


def told_on(metric: Metric, *configurations: Configuration) -> str:
    """Test where all were measured there, else val."""
    return "test" if all(np.isfinite(c.value("test", metric)) for c in configurations) else "val"


def weigh(one: Configuration, other: Configuration, metric: Metric, sampling: Sampling) -> Evidence | None:
    """One configuration minus another on the samples that both were measured on, paired by seed.

    None where either has no finite value. Where predictions are missing there is no interval.
    """
    split = told_on(metric, one, other)
    plain = one.value(split, metric) - other.value(split, metric)
    if not np.isfinite(plain):
        return None
    shared = [seed for seed in one.seeds if seed in other.seeds][:MAX_SEEDS]
    simple = Evidence(metric=metric.label, split=split, difference=plain, n_seeds=len(shared))
    pairs = [
        (one.entries[seed], other.entries[seed]) for seed in shared if seed in one.entries and seed in other.entries
    ]
    if not pairs and one.entries and other.entries:
        pairs = [(next(iter(one.entries.values())), next(iter(other.entries.values())))]
    entries = [replace(entry, name=str(entry.folder)) for pair in pairs for entry in pair]
    if not entries or any(entry.predictions_file(split) is None for entry in entries):
        return simple
    measured, _, n_clusters = measure_all(entries, split, metric.key, sampling)
    sides = [[_finite(measured[str(pair[side].folder)]) for pair in pairs] for side in (0, 1)]
    if any(math.isnan(found.point) for side in sides for found in side):
        return simple
    known = replace(simple, n_clusters=n_clusters)
    if len(shared) < 2:
        found = difference(sides[0][0], sides[1][0], sampling.level)
        return replace(known, low=found["low"], high=found["high"], interval_of=OF_SAMPLES)
    point_S = np.array([a.point - b.point for a, b in zip(*sides, strict=True)])
    drawn_SR = np.stack([a.drawn_R - b.drawn_R for a, b in zip(*sides, strict=True)])
    over_seeds = compare(point_S, drawn_SR, n_clusters, sampling.level)
    return replace(
        known,
        difference=over_seeds.mean,
        low=over_seeds.low,
        high=over_seeds.high,
        interval_of=OF_SEEDS,
        p=over_seeds.p,
        spread=over_seeds.spread_of_seeds,
    )


def weigh_spreads(
    one: Sequence[Configuration], other: Sequence[Configuration], frame: Frame, found: dict[str, Any], level: float
) -> Evidence:
    """Std over configurations of one strategy minus that of another: over the seeds that all share, or, with one,
    as `found` over resampled configurations."""
    metric, split = frame.primary, frame.split
    shared = [seed for seed in one[0].seeds if all(seed in c.seeds for c in (*one, *other))][:MAX_SEEDS]
    if len(shared) < 2:
        return Evidence(
            metric=f"std of {metric.label}", split=split, interval_of=OF_CONFIGURATIONS, n_seeds=len(shared), **found
        )
    stds = np.array([[_std_at(group, seed, metric, split) for seed in shared] for group in (one, other)])
    difference_S = stds[0] - stds[1]
    spread = float(difference_S.std(ddof=1))
    half = student_t(0.5 + level / 2, len(shared) - 1) * spread / math.sqrt(len(shared))
    mean = float(difference_S.mean())
    return Evidence(
        metric=f"std of {metric.label}",
        split=split,
        difference=mean,
        low=mean - half,
        high=mean + half,
        interval_of="seeds",
        n_seeds=len(shared),
        p=sign_flip_p(difference_S),
        spread=spread,
    )


def sampling_error(c: Configuration, metric: Metric, sampling: Sampling) -> dict[str, Any] | None:
    """The interval of a configuration's value on other clusters, the trained students being as they are.

    None where predictions are missing or a value is not finite.
    """
    split = told_on(metric, c)
    entries = [replace(entry, name=str(entry.folder)) for entry in c.entries.values()]
    if not entries or any(entry.predictions_file(split) is None for entry in entries):
        return None
    measured, n, n_clusters = measure_all(entries, split, metric.key, sampling)
    drawn_R = np.mean([_finite(one).drawn_R for one in measured.values()], axis=0)
    drawn_R = drawn_R[~np.isnan(drawn_R)]
    if len(drawn_R) == 0:
        return None
    low, high = (float(b) for b in np.quantile(drawn_R, [(1 - sampling.level) / 2, (1 + sampling.level) / 2]))
    return {"split": split, "low": low, "high": high, "n": n, "n_clusters": n_clusters}


def seeds_to_show(evidence: Evidence, frame: Frame, n_compared: int) -> dict[str, Any] | None:
    """How many paired seeds find a true difference of this size, and which spread that supposes.

    The spread is that of the pairs; with one seed, that of the runs that share a configuration; else the scatter
    of the configurations stands in for it. None for a difference of 0.
    """
    metric = next((one for one in frame.metrics if one.label == evidence.metric), None)
    if evidence.difference == 0 or (metric is None and evidence.spread is None):
        return None
    if evidence.spread is not None:
        spread, source = evidence.spread, "the spread of the pairs seen"
    else:
        assert metric is not None
        spread, source = _supposed(frame, metric, evidence.split)
    if not spread > 0:
        return None
    return {"seeds": seeds_needed(evidence.difference, spread, n_compared), "spread": spread, "supposing": source}


def confirm_command(study: str, folders: dict[str, Path], n_seeds: int | None) -> str:
    """Trains the study's winner and these on fresh seeds, each against no distillation."""
    words = ["python", "-m", "kdexp", "confirm", f"study={study}", "top=1"]
    if folders:
        words.append("contenders={" + ", ".join(f"{name}: {folder}" for name, folder in folders.items()) + "}")
    if n_seeds is not None and n_seeds > _CONFIRM_SEEDS:
        words.append(f"seeds=[{','.join(map(str, range(42, 42 + min(n_seeds, MAX_SEEDS))))}]")
    return " ".join(map(shlex.quote, words))


def fewest_seeds(n_compared: int) -> int:
    """With fewer no verdict is possible."""
    return seeds_for_a_verdict(n_compared)


_CONFIRM_SEEDS = 8
"""How many `confirm` takes by itself."""


def _supposed(frame: Frame, metric: Metric, split: str) -> tuple[float, str]:
    several = [
        values
        for c in frame.configurations
        if len(values := [v for e in c.entries.values() if (v := (e.values(split) or {}).get(metric.key)) is not None])
        > 1
    ]
    if several:
        freedom = sum(len(values) - 1 for values in several)
        pooled = math.sqrt(sum(float(np.var(values, ddof=1)) * (len(values) - 1) for values in several) / freedom)
        return math.sqrt(2) * pooled, f"√2 times the spread between seeds of {len(several)} configurations"
    values_N = np.array([c.value(split, metric) for c in frame.configurations])
    values_N = values_N[np.isfinite(values_N)]
    if len(values_N) < 2:
        return float("nan"), ""
    return float(
        values_N.std(ddof=1)
    ), f"that seeds scatter a difference as much as these {len(values_N)} configurations do"


def _std_at(group: Sequence[Configuration], seed: int, metric: Metric, split: str) -> float:
    values = [(c.entries[seed].values(split) or {})[metric.key] for c in group]
    return float(np.std(values, ddof=1))


def _finite(found: Measured) -> Measured:
    """Infinite values (a rejection where no background passed) count as undefined."""
    point = found.point if math.isfinite(found.point) else float("nan")
    return Measured(point, np.where(np.isfinite(found.drawn_R), found.drawn_R, np.nan))
