"""A road map as arrays: the roads, the moves between them, the graphs of roads and of zones that the student reads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kdexp.systems.trajectories.geometry import angle_between, bearing, great_circle, surface_points

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Roads:
    """What the map's two files hold: R roads, each a polyline of at least two vertices, and moves in file order."""

    vertex_lon: Floats
    vertex_lat: Floats
    vertex_start: Ints
    """(R + 1,): road i has the vertices vertex_start[i] to vertex_start[i + 1] - 1."""
    length: Floats
    """(R,) metres."""
    class_of_road: Ints
    class_names: tuple[str, ...]
    moves: Ints
    """(2, M): from, to."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RoadMap:
    """R roads, C classes, Z zones, M moves. Float arrays of 32 bits and integer arrays are what models read.

    `successor[successor_start[r] : successor_start[r + 1]]` are the roads that road r may move to, in file order: the
    place of the next road among them is the label. `edges` joins any two roads that share an end vertex, both ways.
    """

    n_roads: int
    n_zones: int
    n_classes: int
    class_names: tuple[str, ...]
    length_scaled: Floats32
    lon_scaled: Floats32
    lat_scaled: Floats32
    road_class: Ints
    zone: Ints
    edges: Ints
    """(2, E): source, target, sorted."""
    edge_features: Floats32
    """(E, 2): the angle between the roads' chords as a share of π; 1 where the target is a successor of the source."""
    zone_edges: Ints
    zone_weights: Floats32
    successor_start: Ints
    successor: Ints
    centroid_lon: Floats
    centroid_lat: Floats
    vertex_lon: Floats
    vertex_lat: Floats
    first_vertex: Ints
    """(R,): where a road's first vertex lies in `vertex_lon` and `vertex_lat`."""
    last_vertex: Ints
    fingerprint: str
    """A hash of the roads and the moves; zones are not in it."""

    @property
    def out_degree(self) -> Ints:
        """(R,): how many successors each road has."""
        return np.diff(self.successor_start)

    @property
    def loops(self) -> NDArray[np.bool_]:
        """(R,): whether a road ends where it begins."""
        lon, lat = self.vertex_lon, self.vertex_lat
        return (lon[self.first_vertex] == lon[self.last_vertex]) & (lat[self.first_vertex] == lat[self.last_vertex])

    def move_origin(self) -> Ints:
        """(M,): the road that each entry of `successor` follows."""
        return np.repeat(np.arange(self.n_roads), self.out_degree)


def build_road_map(roads: Roads) -> RoadMap:
    """The map with all roads in one zone; `with_zones` gives it others."""
    n = len(roads.length)
    order = np.argsort(roads.moves[0], kind="stable")
    origin, successor = roads.moves[:, order]
    lon, lat = _centroids(roads)
    first, last = roads.vertex_start[:-1], roads.vertex_start[1:] - 1
    edges = _edges(roads, first, last)
    ends = roads.vertex_lon[first], roads.vertex_lat[first], roads.vertex_lon[last], roads.vertex_lat[last]
    chord = bearing(*ends)
    reachable = np.isin(edges[0] * n + edges[1], origin * n + successor)
    features = [angle_between(chord[edges[0]], chord[edges[1]]), reachable]
    return RoadMap(
        n_roads=n,
        n_zones=1,
        n_classes=len(roads.class_names),
        class_names=roads.class_names,
        length_scaled=_scaled(np.log1p(roads.length)),
        lon_scaled=_scaled(lon),
        lat_scaled=_scaled(lat),
        road_class=roads.class_of_road,
        zone=np.zeros(n, dtype=np.int64),
        edges=edges,
        edge_features=np.stack(features, axis=1).astype(np.float32),
        zone_edges=np.zeros((2, 0), dtype=np.int64),
        zone_weights=np.zeros(0, dtype=np.float32),
        successor_start=np.searchsorted(origin, np.arange(n + 1)),
        successor=successor,
        centroid_lon=lon,
        centroid_lat=lat,
        vertex_lon=roads.vertex_lon,
        vertex_lat=roads.vertex_lat,
        first_vertex=first,
        last_vertex=last,
        fingerprint=_fingerprint(roads),
    )


def with_zones(road_map: RoadMap, zone: Ints, changes: Ints) -> RoadMap:
    """The same map in zones: `zone` (R,), and `changes` (Z, Z), how often trips pass from one zone into another.

    An edge's weight is its count over the roots of both zones' row sums, which count as 1 at least.
    """
    root = np.sqrt(np.maximum(changes.sum(axis=1), 1))
    edges = np.stack(changes.nonzero())
    weights = changes[edges[0], edges[1]] / root[edges[0]] / root[edges[1]]
    return replace(road_map, zone=zone, n_zones=len(changes), zone_edges=edges, zone_weights=weights.astype(np.float32))


class MoveIndex:
    """Finds moves: where a pair of roads stands in `RoadMap.successor`."""

    def __init__(self, road_map: RoadMap) -> None:
        keys = road_map.move_origin() * road_map.n_roads + road_map.successor
        self._n_roads = road_map.n_roads
        self._order = np.argsort(keys)
        self._keys = keys[self._order]

    def find(self, origin: NDArray[np.integer], destination: NDArray[np.integer]) -> Ints:
        """The place of each move, -1 where it is not allowed. Roads must lie within the map."""
        if not len(self._keys):
            return np.full(len(origin), -1)
        wanted = origin.astype(np.int64) * self._n_roads + destination
        place = np.searchsorted(self._keys, wanted).clip(max=len(self._keys) - 1)
        return np.where(self._keys[place] == wanted, self._order[place], -1)


def ragged_range(counts: Ints) -> Ints:
    """0 … n - 1 for every n of `counts`, one after the other."""
    starts = np.cumsum(counts) - counts
    return np.arange(counts.sum()) - np.repeat(starts, counts)


def _centroids(roads: Roads) -> tuple[Floats, Floats]:
    """Each polyline's centre: the mean of its segments' middles, weighed by their length in metres; of a polyline
    without length, its first vertex."""
    first = roads.vertex_start[:-1]
    inner = np.ones(len(roads.vertex_lon), dtype=bool)
    inner[first] = False
    after = np.flatnonzero(inner)  # every vertex but a road's first ends a segment
    points = surface_points(roads.vertex_lon, roads.vertex_lat)
    weight = great_circle(points[after], points[after - 1])
    segments = np.diff(roads.vertex_start) - 1
    start = np.cumsum(segments) - segments
    total = np.add.reduceat(weight, start)
    centres = []
    for degrees in (roads.vertex_lon, roads.vertex_lat):
        # From the first vertex, so that no digits are lost.
        middle = (degrees[after] + degrees[after - 1]) / 2 - np.repeat(degrees[first], segments)
        moment = np.add.reduceat(weight * middle, start)
        centres.append(degrees[first] + np.divide(moment, total, out=np.zeros_like(total), where=total > 0))
    return centres[0], centres[1]


def _edges(roads: Roads, first: Ints, last: Ints) -> Ints:
    """(2, E): all pairs of different roads that share an end vertex, by its exact coordinates."""
    n = len(first)
    ends = np.concatenate([first, last])
    places = np.stack([roads.vertex_lon[ends], roads.vertex_lat[ends]], axis=1)
    place = np.unique(places, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(place, kind="stable")
    road = np.tile(np.arange(n), 2)[order]
    size = np.bincount(place)
    start = np.cumsum(size) - size
    mates = size[place[order]]
    source = np.repeat(road, mates)
    target = road[np.repeat(start[place[order]], mates) + ragged_range(mates)]
    pairs = np.unique((source * n + target)[source != target])
    return np.stack([pairs // n, pairs % n])


def _scaled(values: Floats) -> Floats32:
    """Mean 0 and standard deviation 1 over all roads; zeros where all are equal."""
    centred = values - values.mean()
    spread = centred.std()
    return (centred / spread if spread > 0 else np.zeros_like(values)).astype(np.float32)


def _fingerprint(roads: Roads) -> str:
    digest = hashlib.sha256(repr(roads.class_names).encode())
    for array in (roads.vertex_lon, roads.vertex_lat, roads.vertex_start, roads.length, roads.class_of_road):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(np.ascontiguousarray(roads.moves).tobytes())
    return digest.hexdigest()[:16]
