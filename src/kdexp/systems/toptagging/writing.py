"""Writes jets in the layout of the ATLAS Top Tagging Open Data: names, units, types and attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from kdexp.records import written_whole

WIDTH = 200
_BINS = 20
_ROWS_A_CHUNK = 1_000


@dataclass(frozen=True, kw_only=True)
class MadeJets:
    """N jets: constituents by falling pT, (N, 200) each, zero padded, and the jet's own numbers (N,); in GeV."""

    pt: NDArray[np.float64]
    eta: NDArray[np.float64]
    phi: NDArray[np.float64]
    energy: NDArray[np.float64]
    jet_pt: NDArray[np.float64]
    jet_eta: NDArray[np.float64]
    jet_phi: NDArray[np.float64]
    jet_mass: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.jet_pt)

    def take(self, rows: Any) -> MadeJets:
        return MadeJets(**{one.name: getattr(self, one.name)[rows] for one in fields(self)})


def joined(pieces: Sequence[MadeJets]) -> MadeJets:
    """All jets of the pieces, in their order."""
    return MadeJets(
        **{one.name: np.concatenate([getattr(piece, one.name) for piece in pieces]) for one in fields(MadeJets)}
    )


def reweighted(jet_pt: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Training weights: 1 for signal, and for background what brings its pT histogram of 20 bins to the signal's."""
    edges = np.linspace(jet_pt.min(), jet_pt.max(), _BINS + 1)
    bins = np.clip(np.digitize(jet_pt, edges) - 1, 0, _BINS - 1)
    signal, background = (np.bincount(bins[labels == label], minlength=_BINS) for label in (1, 0))
    ratio = signal / np.maximum(background, 1) * ((labels == 0).sum() / max((labels == 1).sum(), 1))
    return np.where(labels == 1, 1.0, ratio[bins]).astype(np.float32)


def write_jets(
    path: Path,
    jets: MadeJets,
    labels: NDArray[np.int64],
    events: NDArray[np.int64],
    *,
    attributes: Mapping[str, Any],
    compress: bool,
) -> None:
    """Writes the file whole or not at all; `attributes` say how the jets were made."""
    options: dict[str, Any] = {}
    if compress:
        options = {"compression": "gzip", "shuffle": True}
    columns: dict[str, NDArray[Any]] = {
        "fjet_clus_pt": jets.pt * 1000,
        "fjet_clus_eta": jets.eta,
        "fjet_clus_phi": jets.phi,
        "fjet_clus_E": jets.energy * 1000,
        "fjet_pt": jets.jet_pt * 1000,
        "fjet_eta": jets.jet_eta,
        "fjet_phi": jets.jet_phi,
        "fjet_m": jets.jet_mass * 1000,
        "training_weights": reweighted(jets.jet_pt, labels),
    }
    with written_whole(path) as temporary, h5py.File(temporary, "w", libver="v110") as file:
        for name, values in columns.items():
            chunks = (min(_ROWS_A_CHUNK, len(values)), *values.shape[1:]) if compress else None
            file.create_dataset(name, data=values.astype(np.float32), chunks=chunks, **options)
        file.create_dataset("labels", data=labels.astype(np.int32))
        file.create_dataset("EventInfo_mcEventNumber", data=events.astype(np.int32))
        for name, value in {**_attributes(len(jets)), **attributes}.items():
            file.attrs[name] = value


def _attributes(n_jets: int) -> dict[str, Any]:
    text = h5py.string_dtype()
    jet_fields = ["_pt", "_eta", "_phi", "_m"]
    return {
        "constit": np.array(["fjet_clus_eta", "fjet_clus_phi", "fjet_clus_pt", "fjet_clus_E"], dtype=text),
        "jet": np.array([*(f"fjet{name}" for name in jet_fields), "EventInfo_mcEventNumber"], dtype=text),
        "jet_fields": np.array(jet_fields, dtype=text),
        "jet_keys": np.array(["fjet"], dtype=text),
        "max_constits": WIDTH,
        "num_cons": 4,
        "num_jet_features": 5,
        "num_jets": n_jets,
    }
