"""What a model said on one split: the predictions file of a run, and what may be read off it. numpy only.

Nothing in the file is pickled: `index` int64 (N,), `cluster` unicode (N,), where samples count differently `weight`
(N,), by covariate `by.<name>` (N,), and by task `logits.<task>`, `target.<task>` and, for candidates, `mask.<task>`.

Shape suffixes: N samples, C classes, P positions of a sample, K candidates, M samples or positions that count.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdexp.contracts import NUMBERS, TaskSpec
from kdexp.errors import DataError
from kdexp.records import written_whole


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a model said on one split: `index` (N,), `cluster` (N,), and by task logits, targets and candidate masks.

    Logits are (N, C) for multiclass, (N,) for binary and regression, (N, P) for durations, whose target is NaN where a
    position does not count, (N, K) or (N, P, K) for candidates, where a mask of the same shape says which candidates
    are real. `weights` (N,) say how much each sample counts in a metric; None: all the same. `covariates` (N,) are
    numbers known of each sample, by name. Raises DataError where lengths differ or a number is not finite.
    """

    index: np.ndarray
    cluster: np.ndarray
    logits: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    weights: np.ndarray | None = None
    covariates: dict[str, np.ndarray] = field(default_factory=dict)
    origin: str = "predictions"
    """What an error calls these: the file they came from."""

    def __post_init__(self) -> None:
        if len(self.index) == 0:
            raise DataError(f"{self.origin} holds no samples")
        if set(self.logits) != set(self.targets):
            raise DataError(
                f"{self.origin} has logits for {sorted(self.logits)} but targets for {sorted(self.targets)}"
            )
        for name, values in self._arrays().items():
            if len(values) != len(self.index):
                raise DataError(f"{self.origin}: {name} has {len(values)} samples, index has {len(self.index)}")
        for task, logits in self.logits.items():
            self._check_finite(task, logits)
        if self.weights is not None and not ((self.weights >= 0).all() and 0 < self.weights.sum() < np.inf):
            raise DataError(f"{self.origin}: a weight is negative or no number, or all are 0")

    def __len__(self) -> int:
        return len(self.index)

    @property
    def counts(self) -> np.ndarray:
        """(N,): as how many samples each one counts, 1 on average."""
        return np.ones(len(self)) if self.weights is None else self.weights * (len(self) / self.weights.sum())

    def at(self, chosen_N: np.ndarray) -> Predictions:
        """Those of the samples where a boolean (N,) is True."""

        def chosen(group: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: values[chosen_N] for name, values in group.items()}

        return Predictions(
            index=self.index[chosen_N],
            cluster=self.cluster[chosen_N],
            logits=chosen(self.logits),
            targets=chosen(self.targets),
            masks=chosen(self.masks),
            weights=None if self.weights is None else self.weights[chosen_N],
            covariates=chosen(self.covariates),
            origin=self.origin,
        )

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Reads a predictions file; nothing in it is unpickled."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except FileNotFoundError:
            raise DataError(f"{path} does not exist; evaluate the run to write it") from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is not a predictions file ({error}); evaluate the run again") from None
        missing = {"index", "cluster"} - set(arrays)
        if missing:
            raise DataError(f"{path} lacks {', '.join(sorted(missing))}; evaluate the run again")
        return cls(
            index=arrays["index"],
            cluster=arrays["cluster"],
            logits=_by_prefix(arrays, "logits."),
            targets=_by_prefix(arrays, "target."),
            masks={task: mask.astype(bool) for task, mask in _by_prefix(arrays, "mask.").items()},
            weights=arrays.get("weight"),
            covariates=_by_prefix(arrays, "by."),
            origin=str(path),
        )

    def save(self, path: Path) -> None:
        """Writes the file whole or not at all."""
        with written_whole(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **self._arrays())

    def _arrays(self) -> dict[str, Any]:
        """Every array under its name in the file."""
        named = {"index": self.index, "cluster": np.asarray(self.cluster, dtype=str)}
        if self.weights is not None:
            named["weight"] = self.weights
        groups = (("logits.", self.logits), ("target.", self.targets), ("mask.", self.masks), ("by.", self.covariates))
        for prefix, group in groups:
            named.update({prefix + name: values for name, values in group.items()})
        return named

    def _check_finite(self, task: str, logits: np.ndarray) -> None:
        """Every logit of a class, of a real candidate or of a position that counts is a number."""
        mask, target = self.masks.get(task), self.targets[task]
        if mask is None and target.dtype.kind == "f" and target.shape == logits.shape:
            mask = ~np.isnan(target)
        if mask is not None and mask.shape != logits.shape:
            raise DataError(f"{self.origin}: mask.{task} has the shape {mask.shape}, logits.{task} has {logits.shape}")
        bad = ~np.isfinite(logits) if mask is None else ~np.isfinite(logits) & mask
        if bad.any():
            first = int(self.index[np.argwhere(bad)[0][0]])
            raise DataError(f"{self.origin}: logits.{task} is not finite at sample {first}")


def task_arrays(predictions: Predictions, task: TaskSpec) -> tuple[np.ndarray, np.ndarray]:
    """The task's logits (float64) and targets. Raises DataError where they do not fit the task."""
    if task.name not in predictions.logits:
        raise DataError(
            f"{predictions.origin} holds no task {task.name!r}, only {', '.join(sorted(predictions.logits)) or 'none'}"
        )
    logits, target = predictions.logits[task.name].astype(np.float64), predictions.targets[task.name]
    n_axes = {"multiclass": 2, "binary": 1, "regression": 1, "candidates": target.ndim + 1, "duration": 2}[task.kind]
    if logits.ndim != n_axes or logits.shape[: target.ndim] != target.shape:
        raise DataError(
            f"{predictions.origin}: a {task.kind} task does not fit logits.{task.name} {logits.shape} "
            f"with target.{task.name} {target.shape}"
        )
    if task.kind in NUMBERS:
        bad = ~np.isfinite(target) if task.kind == "regression" else np.isinf(target)
        if bad.any():
            first = int(predictions.index[np.argwhere(bad)[0][0]])
            raise DataError(f"{predictions.origin}: target.{task.name} is not finite at sample {first}")
        return logits, target.astype(np.float64)
    _check_targets(predictions, task, logits, target)
    return logits, target


def _check_targets(predictions: Predictions, task: TaskSpec, logits: np.ndarray, target: np.ndarray) -> None:
    where = f"{predictions.origin}: target.{task.name}"
    if task.kind == "candidates":
        if task.name not in predictions.masks:
            raise DataError(f"{predictions.origin} lacks mask.{task.name}")
        mask, counts = predictions.masks[task.name], target >= 0
        inside = target < logits.shape[-1]
        chosen = np.take_along_axis(mask, np.where(counts & inside, target, 0)[..., None], -1)[..., 0]
        bad = counts & ~(inside & chosen)
        reason = "is no real candidate"
    else:
        n_classes = 2 if task.kind == "binary" else logits.shape[-1]
        if task.classes and len(task.classes) != n_classes:
            raise DataError(f"{where}: the task has {len(task.classes)} classes, the logits say {n_classes}")
        bad = (target < 0) | (target >= n_classes)
        reason = f"is no class from 0 to {n_classes - 1}"
    if bad.any():
        place = np.argwhere(bad)[0]
        raise DataError(f"{where} {target[tuple(place)]} {reason} at sample {int(predictions.index[place[0]])}")


def class_labels(predictions: Predictions, task: TaskSpec) -> tuple[np.ndarray, np.ndarray]:
    """(truth, predicted), both (M,): class or candidate numbers of the M samples or positions that count."""
    logits, target = task_arrays(predictions, task)
    if task.kind == "binary":
        return target, (logits > 0).astype(np.int64)
    if task.kind == "candidates":
        best = np.where(predictions.masks[task.name], logits, -np.inf).argmax(-1)
        return target[target >= 0], best[target >= 0]
    return target, logits.argmax(-1)


def position_values(predictions: Predictions, task: TaskSpec) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of a `candidates` or `duration` task, by metric: what is averaged, and where it counts, both (N, P).

    A duration below 0 seconds counts as 0. Without a position axis, P is 1.
    """
    logits, target = task_arrays(predictions, task)
    if task.kind == "duration":
        counts_NP = ~np.isnan(target)
        log_NP, true_NP = (np.where(counts_NP, values, 0.0) for values in (logits, target))
        gap_NP = np.abs(np.maximum(np.expm1(log_NP), 0) - np.expm1(true_NP))
        return {
            "mape_log": (np.abs(log_NP - true_NP) / np.maximum(true_NP, 1), counts_NP),
            "mape_sec": (gap_NP / np.maximum(np.expm1(true_NP), 1), counts_NP),
        }
    counts_NP = (target >= 0).reshape(len(target), -1)
    hit_NP = np.zeros(counts_NP.shape)
    truth_M, predicted_M = class_labels(predictions, task)
    hit_NP[counts_NP] = truth_M == predicted_M
    n_candidates_NP = predictions.masks[task.name].sum(-1).reshape(counts_NP.shape)
    n_to_come_NP = np.cumsum(counts_NP[:, ::-1], axis=1)[:, ::-1]
    return {
        "acc": (hit_NP, counts_NP),
        "acc_decisions": (hit_NP, counts_NP & (n_candidates_NP >= 2)),
        "acc_inner": (hit_NP, counts_NP & (n_to_come_NP > 1)),
    }


def _by_prefix(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
