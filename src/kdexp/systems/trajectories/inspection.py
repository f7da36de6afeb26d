"""Counts and dirt of a road map and its trips, for `data action=inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdexp.contracts import SPLITS, SplitName
from kdexp.systems.trajectories.features import TripFeatures
from kdexp.systems.trajectories.mapfiles import MapDirt
from kdexp.systems.trajectories.roadmap import ragged_range
from kdexp.systems.trajectories.rules import trivial_rules
from kdexp.systems.trajectories.trips import Trips

_DAY = 86_400
_HASH_SEED = 20_191_125

TripsBySplit = Mapping[SplitName, Trips]


def inspect_trips(features: TripFeatures, trips: TripsBySplit, dirt: MapDirt) -> dict[str, Any]:
    """Everything that `data action=inspect` shows below the head; `prefix_trips` are those whose roads begin another
    trip of any split, `repeated_trips` those with the same roads as an earlier one."""
    uncut = TripFeatures(features.road_map, features.grid)
    rules = trivial_rules(uncut, trips["train"], trips["test"])
    prefix, repeated = _prefixes(trips)
    splits = {
        name: _counts(features, trips[name]) | {"prefix_trips": prefix[name], "repeated_trips": repeated[name]}
        for name in SPLITS
    }
    return {
        "map": _map_counts(features, dirt),
        "roads_by_out_degree": _histogram(features.road_map.out_degree),
        "roads_by_class": _by_class(features),
        "blank_fields": dirt.blank_fields,
        "splits": splits,
        "test_and_train": _overlap(features, trips),
        "test_accuracy_of_rules": {
            rule: {place: value if value is None else round(value, 4) for place, value in values.items()}
            for rule, values in rules.items()
        },
    }


def _map_counts(features: TripFeatures, dirt: MapDirt) -> dict[str, Any]:
    road_map, grid = features.road_map, features.grid
    into = np.bincount(road_map.successor, minlength=road_map.n_roads)
    return {
        "roads": road_map.n_roads,
        "moves": len(road_map.successor),
        "moves_listed_twice": dirt.repeated_moves,
        "out_degree_mean": round(len(road_map.successor) / road_map.n_roads, 3),
        "without_successor": int((road_map.out_degree == 0).sum()),
        "without_predecessor": int((into == 0).sum()),
        "loop_roads": int(road_map.loops.sum()),
        "bracketed_classes": dirt.bracketed_classes,
        "pairs_that_share_an_end": road_map.edges.shape[1],
        "zones": road_map.n_zones,
        "zone_pairs_in_train": road_map.zone_edges.shape[1],
        "cells": f"{grid.n_rows} x {grid.n_columns}",
        "tokens": grid.vocabulary,
        "fingerprint": road_map.fingerprint,
    }


def _counts(features: TripFeatures, trips: Trips) -> dict[str, Any]:
    degree = features.road_map.out_degree
    steps, decisions, shared = 0, 0, 0
    for piece in trips.pieces():
        _, place = piece.steps()
        here = degree[piece.roads[place]]
        steps, decisions = steps + len(place), decisions + int((here >= 2).sum())
        shared += int(_shares_a_cell(features)[piece.roads[place]].sum())
    weekday = (trips.start // _DAY + 3) % 7
    last = trips.start + trips.seconds[trips.first + trips.n_steps]
    return {
        "trips": len(trips),
        "steps": steps,
        "decisions": decisions,
        "decisions_share": round(decisions / steps, 4),
        "decisions_with_a_shared_cell": round(shared / max(decisions, 1), 4),
        "roads_mean": round(steps / len(trips) + 1, 2),
        "roads_most": int(trips.n_steps.max()) + 1,
        "one_road_rows_skipped": trips.n_one_road,
        "over_midnight": int((trips.start // _DAY != last // _DAY).sum()),
        "at_weekend": int((weekday >= 5).sum()),
    }


def _shares_a_cell(features: TripFeatures) -> NDArray[np.bool_]:
    """(R,): whether two successors of a road lie in one cell."""
    road_map = features.road_map
    origin, cell = road_map.move_origin(), features.grid.cell_of_road[road_map.successor]
    order = np.lexsort((cell, origin))
    same = (np.diff(origin[order]) == 0) & (np.diff(cell[order]) == 0)
    return np.bincount(origin[order][1:][same], minlength=road_map.n_roads) > 0


def _histogram(values: NDArray[np.int64]) -> dict[str, int]:
    return {str(value): int(count) for value, count in enumerate(np.bincount(values)) if count}


def _by_class(features: TripFeatures) -> dict[str, int]:
    counts = Counter(features.road_map.road_class.tolist())
    return {name or "(blank)": counts[number] for number, name in enumerate(features.road_map.class_names)}


def _overlap(features: TripFeatures, trips: TripsBySplit) -> dict[str, Any]:
    """What test has in common with train; pairs are (first road, last road)."""
    train, test = trips["train"], trips["test"]
    n = features.road_map.n_roads
    pairs = {name: one.origin.astype(np.int64) * n + one.destination for name, one in trips.items()}
    seen = np.zeros(n, dtype=bool)
    seen[np.concatenate([_roads(piece) for piece in train.pieces()])] = True
    roads = np.concatenate([_roads(piece) for piece in test.pieces()])
    ids = np.concatenate([one.trip for one in trips.values()])
    return {
        "od_pairs_of_test": len(np.unique(pairs["test"])),
        "of_these_in_train": int(np.isin(np.unique(pairs["test"]), pairs["train"]).sum()),
        "test_trips_with_od_in_train": int(np.isin(pairs["test"], pairs["train"]).sum()),
        "roads_seen_in_train": int(seen.sum()),
        "share_of_test_roads_unseen_in_train": round(float(1 - seen[roads].mean()), 4),
        "trip_ids_used_twice": len(ids) - len(np.unique(ids)),
    }


def _roads(trips: Trips) -> NDArray[np.int32]:
    """All roads of all trips, one after the other."""
    count = trips.n_steps + 1
    return trips.roads[np.repeat(trips.first, count) + ragged_range(count)]


def _prefixes(trips: TripsBySplit) -> tuple[dict[SplitName, int], dict[SplitName, int]]:
    """By split, how many trips begin another one, and how many have the roads of an earlier one.

    Every beginning of every trip has a number, a sum of its roads times a random weight of their place, so equal
    beginnings have equal numbers; that two others have one is all but ruled out by its 64 bits.
    """
    most = max(int(one.n_steps.max()) for one in trips.values())
    weights = np.random.default_rng(_HASH_SEED).integers(0, 2**63, most + 1, dtype=np.uint64) * np.uint64(
        2
    ) + np.uint64(1)
    whole, shorter = {}, []
    for name, one in trips.items():
        parts = [_beginnings(piece, weights) for piece in one.pieces()]
        whole[name] = np.concatenate([last for last, _ in parts])
        shorter += [np.unique(begun) for _, begun in parts]
    begun = np.unique(np.concatenate(shorter))
    prefix = {name: int(np.isin(numbers, begun).sum()) for name, numbers in whole.items()}
    first = np.zeros(sum(map(len, whole.values())), dtype=bool)
    first[np.unique(np.concatenate(list(whole.values())), return_index=True)[1]] = True
    ends = np.cumsum([len(numbers) for numbers in whole.values()])
    repeated = [int((~part).sum()) for part in np.split(first, ends[:-1])]
    return prefix, dict(zip(whole, repeated, strict=True))


def _beginnings(trips: Trips, weights: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The numbers of whole trips (N,), and those of all their beginnings of two roads or more that leave one out."""
    count = trips.n_steps + 1
    place = ragged_range(count)
    roads = _roads(trips).astype(np.uint64) + np.uint64(1)
    running = np.cumsum(roads * weights[place])  # modulo 2^64
    end = np.cumsum(count) - 1
    before = np.concatenate([np.zeros(1, dtype=np.uint64), running[end[:-1]]])
    numbers = running - np.repeat(before, count)
    inner = np.ones(len(numbers), dtype=bool)
    inner[end] = False
    return numbers[end], numbers[inner & (place > 0)]
