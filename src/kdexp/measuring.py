"""Runs a trained model over splits: predictions on disk, metrics, and an interval beside each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdexp.bootstrap import cluster_bootstrap
from kdexp.contracts import Dataset, SplitName
from kdexp.predictions import Predictions
from kdexp.records import RunFolder, written_whole
from kdexp.training.fit import SplitOutputs, predict
from kdexp.training.metrics import split_metrics

Config = Mapping[str, Any]


def measure(
    model: nn.Module,
    dataset: Dataset,
    splits: Sequence[SplitName],
    folder: RunFolder,
    *,
    view: str,
    batch_size: int,
    device: torch.device,
    interval: Config,
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, Any]]]:
    """Metrics and intervals by split; the predictions that they were computed from are written first."""
    metrics, intervals = {}, {}
    for name in splits:
        split = dataset.split(name)
        predictions = predict(model, split, dataset.tasks, batch_size=batch_size, view=view, device=device)
        save_predictions(folder.predictions(name), predictions, split.clusters)
        metrics[name] = split_metrics(
            dataset.tasks, dataset.score, logits=predictions.logits, targets=predictions.targets, masks=predictions.masks
        )
        intervals[name] = intervals_of(folder.predictions(name), dataset, interval)
    return metrics, intervals


def save_predictions(path: Path, predictions: SplitOutputs, clusters: np.ndarray) -> None:
    """`index`, `cluster`, and `logits.<task>`, `target.<task>`, `mask.<task>` in sample order."""
    arrays: dict[str, Any] = {"index": np.arange(len(clusters), dtype=np.int64), "cluster": np.asarray(clusters, str)}
    for prefix, group in (("logits", predictions.logits), ("target", predictions.targets), ("mask", predictions.masks)):
        arrays |= {f"{prefix}.{task}": tensor.numpy() for task, tensor in group.items()}
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def intervals_of(path: Path, dataset: Dataset, interval: Config) -> dict[str, Any]:
    """The bootstrap interval of every metric, computed from what was saved."""
    found = cluster_bootstrap(
        Predictions.load(path),
        dataset.tasks,
        dataset.score,
        n_resamples=interval["n_resamples"],
        level=interval["level"],
        seed=interval["seed"],
    )
    return {name: value.as_dict() for name, value in found.items()}
