"""Zones: groups of neighbouring roads, from a file or made here, and how often trips pass between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from kdexp.errors import ConfigError
from kdexp.systems.trajectories.geometry import flat_metres
from kdexp.systems.trajectories.trips import Trips

_ROADS_A_ZONE = 35
_ROUNDS = 20

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ZoneOptions:
    """Where zones come from: `file` reads road_network_partition, `built_in` makes `count` of them (one for every 35
    roads where it is null)."""

    source: Literal["file", "built_in"] = "file"
    count: Annotated[int, Ge(1)] | None = None


def balanced_zones(lon: Floats, lat: Floats, n_zones: int | None = None) -> Ints:
    """(R,): each road's zone, from its centroid; sizes differ by one at most, and the same map gives the same zones.

    Balanced two-means, repeated: a set is split in the ratio of the zones that each side shall hold, by where roads lie
    along the line between the two means, which is the best split of that size for these means.

    Raises ConfigError where there are more zones than roads.
    """
    count = max(round(len(lon) / _ROADS_A_ZONE), 1) if n_zones is None else n_zones
    if count > len(lon):
        raise ConfigError(f"dataset.zones.count: is {count}, but the map has only {len(lon)} roads")
    places = flat_metres(lon, lat)
    zone = np.empty(len(lon), dtype=np.int64)
    pending = [(np.arange(len(lon)), 0, count)]
    while pending:
        roads, first, n = pending.pop()
        if n == 1:
            zone[roads] = first
            continue
        near, far = _halves(places[roads], (n // 2) * len(roads) // n)
        pending += [(roads[near], first, n // 2), (roads[far], first + n // 2, n - n // 2)]
    return zone


def zone_changes(trips: Iterable[Trips], zone: Ints) -> Ints:
    """(Z, Z): how often trips pass from one zone into another; the diagonal is 0."""
    n = int(zone.max()) + 1
    counts = np.zeros(n * n, dtype=np.int64)
    for piece in trips:
        _, place = piece.steps()
        here, there = zone[piece.roads[place]], zone[piece.roads[place + 1]]
        counts += np.bincount((here * n + there)[here != there], minlength=n * n)
    return counts.reshape(n, n)


def _halves(places: Floats, size: int) -> tuple[Ints, Ints]:
    """Two sets of places, `size` of them in the first: begun along the wider axis, then until they stay the same."""
    axis = np.zeros(2)
    axis[np.ptp(places, axis=0).argmax()] = 1
    near = np.empty(0, dtype=np.int64)
    for _ in range(_ROUNDS):
        order = np.argsort(places @ axis, kind="stable")
        before, near, far = near, np.sort(order[:size]), np.sort(order[size:])
        axis = places[far].mean(axis=0) - places[near].mean(axis=0)
        if np.array_equal(before, near):
            break
    return near, far
