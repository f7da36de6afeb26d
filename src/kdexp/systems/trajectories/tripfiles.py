"""The files of trips, read and checked in large pieces: a number of trips at once, never one alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdexp.contracts import SPLITS, ProgressReport, SplitName
from kdexp.errors import DataError
from kdexp.systems.trajectories.mapfiles import GEO, REL
from kdexp.systems.trajectories.roadmap import MoveIndex, RoadMap
from kdexp.systems.trajectories.tables import Row, Table
from kdexp.systems.trajectories.trips import Trips, joined

_COLUMNS = ("traj_id", "rid_list", "time_list")
_MOST_SECONDS = 366 * 86_400
_ROWS_AT_ONCE = 5_000
_TIME = "2019-11-25T00:00:52Z"
_DIGITS = [place for place, character in enumerate(_TIME) if character.isdigit()]
_MARKS = [place for place, character in enumerate(_TIME) if not character.isdigit()]

Ints = NDArray[np.int64]


def trips_file(root: Path, split: SplitName) -> Path:
    return root / f"{split}.csv"


def missing_files(root: Path) -> list[str]:
    """What a folder lacks of the layout. The zones' file is asked for only where it is used."""
    wanted = [root / GEO, root / REL, *(trips_file(root, split) for split in SPLITS)]
    return [path.name for path in wanted if not path.is_file()]


def read_trips(path: Path, road_map: RoadMap, progress: ProgressReport | None = None) -> Trips:
    """All trips of a file, in file order; rows of one road are skipped and counted.

    Raises DataError naming file and line for a road id that the map lacks, a time that is not written
    YYYY-MM-DDTHH:MM:SSZ or goes backwards, lists of unequal length, a move that the map does not allow, a trip without
    an id, and for a file without any trip of two roads.
    """
    table = Table(path, _COLUMNS)
    moves = MoveIndex(road_map)
    rows = table.rows(progress)
    pieces = []
    while piece := list(islice(rows, _ROWS_AT_ONCE)):
        parsed = _Piece.parse(path, piece)
        _check(parsed, road_map, moves)
        pieces.append(_kept(parsed))
    if not any(len(piece) for piece in pieces):
        raise DataError(f"{path}: holds no trip of two roads or more; get the file again")
    return joined(pieces)


@dataclass(kw_only=True)
class _Piece:
    """Some rows of a file: `count` (n,) roads each, their roads and times one after the other."""

    path: Path
    line: Ints
    trip: list[str]
    count: Ints
    roads: Ints
    times: Ints

    @classmethod
    def parse(cls, path: Path, rows: list[Row]) -> _Piece:
        trips, roads, times = (list(column) for column in zip(*(row.wanted for row in rows), strict=True))
        line = np.array([row.line for row in rows])
        count = np.array([text.count(",") + 1 for text in roads])
        for row, n in zip(rows, count, strict=True):
            if not row.wanted[0].strip():
                raise DataError(f"{path}, line {row.line}: has no traj_id; every trip needs one")
            if (n_times := row.wanted[2].count(",") + 1) != n:
                raise DataError(f"{path}, line {row.line}: rid_list has {n} entries, time_list {n_times}; correct it")
        ids, seconds = _numbers(roads), _seconds(times)
        if ids is None or seconds is None:
            raise DataError(_unreadable(path, rows))
        return cls(path=path, line=line, trip=[name.strip() for name in trips], count=count, roads=ids, times=seconds)

    def since_start(self) -> Ints:
        """Every road's seconds since the start of its trip."""
        return self.times - np.repeat(self.times[np.cumsum(self.count) - self.count], self.count)

    def where(self, token: int) -> str:
        """The line that a road or a time is on, by its place in the piece."""
        row = int(np.searchsorted(np.cumsum(self.count), token, side="right"))
        return f"{self.path}, line {self.line[row]} (trip {self.trip[row]})"


def _check(piece: _Piece, road_map: RoadMap, moves: MoveIndex) -> None:
    """Raises DataError for what the map or the clock rules out."""
    unknown = np.flatnonzero((piece.roads < 0) | (piece.roads >= road_map.n_roads))
    if len(unknown):
        raise DataError(
            f"{piece.where(unknown[0])}: road {piece.roads[unknown[0]]} is not in {GEO}, which has 0 to "
            f"{road_map.n_roads - 1}; these trips belong to another map"
        )
    last = np.zeros(len(piece.roads), dtype=bool)
    last[np.cumsum(piece.count) - 1] = True
    step = np.flatnonzero(~last)
    backwards = step[piece.times[step + 1] < piece.times[step]]
    if len(backwards):
        raise DataError(f"{piece.where(backwards[0])}: its times go backwards; correct them")
    endless = np.flatnonzero(piece.since_start() > _MOST_SECONDS)
    if len(endless):
        raise DataError(f"{piece.where(endless[0])}: it takes longer than a year; correct its times")
    lost = step[moves.find(piece.roads[step], piece.roads[step + 1]) < 0]
    if len(lost):
        pair = f"{piece.roads[lost[0]]} to road {piece.roads[lost[0] + 1]}"
        raise DataError(f"{piece.where(lost[0])}: moves from road {pair}, which {REL} does not allow; correct one")


def _kept(piece: _Piece) -> Trips:
    """The trips of two roads or more, in small types."""
    long = piece.count > 1
    token = np.repeat(long, piece.count)
    return Trips(
        path=piece.path,
        roads=piece.roads[token].astype(np.int32),
        seconds=piece.since_start()[token].astype(np.int32),
        first=np.cumsum(piece.count[long]) - piece.count[long],
        n_steps=piece.count[long] - 1,
        start=piece.times[np.cumsum(piece.count) - piece.count][long],
        trip=np.array(piece.trip)[long],
        line=piece.line[long],
        n_one_road=int((~long).sum()),
    )


def _numbers(texts: list[str]) -> Ints | None:
    """The whole numbers of comma-separated lists, one after the other; None where anything is not a number."""
    try:
        return np.array(list(map(int, ",".join(texts).split(","))), dtype=np.int64)
    except (ValueError, OverflowError):
        return None


def _seconds(texts: list[str]) -> Ints | None:
    """Seconds since 1970 of comma-separated times, one after the other; None where anything is not such a time."""
    data = (",".join(texts) + ",").encode("ascii", errors="replace")
    width = len(_TIME) + 1
    if len(data) % width:
        return None
    written = np.frombuffer(data, dtype=np.uint8).reshape(-1, width)
    digits = written[:, _DIGITS].astype(np.int64) - ord("0")
    if not (written[:, [*_MARKS, width - 1]] == [*map(ord, "--T::Z,")]).all() or digits.min() < 0 or digits.max() > 9:
        return None
    year, month, day, hour, minute, second = (
        digits[:, place : place + n] @ 10 ** np.arange(n)[::-1] for place, n in _fields()
    )
    if (month < 1).any() or (month > 12).any() or (hour > 23).any() or (minute > 59).any() or (second > 59).any():
        return None
    months = (year - 1970) * 12 + month - 1
    days = months.astype("datetime64[M]").astype("datetime64[D]") + (day - 1)
    if (days.astype("datetime64[M]").astype(np.int64) != months).any():
        return None
    return ((days.astype(np.int64) * 24 + hour) * 60 + minute) * 60 + second


def _fields() -> Iterator[tuple[int, int]]:
    """Where year, month, day, hour, minute and second begin among the digits, and how many each has."""
    place = 0
    for n in (4, 2, 2, 2, 2, 2):
        yield place, n
        place += n


def _unreadable(path: Path, rows: list[Row]) -> str:
    for row in rows:
        where = f"{path}, line {row.line}"
        if _numbers([row.wanted[1]]) is None:
            return f"{where}: rid_list {row.wanted[1][:60]!r} is no comma-separated list of road ids; correct it"
        for time in row.wanted[2].split(","):
            if _seconds([time]) is None:
                return f"{where}: time {time!r} is not written YYYY-MM-DDTHH:MM:SSZ; correct it"
    raise AssertionError("every row can be read alone but not together")
