"""Trips as flat arrays, and a split of them: everything a batch holds is derived when it is fetched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdexp.contracts import Batch
from kdexp.systems.trajectories.features import TripFeatures
from kdexp.systems.trajectories.roadmap import ragged_range

_TRIPS_AT_ONCE = 20_000

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trips:
    """N trips of two roads or more; trip i has `n_steps[i]` moves and so one road more, from place `first[i]` on."""

    path: Path
    roads: NDArray[np.int32]
    seconds: NDArray[np.int32]
    """When each road is entered, since the start of its trip."""
    first: Ints
    n_steps: Ints
    start: Ints
    """(N,) seconds since 1970, UTC."""
    trip: NDArray[np.str_]
    line: Ints
    """(N,): the line of the file that holds the trip."""
    n_one_road: int = 0
    """Rows that were skipped, since a trip of one road holds nothing to predict."""

    def __len__(self) -> int:
        return len(self.first)

    def take(self, index: Ints | slice) -> Trips:
        """Some of the trips; the roads and times are shared, not copied."""
        return replace(
            self,
            first=self.first[index],
            n_steps=self.n_steps[index],
            start=self.start[index],
            trip=self.trip[index],
            line=self.line[index],
        )

    def last_steps(self, n_most: int | None) -> Trips:
        """The trips cut to their last `n_most` moves, so that their destinations stay."""
        if n_most is None:
            return self
        n_steps = np.minimum(self.n_steps, n_most)
        return replace(self, first=self.first + self.n_steps - n_steps, n_steps=n_steps)

    def pieces(self) -> Iterator[Trips]:
        """All trips, some thousands at once, so that what is derived of them needs little memory."""
        for start in range(0, len(self), _TRIPS_AT_ONCE):
            yield self.take(slice(start, start + _TRIPS_AT_ONCE))

    def steps(self) -> tuple[Ints, Ints]:
        """Of every move of every trip: the trip, and the place of the road that is left; the next road is one on."""
        trip = np.repeat(np.arange(len(self)), self.n_steps)
        return trip, self.first[trip] + ragged_range(self.n_steps)

    @property
    def origin(self) -> NDArray[np.int32]:
        return self.roads[self.first]

    @property
    def destination(self) -> NDArray[np.int32]:
        return self.roads[self.first + self.n_steps]


def joined(pieces: Sequence[Trips]) -> Trips:
    """Several runs of trips of one file as one."""
    shift = np.cumsum([0, *(len(piece.roads) for piece in pieces[:-1])])
    return Trips(
        path=pieces[0].path,
        roads=np.concatenate([piece.roads for piece in pieces]),
        seconds=np.concatenate([piece.seconds for piece in pieces]),
        first=np.concatenate([piece.first + by for piece, by in zip(pieces, shift, strict=True)]),
        n_steps=np.concatenate([piece.n_steps for piece in pieces]),
        start=np.concatenate([piece.start for piece in pieces]),
        trip=np.concatenate([piece.trip for piece in pieces]),
        line=np.concatenate([piece.line for piece in pieces]),
        n_one_road=sum(piece.n_one_road for piece in pieces),
    )


def duration_statistics(trips: Trips) -> tuple[float, float]:
    """Mean and standard deviation of log1p(seconds) over all moves; the deviation is 1 where all are equal."""
    count, total, squares = 0, 0.0, 0.0
    for piece in trips.pieces():
        _, place = piece.steps()
        seconds = np.log1p((piece.seconds[place + 1] - piece.seconds[place]).astype(np.float64))
        count, total, squares = count + len(seconds), total + seconds.sum(), squares + np.square(seconds).sum()
    mean = total / count
    return float(mean), float(np.sqrt(max(squares / count - mean * mean, 0.0))) or 1.0


def lost_steps(trips: Trips, features: TripFeatures) -> tuple[Ints, Ints]:
    """The moves whose next road is cut from the candidates: the trip, and the place of the road that is left."""
    trip, place = trips.steps()
    road = trips.roads[place].astype(np.int64)
    cut = np.flatnonzero(features.may_be_cut(road))
    trip, place, road = trip[cut], place[cut], road[cut]
    candidates = features.candidates(road, np.ones(len(road), dtype=bool), trips.destination[trip].astype(np.int64))
    lost = ~(candidates.mask & (candidates.road == trips.roads[place + 1][:, None])).any(axis=-1)
    return trip[lost], place[lost]


class TripSplit:
    """One split. `clusters` are trip ids; `lengths` (N,) counts the moves, so that trips of like length may be fetched
    together."""

    def __init__(self, trips: Trips, features: TripFeatures) -> None:
        self.trips = trips
        self.clusters = trips.trip
        self.lengths = trips.n_steps
        self._features = features

    def __len__(self) -> int:
        return len(self.trips)

    def fetch(self, index: Tensor) -> Batch:
        """B trips, padded to the P moves of the longest and the K candidates of the widest choice among them.

        Student: `road` (B, P), `destination` (B,), `candidates` (B, P, K) road ids with `candidate_mask`, `label`
        (B, P) the next road's place among them, `position_mask` (B, P), `temporal` (B, P) the time of day as a share of
        it, negative in trips that start at a weekend, `distance` and `interval` (B, P, P), `metric_distance` and
        `metric_angle` (B, P, K). Teacher: `cells` (B, P + 1) of all roads, `candidate_cells` (B, P, K) with
        `candidate_mask`, `length` (B,). Targets: `next_road` is the label, `duration` (B, P) log1p of the seconds to
        the next road. Padding is 0, False, -1 in labels, NaN in `duration` and the padding token in cells.
        """
        trips, rows = self.trips, index.numpy()
        first, n_steps = trips.first[rows, None], trips.n_steps[rows]
        place = first + np.minimum(np.arange(n_steps.max(initial=1) + 1), n_steps[:, None])
        student, teacher, targets = self._features.of(
            trips.roads[place].astype(np.int64), trips.seconds[place].astype(np.int64), trips.start[rows], n_steps
        )
        return Batch(student=_tensors(student), teacher=_tensors(teacher), targets=_tensors(targets), index=index)


def _tensors(arrays: dict[str, NDArray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
