"""Metrics of saved predictions, and intervals for them that resample whole clusters.

Samples of one case (trip, event, task) resemble each other, so an interval over samples is too narrow: clusters are
drawn with replacement instead, and every metric is recomputed on each draw. One function computes the point estimate
(every cluster once) and all draws (every cluster as often as drawn), so both follow the same rules.

The rules: macro F1, precision and recall average over the classes that occur in truth or prediction, an undefined
precision or recall of such a class counting 0; AUC is Mann-Whitney (ties count one half), one class against the rest,
averaged over the classes that occur in the truth; background rejection is 1/FPR at the ROC vertex with the smallest FPR
among those that keep enough signal. Where samples have weights, every count above is a sum of weights. A metric that is
undefined on a split is left out.

Shape suffixes: N samples, G clusters, R resamples, C classes, P positions, T distinct scores, X columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kdexp.contracts import NUMBERS, TaskKind, TaskSpec
from kdexp.errors import ConfigError, DataError
from kdexp.predictions import Predictions, class_labels, position_values, task_arrays
from kdexp.ranking import (
    REJECTIONS,
    background_number,
    background_rejections,
    background_scale,
    class_scores,
    macro_auc,
    ratio,
)

METRICS: Mapping[TaskKind, tuple[str, ...]] = {
    "multiclass": ("acc", "f1", "prec", "rec", "auc"),
    "binary": ("acc", "f1", "prec", "rec", "auc", *REJECTIONS),
    "candidates": ("acc", "acc_decisions", "acc_inner"),
    "regression": ("mae", "rmse"),
    "duration": ("mape_log", "mape_sec"),
}
"""The metrics that each kind of task has. A candidate's number means nothing across samples, hence no F1 there.

`acc_decisions` is accuracy over the positions with two candidates or more, `acc_inner` over all but each sample's last
counted position; `mape_log` and `mape_sec` are mean relative errors of log(1 + seconds) and of the seconds, both with a
denominator of at least 1.
"""

ERRORS = frozenset(metric for kind in NUMBERS for metric in METRICS[kind])
"""Metrics of which smaller is better."""

_CHUNK_ELEMENTS = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A percentile interval of one metric on one split, and what it was computed from.

    `n_resamples` counts the draws on which the metric was defined. `at_most` is the greatest value that these samples
    can show: a metric that stands there is at least that (a rejection that no background sample passes).
    """

    low: float
    high: float
    level: float
    n: int
    n_clusters: int
    n_resamples: int
    seed: int
    at_most: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the record; `at_most` only where there is such a value."""
        return {name: value for name, value in asdict(self).items() if name != "at_most" or value is not None}


def check_metrics(tasks: Sequence[TaskSpec], score: Sequence[str]) -> None:
    """Raises ConfigError, with all misfits at once, where a task asks for a metric that its kind does not have or the
    score names something that no task reports."""
    problems = [
        f"task {task.name}: unknown metric {metric!r}; a {task.kind} task has {', '.join(METRICS[task.kind])}"
        for task in tasks
        for metric in task.metrics
        if metric not in METRICS[task.kind]
    ]
    reported = [f"{task.name}/{metric}" for task in tasks for metric in task.metrics]
    problems += [
        f"score: unknown metric {name!r}; the tasks report {', '.join(reported)}"
        for name in score
        if name not in reported
    ]
    problems += [
        f"score: {name} is an error, smaller is better, and the score is maximised; use another metric"
        for name in score
        if name in reported and name.rpartition("/")[2] in ERRORS
    ]
    if not score:
        problems.append(f"score: names no metric; the tasks report {', '.join(reported)}")
    if problems:
        raise ConfigError(problems)


def metrics(predictions: Predictions, tasks: Sequence[TaskSpec], score: Sequence[str]) -> dict[str, float]:
    """Every metric of every task as `task/metric`, and `score`, the mean of the score's metrics.

    A metric that is undefined here (AUC with one class in the truth) is left out; where the score needs it, DataError.
    """
    cluster_N, n_clusters = _cluster_numbers(predictions)
    values = _evaluate(predictions, tasks, score, cluster_N, np.ones((1, n_clusters)))
    defined = {name: float(value_R[0]) for name, value_R in values.items() if not np.isnan(value_R[0])}
    check_score_defined(defined, score, predictions.origin, len(predictions))
    return defined


def cluster_bootstrap(
    predictions: Predictions,
    tasks: Sequence[TaskSpec],
    score: Sequence[str],
    *,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """A percentile interval for each metric that `metrics` reports, `score` included.

    Draws on which a metric is undefined are left out of its interval. Raises DataError when there is one cluster only,
    ValueError when `level` is not inside (0, 1) or `n_resamples` is not positive.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level=}")
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be positive, got {n_resamples=}")
    point = metrics(predictions, tasks, score)
    cluster_N, n_clusters = _cluster_numbers(predictions)
    if n_clusters < 2:
        raise DataError(
            f"{predictions.origin}: all {len(predictions)} samples belong to one cluster "
            f"({predictions.cluster[0]!s}), so there is nothing to resample; an interval needs two or more"
        )
    generator = np.random.default_rng(seed)
    rows_per_chunk = max(1, _CHUNK_ELEMENTS // len(predictions))
    chunks = []
    for start in range(0, n_resamples, rows_per_chunk):
        counts_RG = _draw_counts(generator, min(rows_per_chunk, n_resamples - start), n_clusters)
        chunks.append(_evaluate(predictions, tasks, score, cluster_N, counts_RG))
    intervals = {}
    for name in point:
        value_R = np.concatenate([chunk[name] for chunk in chunks])
        value_R = value_R[~np.isnan(value_R)]
        if len(value_R) == 0:
            raise DataError(f"{predictions.origin}: {name} is undefined on all {n_resamples} resamples; draw more")
        low, high = np.quantile(value_R, [(1 - level) / 2, (1 + level) / 2])
        intervals[name] = Interval(
            low=float(low),
            high=float(high),
            level=level,
            n=len(predictions),
            n_clusters=n_clusters,
            n_resamples=len(value_R),
            seed=seed,
            at_most=_greatest(predictions, name),
        )
    return intervals


def _greatest(predictions: Predictions, name: str) -> float | None:
    """Of a rejection, the background's number; other metrics reach their bounds on any samples."""
    task, _, metric = name.rpartition("/")
    if metric not in REJECTIONS:
        return None
    return float(background_number(predictions.counts, predictions.targets[task] == 0))


def cluster_draws(n_clusters: int, n_resamples: int, seed: int) -> np.ndarray:
    """(R, G): how often each of G clusters comes up in each of R draws, for `metrics_on_draws` of several runs."""
    return _draw_counts(np.random.default_rng(seed), n_resamples, n_clusters)


def metrics_on_draws(
    predictions: Predictions, tasks: Sequence[TaskSpec], score: Sequence[str], counts_RG: np.ndarray
) -> dict[str, np.ndarray]:
    """Every metric and the score, (R,) each, with each cluster counted as often as `counts_RG` says; NaN: undefined.

    Clusters are numbered in the order of their sorted names, so draws can be shared by runs on the same samples.
    """
    cluster_N, _ = _cluster_numbers(predictions)
    rows_per_chunk = max(1, _CHUNK_ELEMENTS // len(predictions))
    chunks = [
        _evaluate(predictions, tasks, score, cluster_N, counts_RG[start : start + rows_per_chunk])
        for start in range(0, len(counts_RG), rows_per_chunk)
    ]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def check_score_defined(defined: Mapping[str, float], score: Sequence[str], origin: str, n: int) -> None:
    """Raises DataError where a metric that the score needs is undefined on a split."""
    undefined = [name for name in score if name not in defined]
    if undefined:
        raise DataError(
            f"{origin}: the score needs {', '.join(undefined)}, undefined on these {n} samples "
            "(AUC needs two classes in the truth, accuracy a position that counts); use a larger split"
        )


def _cluster_numbers(predictions: Predictions) -> tuple[np.ndarray, int]:
    """Each sample's cluster as a number from 0, and how many clusters there are."""
    names, number_N = np.unique(predictions.cluster, return_inverse=True)
    return number_N.reshape(-1), len(names)


def _draw_counts(generator: np.random.Generator, n_rows: int, n_clusters: int) -> np.ndarray:
    """(R, G): how often each cluster comes up when as many clusters as there are get drawn with replacement."""
    drawn_RG = generator.integers(0, n_clusters, size=(n_rows, n_clusters))
    drawn_RG += np.arange(n_rows)[:, None] * n_clusters
    return np.bincount(drawn_RG.reshape(-1), minlength=n_rows * n_clusters).reshape(n_rows, n_clusters).astype(float)


def _evaluate(
    predictions: Predictions,
    tasks: Sequence[TaskSpec],
    score: Sequence[str],
    cluster_N: np.ndarray,
    counts_RG: np.ndarray,
) -> dict[str, np.ndarray]:
    """Every metric and the score, (R,) each, with each cluster counted as often as `counts_RG` says; NaN: undefined."""
    check_metrics(tasks, score)
    values = {}
    for task in tasks:
        made = _task_metrics(predictions, task, cluster_N, counts_RG)
        values.update({f"{task.name}/{metric}": made[metric] for metric in task.metrics})
    values["score"] = np.mean([values[name] for name in score], axis=0)
    return values


def _task_metrics(
    predictions: Predictions, task: TaskSpec, cluster_N: np.ndarray, counts_RG: np.ndarray
) -> dict[str, np.ndarray]:
    logits, target = task_arrays(predictions, task)
    own_N = predictions.counts
    if task.kind == "regression":
        error_N = logits - target
        sums_NX = np.stack([np.abs(error_N), error_N**2, np.ones_like(error_N)], 1)
        sums_RX = counts_RG @ _per_cluster(sums_NX * own_N[:, None], cluster_N)
        return {"mae": sums_RX[:, 0] / sums_RX[:, 2], "rmse": np.sqrt(sums_RX[:, 1] / sums_RX[:, 2])}
    if task.kind in ("candidates", "duration"):
        means = {}
        for name, (value_NP, counts_NP) in position_values(predictions, task).items():
            sums_NX = np.stack([np.where(counts_NP, value_NP, 0.0).sum(1), counts_NP.sum(1)], 1)
            sums_RX = counts_RG @ _per_cluster(sums_NX * own_N[:, None], cluster_N)
            means[name] = ratio(sums_RX[:, 0], sums_RX[:, 1], np.nan)
        return means
    truth_M, predicted_M = class_labels(predictions, task)
    eye_CC = np.eye(2 if task.kind == "binary" else logits.shape[-1])
    true_NC, predicted_NC = eye_CC[truth_M], eye_CC[predicted_M]
    sums_NX = np.concatenate([true_NC, predicted_NC, true_NC * predicted_NC], 1)
    made = _label_metrics(*np.split(counts_RG @ _per_cluster(sums_NX * own_N[:, None], cluster_N), 3, axis=1))
    ranked = {"auc", *REJECTIONS} & set(task.metrics)
    if not ranked:
        return made
    counts_RN = counts_RG[:, cluster_N] if predictions.weights is None else counts_RG[:, cluster_N] * own_N
    if "auc" in ranked:
        made["auc"] = macro_auc(class_scores(logits), truth_M, counts_RN)
    if ranked - {"auc"}:
        scale = background_scale(own_N, truth_M == 0)
        made |= background_rejections(logits, truth_M == 1, counts_RN if scale == 1 else counts_RN / scale)
    return made


def _per_cluster(values_NX: np.ndarray, cluster_N: np.ndarray) -> np.ndarray:
    """(G, X): the sum over each cluster's samples."""
    sums_GX = np.zeros((cluster_N.max() + 1, values_NX.shape[1]))
    np.add.at(sums_GX, cluster_N, values_NX)
    return sums_GX


def _label_metrics(true_RC: np.ndarray, predicted_RC: np.ndarray, hit_RC: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy and the macro metrics from how often each class is true, predicted, and both."""
    occurs_RC = true_RC + predicted_RC > 0
    by_class = {
        "f1": ratio(2 * hit_RC, true_RC + predicted_RC, 0.0),
        "prec": ratio(hit_RC, predicted_RC, 0.0),
        "rec": ratio(hit_RC, true_RC, 0.0),
    }
    made = {name: (value_RC * occurs_RC).sum(1) / occurs_RC.sum(1) for name, value_RC in by_class.items()}
    return {"acc": hit_RC.sum(1) / true_RC.sum(1), **made}
