"""The supervised loss: what the labels say, one number per sample.

Shape suffixes: B samples, P positions of a sample, K classes or candidates.
Bx is (B,) or (B, P), BxK is (B, K) or (B, P, K).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from kdexp.contracts import StudentOutput, TaskSpec
from kdexp.distill.losses.log_probabilities import candidate_mask, mean_over_positions, over_candidates, widen


def ce(student: StudentOutput, targets: Mapping[str, Tensor], *, tasks: tuple[TaskSpec, ...]) -> Tensor:
    """Σ_tasks -log p(y), in float32 (B,): for a task with positions, the mean over those whose target is not -1.

    A `regression` task adds (prediction - y)², a `duration` task the mean of |prediction - y| / max(y, 1) over the
    positions whose y is not NaN. A target on padding gives infinity, which stops the run.
    """
    return torch.stack([_of_task(student, targets[task.name], task) for task in tasks]).sum(dim=0)


def _of_task(student: StudentOutput, target: Tensor, task: TaskSpec) -> Tensor:
    logits = widen(student.logits[task.name])
    if task.kind == "binary":
        return binary_cross_entropy_with_logits(logits, target.to(logits), reduction="none")
    if task.kind == "regression":
        return mse_loss(logits, target.to(logits), reduction="none")
    if task.kind == "duration":
        counted_BP = ~target.isnan()
        gap_BP = (logits - target.to(logits)).where(counted_BP, 0.0)
        return mean_over_positions(gap_BP.abs() / target.to(logits).clamp(min=1).where(counted_BP, 1.0), counted_BP)
    if task.kind == "multiclass":
        return -_picked(logits.log_softmax(dim=-1), target)
    mask_BxK = candidate_mask(student, task)
    assert mask_BxK is not None
    surprise_Bx = -_picked(over_candidates(logits, mask_BxK), target.clamp(min=0))
    return mean_over_positions(surprise_Bx, counted_Bx=target >= 0)


def _picked(values_BxK: Tensor, index_Bx: Tensor) -> Tensor:
    return values_BxK.gather(-1, index_Bx.unsqueeze(-1)).squeeze(-1)
