"""Features told apart from those of other samples: after CRD, Tian, Krishnan and Isola, arXiv:1910.10699.

Shape suffixes: B samples, D width of a feature.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from torch import Tensor

from kdexp.contracts import Traits
from kdexp.distill.losses import on_pairs
from kdexp.distill.losses.geometry import unit


@on_pairs(
    Traits(divergence=False, uses_temperature=False, relational=True, features="vectors", projected=True), average=True
)
def crd(student_BD: Tensor, teacher_BD: Tensor, *, tau: Annotated[float, Gt(0)] = 0.1) -> Tensor:
    """-log softmax_j(cos(s_i, t_j) / τ) at j = i. The mean over the pairs.

    The in-batch form (InfoNCE, van den Oord et al., arXiv:1807.03748): the negatives are the batch's other samples,
    without the paper's memory bank, and no label is used. 0 in a batch of one.
    """
    cosine_BB = unit(student_BD) @ unit(teacher_BD).T
    return -(cosine_BB / tau).log_softmax(dim=1).diagonal()


@on_pairs(
    Traits(divergence=False, uses_temperature=False, relational=True, features="vectors", same_width=True), average=True
)
def info_nce(student_BD: Tensor, teacher_BD: Tensor, *, tau: Annotated[float, Gt(0)] = 0.1) -> Tensor:
    """-½ [log softmax_j(cos(s_i, t_j) / τ) + log softmax_j(cos(s_j, t_i) / τ)] at j = i. The mean over the pairs.

    `crd` in both directions and without a projection: a student's feature finds its teacher's, and the other way round.
    """
    logits_BB = unit(student_BD) @ unit(teacher_BD).T / tau
    return -(logits_BB.log_softmax(dim=1) + logits_BB.log_softmax(dim=0)).diagonal() / 2
