"""What a step of a trip looks like to the student and to the teacher, for many trips at once.

Shape suffixes: B trips, P positions (moves, padded), K candidates (padded), all padded to the most in the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kdexp.systems.trajectories.geometry import angle_between, bearing, great_circle, surface_points
from kdexp.systems.trajectories.grid import Grid
from kdexp.systems.trajectories.roadmap import RoadMap

MOST_METRES = 1000.0
MOST_SECONDS = 300.0
_DAY = 86_400
_FIRST_WEEKDAY = 3  # 1970 began on a Thursday, counted from Monday as 0
_FAR = 1e9  # metres, for candidates that are padding

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Arrays = dict[str, NDArray]


class Candidates(NamedTuple):
    """The roads that may come next, packed from the left: ids, which of them are real, and the two metrics in [0, 1]
    and above, each (..., K); `move` is the place of each in `RoadMap.successor`."""

    road: Ints
    mask: NDArray[np.bool_]
    distance: NDArray[np.float32]
    angle: NDArray[np.float32]
    move: Ints


class TripFeatures:
    """Derives features from a road map.

    With `candidate_top_k` only that many candidates nearest to the destination are kept, in their order in the map.
    With `legacy_angle` longitude and latitude are swapped in `metric_angle`, as in the first publication of the
    student.
    """

    def __init__(
        self, road_map: RoadMap, grid: Grid, *, candidate_top_k: int | None = None, legacy_angle: bool = False
    ) -> None:
        self.road_map = road_map
        self.grid = grid
        self.candidate_top_k = candidate_top_k
        self._out_degree = road_map.out_degree
        self._centre = surface_points(road_map.centroid_lon, road_map.centroid_lat)
        lon, lat = road_map.vertex_lon[road_map.last_vertex], road_map.vertex_lat[road_map.last_vertex]
        self._end_x, self._end_y = (lat, lon) if legacy_angle else (lon, lat)
        self._move_bearing = self._bearing(road_map.move_origin(), road_map.successor)

    def may_be_cut(self, road: Ints) -> NDArray[np.bool_]:
        """Whether a road has more successors than are kept."""
        return self._out_degree[road] > (self.candidate_top_k or self._out_degree.max())

    def candidates(self, road: Ints, mask: NDArray[np.bool_], destination: Ints) -> Candidates:
        """The candidates of every road (...), on the way to its destination (...); none where the mask is False.

        The distance is log1p((d - least d) / 100) of the metres between centroids of candidate and destination. The
        angle is that at the road's end between the ends of candidate and destination, as a share of π.
        """
        degree = np.where(mask, self._out_degree[road], 0)
        place = np.arange(degree.max(initial=1))
        real = place < degree[..., None]
        move = np.where(real, self.road_map.successor_start[road][..., None] + place, 0)
        metres = great_circle(self._centre[self.road_map.successor[move]], self._centre[destination][..., None, :])
        metres = np.where(real, metres, _FAR)
        if self.candidate_top_k is not None and self.candidate_top_k < real.shape[-1]:
            nearest = np.argsort(metres, axis=-1, kind="stable")[..., : self.candidate_top_k]
            kept = np.sort(nearest, axis=-1)
            real, move, metres = (np.take_along_axis(array, kept, axis=-1) for array in (real, move, metres))
        beyond = metres - metres.min(axis=-1, keepdims=True)
        apart = angle_between(self._move_bearing[move], self._bearing(road, destination)[..., None])
        return Candidates(
            road=np.where(real, self.road_map.successor[move], 0),
            mask=real,
            distance=np.where(real, np.log1p(beyond / 100), 0).astype(np.float32),
            angle=np.where(real, apart, 0).astype(np.float32),
            move=move,
        )

    def of(self, roads: Ints, seconds: Ints, start: Ints, n_steps: Ints) -> tuple[Arrays, Arrays, Arrays]:
        """Student, teacher and targets of trips: roads and seconds since the start (B, P + 1), starts in seconds since
        1970 (B,) and lengths (B,); behind a trip's end its last road and time are repeated."""
        place = np.arange(roads.shape[1])
        mask, on_way = place[:-1] < n_steps[:, None], place <= n_steps[:, None]
        destination = roads[np.arange(len(roads)), n_steps]
        road = np.where(mask, roads[:, :-1], 0)
        candidates = self.candidates(road, mask, np.broadcast_to(destination[:, None], road.shape))
        label = _label(candidates, roads[:, 1:])
        student = {
            "road": road,
            "position_mask": mask,
            "temporal": np.where(mask, _time_of_day(seconds[:, :-1], start), 0).astype(np.float32),
            "distance": _near(self._centre[road], mask, MOST_METRES),
            "interval": _near(seconds[:, :-1, None], mask, MOST_SECONDS),
            "destination": destination,
            "candidates": candidates.road,
            "candidate_mask": candidates.mask,
            "metric_distance": candidates.distance,
            "metric_angle": candidates.angle,
            "label": label,
        }
        cells, pad = self.grid.cell_of_road, self.grid.pad
        teacher = {
            "cells": np.where(on_way, cells[roads], pad),
            "candidate_cells": np.where(candidates.mask, cells[candidates.road], pad),
            "candidate_mask": candidates.mask.copy(),
            "length": n_steps.copy(),
        }
        duration = np.where(label >= 0, np.log1p(np.diff(seconds, axis=1)), np.nan).astype(np.float32)
        return student, teacher, {"next_road": label.copy(), "duration": duration}

    def _bearing(self, origin: Ints, to: Ints) -> Floats:
        """From the end of one road to the end of another."""
        return bearing(self._end_x[origin], self._end_y[origin], self._end_x[to], self._end_y[to])


def _label(candidates: Candidates, following: Ints) -> Ints:
    """(B, P): the place of the next road among the candidates; -1 on padding and where it is not among them."""
    true = candidates.mask & (candidates.road == following[..., None])
    return np.where(true.any(axis=-1), true.argmax(axis=-1), -1)


def _time_of_day(seconds: Ints, start: Ints) -> Floats:
    """(B, P): the share of the day that has passed, in UTC, negative in trips that start on Saturday or Sunday."""
    weekend = (start // _DAY + _FIRST_WEEKDAY) % 7 >= 5
    share = (start[:, None] + seconds) % _DAY / _DAY
    return np.where(weekend[:, None], -share, share)


def _near(places: NDArray, mask: NDArray[np.bool_], most: float) -> NDArray[np.float32]:
    """(B, P, P): how far apart places (B, P, D) are, as a share of `most`, 1 at most; 0 on padding.

    Of centroids on the sphere it is the chord, which below a kilometre is the great circle to nine digits. Of seconds
    it is absolute, so midnight is no border.
    """
    # From each trip's first place, so that 32 bits hold millimetres.
    here = torch.from_numpy((places - places[:, :1]).astype(np.float32))
    square = torch.zeros(here.shape[0], here.shape[1], here.shape[1])
    for axis in here.unbind(dim=-1):
        apart = axis[:, :, None] - axis[:, None, :]
        square.addcmul_(apart, apart)
    real = torch.from_numpy(mask).float()
    near = square.sqrt_().clamp_(max=most).div_(most)
    return near.mul_(real[:, :, None]).mul_(real[:, None, :]).numpy()
