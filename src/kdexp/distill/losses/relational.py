"""How samples lie to each other: relational KD, in two versions that share a name elsewhere, and their simplest core.

`rkd` compares distances and cosines of unit vectors; `rkd_park` is Park, Kim, Lu and Cho, arXiv:1904.05068;
`relational` compares cosines alone. Each number is an anchor's mean over its row, so the mean over the batch is the
mean over all pairs, or triples, of samples.

Shape suffixes: B samples, D width of a feature.
"""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from kdexp.contracts import Traits
from kdexp.distill.losses import on_pairs
from kdexp.distill.losses.geometry import distances, unit

Weight = Annotated[float, Ge(0)]


@on_pairs(
    Traits(divergence=True, uses_temperature=False, relational=True, features="vectors", projected=True), average=True
)
def rkd(student_BD: Tensor, teacher_BD: Tensor, *, distance: Weight = 25.0, angle: Weight = 50.0) -> Tensor:
    """mean_j [distance · h(|s_i - s_j| - |t_i - t_j|) + angle · h(s_i·s_j - t_i·t_j)], of unit vectors s and t.

    h is the smooth L1 (Huber) function, j runs over all samples, i among them. No division by the mean distance, and
    the angle is that of two vectors, not of a triple: the variant of the two-stage multimodal study. The mean over the
    pairs of features.
    """
    student_BD, teacher_BD = unit(student_BD), unit(teacher_BD)
    apart_BB = _huber(distances(student_BD, student_BD), distances(teacher_BD, teacher_BD))
    turned_BB = _huber(student_BD @ student_BD.T, teacher_BD @ teacher_BD.T)
    return distance * apart_BB.mean(dim=1) + angle * turned_BB.mean(dim=1)


@on_pairs(Traits(divergence=True, uses_temperature=False, relational=True, features="vectors"), average=True)
def rkd_park(student_BD: Tensor, teacher_BD: Tensor, *, distance: Weight = 25.0, angle: Weight = 50.0) -> Tensor:
    """distance · mean_j h(d_S(i, j) - d_T(i, j)) + angle · mean_jk h(cos ∠_S(j, i, k) - cos ∠_T(j, i, k)).

    d(i, j) is |x_i - x_j| over the batch's mean of the distances above 0; ∠(j, i, k) is the angle at x_i between x_j
    and x_k, whose cosine counts as 0 where one of them lies on x_i. Both are free of scale, so widths may differ and
    nothing is projected. Takes B³ numbers. The mean over the pairs of features.
    """
    apart_BB = _huber(_relative_distances(student_BD), _relative_distances(teacher_BD))
    turned_BBB = _huber(_angles(student_BD), _angles(teacher_BD))
    return distance * apart_BB.mean(dim=1) + angle * turned_BBB.mean(dim=(1, 2))


@on_pairs(Traits(divergence=True, uses_temperature=False, relational=True, features="vectors"), average=True)
def relational(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """(1/(B-1)) Σ_{j≠i} (cos(s_i, s_j) - cos(t_i, t_j))². The mean over the pairs of features.

    Widths may differ and nothing is projected. 0 in a batch of one.
    """
    cosines = [unit(x_BD) @ unit(x_BD).T for x_BD in (student_BD, teacher_BD)]
    itself_BB = torch.eye(len(student_BD), dtype=torch.bool, device=student_BD.device)
    gap_BB = (cosines[0] - cosines[1]).masked_fill(itself_BB, 0.0)
    return gap_BB.square().sum(dim=1) / max(len(student_BD) - 1, 1)


def _relative_distances(x_BD: Tensor) -> Tensor:
    apart_BB = distances(x_BD, x_BD)
    positive_BB = apart_BB > 0
    mean = apart_BB.sum() / positive_BB.sum().clamp(min=1)
    return apart_BB / mean.where(mean > 0, 1.0)


def _angles(x_BD: Tensor) -> Tensor:
    """(B, B, B): at the first sample, the cosine between the ways to the second and to the third."""
    ways_BBD = unit(x_BD[None, :] - x_BD[:, None])
    return ways_BBD @ ways_BBD.transpose(1, 2)


def _huber(one: Tensor, other: Tensor) -> Tensor:
    return smooth_l1_loss(one, other, reduction="none")
