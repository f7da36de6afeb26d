"""Greedy merging of near constituents, for many jets at once and exactly as one jet after the other.

The rule: pivots i in slot order; for j > i in slot order, both alive, if ΔR(i, j) < R then i takes the sum of the
transverse momenta and the momentum-weighted position, and j dies. The pivot's new position counts for the next j.

A pivot without a partner inside R at the start never moves, so it never merges. For the others the candidates are the
pairs inside 2 R; the k-th candidate of every jet is tested again, on the positions of that moment, in one step. That
misses nothing while no pivot has gone further than R; jets where one has, which is rare, are done again with all pairs.

Shape suffixes: N jets, M slots, P pivots that move, C candidates, K jets at work in one step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
_CHUNK_JETS = 8_192
_REACH = 2.0
_FULL_TURN = 2 * np.pi


@dataclass(kw_only=True)
class Slots:
    """Constituents of N jets, each (N, M): pT in GeV, eta, phi, and which are alive."""

    pt: Floats
    eta: Floats
    phi: Floats
    alive: NDArray[np.bool_]

    def copy(self) -> Slots:
        return Slots(pt=self.pt.copy(), eta=self.eta.copy(), phi=self.phi.copy(), alive=self.alive.copy())

    def rows(self, which: slice | Places) -> Slots:
        return Slots(pt=self.pt[which], eta=self.eta[which], phi=self.phi[which], alive=self.alive[which])

    def put(self, which: slice | Places, other: Slots) -> None:
        """Writes the jets of `other` in these rows."""
        self.pt[which], self.eta[which] = other.pt, other.eta
        self.phi[which], self.alive[which] = other.phi, other.alive


def wrapped(angle: Floats) -> Floats:
    """The same angle in [-π, π]."""
    return angle - _FULL_TURN * np.rint(angle / _FULL_TURN)


def merged(slots: Slots, radius: float) -> Slots:
    """The jets after merging, a new object; slots are neither sorted nor compacted. A radius of 0 merges nothing."""
    result = slots.copy()
    if radius <= 0 or slots.pt.shape[1] < 2:
        return result
    for start in range(0, len(slots.pt), _CHUNK_JETS):
        chunk = slice(start, start + _CHUNK_JETS)
        result.put(chunk, _merged_chunk(slots.rows(chunk), radius))
    return result


def _merged_chunk(slots: Slots, radius: float) -> Slots:
    result = slots.copy()
    strayed = _merge(result, _candidates(slots, radius, _REACH * radius), radius)
    if len(strayed):
        again = slots.rows(strayed)
        _merge(again, _candidates(again, radius, np.inf), radius)
        result.put(strayed, again)
    return result


def _candidates(slots: Slots, radius: float, reach: float) -> tuple[Places, Places, Places]:
    """(jet, pivot, partner) of the pairs to be tested, (C,) each and in this order: both alive, closer than `reach`,
    and the pivot has a partner inside the radius."""
    n_slots = slots.pt.shape[1]
    jet_P, pivot_P = np.nonzero(_with_a_partner(slots, radius))
    near_PM = np.abs(slots.eta[jet_P] - slots.eta[jet_P, pivot_P, None]) < reach
    near_PM &= slots.alive[jet_P] & (np.arange(n_slots) > pivot_P[:, None])
    place_C, partner_C = np.nonzero(near_PM)
    jet_C, pivot_C = jet_P[place_C], pivot_P[place_C]
    kept = _distances(slots, jet_C, pivot_C, partner_C) < reach
    return jet_C[kept], pivot_C[kept], partner_C[kept]


def _with_a_partner(slots: Slots, radius: float) -> NDArray[np.bool_]:
    """(N, M): which constituents have a later one inside the radius. One slot at a time, to keep the arrays small."""
    found = np.zeros_like(slots.alive)
    for pivot in range(slots.pt.shape[1] - 1):
        near = np.abs(slots.eta[:, pivot + 1 :] - slots.eta[:, pivot, None]) < radius
        near &= slots.alive[:, pivot + 1 :] & slots.alive[:, pivot, None]
        jet, behind = np.nonzero(near)
        inside = _distances(slots, jet, np.full_like(jet, pivot), behind + pivot + 1) < radius
        found[jet[inside], pivot] = True
    return found


def _distances(slots: Slots, jet: Places, one: Places, other: Places) -> Floats:
    """ΔR of pairs of slots."""
    turn = wrapped(slots.phi[jet, one] - slots.phi[jet, other])
    return np.sqrt((slots.eta[jet, one] - slots.eta[jet, other]) ** 2 + turn**2)


def _merge(slots: Slots, candidates: tuple[Places, Places, Places], radius: float) -> Places:
    """Merges in place. Returns the jets in which a pivot went further than the candidates' reach allows for."""
    jet_C, pivot_C, partner_C = candidates
    n_slots = slots.pt.shape[1]
    pt, eta, phi, alive = (values.reshape(-1) for values in (slots.pt, slots.eta, slots.phi, slots.alive))
    first_eta, first_phi = eta.copy(), phi.copy()
    strays = np.zeros(len(slots.pt), dtype=bool)
    for step in _steps(jet_C, len(slots.pt)):
        pivot_K, partner_K = jet_C[step] * n_slots + pivot_C[step], jet_C[step] * n_slots + partner_C[step]
        both_K = alive[pivot_K] & alive[partner_K]
        pivot_K, partner_K = pivot_K[both_K], partner_K[both_K]
        turn_K = wrapped(phi[pivot_K] - phi[partner_K])
        near_K = np.sqrt((eta[pivot_K] - eta[partner_K]) ** 2 + turn_K**2) < radius
        if not near_K.any():
            continue
        pivot_K, partner_K = pivot_K[near_K], partner_K[near_K]
        one, other = pt[pivot_K], pt[partner_K]
        sine = one * np.sin(phi[pivot_K]) + other * np.sin(phi[partner_K])
        cosine = one * np.cos(phi[pivot_K]) + other * np.cos(phi[partner_K])
        pt[pivot_K] = one + other
        eta[pivot_K] = (one * eta[pivot_K] + other * eta[partner_K]) / (one + other)
        phi[pivot_K] = np.arctan2(sine, cosine)
        alive[partner_K] = False
        drift_K = np.hypot(eta[pivot_K] - first_eta[pivot_K], wrapped(phi[pivot_K] - first_phi[pivot_K]))
        strays[pivot_K[drift_K > (_REACH - 1) * radius] // n_slots] = True
    return np.flatnonzero(strays)


def _steps(jet_C: Places, n_jets: int) -> list[Places]:
    """The places of every jet's first candidate, then those of every jet's second one, and so on."""
    counts = np.bincount(jet_C, minlength=n_jets)
    rank_C = np.arange(len(jet_C)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.split(np.argsort(rank_C, kind="stable"), np.cumsum(np.bincount(rank_C))[:-1])
