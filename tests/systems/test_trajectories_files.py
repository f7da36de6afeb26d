"""What the files of trajectories may hold, and how damaged ones are refused: a sentence with file and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from trajectories_files import CROSSING, TRIP, opened, trip, write_crossing, write_map, write_rows, write_trips

from kdexp.contracts import SPLITS
from kdexp.errors import DataError
from kdexp.systems.trajectories.mapfiles import read_roads, road_class

TIMES = TRIP[2]


def refusal(root: Path, **settings) -> str:
    with pytest.raises(DataError) as error:
        opened(root, **settings)
    message = str(error.value)
    assert "\n" not in message and str(root) in message
    return message


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / name).read_text(encoding="utf-8")
        assert old in text
        (root / name).write_text(text.replace(old, new), encoding="utf-8", newline="")

    return change


def with_trips(*trips: tuple[str, list[int], list[str]]) -> Callable[[Path], None]:
    return lambda root: write_trips(root / "train.csv", [TRIP, *trips])


DAMAGE = {
    "unknown road": (with_trips(("x", [0, 6], TIMES[:2])), ["train.csv, line 3", "trip x", "road 6", "0 to 5"]),
    "negative road": (with_trips(("x", [0, -1], TIMES[:2])), ["train.csv, line 3", "road -1"]),
    "back in time": (with_trips(("x", [0, 1], TIMES[1::-1])), ["train.csv, line 3", "trip x", "backwards"]),
    "unequal lists": (with_trips(("x", [0, 1, 4], TIMES[:2])), ["train.csv, line 3", "3 entries", "time_list 2"]),
    "not connected": (with_trips(("x", [1, 0], TIMES[:2])), ["train.csv, line 3", "road 1 to road 0", "roadmap.rel"]),
    "no id": (with_trips((" ", [0, 1], TIMES[:2])), ["train.csv, line 3", "traj_id"]),
    "no roads": (with_trips(("x", [], [])), ["train.csv, line 3", "rid_list ''"]),
    "road in words": (replaced("train.csv", "0,1,4", "0,one,4"), ["train.csv, line 2", "'0,one,4'", "road ids"]),
    "huge road": (replaced("train.csv", "0,1,4", f"0,{10**30},4"), ["train.csv, line 2", "road ids"]),
    "time zone": (replaced("train.csv", TIMES[1], "2019-11-25T08:00:45+01:00"), ["line 2", "+01:00", "YYYY"]),
    "31 February": (replaced("train.csv", TIMES[1], "2019-02-31T08:00:45Z"), ["train.csv, line 2", "'2019-02-31"]),
    "25 o'clock": (replaced("train.csv", TIMES[1], "2019-11-25T25:00:45Z"), ["train.csv, line 2", "T25"]),
    "century": (replaced("train.csv", TIMES[2], "2119-11-25T08:10:45Z"), ["train.csv, line 2", "longer than a year"]),
    "only one-road rows": (
        lambda root: write_trips(root / "val.csv", [("x", [0], TIMES[:1])]),
        ["val.csv", "no trip of two roads"],
    ),
    "no time column": (replaced("test.csv", "time_list", "times"), ["test.csv", "no column time_list"]),
    "no header": (lambda root: (root / "test.csv").write_text(""), ["test.csv", "empty"]),
    "short row": (replaced("val.csv", "0,5,1,", "0,1,"), ["val.csv, line 2", "4 columns", "5"]),
    "torn row": (lambda root: (root / "val.csv").write_text('mm_id,traj_id,rid_list,time_list\n0,1,"0,1'), ["val.csv"]),
    "not text": (
        lambda root: (root / "val.csv").write_bytes(b"traj_id,rid_list,time_list\n\xff\xfe"),
        ["val.csv", "UTF"],
    ),
    "file": (lambda root: (root / "val.csv").unlink(), ["incomplete", "val.csv"]),
    "map": (lambda root: (root / "roadmap.rel").unlink(), ["incomplete", "roadmap.rel"]),
    "geo_id": (replaced("roadmap.geo", "\n2,Line", "\n7,Line"), ["roadmap.geo, line 4", "'7'", "must be 2"]),
    "no roads at all": (lambda root: cut(root / "roadmap.geo"), ["roadmap.geo", "no roads"]),
    "no moves at all": (lambda root: cut(root / "roadmap.rel"), ["roadmap.rel", "no moves"]),
    "swapped axes": (replaced("roadmap.geo", "[9.98, 60.0]", "[60.0, 116.0]"), ["roadmap.geo, line 2", "longitude"]),
    "one vertex": (
        replaced("roadmap.geo", "[[9.98, 60.0], [10.0, 60.0]]", "[[9.98, 60.0]]"),
        ["line 2", "two or more"],
    ),
    "code": (replaced("roadmap.geo", "[[9.98, 60.0], [10.0, 60.0]]", "exit()"), ["roadmap.geo, line 2", "exit()"]),
    "not a number": (replaced("roadmap.geo", "[9.98, 60.0]", "[NaN, 60.0]"), ["roadmap.geo, line 2", "NaN"]),
    "no length": (replaced("roadmap.geo", ",300.0", ","), ["roadmap.geo, line 4", "length ''"]),
    "no highway column": (replaced("roadmap.geo", "highway", "class"), ["roadmap.geo", "no column highway"]),
    "move from nowhere": (replaced("roadmap.rel", "geo,0,3", "geo,9,3"), ["roadmap.rel, line 2", "origin_id '9'"]),
    "move to nowhere": (replaced("roadmap.rel", "geo,0,3", "geo,0,x"), ["roadmap.rel, line 2", "destination_id 'x'"]),
    "no zones": (lambda root: (root / "road_network_partition").unlink(), ["road_network_partition", "built_in"]),
    "a zone missing": (lambda root: cut(root / "road_network_partition", 5), ["5 lines for 6 roads"]),
    "a negative zone": (replaced("road_network_partition", "1\n0\n1\n0\n", "1\n0\n-1\n0\n"), ["line 4", "'-1'"]),
}


def cut(path: Path, lines: int = 1) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused_by_file_and_line(name: str, tmp_path: Path) -> None:
    change, parts = DAMAGE[name]
    root = write_crossing(tmp_path / "porto")
    change(root)
    message = refusal(root)
    for part in parts:
        assert part in message


def test_the_line_is_told_in_a_file_of_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdexp.systems.trajectories.tripfiles._ROWS_AT_ONCE", 3)
    trips = [trip(str(k), [0, 1, 4] if k % 2 else [0]) for k in range(8)]
    root = write_crossing(tmp_path / "porto", train=[*trips, ("x", [4, 0], TIMES[:2])])
    assert "train.csv, line 10 (trip x)" in refusal(root)


def test_pieces_make_one_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trips = [trip(str(k), [[0, 1, 4], [0], [0, 2], [0, 5, 2]][k % 4]) for k in range(11)]
    root = write_crossing(tmp_path / "porto", train=trips)
    whole = opened(root).split("train")
    monkeypatch.setattr("kdexp.systems.trajectories.tripfiles._ROWS_AT_ONCE", 2)
    pieces = opened(root).split("train")
    index = torch.arange(len(whole))
    assert pieces.clusters.tolist() == whole.clusters.tolist() == [str(k) for k in range(11) if k % 4 != 1]
    assert torch.equal(pieces.fetch(index).student["road"], whole.fetch(index).student["road"])
    assert pieces.trips.line.tolist() == [k + 2 for k in range(11) if k % 4 != 1]


def test_rows_of_one_road_are_skipped_and_counted(tmp_path: Path) -> None:
    root = write_crossing(tmp_path / "porto", train=[trip("a", [0]), trip("b", [0, 2]), trip("c", [3])])
    dataset = opened(root)
    assert dataset.split("train").clusters.tolist() == ["b"]
    assert dataset.inspect()["splits"]["train"]["one_road_rows_skipped"] == 2


def test_the_second_trip_column_may_be_user_id(tmp_path: Path) -> None:
    root = write_crossing(tmp_path / "porto")
    for split in SPLITS:
        write_trips(root / f"{split}.csv", [(split, *TRIP[1:])], driver="user_id")
    assert opened(root).split("train").clusters.tolist() == ["train"]


def test_a_map_with_the_needed_columns_only_and_empty_lines_is_read(tmp_path: Path) -> None:
    root = write_crossing(tmp_path / "porto")
    rows = [(str(list(map(list, road))), number, "x", 50) for number, road in enumerate(CROSSING)]
    write_rows(root / "roadmap.geo", "coordinates,geo_id,highway,length", rows)
    (root / "train.csv").write_text((root / "train.csv").read_text().replace("\r\n", "\n") + "\n\n")
    assert len(opened(root).split("train")) == 1


@pytest.mark.parametrize(
    ("field", "meaning"),
    [
        ("residential", "residential"),
        ("['primary', 'tertiary']", "primary"),
        ("['unclassified', 'tertiary']", "tertiary"),
        ('["unclassified"]', "unclassified"),
        ("[]", ""),
        ("", ""),
        ("7", "7"),
    ],
)
def test_the_class_of_a_highway_field(field: str, meaning: str) -> None:
    assert road_class(field) == meaning


def test_classes_are_numbered_in_sorted_order_and_codes_as_numbers(tmp_path: Path) -> None:
    write_map(tmp_path / "words")
    roads, dirt = read_roads(tmp_path / "words")
    assert roads.class_names == ("", "primary", "residential", "tertiary")
    assert roads.class_of_road.tolist() == [1, 2, 3, 2, 1, 0]
    assert (dirt.bracketed_classes, dirt.blank_fields) == (2, {"highway": 1})
    write_map(tmp_path / "codes", highways=[10, 2, 2, 10, 1, 2])
    roads, _ = read_roads(tmp_path / "codes")
    assert roads.class_names == ("1", "2", "10")
    assert roads.class_of_road.tolist() == [2, 1, 1, 2, 0, 1]


def test_a_move_listed_twice_counts_once(tmp_path: Path) -> None:
    write_map(tmp_path, moves=[(0, 2), (0, 1), (0, 2)])
    roads, dirt = read_roads(tmp_path)
    assert roads.moves.tolist() == [[0, 0], [2, 1]]
    assert dirt.repeated_moves == 1
