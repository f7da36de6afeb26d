"""Lengths and distances whose gradients are finite everywhere, also at 0.

Shape suffixes: B samples, D width of a feature.
"""

from __future__ import annotations

import torch
from torch import Tensor

_NO_LENGTH = 1e-8


def unit(vectors: Tensor, dim: int = -1, shortest: float = _NO_LENGTH) -> Tensor:
    """Vectors of length 1 along `dim`. One no longer than `shortest` has no direction: it is 0, without gradient."""
    length = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    has_direction = length > shortest
    return (vectors / length.where(has_direction, 1.0)).where(has_direction, 0.0)


def distances(one_BD: Tensor, other_BD: Tensor) -> Tensor:
    """(B, B) Euclidean distances, by differences: exact where vectors are near, without gradient where they meet."""
    return torch.cdist(one_BD, other_BD, compute_mode="donot_use_mm_for_euclid_dist")
