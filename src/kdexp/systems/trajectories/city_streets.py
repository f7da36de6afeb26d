"""The streets of the synthetic city: a jittered lattice with a river, a diagonal, one-way streets and some oddities."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kdexp.systems.trajectories.geometry import EARTH_RADIUS, great_circle, surface_points

SPACING = 250.0
"""Metres between crossings."""
LEAST_CROSSINGS = 6
_JITTER, _BEND = 0.22, 0.08
_DROPPED, _ONE_WAY = 0.10, 0.12
_MAIN_EVERY = 4
_BUSY = 1
"""The crossing in this row and column keeps its six streets, so that roads into it have five successors or more."""
_METRES_PER_DEGREE = np.pi / 180 * EARTH_RADIUS

Edge = tuple[int, int]
Place = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Street:
    """One directed road between crossings `u` and `v`; `vertices` are (longitude, latitude), `length` is in metres.
    `highway` is what the file says, `kind` what it means."""

    u: int
    v: int
    kind: str
    highway: str
    vertices: tuple[Place, ...]
    length: float
    one_way: bool = False
    bridge: bool = False


def city_streets(n: int, longitude: float, latitude: float, random: np.random.Generator) -> list[Street]:
    """The roads of n x n crossings around a place, n at least 6, in the order of their file; from every crossing one
    can drive to every other.

    Planted: a crossing with six streets, two bracketed classes, and one road that ends where it begins. The two roads
    of a two-way street lie on one another, and so in one cell.
    """
    kinds, bridges = _edges(n)
    arcs = _thinned(kinds, [edge for edge in kinds if _may_go(edge, kinds, bridges, n)], random)
    crossings = _crossings(n, longitude, latitude, random)
    streets = []
    for (u, v), kind in kinds.items():
        forward = _bent(crossings[u], crossings[v], random)
        for arc, vertices in (((u, v), forward), ((v, u), forward[::-1])):
            if arc in arcs:
                made = _street(arc, kind, vertices)
                streets.append(replace(made, one_way=arc[::-1] not in arcs, bridge=(u, v) in bridges))
    corner = n * (n - 1)
    return _with_bracketed_classes([*streets, _street((corner, corner), "residential", _loop(crossings[corner]))])


def successors(streets: Sequence[Street]) -> list[list[int]]:
    """Of every road the roads that start where it ends, but itself and the way back, unless that is the only exit."""
    leaving = defaultdict(list)
    for number, street in enumerate(streets):
        leaving[street.u].append(number)
    found = []
    for number, street in enumerate(streets):
        exits = [k for k in leaving[street.v] if k != number]
        found.append([k for k in exits if streets[k].v != street.u] or exits)
    return found


def _edges(n: int) -> tuple[dict[Edge, str], set[Edge]]:
    """The lattice's edges with their classes, and which of them are the river's three bridges. Crossing r * n + c is in
    row r, counted to the north, and column c."""
    kinds: dict[Edge, str] = {}
    bridges = set()
    south, columns = n // 2 - 1, {n // 6, n // 2, n - 1 - n // 6}
    for row in range(n):
        for column in range(n):
            here = row * n + column
            if column + 1 < n:
                kinds[here, here + 1] = _kind(row)
            if row + 1 < n and (row != south or column in columns):
                kinds[here, here + n] = _kind(column)
                if row == south:
                    bridges.add((here, here + n))
            if row == column and row + 1 < n and row != south:
                kinds[here, here + n + 1] = "secondary"
    return kinds, bridges


def _kind(line: int) -> str:
    return "primary" if line % _MAIN_EVERY == 0 else "residential"


def _may_go(edge: Edge, kinds: dict[Edge, str], bridges: set[Edge], n: int) -> bool:
    return kinds[edge] == "residential" and edge not in bridges and _BUSY * (n + 1) not in edge


def _thinned(kinds: dict[Edge, str], movable: list[Edge], random: np.random.Generator) -> set[Edge]:
    """The directions that may be driven: some streets dropped, then some made one-way, never so that a crossing is cut
    off."""
    arcs = {*kinds, *((v, u) for u, v in kinds)}
    n_crossings = 1 + max(v for _, v in kinds)
    shuffled = [movable[i] for i in random.permutation(len(movable))]
    n_dropped, n_one_way = round(_DROPPED * len(kinds)), round(_ONE_WAY * len(movable))
    rest = []
    for u, v in shuffled:
        without = arcs - {(u, v), (v, u)}
        if n_dropped > 0 and _connected(without, n_crossings):
            arcs, n_dropped = without, n_dropped - 1
        else:
            rest.append((u, v) if random.random() < 0.5 else (v, u))
    for arc in rest:
        if n_one_way > 0 and _connected(arcs - {arc}, n_crossings):
            arcs, n_one_way = arcs - {arc}, n_one_way - 1
    return arcs


def _connected(arcs: set[Edge], n_crossings: int) -> bool:
    """Whether every crossing leads to every other: the first reaches all, and all reach it."""
    return all(len(_reached(way)) == n_crossings for way in (arcs, {(v, u) for u, v in arcs}))


def _reached(arcs: set[Edge]) -> set[int]:
    onward = defaultdict(list)
    for u, v in arcs:
        onward[u].append(v)
    seen, pending = {0}, [0]
    while pending:
        fresh = [v for v in onward[pending.pop()] if v not in seen]
        seen.update(fresh)
        pending += fresh
    return seen


def _crossings(n: int, longitude: float, latitude: float, random: np.random.Generator) -> list[Place]:
    row, column = np.divmod(np.arange(n * n), n)
    offset = np.stack([column, row], axis=1) - (n - 1) / 2 + random.uniform(-_JITTER, _JITTER, (n * n, 2))
    degrees = offset * SPACING / _METRES_PER_DEGREE
    lon = longitude + degrees[:, 0] / np.cos(np.radians(latitude))
    return [_place(*pair) for pair in zip(lon, latitude + degrees[:, 1], strict=True)]


def _bent(start: Place, end: Place, random: np.random.Generator) -> tuple[Place, ...]:
    """Three vertices, the middle one a little off the line."""
    bend = random.uniform(-_BEND, _BEND)
    (x, y), (to_x, to_y) = start, end
    return start, _place((x + to_x) / 2 - bend * (to_y - y), (y + to_y) / 2 + bend * (to_x - x)), end


def _loop(start: Place) -> tuple[Place, ...]:
    """A way around a block to the north-west and back."""
    lon, lat = start
    aside = 0.4 * SPACING / _METRES_PER_DEGREE
    return start, _place(lon - aside, lat), _place(lon - aside, lat + aside), _place(lon, lat + aside), start


def _place(lon: float, lat: float) -> Place:
    return round(float(lon), 7), round(float(lat), 7)


def _street(arc: Edge, kind: str, vertices: tuple[Place, ...]) -> Street:
    lon, lat = np.array(vertices).T
    points = surface_points(lon, lat)
    length = round(float(great_circle(points[1:], points[:-1]).sum()), 2)
    return Street(u=arc[0], v=arc[1], kind=kind, highway=kind, vertices=vertices, length=length)


def _with_bracketed_classes(streets: list[Street]) -> list[Street]:
    """Two streets that mappers gave two classes each, as far as the length of the city goes: one whose first class
    counts, one whose second does."""
    residential = [number for number, street in enumerate(streets) if street.kind == "residential"]
    fields = ("['residential', 'living_street']", "['unclassified', 'residential']")
    changed = dict(zip((residential[0], residential[len(residential) // 2]), fields, strict=True))
    return [replace(street, highway=changed.get(number, street.highway)) for number, street in enumerate(streets)]
