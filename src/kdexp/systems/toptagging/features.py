"""Seven numbers per constituent, from the constituents of the same view.

Shape suffixes: N jets, M slots.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdexp.systems.toptagging.merging import Floats, Slots, wrapped
from kdexp.systems.toptagging.trigger import MAX_ETA, energies

VERSION = 1
FEATURES = ("delta_eta", "delta_phi", "log_pt", "log_e", "log_pt_share", "log_e_share", "delta_r")
_MOST = 20.0
_LEAST = 1e-8


def features(slots: Slots) -> NDArray[np.float32]:
    """(N, M, 7) float32, computed in float64: eta and phi relative to the jet, ln pT, ln E, ln(pT / jet pT),
    ln(E / ΣE), and the distance to the jet axis. Clipped to ±20; empty slots hold zeros.

    pT and E, and the jet's, are at least 1e-8; eta is clipped to ±5.
    """
    pt, eta = np.maximum(slots.pt, _LEAST), np.clip(slots.eta, -MAX_ETA, MAX_ETA)
    energy = np.maximum(energies(slots), _LEAST)
    jet_pt, jet_eta, jet_phi = (values[:, None] for values in jet_axis(slots))
    total = np.where(slots.alive, energy, 0.0).sum(axis=1, keepdims=True)
    delta_eta, delta_phi = eta - jet_eta, wrapped(slots.phi - jet_phi)
    columns = [
        delta_eta,
        delta_phi,
        np.log(pt),
        np.log(energy),
        np.log(pt / np.maximum(jet_pt, _LEAST)),
        np.log(energy / np.maximum(total, _LEAST)),
        np.sqrt(delta_eta**2 + delta_phi**2),
    ]
    stacked = np.clip(np.stack(columns, axis=-1), -_MOST, _MOST)
    return np.where(slots.alive[..., None], stacked, 0.0).astype(np.float32)


def jet_axis(slots: Slots) -> tuple[Floats, Floats, Floats]:
    """pT, eta and phi, (N,) each, of the sum of massless constituents."""
    pt, eta = np.where(slots.alive, slots.pt, 0.0), np.clip(slots.eta, -MAX_ETA, MAX_ETA)
    px, py = (pt * np.cos(slots.phi)).sum(axis=1), (pt * np.sin(slots.phi)).sum(axis=1)
    jet_pt = np.hypot(px, py)
    jet_eta = np.arcsinh((pt * np.sinh(eta)).sum(axis=1) / np.maximum(jet_pt, _LEAST))
    return jet_pt, jet_eta, np.arctan2(py, px)
