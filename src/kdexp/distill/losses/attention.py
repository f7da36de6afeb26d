"""Where in the image the energy of a feature map lies: attention transfer, Zagoruyko and Komodakis, arXiv:1612.03928.

Shape suffixes: B samples, C channels, H rows, W columns, P = H·W places.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d

from kdexp.contracts import Traits
from kdexp.distill.losses import on_pairs
from kdexp.distill.losses.geometry import unit


@on_pairs(Traits(divergence=True, uses_temperature=False, features="maps"))
def attention(student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """(1/P) Σ_p (Q_S(p)/|Q_S| - Q_T(p)/|Q_T|)², with Q = (1/C) Σ_c x_c². Summed over the pairs.

    The square of the paper's distance, averaged over places, as in its authors' code, where the weight is 1000. The
    larger map is averaged down to the smaller one first; the numbers of channels may differ.
    """
    rows, columns = (min(sizes) for sizes in zip(student_BCHW.shape[2:], teacher_BCHW.shape[2:], strict=True))
    maps = [unit(_pooled(x.square().mean(dim=1), rows, columns).flatten(1)) for x in (student_BCHW, teacher_BCHW)]
    return (maps[0] - maps[1]).square().mean(dim=1)


def _pooled(energy_BHW: Tensor, rows: int, columns: int) -> Tensor:
    """Adaptive average pooling as two matrix products, whose gradient is the same on every run."""

    def weights(n_from: int, n_to: int) -> Tensor:
        eye = torch.eye(n_from, device=energy_BHW.device, dtype=energy_BHW.dtype)
        return adaptive_avg_pool1d(eye, n_to)

    height, width = energy_BHW.shape[1:]
    return weights(height, rows).T @ energy_BHW @ weights(width, columns)
