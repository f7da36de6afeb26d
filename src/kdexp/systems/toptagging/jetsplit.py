"""One split of jets: both views of a batch, standardised.

Shape suffixes: B jets, M constituents, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdexp.contracts import Batch
from kdexp.systems.toptagging.features import FEATURES
from kdexp.systems.toptagging.store import JetTable, View, Views

_MOST = 10.0
_TINY = 1e-8
_STATISTICS_ROWS = 4_096


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What standardises a view: mean and standard deviation of each feature, (F,) float32."""

    mean: Tensor
    deviation: Tensor

    def applied(self, features: Tensor, mask: Tensor) -> Tensor:
        """Standardised, clipped to ±10, zeros where there is no constituent."""
        scaled = ((features - self.mean) / self.deviation).clamp_(-_MOST, _MOST)
        return scaled.masked_fill_(~mask.unsqueeze(-1), 0.0)


class JetSplit:
    """One split; `weights` (N,) are the training weights of the files, None where all are 1 or there are none."""

    def __init__(self, table: JetTable, views: Views, scales: Mapping[str, Scale], rows: np.ndarray) -> None:
        self.clusters = table.clusters[rows]
        weights = table.weights[rows]
        self.weights = None if (weights == 1).all() else weights
        self.covariates = {"jet pT [GeV]": table.jet_pt[rows]}
        self._views, self._scales = views, scales
        self._rows = torch.from_numpy(rows)
        self._labels = torch.from_numpy(table.labels[rows])
        self._weights = None if self.weights is None else torch.from_numpy(self.weights)

    def __len__(self) -> int:
        return len(self._rows)

    def fetch(self, index: Tensor) -> Batch:
        """`features` (B, M, 7) float32 and `mask` (B, M) bool in both views; slot k of one view is slot k of the other,
        or empty."""
        rows = self._rows[index]
        offline = self._view(self._views.offline, self._scales["offline"], rows)
        hlt = self._view(self._views.hlt, self._scales["hlt"], rows)
        return Batch(
            student=hlt,
            teacher=offline,
            targets={"top": self._labels[index]},
            index=index,
            weights=None if self._weights is None else self._weights[index],
        )

    def _view(self, view: View, scale: Scale, rows: Tensor) -> dict[str, Tensor]:
        mask = view.mask[rows]
        return {"features": scale.applied(view.features[rows], mask), "mask": mask}


def scale_of(view: View, rows: np.ndarray) -> Scale:
    """Mean and standard deviation (of n, plus 1e-8) of each feature over the constituents of these jets."""
    total, squares = torch.zeros(2, len(FEATURES), dtype=torch.float64)
    count = 0
    pieces = torch.from_numpy(rows).split(_STATISTICS_ROWS)
    for piece in pieces:
        values = view.features[piece][view.mask[piece]].double()
        total += values.sum(0)
        count += len(values)
    mean = total / count
    for piece in pieces:
        squares += ((view.features[piece][view.mask[piece]].double() - mean) ** 2).sum(0)
    return Scale(mean=mean.float(), deviation=((squares / count).sqrt() + _TINY).float())
