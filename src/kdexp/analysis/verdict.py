"""Is a contender better than the student without distillation? The answer, from finished runs in pairs of seeds.

Reads records and `predictions/test.npz` only. All numbers of the verdict are of the test split, which took no part in
choosing anything; the validation split is used to say how much the search flattered its winners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdexp.analysis.paired import (
    ALPHA,
    Difference,
    compare,
    holm,
    least_p,
    seeds_for_a_verdict,
    seeds_needed,
    student_t,
)
from kdexp.analysis.run import Run
from kdexp.bootstrap import cluster_draws, metrics, metrics_on_draws
from kdexp.errors import DataError
from kdexp.predictions import Predictions

VERDICT_SCHEMA = 1
SPLIT = "test"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of training, and its run folder for each seed. `trial` and `search_value` where a study found it."""

    name: str
    folders: Mapping[int, Path]
    trial: int | None = None
    search_value: float | None = None


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How the verdict is reached. `margin`: differences of the score up to this size do not matter."""

    level: float
    margin: float
    n_resamples: int
    resample_seed: int


@dataclass(frozen=True)
class _Measured:
    """An arm's test metrics by name: (S,) as they are, (S, R) on draws of clusters; and its validation scores (S,)."""

    point: dict[str, np.ndarray]
    drawn: dict[str, np.ndarray]
    val_score: np.ndarray


def judge(contenders: Sequence[Arm], baseline: Arm, rules: Rules) -> dict[str, Any]:
    """The verdict as plain values, without what only the command knows.

    Raises DataError where a run is unfinished, lacks its predictions, or was measured on other data than the rest.
    """
    seeds = tuple(baseline.folders)
    runs = {arm.name: [Run.read(arm.folders[seed]) for seed in seeds] for arm in (*contenders, baseline)}
    _same_data([run for group in runs.values() for run in group])
    loaded = {name: [_predictions(run) for run in group] for name, group in runs.items()}
    reference = loaded[baseline.name][0]
    for group in loaded.values():
        for predictions in group:
            refuse_other_samples(reference, predictions)
    n_clusters = len(np.unique(reference.cluster))
    if n_clusters < 2:
        raise DataError(f"{reference.origin}: all samples belong to one cluster; an interval needs two or more")
    counts_RG = cluster_draws(n_clusters, rules.n_resamples, rules.resample_seed)
    measured = {name: _measured(group, loaded[name], counts_RG) for name, group in runs.items()}
    first = runs[baseline.name][0]
    compared = [_compared(measured[arm.name], measured[baseline.name], n_clusters, rules) for arm in contenders]
    adjusted = holm([differences["score"].p for differences in compared])
    data = first.record["data"]
    facts = [
        _contender(arm, measured[arm.name], measured[baseline.name], differences, p_holm, rules, len(contenders), seeds)
        for arm, differences, p_holm in zip(contenders, compared, adjusted, strict=True)
    ]
    for contender in facts:
        contender["sentence"] = sentence(contender, baseline.name, len(seeds), n_clusters, data["cluster"], rules)
    return {
        "schema": VERDICT_SCHEMA,
        "split": SPLIT,
        "score": list(first.record["score"]),
        "data": {key: data[key] for key in ("name", "source", "fingerprint", "cluster")}
        | {"n": len(reference), "n_clusters": n_clusters},
        "seeds": list(seeds),
        "level": rules.level,
        "margin": rules.margin,
        "n_resamples": rules.n_resamples,
        "least_p": least_p(len(seeds), len(contenders)),
        "baseline": {"name": baseline.name, **_means(measured[baseline.name])},
        "contenders": facts,
    }


def sentence(
    contender: Mapping[str, Any], baseline: str, n_seeds: int, n_clusters: int, cluster: str, rules: Rules
) -> str:
    """The verdict on one contender in words that follow from its numbers."""
    name, score = contender["name"], contender["difference"]["score"]
    measured = (
        f"{score['mean']:+.3f} [{score['low']:+.3f}, {score['high']:+.3f}] test score over {n_seeds} seeds and "
        f"{n_clusters} {cluster}s, p {contender['p_holm']:.3g}"
    )
    said = {
        "better": f"{name} is better than {baseline}",
        "worse": f"{name} is worse than {baseline}",
        "equivalent": f"{name} and {baseline} are equivalent within {rules.margin:g}",
        "no difference shown": f"no difference between {name} and {baseline} is shown",
        "not enough seeds": f"not enough seeds to tell {name} and {baseline} apart: {n_seeds} seeds give no p below "
        f"{least_p(n_seeds, contender['n_contenders']):.3g}, {seeds_for_a_verdict(contender['n_contenders'])} could",
    }[contender["verdict"]]
    note = ""
    if contender["verdict"] == "no difference shown" and contender["p_holm"] < ALPHA:
        note = f"; on these {n_clusters} {cluster}s the seeds agree, but other {cluster}s may not"
    return f"{said}: {measured}{note}"


def word_for(difference: Difference, p_holm: float, n_seeds: int, n_contenders: int, margin: float) -> str:
    """`better` and `worse` need both: p over seeds below .05 after Holm, and an interval over seeds and clusters that
    leaves out 0. `equivalent` needs the 90 % interval inside the margin (two one-sided tests, Schuirmann 1987)."""
    if least_p(n_seeds, n_contenders) >= ALPHA:
        return "not enough seeds"
    if p_holm < ALPHA and difference.low > 0:
        return "better"
    if p_holm < ALPHA and difference.high < 0:
        return "worse"
    if -margin < difference.inner_low and difference.inner_high < margin:
        return "equivalent"
    return "no difference shown"


def _measured(runs: Sequence[Run], loaded: Sequence[Predictions], counts_RG: np.ndarray) -> _Measured:
    point: dict[str, list[float]] = {}
    drawn: dict[str, list[np.ndarray]] = {}
    for run, predictions in zip(runs, loaded, strict=True):
        score = run.record["score"]
        for name, value in metrics(predictions, run.tasks, score).items():
            point.setdefault(name, []).append(value)
        for name, values_R in metrics_on_draws(predictions, run.tasks, score, counts_RG).items():
            drawn.setdefault(name, []).append(values_R)
    everywhere = [name for name, values in point.items() if len(values) == len(runs)]
    return _Measured(
        {name: np.array(point[name]) for name in everywhere},
        {name: np.stack(drawn[name]) for name in everywhere},
        np.array([run.record["metrics"]["val"]["best"]["score"] for run in runs]),
    )


def _compared(arm: _Measured, baseline: _Measured, n_clusters: int, rules: Rules) -> dict[str, Difference]:
    shared = [name for name in arm.point if name in baseline.point]
    return {
        name: compare(
            arm.point[name] - baseline.point[name], arm.drawn[name] - baseline.drawn[name], n_clusters, rules.level
        )
        for name in shared
    }


def _contender(
    arm: Arm,
    measured: _Measured,
    baseline: _Measured,
    differences: Mapping[str, Difference],
    p_holm: float,
    rules: Rules,
    n_contenders: int,
    seeds: Sequence[int],
) -> dict[str, Any]:
    score = differences["score"]
    values = zip(seeds, measured.point["score"], baseline.point["score"], strict=True)
    return {
        "name": arm.name,
        "trial": arm.trial,
        "verdict": word_for(score, p_holm, len(seeds), n_contenders, rules.margin),
        "p": score.p,
        "p_holm": p_holm,
        "n_contenders": n_contenders,
        "difference": {name: difference.as_dict() for name, difference in differences.items()},
        "per_seed": [
            {"seed": seed, "contender": float(own), "baseline": float(other), "difference": float(own - other)}
            for seed, own, other in values
        ],
        **_means(measured),
        "selection": _selection(arm, measured),
        "planning": _planning(score, rules, n_contenders, len(seeds)),
    }


def _means(measured: _Measured) -> dict[str, Any]:
    return {
        "mean_test": {name: float(values.mean()) for name, values in measured.point.items()},
        "mean_val_score": float(measured.val_score.mean()),
    }


def _selection(arm: Arm, measured: _Measured) -> dict[str, float] | None:
    """How far the search's value was above what fresh seeds give, on the split that chose and on the test split."""
    if arm.search_value is None:
        return None
    val, test = float(measured.val_score.mean()), float(measured.point["score"].mean())
    return {
        "search_val": arm.search_value,
        "fresh_val": val,
        "fresh_test": test,
        "shrinkage_on_val": arm.search_value - val,
        "shrinkage_to_test": arm.search_value - test,
    }


def _planning(score: Difference, rules: Rules, n_contenders: int, n_seeds: int) -> dict[str, Any]:
    """How many seeds which difference would take, and what no number of seeds can do with this test set."""
    sizes = {"margin": rules.margin, "twice the margin": 2 * rules.margin, "observed": abs(score.mean)}
    needed = {
        name: {"difference": size, "seeds": seeds_needed(size, score.spread_of_seeds, n_contenders)}
        for name, size in sizes.items()
        if size > 0
    }
    infinite = student_t(0.5 + rules.level / 2, 1e6)
    return {
        "power": 0.8,
        "seeds_needed": needed,
        "half_width_of_clusters_alone": infinite * score.standard_error_of_clusters,
    }


def _same_data(runs: Sequence[Run]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if run.record["data"]["fingerprint"] != first.record["data"]["fingerprint"]:
            raise DataError(
                f"{run.folder.path} was trained on other data or splits (fingerprint "
                f"{run.record['data']['fingerprint']}) than {first.folder.path} "
                f"({first.record['data']['fingerprint']}); only runs on the same data can be compared in pairs"
            )


def _predictions(run: Run) -> Predictions:
    path = run.folder.predictions(SPLIT)
    if not path.exists():
        raise DataError(
            f"{path} is missing, and nothing can be compared in pairs without it; remove {run.folder.path} and give "
            "the same command again"
        )
    return Predictions.load(path)


def refuse_other_samples(one: Predictions, other: Predictions) -> None:
    """Raises DataError where two runs were measured on different samples."""
    same = (
        np.array_equal(one.index, other.index)
        and np.array_equal(one.cluster, other.cluster)
        and one.targets.keys() == other.targets.keys()
        and all(_same(one.targets[task], other.targets[task]) for task in one.targets)
    )
    if not same:
        raise DataError(f"{one.origin} and {other.origin} hold different samples, so they cannot be compared in pairs")


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
