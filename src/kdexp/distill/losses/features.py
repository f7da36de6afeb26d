"""Features imitated one by one: FitNets, Romero et al., arXiv:1412.6550, and without its trained map.

Shape suffixes: B samples, D width of a feature.
"""

from __future__ import annotations

from torch import Tensor

from kdexp.contracts import Traits
from kdexp.distill.losses import on_pairs
from kdexp.distill.losses.geometry import unit


@on_pairs(Traits(divergence=True, uses_temperature=False, features="vectors", projected=True))
def feature_mse(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """(1/D) Σ_d (s_d - t_d)², with t = A z + b of the teacher's feature z. Summed over the pairs."""
    return (student_BD - teacher_BD).square().mean(dim=1)


@on_pairs(Traits(divergence=True, uses_temperature=False, features="vectors", same_width=True), average=True)
def cosine(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """1 - cos(s, t), as ½ |s/|s| - t/|t||², which is 0 exactly where the two agree. The mean over the pairs.

    Nothing is projected. A vector of length 0 has no direction: against any other it gives ½, against another 0.
    """
    return (unit(student_BD) - unit(teacher_BD)).square().sum(dim=1) / 2
