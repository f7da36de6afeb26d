"""Logits of every kind of task as natural log-probabilities, in float32 (float64 stays float64).

Shape suffixes: B samples, P positions of a sample, K classes or candidates.
Bx is (B,) or (B, P), BxK is (B, K) or (B, P, K).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from kdexp.contracts import StudentOutput, TaskSpec


def widen(values: Tensor) -> Tensor:
    """At least float32, whatever autocast made of them."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def log_probabilities(logits: Tensor, task: TaskSpec, mask_BxK: Tensor | None) -> Tensor:
    """Over the classes or real candidates on the last axis; one binary logit becomes two classes."""
    if task.kind == "binary":
        return over_two_classes(logits)
    if task.kind == "candidates":
        assert mask_BxK is not None, "candidates come with a mask; see `candidate_mask`"
        return over_candidates(logits, mask_BxK)
    return logits.log_softmax(dim=-1)


def over_two_classes(logit_B: Tensor) -> Tensor:
    """(log(1 - σ), log σ) on a new last axis, exact at any size of logit."""
    return torch.stack([logsigmoid(-logit_B), logsigmoid(logit_B)], dim=-1)


def over_candidates(logits_BxK: Tensor, mask_BxK: Tensor) -> Tensor:
    """Log-softmax over the candidates that are there; -inf at padding, whose content is never read.

    A position without candidates is -inf throughout. No gradient reaches padding, and none is NaN.
    """
    empty_Bx1 = ~mask_BxK.any(dim=-1, keepdim=True)
    padded_BxK = logits_BxK.masked_fill(~mask_BxK, -torch.inf).masked_fill(empty_Bx1, 0.0)
    return padded_BxK.log_softmax(dim=-1).masked_fill(~mask_BxK, -torch.inf)


def candidate_mask(student: StudentOutput, task: TaskSpec) -> Tensor | None:
    """The mask of a `candidates` task, None for the others; ValueError where it is missing or of another shape."""
    if task.kind != "candidates":
        return None
    mask, shape = student.masks.get(task.name), tuple(student.logits[task.name].shape)
    if mask is None:
        raise ValueError(f"the model's output has no mask for task {task.name!r}, whose candidates are padded")
    if tuple(mask.shape) != shape:
        raise ValueError(f"the mask of task {task.name!r} is {tuple(mask.shape)}, its logits are {shape}")
    return mask


def mean_over_positions(values_Bx: Tensor, counted_Bx: Tensor | None = None) -> Tensor:
    """(B,): each sample's mean over its counted positions, 0 where it has none."""
    if counted_Bx is None:
        counted_Bx = torch.ones_like(values_Bx, dtype=torch.bool)
    values_BP, counted_BP = values_Bx[..., None].flatten(1), counted_Bx[..., None].flatten(1)
    return values_BP.where(counted_BP, 0.0).sum(dim=1) / counted_BP.sum(dim=1).clamp(min=1)
