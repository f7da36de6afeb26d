"""The files of a road map, read and checked: `roadmap.geo`, `roadmap.rel` and `road_network_partition`."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdexp.contracts import ProgressReport
from kdexp.errors import DataError
from kdexp.systems.trajectories.roadmap import Roads
from kdexp.systems.trajectories.tables import Table

GEO, REL, PARTITION = "roadmap.geo", "roadmap.rel", "road_network_partition"
_SKIPPED_CLASS = "unclassified"


@dataclass(frozen=True, kw_only=True)
class MapDirt:
    """What is odd in the files of a map but legal."""

    blank_fields: dict[str, int]
    """By column of roadmap.geo, where there are any."""
    bracketed_classes: int
    repeated_moves: int


@dataclass(frozen=True, kw_only=True)
class _Road:
    vertices: list[list[float]]
    length: float
    highway: str


def read_roads(root: Path, progress: ProgressReport | None = None) -> tuple[Roads, MapDirt]:
    """The roads and the moves between them. A move listed twice counts once.

    Raises DataError naming file and line for a geo_id that is not the row's number, coordinates that are no polyline of
    [lon, lat] pairs, a length that is no number, and a move from or to an unknown road.
    """
    table = Table(root / GEO, ["geo_id", "coordinates", "highway", "length"])
    blank: Counter[str] = Counter()
    roads: list[_Road] = []
    for row in table.rows(progress):
        blank.update(name for name, value in zip(table.header, row.all, strict=True) if not value.strip())
        roads.append(_road(row.wanted, len(roads), f"{table.path}, line {row.line}"))
    if not roads:
        raise DataError(f"{table.path}: holds no roads; get the file again")
    moves, n_repeated = _read_moves(root, len(roads), progress)
    dirt = MapDirt(
        blank_fields=dict(blank),
        bracketed_classes=sum(road.highway.startswith("[") for road in roads),
        repeated_moves=n_repeated,
    )
    return _as_arrays(roads, moves), dirt


def read_zones(root: Path, n_roads: int) -> NDArray[np.int64]:
    """(R,): each road's zone, one line a road. Raises DataError for a missing or a surplus line, and for a line that is
    no number from 0 on."""
    path = root / PARTITION
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: does not exist; add it or use dataset.zones.source=built_in") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not text; make it again or use dataset.zones.source=built_in") from None
    if len(lines) != n_roads:
        raise DataError(
            f"{path}: has {len(lines)} lines for {n_roads} roads, it needs one a road; make it again or use "
            "dataset.zones.source=built_in"
        )
    for number, line in enumerate(lines, start=1):
        if not line.strip().isdecimal() or int(line) >= n_roads:
            raise DataError(f"{path}, line {number}: {line!r} is no zone, a whole number from 0 to {n_roads - 1}")
    return np.array([int(line) for line in lines], dtype=np.int64)


def road_class(highway: str) -> str:
    """The class that a `highway` field means: of a bracketed list the first entry, or the second where the first is
    `unclassified`."""
    text = highway.strip()
    if not text.startswith("["):
        return text
    entries = [entry.strip(" '\"") for entry in text.strip("[]").split(",")]
    return entries[1] if len(entries) > 1 and entries[0] == _SKIPPED_CLASS else entries[0]


def _road(values: list[str], number: int, where: str) -> _Road:
    geo_id, coordinates, highway, length = values
    if geo_id.strip() != str(number):
        raise DataError(f"{where}: geo_id is {geo_id!r} but must be {number}, the row's number from 0; sort the file")
    try:
        metres = float(length)
    except ValueError:
        metres = math.nan
    if not (math.isfinite(metres) and metres >= 0):
        raise DataError(f"{where}: length {length!r} is no number of metres; correct it")
    return _Road(vertices=_vertices(coordinates, where), length=metres, highway=highway.strip())


def _vertices(text: str, where: str) -> list[list[float]]:
    try:
        vertices = json.loads(text)
        wrong = len(vertices) < 2 or any(not _is_place(*pair) for pair in vertices)
    except (ValueError, TypeError, RecursionError):
        wrong = True
    if wrong:
        raise DataError(
            f"{where}: coordinates {text[:60]!r} are no list of two or more [longitude, latitude] pairs in degrees; "
            "correct them"
        )
    return vertices


def _is_place(lon: float, lat: float) -> bool:
    return -180 <= lon <= 180 and -90 <= lat <= 90


def _read_moves(root: Path, n_roads: int, progress: ProgressReport | None) -> tuple[NDArray[np.int64], int]:
    table = Table(root / REL, ["origin_id", "destination_id"])
    moves: dict[tuple[int, int], None] = {}
    n_rows = 0
    for row in table.rows(progress):
        n_rows += 1
        for name, value in zip(("origin_id", "destination_id"), row.wanted, strict=True):
            if not value.strip().isdecimal() or int(value) >= n_roads:
                raise DataError(
                    f"{table.path}, line {row.line}: {name} {value!r} is no road of {GEO}, which has 0 to {n_roads - 1}"
                )
        moves[int(row.wanted[0]), int(row.wanted[1])] = None
    if not moves:
        raise DataError(f"{table.path}: holds no moves; get the file again")
    return np.array(list(moves), dtype=np.int64).T.copy(), n_rows - len(moves)


def _as_arrays(roads: list[_Road], moves: NDArray[np.int64]) -> Roads:
    vertices = np.array([pair for road in roads for pair in road.vertices], dtype=np.float64)
    counts = np.array([len(road.vertices) for road in roads])
    names, class_of_road = _encoded([road_class(road.highway) for road in roads])
    return Roads(
        vertex_lon=vertices[:, 0].copy(),
        vertex_lat=vertices[:, 1].copy(),
        vertex_start=np.concatenate([[0], np.cumsum(counts)]),
        length=np.array([road.length for road in roads]),
        class_of_road=class_of_road,
        class_names=names,
        moves=moves,
    )


def _encoded(classes: list[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The sorted names, and each road's place among them. Where all are whole numbers they are sorted as such."""
    names = sorted(set(classes), key=int if all(name.isdecimal() for name in classes) else str)
    place = {name: number for number, name in enumerate(names)}
    return tuple(names), np.array([place[name] for name in classes], dtype=np.int64)
