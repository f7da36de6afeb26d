"""Runs a trained model over splits: predictions on disk, metrics, and an interval beside each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdexp.bootstrap import cluster_bootstrap
from kdexp.contracts import Dataset, Split, SplitName
from kdexp.display import Stage
from kdexp.predictions import Predictions
from kdexp.records import RunFolder
from kdexp.training.features import FeatureStore
from kdexp.training.fit import SplitOutputs, predict
from kdexp.training.metrics import split_metrics
from kdexp.training.teacher import answered


def measure(
    model: nn.Module,
    dataset: Dataset,
    splits: Sequence[SplitName],
    folder: RunFolder,
    *,
    view: str,
    batch_size: int,
    device: torch.device,
    interval: Mapping[str, Any],
    features: FeatureStore,
    stage: Stage | None = None,
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, Any]]]:
    """Metrics and intervals by split, of the tasks that the model gives; the predictions that they were computed from
    are written first.

    `interval` holds `n_resamples`, `level` and `seed` of the bootstrap.
    """
    tasks, score = answered(model, dataset.tasks, dataset.score)
    metrics: dict[str, dict[str, float]] = {}
    intervals: dict[str, dict[str, Any]] = {}
    for name in splits:
        split = dataset.split(name)
        seen = features.split(model, split, view)
        outputs = predict(model, seen, tasks, batch_size=batch_size, view=view, device=device)
        predictions = as_predictions(outputs, split)
        predictions.save(folder.predictions(name))
        metrics[name] = split_metrics(tasks, score, **vars(outputs))
        found = cluster_bootstrap(predictions, tasks, score, **interval)
        intervals[name] = {metric: value.as_dict() for metric, value in found.items()}
        if stage is not None:
            stage.advance()
    return metrics, intervals


def as_predictions(outputs: SplitOutputs, split: Split) -> Predictions:
    """A split's outputs in the form that is saved, with each sample's cluster and covariates."""

    def arrays(group: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        return {task: tensor.numpy() for task, tensor in group.items()}

    return Predictions(
        index=np.arange(len(split), dtype=np.int64),
        cluster=split.clusters,
        logits=arrays(outputs.logits),
        targets=arrays(outputs.targets),
        masks=arrays(outputs.masks),
        weights=None if outputs.weights is None else outputs.weights.double().numpy(),
        covariates=dict(getattr(split, "covariates", {})),
    )
