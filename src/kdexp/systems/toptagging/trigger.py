"""Two views of a jet: offline, what full reconstruction sees, and HLT, what the high-level trigger sees of it.

The HLT view is made from the raw constituents: threshold, merging, smearing, losses. Slot k of both views is the same
constituent or empty, and a jet is never empty. Energies are massless, E = pT cosh(eta), in both views.

Shape suffixes: N jets, M slots.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from kdexp.systems.toptagging.merging import Floats, Slots, merged, wrapped
from kdexp.systems.toptagging.noise import SlotNoise

VERSION = 1
MAX_ETA = 5.0
_PT_FACTORS = (0.5, 1.5)


@dataclass(frozen=True, kw_only=True)
class TriggerOptions:
    """What the trigger does to a jet. Momenta in GeV, angles as standard deviations, `pt_smearing` relative.

    `offline_threshold` is that of the offline view. `wiring=seed` takes the logarithm of pT/MeV for pT and angles in
    the jet's own frame, as the published study did by mistake; both views are made from these then, and a threshold
    of 1.5 removes nothing.
    """

    offline_threshold: Annotated[float, Ge(0)] = 0.5
    threshold: Annotated[float, Ge(0)] = 1.5
    merge_radius: Annotated[float, Ge(0), Le(1)] = 0.01
    pt_smearing: Annotated[float, Ge(0)] = 0.10
    eta_smearing: Annotated[float, Ge(0)] = 0.03
    phi_smearing: Annotated[float, Ge(0)] = 0.03
    loss: Annotated[float, Ge(0), Le(1)] = 0.03
    wiring: Literal["gev", "seed"] = "gev"


@dataclass(frozen=True, kw_only=True)
class Triggered:
    """An HLT view, and how many constituents were left after each of three steps."""

    view: Slots
    n_above_threshold: int
    n_merged: int
    n_kept: int


def raw_slots(pt_NM: NDArray, eta_NM: NDArray, phi_NM: NDArray, wiring: str) -> Slots:
    """Constituents as both views start from them, in float64; an empty slot has pT 0."""
    pt, eta, phi = (np.asarray(values, dtype=np.float64) for values in (pt_NM, eta_NM, phi_NM))
    slots = Slots(pt=pt, eta=eta, phi=wrapped(phi), alive=pt > 0)
    return slots if wiring == "gev" else as_the_seed_study(slots)


def as_the_seed_study(slots: Slots) -> Slots:
    """What the published study took for (pT, eta, phi): ln(pT/MeV), and angles that were shifted, turned and flipped.

    Constituent 0 is the origin, constituent 1 lies on the negative phi axis, and constituent 2 has eta >= 0.
    """
    eta = slots.eta - slots.eta[:, :1]
    phi = wrapped(slots.phi - slots.phi[:, :1])
    eta, phi = np.where(slots.alive, eta, 0.0), np.where(slots.alive, phi, 0.0)
    second = min(1, eta.shape[1] - 1)
    turn = np.arctan2(phi[:, second], eta[:, second])[:, None] + np.pi / 2
    eta, phi = eta * np.cos(turn) + phi * np.sin(turn), phi * np.cos(turn) - eta * np.sin(turn)
    third = min(2, eta.shape[1] - 1)
    eta = np.where(eta[:, third : third + 1] < 0, -eta, eta)
    logarithm = np.log(np.where(slots.alive, slots.pt * 1000, 1.0))
    return Slots(pt=logarithm, eta=eta, phi=phi, alive=slots.alive & (logarithm > 0))


def offline_view(raw: Slots, options: TriggerOptions) -> Slots:
    """The constituents above the offline threshold, at least the hardest one."""
    return _emptied(replace(raw, alive=_never_none(raw.alive & (raw.pt >= options.offline_threshold), raw)))


def trigger_view(raw: Slots, options: TriggerOptions, noise: SlotNoise) -> Triggered:
    """The HLT view of jets with this noise. Where every constituent is lost, the hardest after smearing stays."""
    above = replace(raw, alive=_never_none(raw.alive & (raw.pt >= options.threshold), raw))
    joined = merged(above, options.merge_radius)
    factor = np.clip(1 + options.pt_smearing * noise.pt, *_PT_FACTORS)
    smeared = Slots(
        pt=joined.pt * factor,
        eta=np.clip(joined.eta + options.eta_smearing * noise.eta, -MAX_ETA, MAX_ETA),
        phi=wrapped(joined.phi + options.phi_smearing * noise.phi),
        alive=joined.alive,
    )
    kept = replace(smeared, alive=_never_none(smeared.alive & (noise.loss >= options.loss), smeared))
    counts = [int(slots.alive.sum()) for slots in (above, joined, kept)]
    return Triggered(view=_emptied(kept), n_above_threshold=counts[0], n_merged=counts[1], n_kept=counts[2])


def energies(slots: Slots) -> Floats:
    """(N, M): E = pT cosh(eta), with eta clipped to ±5."""
    return slots.pt * np.cosh(np.clip(slots.eta, -MAX_ETA, MAX_ETA))


def _never_none(alive_NM: NDArray[np.bool_], of: Slots) -> NDArray[np.bool_]:
    """The same, and where a jet would be empty its hardest constituent."""
    empty = np.flatnonzero(~alive_NM.any(axis=1))
    hardest = np.where(of.alive[empty], of.pt[empty], -np.inf).argmax(axis=1)
    alive_NM[empty, hardest] = True
    return alive_NM


def _emptied(slots: Slots) -> Slots:
    """Dead slots hold zeros."""
    pt, eta, phi = (np.where(slots.alive, values, 0.0) for values in (slots.pt, slots.eta, slots.phi))
    return Slots(pt=pt, eta=eta, phi=phi, alive=slots.alive)
