"""Small road maps and batches of trips, made without files, for the tests of the trajectories' models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from kdexp.contracts import Batch
from kdexp.systems.trajectories.grid import Grid, build_grid
from kdexp.systems.trajectories.roadmap import RoadMap, Roads, build_road_map, with_zones

CELL = 0.001


def lattice(side: int = 4, spacing: float = 0.002, n_zones: int = 3) -> RoadMap:
    """Both directions of all edges between side x side crossings, no U-turns; three classes, a few zones."""
    crossings = np.arange(side * side).reshape(side, side)
    pairs = np.concatenate(
        [
            np.stack([crossings[:, :-1], crossings[:, 1:]]).reshape(2, -1),
            np.stack([crossings[:-1], crossings[1:]]).reshape(2, -1),
        ],
        axis=1,
    )
    start, end = np.concatenate([pairs, pairs[::-1]], axis=1)
    n = len(start)
    ends = np.stack([start, end], axis=1).reshape(-1)
    moves = [(a, b) for a in range(n) for b in range(n) if end[a] == start[b] and end[b] != start[a]]
    roads = Roads(
        vertex_lon=-8.0 + spacing * (ends % side),
        vertex_lat=41.0 + spacing * (ends // side),
        vertex_start=np.arange(0, 2 * n + 1, 2),
        length=np.linspace(100.0, 300.0, n),
        class_of_road=np.arange(n) % 3,
        class_names=("primary", "residential", "secondary"),
        moves=np.array(moves).T,
    )
    zone = np.arange(n) * n_zones // n
    changes = np.random.default_rng(0).integers(0, 9, (n_zones, n_zones)) * (1 - np.eye(n_zones, dtype=np.int64))
    return with_zones(build_road_map(roads), zone, changes)


def grid_of(road_map: RoadMap, size_degrees: float = CELL) -> Grid:
    return build_grid(road_map, size_degrees)


def successors(road_map: RoadMap, road: int) -> np.ndarray:
    return road_map.successor[road_map.successor_start[road] : road_map.successor_start[road + 1]]


def walks(road_map: RoadMap, lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Random walks with so many decisions each."""
    random = np.random.default_rng(seed)
    trips = []
    for length in lengths:
        trip = [int(random.integers(road_map.n_roads))]
        for _ in range(length):
            trip.append(int(random.choice(successors(road_map, trip[-1]))))
        trips.append(trip)
    return trips


def batch_of(
    road_map: RoadMap, grid: Grid, trips: Sequence[Sequence[int]], *, positions: int = 0, candidates: int = 0
) -> Batch:
    """The batch of these trips, padded to their own maximum or, where that is more, to the given sizes."""
    n, length = len(trips), max(positions, *(len(trip) - 1 for trip in trips))
    width = max(candidates, *(len(successors(road_map, r)) for trip in trips for r in trip[:-1]))
    road = torch.zeros(n, length, dtype=torch.int64)
    label = torch.full((n, length), -1)
    seconds = torch.full((n, length), torch.nan)
    cells = torch.full((n, length + 1), grid.pad)
    choice = torch.zeros(n, length, width, dtype=torch.int64)
    mask = torch.zeros(n, length, width, dtype=torch.bool)
    metric = torch.zeros(2, n, length, width)
    relation = torch.zeros(2, n, length, length)
    temporal = torch.zeros(n, length)
    for i, trip in enumerate(trips):
        steps = len(trip) - 1
        here = torch.Generator().manual_seed(sum(trip))
        road[i, :steps] = torch.tensor(trip[:-1])
        cells[i, : steps + 1] = torch.from_numpy(grid.cell_of_road[trip])
        seconds[i, :steps] = 5 + 60 * torch.rand(steps, generator=here)
        temporal[i, :steps] = torch.rand(steps, generator=here)
        relation[:, i, :steps, :steps] = torch.rand(2, steps, steps, generator=here)
        for t, (now, then) in enumerate(pairwise(trip)):
            options = successors(road_map, now)
            choice[i, t, : len(options)] = torch.from_numpy(options)
            mask[i, t, : len(options)] = True
            metric[:, i, t, : len(options)] = torch.rand(2, len(options), generator=here)
            label[i, t] = int(np.flatnonzero(options == then)[0])
    length_N = torch.tensor([len(trip) - 1 for trip in trips])
    candidate_cells = torch.from_numpy(grid.cell_of_road)[choice] * mask
    student: dict[str, Tensor] = {
        "road": road,
        "position_mask": mask.any(dim=-1),
        "temporal": temporal,
        "distance": relation[0],
        "interval": relation[1],
        "destination": torch.tensor([trip[-1] for trip in trips]),
        "candidates": choice,
        "candidate_mask": mask,
        "metric_distance": metric[0],
        "metric_angle": metric[1],
        "label": label,
    }
    teacher = {"cells": cells, "candidate_cells": candidate_cells, "candidate_mask": mask, "length": length_N}
    targets = {"next_road": label, "duration": seconds.log1p()}
    return Batch(student=student, teacher=teacher, targets=targets, index=torch.arange(n))
