"""The metrics of one split from its gathered logits and targets, by torchmetrics.

The same rules as `kdexp.bootstrap`, which recomputes these numbers from saved predictions: macro averages run over the
classes that occur in truth or prediction, AUC over the classes that occur in the truth. A class that is absent is left
out without a warning.

Shape suffixes: N samples, C classes, P positions of a sample, K candidates, M samples or positions that count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    multiclass_accuracy,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)
from torchmetrics.functional.regression import mean_absolute_error, mean_squared_error

from kdexp.bootstrap import check_metrics, check_score_defined, metrics
from kdexp.contracts import TaskSpec
from kdexp.errors import RunFailed
from kdexp.predictions import Predictions
from kdexp.ranking import REJECTIONS, background_rejections


def split_metrics(
    tasks: Sequence[TaskSpec],
    score: Sequence[str],
    logits: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    masks: Mapping[str, Tensor] | None = None,
    weights: Tensor | None = None,
) -> dict[str, float]:
    """Every metric of every task as `task/metric`, and `score`, the mean of the score's metrics.

    With `weights` (N,), how much each sample counts, `kdexp.bootstrap` computes them: torchmetrics takes no weights.

    Shapes are those of `TaskSpec`, with N samples for B; the tensors may lie on any device. A metric that is undefined
    on this split (AUC where the truth has one class, accuracy where no position counts) is left out; DataError where
    the score needs it. Raises ConfigError for a metric that a task's kind does not have, RunFailed for logits that are
    not finite.
    """
    check_metrics(tasks, score)
    values: dict[str, float] = {}
    masks = masks or {}
    for task in tasks:
        _refuse_no_number(task, logits[task.name], targets[task.name], masks.get(task.name))
    if weights is not None:
        return metrics(_weighted(logits, targets, masks, weights), tasks, score)
    for task in tasks:
        made = _task_metrics(task, logits[task.name], targets[task.name], masks.get(task.name))
        values.update({f"{task.name}/{metric}": made[metric] for metric in task.metrics if metric in made})
    n = len(targets[tasks[0].name])
    check_score_defined(values, score, "this split", n)
    values["score"] = sum(values[name] for name in score) / len(score)
    return values


def _refuse_no_number(task: TaskSpec, logits: Tensor, target: Tensor, mask: Tensor | None) -> None:
    """Looks at what counts: real candidates, and positions with a duration, whose seconds must be a number too."""
    logits = logits.detach().double()
    real = logits[~target.isnan()].expm1() if task.kind == "duration" else logits if mask is None else logits[mask]
    if not torch.isfinite(real).all():
        raise RunFailed(f"task {task.name}: the logits hold NaN or infinity; a lower learning rate may help")


def _weighted(
    logits: Mapping[str, Tensor], targets: Mapping[str, Tensor], masks: Mapping[str, Tensor], weights: Tensor
) -> Predictions:
    """The same as predictions, for `kdexp.bootstrap`."""

    def arrays(group: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        return {task: tensor.detach().cpu().numpy() for task, tensor in group.items()}

    index_N = np.arange(len(weights))
    return Predictions(
        index=index_N,
        cluster=index_N.astype(str),
        logits=arrays(logits),
        targets=arrays(targets),
        masks=arrays(masks),
        weights=weights.cpu().double().numpy(),
        origin="this split",
    )


def _task_metrics(task: TaskSpec, logits: Tensor, target: Tensor, mask: Tensor | None) -> dict[str, float]:
    logits, target = logits.detach().cpu().double(), target.detach().cpu()
    if task.kind == "duration":
        logits, target = logits[~target.isnan()], target[~target.isnan()]
    if task.kind == "regression":
        return _regression_metrics(logits, target.double())
    if task.kind == "duration":
        return _duration_metrics(logits, target.double())
    if task.kind == "candidates":
        return _candidate_metrics(task, logits, target, mask)
    return _class_metrics(task, logits, target)


def _regression_metrics(prediction_N: Tensor, target_N: Tensor) -> dict[str, float]:
    return {
        "mae": mean_absolute_error(prediction_N, target_N).item(),
        "rmse": mean_squared_error(prediction_N, target_N, squared=False).item(),
    }


def _duration_metrics(predicted_M: Tensor, true_M: Tensor) -> dict[str, float]:
    """Mean relative errors, of log(1 + seconds) and of the seconds, over the positions that count."""
    if not len(true_M):
        return {}
    gap_M = (predicted_M.expm1().clamp(min=0) - true_M.expm1()).abs()
    return {
        "mape_log": ((predicted_M - true_M).abs() / true_M.clamp(min=1)).mean().item(),
        "mape_sec": (gap_M / true_M.expm1().clamp(min=1)).mean().item(),
    }


def _candidate_metrics(task: TaskSpec, logits: Tensor, target: Tensor, mask: Tensor | None) -> dict[str, float]:
    """Accuracy over the positions that count, over those among them that have a choice, and over all but each
    sample's last; logits (N, K) or (N, P, K)."""
    if mask is None:
        raise ValueError(f"task {task.name} has candidates, so split_metrics needs masks[{task.name!r}]")
    mask, n_candidates = mask.cpu(), max(2, logits.shape[-1])
    best = logits.masked_fill(~mask, -torch.inf).argmax(-1)
    counts = target >= 0
    n_to_come_NP = counts[..., None].flatten(1).flip(1).cumsum(1).flip(1)
    averaged = {
        "acc": counts,
        "acc_decisions": counts & (mask.sum(-1) >= 2),
        "acc_inner": counts & (n_to_come_NP > 1).view(counts.shape),
    }
    return {
        name: multiclass_accuracy(best[over], target[over], n_candidates, average="micro").item()
        for name, over in averaged.items()
        if over.any()
    }


def _class_metrics(task: TaskSpec, logits: Tensor, target_N: Tensor) -> dict[str, float]:
    """Metrics of a multiclass task, logits (N, C), or a binary one, logit (N,) as two classes."""
    if task.kind == "binary":
        predicted_N, n_classes = (logits > 0).long(), 2
    else:
        predicted_N, n_classes = logits.argmax(-1), max(2, logits.shape[-1])
    made = {
        "acc": multiclass_accuracy(predicted_N, target_N, n_classes, average="micro").item(),
        "f1": multiclass_f1_score(predicted_N, target_N, n_classes, average="macro").item(),
        "prec": multiclass_precision(predicted_N, target_N, n_classes, average="macro").item(),
        "rec": multiclass_recall(predicted_N, target_N, n_classes, average="macro").item(),
    }
    present = target_N.unique()
    if "auc" in task.metrics and len(present) > 1:
        scores_NC = _class_scores(logits)
        each = [_auc(scores_NC[:, number], target_N == number) for number in present.tolist()]
        made["auc"] = sum(each) / len(each)
    if set(REJECTIONS) & set(task.metrics) and len(present) > 1:
        found = background_rejections(logits.numpy(), (target_N == 1).numpy(), np.ones((1, len(logits))))
        made |= {name: float(value_R[0]) for name, value_R in found.items()}
    return made


def _class_scores(logits: Tensor) -> Tensor:
    """(N, C): log-odds of each class against the rest, as `kdexp.ranking.class_scores` makes them in numpy."""
    if logits.ndim == 1:
        return torch.stack([-logits, logits], 1)
    others = [torch.cat([logits[:, :c], logits[:, c + 1 :]], 1).logsumexp(1) for c in range(logits.shape[1])]
    return (logits - torch.stack(others, 1)).round(decimals=9)


def _auc(score_N: Tensor, positive_N: Tensor) -> float:
    """Mann-Whitney AUC. torchmetrics reads scores as probabilities, so it gets ranks between 0 and 1."""
    values, rank_N = score_N.unique(return_inverse=True)
    return binary_auroc(rank_N.double() / max(1, len(values) - 1), positive_N.long()).item()
