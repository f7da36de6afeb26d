"""Features imitated one by one: FitNets, Romero et al., arXiv:1412.6550.

Shape suffixes: B samples, D width of a feature.
"""

from __future__ import annotations

from torch import Tensor

from kdexp.contracts import Traits
from kdexp.distill.losses import on_pairs


@on_pairs(Traits(divergence=True, uses_temperature=False, features="vectors", projected=True))
def feature_mse(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """(1/D) Σ_d (s_d - t_d)², with t = A z + b of the teacher's feature z. Summed over the pairs."""
    return (student_BD - teacher_BD).square().mean(dim=1)
