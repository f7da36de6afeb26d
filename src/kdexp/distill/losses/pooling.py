"""What pooling by attention looks at: the weights over the slots of a set, of which either view may lack some.

Two forms of the study of jets in two views: the summary needs two numbers a sample, the divergence all weights.

Shape suffixes: B samples, M slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdexp.contracts import Traits
from kdexp.distill.losses import on_pairs
from kdexp.distill.losses.kl import divergence
from kdexp.distill.losses.log_probabilities import over_candidates

_EMPTY = torch.finfo(torch.float32).tiny
"""A weight no larger than this is that of an empty slot; of a smaller one the logarithm has no finite gradient."""


@on_pairs(Traits(divergence=True, uses_temperature=False, features="numbers"))
def attention_summary(student_B: Tensor, teacher_B: Tensor) -> Tensor:
    """(s - t)² of one number a sample, summed over the pairs.

    With the pairs [attention_entropy, attention_entropy] and [attention_max, attention_max] it is
    (H_s - H_t)² + (max_s - max_t)², each of the pooling weights over its own view's slots.
    """
    return (student_B - teacher_B).square()


@on_pairs(Traits(divergence=True, uses_temperature=False, features="weights", same_width=True), average=True)
def attention_kl(student_BM: Tensor, teacher_BM: Tensor) -> Tensor:
    """Σ_k t_k (log t_k - log s_k) over the slots that neither view lacks, where s and t are made to sum to 1.

    Slot k of both has to be the same thing. The mean over the pairs. A sample without a slot in common gives 0 and is
    left out of the batch's mean: the n others' numbers are multiplied by B / n, so that the plain mean over the batch
    is the mean over them. With sample weights this is approximate (the weights of those left out stay in the divisor),
    and exact again where every sample has a slot in common, which makes the factor 1.
    """
    both_BM = (student_BM > _EMPTY) & (teacher_BM > _EMPTY)
    log_s_BM, log_t_BM = (over_candidates(x.where(both_BM, 1.0).log(), both_BM) for x in (student_BM, teacher_BM))
    n_counted = both_BM.any(dim=1).sum().clamp(min=1)
    return divergence(log_t_BM, log_s_BM) * (len(both_BM) / n_counted)
