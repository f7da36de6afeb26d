"""Two clouds of features brought to one distribution: MMD, Gretton et al., JMLR 13 (2012) 723-773, used to distil by
Huang and Wang, arXiv:1707.01219.

Shape suffixes: B samples, D width of a feature.
"""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt, Len
from torch import Tensor

from kdexp.contracts import Traits
from kdexp.distill.losses import on_pairs
from kdexp.distill.losses.geometry import distances

Bandwidths = Annotated[tuple[Annotated[float, Gt(0)], ...], Len(1)]


@on_pairs(
    Traits(divergence=True, uses_temperature=False, relational=True, features="vectors", projected=True), average=True
)
def mmd(student_BD: Tensor, teacher_BD: Tensor, *, bandwidths: Bandwidths = (0.2, 0.5, 1.0, 2.0, 5.0)) -> Tensor:
    """mean_j [k(s_i, s_j) + k(t_i, t_j) - k(s_i, t_j) - k(s_j, t_i)], k(x, y) = mean_b exp(-|x - y|² / 2b²).

    Its mean over i is the biased estimate of MMD²: mean k(s, s') + mean k(t, t') - 2 mean k(s, t), never below 0. The
    mean over the pairs of features. A batch of one compares its two features alone.
    """

    def kernel(one_BD: Tensor, other_BD: Tensor) -> Tensor:
        square_BB = distances(one_BD, other_BD).square()
        return torch.stack([(-square_BB / (2 * b**2)).exp() for b in bandwidths]).mean(dim=0)

    across_BB = kernel(student_BD, teacher_BD)
    within_BB = kernel(student_BD, student_BD) + kernel(teacher_BD, teacher_BD)
    return (within_BB - across_BB - across_BB.T).mean(dim=1)
