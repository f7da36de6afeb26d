"""What the tests of the trajectories' data share: small folders, written by hand or generated."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdexp.systems.trajectories.city import CityOptions
from kdexp.systems.trajectories.dataset import Trajectories
from kdexp.systems.trajectories.mapfiles import read_roads
from kdexp.systems.trajectories.roadmap import RoadMap, build_road_map

SEED = 7
Place = tuple[float, float]

# A crossing at 60 degrees north, where a degree of longitude is half as long as one of latitude. Roads: 0 comes from
# the west, 1 leaves to the east, 2 to the north, 3 to the south; 4 leads on from the east to the north-east, 5 is a
# loop at the crossing.
MIDDLE, WEST, EAST, NORTH, SOUTH = (10.0, 60.0), (9.98, 60.0), (10.02, 60.0), (10.0, 60.01), (10.0, 59.99)
NORTH_EAST, ASIDE = (10.02, 60.01), (10.001, 59.9995)
CROSSING: list[list[Place]] = [
    [WEST, MIDDLE],
    [MIDDLE, EAST],
    [MIDDLE, NORTH],
    [MIDDLE, SOUTH],
    [EAST, NORTH_EAST],
    [MIDDLE, ASIDE, MIDDLE],
]
MOVES = [(0, 3), (0, 1), (1, 4), (0, 2), (0, 5), (5, 1), (5, 2)]
HIGHWAYS = ["primary", "residential", "['unclassified', 'tertiary']", "residential", "['primary', 'tertiary']", ""]
TRIP = ("7", [0, 1, 4], ["2019-11-25T08:00:00Z", "2019-11-25T08:00:45Z", "2019-11-25T08:10:45Z"])


def write_rows(path: Path, header: str, rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header.split(","), *rows])


def write_map(
    root: Path,
    roads: Sequence[Sequence[Place]] = CROSSING,
    moves: Sequence[tuple[int, int]] = MOVES,
    highways: Sequence[Any] = HIGHWAYS,
    lengths: Sequence[float] | None = None,
) -> None:
    root.mkdir(parents=True, exist_ok=True)
    metres = lengths or [100.0 * (number + 1) for number in range(len(roads))]
    rows = [(k, "LineString", json.dumps(road), highways[k], metres[k]) for k, road in enumerate(roads)]
    write_rows(root / "roadmap.geo", "geo_id,type,coordinates,highway,length", rows)
    write_rows(
        root / "roadmap.rel", "rel_id,type,origin_id,destination_id", [(k, "geo", *m) for k, m in enumerate(moves)]
    )
    (root / "road_network_partition").write_text("".join(f"{k % 2}\n" for k in range(len(roads))))


def write_trips(
    path: Path, trips: Sequence[tuple[str, Sequence[int], Sequence[str]]], driver: str = "entity_id"
) -> None:
    rows = [(k, 5, trip, ",".join(map(str, roads)), ",".join(times)) for k, (trip, roads, times) in enumerate(trips)]
    write_rows(path, f"mm_id,{driver},traj_id,rid_list,time_list", rows)


def write_crossing(root: Path, **splits: Sequence[tuple[str, Sequence[int], Sequence[str]]]) -> Path:
    """The crossing with the given trips; a split that is not given has one."""
    write_map(root)
    for number, split in enumerate(("train", "val", "test")):
        write_trips(root / f"{split}.csv", splits.get(split, [(f"{number}", *TRIP[1:])]))
    return root


def trip(name: str, roads: Sequence[int], start: str = "2019-11-25T08:00:0") -> tuple[str, list[int], list[str]]:
    """A trip of up to ten roads, one second each."""
    return name, list(roads), [f"{start}{second}Z" for second in range(len(roads))]


def crossing_map(root: Path) -> RoadMap:
    write_map(root)
    return build_road_map(read_roads(root)[0])


def make_city(base: Path, **settings: Any) -> Trajectories:
    """A tiny city that is generated under `base`."""
    settings.setdefault("generator", CityOptions(preset="tiny"))
    settings.setdefault("source", "synthetic")
    return Trajectories(root=base / "city", generated_root=base / "generated", **settings)


def opened_city(base: Path, seed: int = SEED, **settings: Any) -> Trajectories:
    dataset = make_city(base, **settings)
    dataset.setup(seed)
    return dataset


def opened(root: Path, **settings: Any) -> Trajectories:
    """The folder as real files."""
    dataset = Trajectories(root=root, generated_root=root.parent / "generated", source="real", **settings)
    dataset.setup(SEED)
    return dataset
