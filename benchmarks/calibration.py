"""python -m benchmarks.calibration: how often the verdict of `confirm` is wrong, on simulated confirmations.

A confirmation is two arms on the same seeds and the same test set: about 200 samples of 69 cases, two tasks, the score
the mean of two macro F1, as in MedPix. What a student gets right depends on the case, the seed, what that seed makes
of that case, the sample, and (in the second kind of world) on what the way of training makes of that case. Arms of one
world are alike in the long run; a gain adds to what the contender knows. The simulated parts are sized so that one
student's score varies over seeds and cases as it does on the real data.

Shape suffixes: N samples, G cases, C classes.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from kdexp.analysis.paired import compare
from kdexp.analysis.verdict import word_for
from kdexp.bootstrap import cluster_draws, metrics, metrics_on_draws
from kdexp.contracts import TaskSpec
from kdexp.predictions import Predictions

N_CLUSTERS, N_SEEDS, MARGIN, LEVEL = 69, 8, 0.01, 0.95
SCORE = ("modality/f1", "location/f1")
TASKS = tuple(
    TaskSpec(name=name, kind="multiclass", classes=tuple(f"{name}{c}" for c in range(n)), metrics=("f1",))
    for name, n in (("modality", 2), ("location", 5))
)
_STRENGTH = {"modality": 3.2, "location": 1.9}
"""By how much the right class leads before anything else counts."""
_TRUTH_CLUSTERS, _TRUTH_REPEATS = 4000, 12
_HEADS = ("world", "true", "better, %", "wrongly said, %", "equivalent, %", "covered, %", "naive, %")


@dataclass(frozen=True, kw_only=True)
class World:
    """Standard deviations of what moves the lead of the right class; `gain` is added for the contender."""

    case: float = 1.3
    seed: float = 0.3
    case_by_seed: float = 0.8
    sample: float = 0.8
    case_by_arm: float = 0.0
    gain: float = 0.0


@dataclass(frozen=True)
class _TestSet:
    cluster_N: np.ndarray
    target_N: dict[str, np.ndarray]
    ease_N: dict[str, np.ndarray]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration")
    parser.add_argument("--confirmations", type=int, default=500, help="simulated confirmations a row (500)")
    parser.add_argument("--resamples", type=int, default=400, help="draws of cases in each (400)")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(words)
    console = Console(width=120)
    rows = [
        ("A/A", World()),
        ("A/A, arms differ by case", World(case_by_arm=0.5)),
        *((f"gain {gain:g}", World(case_by_arm=0.5, gain=gain)) for gain in (0.2, 0.4, 0.8, 1.2)),
    ]
    table = Table(
        title=f"{asked.confirmations} confirmations a row, {N_SEEDS} seeds, {N_CLUSTERS} cases, seed {asked.seed}"
    )
    for head in _HEADS:
        table.add_column(head, justify="left" if head == "world" else "right")
    for number, (name, world) in enumerate(rows):
        generator = np.random.default_rng([asked.seed, number])
        truth = true_difference(world, generator)
        table.add_row(name, *_row(world, truth, asked.confirmations, asked.resamples, generator, name))
    console.print(table)
    console.print(
        "In brackets: 95 % Wilson interval of the share. Covered: the 95 % interval holds the true difference. Naive: "
        "percentiles of a bootstrap that draws seeds and cases at once."
    )


def _row(
    world: World, truth: float, n: int, n_resamples: int, generator: np.random.Generator, name: str
) -> tuple[str, ...]:
    words: Counter[str] = Counter()
    covered = naive = 0
    for _ in track(range(n), description=name, transient=True):
        point_S, drawn_SR = confirmation(world, n_resamples, generator)
        found = compare(point_S, drawn_SR, N_CLUSTERS, LEVEL)
        words[word_for(found, found.p, N_SEEDS, 1, MARGIN)] += 1
        covered += found.low <= truth <= found.high
        low, high = naive_interval(drawn_SR, generator)
        naive += low <= truth <= high
    wrong = words["better"] + words["worse"] if truth == 0 else words["worse"]
    counts = (words["better"], wrong, words["equivalent"], covered, naive)
    return (f"{truth:+.3f}", *(said(count, n) for count in counts))


def said(count: int, n: int) -> str:
    """`3.2 [2.0, 5.1]`, in percent."""
    low, high = wilson(count, n)
    return f"{100 * count / n:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def wilson(count: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a share (Wilson 1927)."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    centre, spread = count + z * z / 2, z * math.sqrt(count * (n - count) / n + z * z / 4)
    return (centre - spread) / (n + z * z), (centre + spread) / (n + z * z)


def confirmation(world: World, n_resamples: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Differences of the score by seed, (S,), and on draws of cases, (S, R)."""
    test = _test_set(N_CLUSTERS, world, generator)
    counts_RG = cluster_draws(N_CLUSTERS, n_resamples, int(generator.integers(2**31)))
    by_arm = [_case_by_arm(test, world, generator) for _ in range(2)]
    points, draws = [], []
    for _ in range(N_SEEDS):
        own, other = (
            _predictions(test, world, by_arm[arm], world.gain if arm == 0 else 0.0, generator) for arm in range(2)
        )
        points.append(metrics(own, TASKS, SCORE)["score"] - metrics(other, TASKS, SCORE)["score"])
        drawn = [metrics_on_draws(each, TASKS, SCORE, counts_RG)["score"] for each in (own, other)]
        draws.append(drawn[0] - drawn[1])
    return np.array(points), np.stack(draws)


def true_difference(world: World, generator: np.random.Generator) -> float:
    """Of a very large test set; 0 exactly where the arms are alike. All that is random is the same in both arms."""
    if world.gain == 0:
        return 0.0
    found = []
    for _ in range(_TRUTH_REPEATS):
        test, seed = _test_set(_TRUTH_CLUSTERS, world, generator), int(generator.integers(2**31))
        scores = []
        for gain in (world.gain, 0.0):
            same = np.random.default_rng(seed)
            made = _predictions(test, world, _case_by_arm(test, world, same), gain, same)
            scores.append(metrics(made, TASKS, SCORE)["score"])
        found.append(scores[0] - scores[1])
    return float(np.mean(found))


def naive_interval(drawn_SR: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    """Percentiles where each draw of cases comes with a draw of seeds."""
    n_seeds, n_draws = drawn_SR.shape
    seeds_SR = generator.integers(0, n_seeds, size=(n_seeds, n_draws))
    low, high = np.quantile(np.take_along_axis(drawn_SR, seeds_SR, axis=0).mean(axis=0), [0.025, 0.975])
    return float(low), float(high)


def _test_set(n_clusters: int, world: World, generator: np.random.Generator) -> _TestSet:
    sizes_G = 1 + generator.poisson(1.9, size=n_clusters)
    cluster_N = np.repeat(np.arange(n_clusters), sizes_G)
    target_N, ease_N = {}, {}
    for task in TASKS:
        target_N[task.name] = generator.integers(0, len(task.classes), size=n_clusters)[cluster_N]
        ease_N[task.name] = generator.normal(0, world.case, size=n_clusters)[cluster_N]
    return _TestSet(cluster_N, target_N, ease_N)


def _case_by_arm(test: _TestSet, world: World, generator: np.random.Generator) -> dict[str, np.ndarray]:
    n_clusters = int(test.cluster_N.max()) + 1
    return {task.name: generator.normal(0, world.case_by_arm, size=n_clusters)[test.cluster_N] for task in TASKS}


def _predictions(
    test: _TestSet, world: World, by_arm: dict[str, np.ndarray], gain: float, generator: np.random.Generator
) -> Predictions:
    n, n_clusters = len(test.cluster_N), int(test.cluster_N.max()) + 1
    logits = {}
    for task in TASKS:
        lead_N = (
            _STRENGTH[task.name]
            + gain
            + test.ease_N[task.name]
            + by_arm[task.name]
            + generator.normal(0, world.seed)
            + generator.normal(0, world.case_by_seed, size=n_clusters)[test.cluster_N]
            + generator.normal(0, world.sample, size=n)
        )
        logits_NC = generator.normal(0, 1, size=(n, len(task.classes)))
        logits_NC[np.arange(n), test.target_N[task.name]] += lead_N
        logits[task.name] = logits_NC
    return Predictions(
        index=np.arange(n), cluster=test.cluster_N.astype(str), logits=logits, targets=dict(test.target_N)
    )


if __name__ == "__main__":
    main()
