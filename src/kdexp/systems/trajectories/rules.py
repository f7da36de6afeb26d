"""Three rules that need no model: what a student has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdexp.systems.trajectories.features import Candidates, TripFeatures
from kdexp.systems.trajectories.roadmap import MoveIndex, RoadMap
from kdexp.systems.trajectories.trips import Trips

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

PLACES = ("all", "decisions", "inner", "inner_decisions")
"""All steps; those with two candidates or more; all but each trip's last; both."""


def trivial_rules(features: TripFeatures, train: Trips, test: Trips) -> dict[str, dict[str, Any]]:
    """The test accuracy of each rule, by the places of `PLACES` (None where there is no such step), and how many steps
    there are.

    `frequent` takes the successor that train takes most often, of equals the one that train takes first, and where
    train never leaves the road the first of the map; `nearest` the candidate whose centroid is nearest to the
    destination's, of equals the last; `frequent_else_nearest` the first rule where train leaves the road, else the
    second; `chance` is a blind guess. `features` must keep all candidates.
    """
    road_map = features.road_map
    counts, since = move_counts(road_map, train)
    frequent = _most_frequent(road_map, counts, since)
    seen = np.add.reduceat(np.append(counts, 0), road_map.successor_start[:-1]) * (road_map.out_degree > 0) > 0
    steps = {place: 0 for place in PLACES}
    correct = {rule: dict.fromkeys(PLACES, 0.0) for rule in ("frequent", "nearest", "frequent_else_nearest", "chance")}
    for piece in test.pieces():
        trip, place = piece.steps()
        road, following = piece.roads[place].astype(np.int64), piece.roads[place + 1]
        candidates = features.candidates(road, np.ones(len(road), dtype=bool), piece.destination[trip].astype(np.int64))
        nearest = _nearest(candidates)
        degree = road_map.out_degree[road]
        answers = {
            "frequent": frequent[road] == following,
            "nearest": nearest == following,
            "frequent_else_nearest": np.where(seen[road], frequent[road], nearest) == following,
            "chance": 1 / degree,
        }
        for name, here in _places(degree, place, (piece.first + piece.n_steps)[trip]).items():
            steps[name] += int(here.sum())
            for rule, right in answers.items():
                correct[rule][name] += float(right[here].sum())
    shares = {rule: _shares(values, steps) for rule, values in correct.items()}
    return {**shares, "n": dict(steps)}


def move_counts(road_map: RoadMap, trips: Trips) -> tuple[Ints, Ints]:
    """(M,) twice: how often trips make each move of `RoadMap.successor`, and which of all steps is the first to make
    it; for moves that are never made that is the number of steps."""
    moves = MoveIndex(road_map)
    counts = np.zeros(len(road_map.successor), dtype=np.int64)
    since = np.full(len(counts), trips.n_steps.sum())
    done = 0
    for piece in trips.pieces():
        _, place = piece.steps()
        found = moves.find(piece.roads[place], piece.roads[place + 1])
        counts += np.bincount(found, minlength=len(counts))
        move, first = np.unique(found, return_index=True)
        since[move] = np.minimum(since[move], first + done)
        done += len(found)
    return counts, since


def _most_frequent(road_map: RoadMap, counts: Ints, since: Ints) -> Ints:
    """(R,): the successor that is taken most often; -1 of a road without successors."""
    order = np.lexsort((np.arange(len(counts)), since, -counts, road_map.move_origin()))
    first = road_map.successor[order[road_map.successor_start[:-1].clip(max=len(order) - 1)]]
    return np.where(road_map.out_degree > 0, first, -1)


def _nearest(candidates: Candidates) -> Ints:
    distance = np.where(candidates.mask, candidates.distance, np.inf)
    last = distance.shape[1] - 1 - distance[:, ::-1].argmin(axis=1)
    return candidates.road[np.arange(len(last)), last]


def _places(degree: Ints, place: Ints, end: Ints) -> Mapping[str, Bools]:
    decision, inner = degree >= 2, place + 1 < end
    return dict(zip(PLACES, (np.ones(len(place), dtype=bool), decision, inner, inner & decision), strict=True))


def _shares(correct: Mapping[str, float], steps: Mapping[str, int]) -> dict[str, float | None]:
    return {place: correct[place] / steps[place] if steps[place] else None for place in PLACES}
