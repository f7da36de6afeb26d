"""Metrics that rank samples by a score: AUC, and background rejection, which is how many background samples there are
for each one that passes at a given signal efficiency.

Shape suffixes: N samples, R resamples (rows of weights), T distinct scores.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

REJECTIONS: Mapping[str, tuple[float, bool]] = {
    f"rejection_{percent}{suffix}": (percent / 100, interpolate)
    for percent in (30, 50, 80)
    for suffix, interpolate in (("", False), ("_interpolated", True))
}
"""Background rejection: at which signal efficiency, and whether FPR is interpolated between vertices of the ROC."""


def background_rejections(score_N: np.ndarray, signal_N: np.ndarray, weights_RN: np.ndarray) -> dict[str, np.ndarray]:
    """1/FPR, (R,) by name as in `REJECTIONS`: at the ROC vertex with the smallest FPR among those with TPR >= the
    efficiency, all vertices kept, or with FPR linear in TPR inside that segment. NaN with one label only.

    Where no background passes, FPR is below what these samples can tell, and their background's total weight (for
    counts, its number) stands for the rejection: read it as "at least". No value is greater. So weights are to be 1 on
    the mean of the background (`background_scale`).
    """
    tpr_RT, fpr_RT = roc(score_N, signal_N, weights_RN)
    n_background_R = weights_RN @ ~signal_N
    row_R = np.arange(len(weights_RN))
    made = {}
    for name, (efficiency, interpolate) in REJECTIONS.items():
        vertex_R = (tpr_RT >= efficiency).argmax(axis=1)
        fpr_R = fpr_RT[row_R, vertex_R]
        if interpolate:
            before_R = np.maximum(vertex_R - 1, 0)
            low_tpr_R, low_fpr_R = (np.where(vertex_R > 0, rates[row_R, before_R], 0.0) for rates in (tpr_RT, fpr_RT))
            step_R = ratio(efficiency - low_tpr_R, tpr_RT[row_R, vertex_R] - low_tpr_R, 0.0)
            fpr_R = low_fpr_R + step_R * (fpr_R - low_fpr_R)
        least_R = ratio(np.ones_like(n_background_R), n_background_R, np.nan)
        made[name] = np.where(np.isnan(tpr_RT[:, -1]), np.nan, 1 / np.maximum(fpr_R, least_R))
    return made


def background_scale(own_N: np.ndarray, background_N: np.ndarray) -> float:
    """The mean weight of the background that has any."""
    counted = own_N[background_N & (own_N > 0)]
    return float(counted.mean()) if len(counted) else 1.0


def background_number(own_N: np.ndarray, background_N: np.ndarray) -> int:
    """How many background samples have a weight: no rejection above that number can be told."""
    return int((background_N & (own_N > 0)).sum())


def roc(score_N: np.ndarray, signal_N: np.ndarray, weights_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(TPR, FPR), (R, T) each: the vertices by falling score, one for each distinct score, without the one at (0, 0).
    NaN for a label that is absent."""
    order = np.argsort(-score_N, kind="stable")
    ends = np.flatnonzero(np.concatenate([np.diff(score_N[order]) < 0, [True]]))
    passed = [np.cumsum(weights_RN[:, order] * label_N[order], axis=1)[:, ends] for label_N in (signal_N, ~signal_N)]
    signal_RT, background_RT = (ratio(n_RT, np.broadcast_to(n_RT[:, -1:], n_RT.shape), np.nan) for n_RT in passed)
    return signal_RT, background_RT


def class_scores(logits: np.ndarray) -> np.ndarray:
    """(N, C): log-odds of each class against the rest, for ranking: the order of the softmax probabilities without
    their ties near 0 and 1. A binary logit (N,) becomes the two columns (-logit, logit).

    Rounded to nine decimals, so that the same logits in another order tie in spite of rounding in the sum.
    """
    if logits.ndim == 1:
        return np.stack([-logits, logits], 1)
    columns = []
    for number in range(logits.shape[1]):
        others = np.delete(logits, number, axis=1)
        columns.append(logits[:, number] - (np.logaddexp.reduce(others, axis=1) if others.shape[1] else 0.0))
    return np.stack(columns, 1).round(9)


def macro_auc(scores_NC: np.ndarray, truth_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """(R,): AUC of each class against the rest, averaged over the classes in the truth; NaN with one class only."""
    auc_RC = np.stack(
        [_auc(scores_NC[:, number], truth_N == number, weights_RN) for number in np.unique(truth_N)], axis=1
    )
    defined_RC = ~np.isnan(auc_RC)
    return ratio(np.where(defined_RC, auc_RC, 0.0).sum(1), defined_RC.sum(1).astype(float), np.nan)


def _auc(score_N: np.ndarray, positive_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """(R,): the weighted share of (positive, negative) pairs in the right order, ties counting one half."""
    order = np.argsort(score_N, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(score_N[order]) > 0]))
    sorted_RN = weights_RN[:, order]
    positive_RT = np.add.reduceat(sorted_RN * positive_N[order], starts, axis=1)
    negative_RT = np.add.reduceat(sorted_RN * ~positive_N[order], starts, axis=1)
    below_RT = np.cumsum(negative_RT, axis=1) - negative_RT
    wins_R = (positive_RT * (below_RT + negative_RT / 2)).sum(1)
    return ratio(wins_R, positive_RT.sum(1) * negative_RT.sum(1), np.nan)


def ratio(above: np.ndarray, below: np.ndarray, otherwise: float) -> np.ndarray:
    """above / below, and `otherwise` where below is zero."""
    return np.divide(above, below, out=np.full(np.shape(above), otherwise), where=below > 0)
