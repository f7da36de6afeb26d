"""The synthetic city: taxi trips on made-up streets, in the files of the real data sets.

Drivers take the shortest way by time, each with a view of their own of every road's time, so that the next road can be
told from the destination but not without doubt. The real data's oddities are planted: trips over midnight, rows of one
road, blank and bracketed fields, moves whose order in the file is no order of ids.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le

from kdexp.contracts import ProgressReport
from kdexp.systems.trajectories.city_streets import LEAST_CROSSINGS, Street, city_streets, successors
from kdexp.systems.trajectories.city_trips import Trip, drive
from kdexp.systems.trajectories.mapfiles import GEO, PARTITION, REL, read_roads
from kdexp.systems.trajectories.partition import balanced_zones, zone_changes
from kdexp.systems.trajectories.roadmap import build_road_map
from kdexp.systems.trajectories.tripfiles import read_trips

VERSION = 1
UNSEEN = "test_od_unseen.csv"
_PLACES = {"west": (-8.0, 41.0), "east": (116.0, 40.0)}
_PRESETS = {"tiny": (6, 200), "small": (12, 4_300), "scarce": (12, 8_572)}
_GEO_COLUMNS = [
    "geo_id",
    "type",
    "coordinates",
    "highway",
    "lanes",
    "tunnel",
    "bridge",
    "roundabout",
    "oneway",
    "length",
    "maxspeed",
    "u",
    "v",
]
_TRIP_COLUMNS = ["mm_id", "entity_id", "traj_id", "rid_list", "time_list"]


@dataclass(frozen=True, kw_only=True)
class CityOptions:
    """How large the city is: `tiny` has 6 x 6 crossings and 200 trips, `small` 12 x 12 and 4,300, `scarce` as many
    crossings and 6,000 trips to train on, of which `dataset.n_train_trips` leaves the student a few. `n_crossings` (a
    side) and `n_trips` override the preset.

    `location` is 41 degrees north, 8 west, or 40 north, 116 east. `route_noise` is the standard deviation of a driver's
    view of a road's time, as a logarithm.
    """

    preset: Literal["tiny", "small", "scarce"] = "small"
    location: Literal["west", "east"] = "west"
    route_noise: Annotated[float, Ge(0), Le(2)] = 0.15
    n_crossings: Annotated[int, Ge(LEAST_CROSSINGS), Le(60)] | None = None
    n_trips: Annotated[int, Ge(30)] | None = None


def write(folder: Path, options: CityOptions, seed: int, progress: ProgressReport | None = None) -> None:
    """Fills an empty folder: map, trips in 70/10/20, zones, and the test trips whose pair of origin and destination is
    not in train. The same seed, the same bytes."""
    random = np.random.default_rng(seed)
    n_crossings, n_trips = _PRESETS[options.preset]
    streets = city_streets(options.n_crossings or n_crossings, *_PLACES[options.location], random)
    moves = successors(streets)
    _write_map(folder, streets, moves, random)
    trips = drive(streets, moves, options.n_trips or n_trips, options.route_noise, random, progress)
    _write_trips(folder, trips)
    _write_zones(folder)


def _write_map(
    folder: Path, streets: Sequence[Street], moves: Sequence[Sequence[int]], random: np.random.Generator
) -> None:
    _write(folder / GEO, _GEO_COLUMNS, (_geo_row(number, street) for number, street in enumerate(streets)))
    pairs = [(origin, destination) for origin, after in enumerate(moves) for destination in after]
    shuffled = [pairs[i] for i in random.permutation(len(pairs))]
    columns = ["rel_id", "type", "origin_id", "destination_id"]
    _write(folder / REL, columns, ((number, "geo", *pair) for number, pair in enumerate(shuffled)))


def _geo_row(number: int, street: Street) -> list[Any]:
    """Lanes and speeds are blank as often as on real maps, and sometimes a list."""
    coordinates = json.dumps([list(place) for place in street.vertices], separators=(",", ":"))
    lanes = {"primary": "2", "secondary": "['2', '3']" if number % 3 == 0 else "2"}.get(street.kind, "")
    speed = "50.0" if street.kind == "primary" else ""
    flags = [0, int(street.bridge), 0, street.one_way]
    return [number, "LineString", coordinates, street.highway, lanes, *flags, street.length, speed, street.u, street.v]


def _write_trips(folder: Path, trips: Sequence[Trip]) -> None:
    """Trips come in random order, so the first seven of ten are train. Train and test also get a row of one road."""
    n_train, n_val = round(0.7 * len(trips)), round(0.1 * len(trips))
    rows = [_trip_row(number, trip) for number, trip in enumerate(trips)]
    train, val, test = rows[:n_train], rows[n_train : n_train + n_val], rows[n_train + n_val :]
    known = {(trip.roads[0], trip.roads[-1]) for trip in trips[:n_train]}
    new = [(trip.roads[0], trip.roads[-1]) not in known for trip in trips[n_train + n_val :]]
    stubs = [_trip_row(len(trips) + k, replace(trips[k], roads=trips[k].roads[:1])) for k in range(2)]
    for name, part in (
        ("train.csv", [*train[:2], stubs[0], *train[2:]]),
        ("val.csv", val),
        ("test.csv", [*test, stubs[1]]),
        (UNSEEN, [row for row, is_new in zip(test, new, strict=True) if is_new]),
    ):
        _write(folder / name, _TRIP_COLUMNS, ([number, *row] for number, row in enumerate(part)))


def _trip_row(number: int, trip: Trip) -> list[Any]:
    times = [datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for time in trip.times[: len(trip.roads)]]
    return [trip.driver, number, ",".join(map(str, trip.roads)), ",".join(times)]


def _write_zones(folder: Path) -> None:
    """Zones and the trips between them, worked out from the files just written."""
    road_map = build_road_map(read_roads(folder)[0])
    zone = balanced_zones(road_map.centroid_lon, road_map.centroid_lat)
    (folder / PARTITION).write_text("".join(f"{number}\n" for number in zone), encoding="ascii")
    train = read_trips(folder / "train.csv", road_map)
    np.save(folder / "zone_trans_mat.npy", zone_changes(train.pieces(), zone))


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="ascii") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
