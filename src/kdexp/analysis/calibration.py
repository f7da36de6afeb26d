"""How far a model's confidence can be believed: confidence against accuracy, bin by bin. numpy only.

Guo et al. 2017, "On Calibration of Modern Neural Networks". Shape suffixes: M samples or positions, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdexp.contracts import TaskSpec
from kdexp.predictions import Predictions, class_labels


@dataclass(frozen=True)
class Reliability:
    """Equal-width bins of confidence, the upper edge inside; NaN in the means of an empty bin."""

    edges: np.ndarray
    n_B: np.ndarray
    confidence_B: np.ndarray
    accuracy_B: np.ndarray

    @property
    def n(self) -> int:
        return int(self.n_B.sum())

    @property
    def ece(self) -> float:
        """Expected calibration error: sum over bins of (n_b / n) · |accuracy_b − confidence_b|."""
        filled = self.n_B > 0
        gap = np.abs(self.accuracy_B - self.confidence_B)[filled]
        return float((self.n_B[filled] * gap).sum() / self.n)


def confidence_and_hits(predictions: Predictions, task: TaskSpec) -> tuple[np.ndarray, np.ndarray]:
    """(M,) probability of the predicted class or candidate, and (M,) whether it is right."""
    truth_M, predicted_M = class_labels(predictions, task)
    logits = predictions.logits[task.name].astype(np.float64)
    if task.kind == "binary":
        return 1 / (1 + np.exp(-np.abs(logits))), truth_M == predicted_M
    if task.kind == "candidates":
        counts = predictions.targets[task.name] >= 0
        logits = np.where(predictions.masks[task.name], logits, -np.inf)[counts]
    spread = np.exp(logits - logits.max(-1, keepdims=True))
    return 1 / spread.sum(-1), truth_M == predicted_M


def reliability(confidence_M: np.ndarray, hit_M: np.ndarray, n_bins: int = 10) -> Reliability:
    """Raises ValueError where there is nothing to bin."""
    if len(confidence_M) == 0:
        raise ValueError("no prediction to bin")
    edges = np.linspace(0, 1, n_bins + 1)
    bin_M = np.clip(np.searchsorted(edges, confidence_M, side="left") - 1, 0, n_bins - 1)
    n_B = np.bincount(bin_M, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        confidence_B = np.bincount(bin_M, weights=confidence_M, minlength=n_bins) / n_B
        accuracy_B = np.bincount(bin_M, weights=hit_M.astype(float), minlength=n_bins) / n_B
    return Reliability(edges, n_B, confidence_B, accuracy_B)
