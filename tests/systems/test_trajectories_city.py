"""The synthetic city: the files of the real data sets, with their oddities planted."""

from __future__ import annotations

import csv
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from trajectories_files import SEED, make_city, opened_city

from kdexp.systems.trajectories.city import CityOptions
from kdexp.systems.trajectories.city_streets import city_streets, successors
from kdexp.systems.trajectories.mapfiles import read_roads

GEO = "geo_id,type,coordinates,highway,lanes,tunnel,bridge,roundabout,oneway,length,maxspeed,u,v"
FILES = {"roadmap.geo", "roadmap.rel", "road_network_partition", "zone_trans_mat.npy", "synthetic.json"}
FILES |= {"train.csv", "val.csv", "test.csv", "test_od_unseen.csv"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("generated")
    make_city(base).generate(base / "city", SEED)
    return base / "city"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def trips(root: Path, name: str) -> list[tuple[list[str], list[datetime]]]:
    found = [(row["rid_list"].split(","), row["time_list"].split(",")) for row in rows(root / name)]
    return [(roads, [datetime.fromisoformat(time) for time in times]) for roads, times in found]


def test_the_files_are_those_of_a_real_data_set(root: Path) -> None:
    assert {path.name for path in root.iterdir()} == FILES
    assert (root / "roadmap.geo").read_text().splitlines()[0] == GEO
    assert (root / "roadmap.rel").read_text().splitlines()[0] == "rel_id,type,origin_id,destination_id"
    assert (root / "train.csv").read_text().splitlines()[0] == "mm_id,entity_id,traj_id,rid_list,time_list"
    assert {row["type"] for row in rows(root / "roadmap.geo")} == {"LineString"}
    assert {row["type"] for row in rows(root / "roadmap.rel")} == {"geo"}
    assert [int(row["mm_id"]) for row in rows(root / "val.csv")] == list(range(20))


def test_trips_are_split_7_to_1_to_2_and_lie_between_5_and_40_roads(root: Path) -> None:
    counts = {
        name: [len(roads) for roads, _ in trips(root, f"{name}.csv") if len(roads) > 1]
        for name in ("train", "val", "test")
    }
    assert {name: len(lengths) for name, lengths in counts.items()} == {"train": 140, "val": 20, "test": 40}
    assert all(5 <= length <= 40 for lengths in counts.values() for length in lengths)


def test_trips_of_unseen_pairs_are_those_of_test_that_train_lacks(root: Path) -> None:
    def pairs(name: str) -> list[tuple[str, str]]:
        return [(roads[0], roads[-1]) for roads, _ in trips(root, name) if len(roads) > 1]

    known, unseen = set(pairs("train.csv")), pairs("test_od_unseen.csv")
    assert unseen == [pair for pair in pairs("test.csv") if pair not in known]
    assert unseen


def test_the_oddities_are_there(root: Path, tmp_path: Path) -> None:
    geo = rows(root / "roadmap.geo")
    assert sum(row["highway"].startswith("[") for row in geo) == 2
    assert any(row["highway"].startswith("['unclassified'") for row in geo)
    assert any(row["lanes"] == "" for row in geo) and any(row["lanes"].startswith("[") for row in geo)
    assert any(row["u"] == row["v"] for row in geo)
    assert {row["oneway"] for row in geo} == {"True", "False"}
    assert sum(row["bridge"] == "1" for row in geo) == 6  # three bridges, both ways
    for name in ("train.csv", "test.csv"):
        assert sum(len(roads) == 1 for roads, _ in trips(root, name)) == 1
    for name in ("train.csv", "val.csv", "test.csv"):
        assert any(times[0].date() != times[-1].date() for _, times in trips(root, name)), name
        assert any(times[0].weekday() >= 5 for _, times in trips(root, name)), name
    dataset = make_city(root.parent, source="auto")
    dataset.setup(SEED)
    road_map, grid = (dataset.model_arguments()[name] for name in ("road_map", "grid"))
    assert road_map.out_degree.max() >= 5 and (road_map.out_degree == 1).any() and road_map.out_degree.min() >= 1
    both_ways = {(row["u"], row["v"]): k for k, row in enumerate(geo)}
    twins = [(k, both_ways[v, u]) for (u, v), k in both_ways.items() if u < v and (v, u) in both_ways]
    assert len(twins) > 10 and all(grid.cell_of_road[a] == grid.cell_of_road[b] for a, b in twins)


def test_moves_are_not_in_order_of_ids(root: Path) -> None:
    """Else sorting by id instead of by place in the file would go unnoticed."""
    after: dict[str, list[int]] = {}
    for row in rows(root / "roadmap.rel"):
        after.setdefault(row["origin_id"], []).append(int(row["destination_id"]))
    assert any(found != sorted(found) for found in after.values())


@pytest.mark.parametrize("n", [6, 9, 12])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_from_every_crossing_one_can_drive_to_every_other(n: int, seed: int) -> None:
    streets = city_streets(n, -8.0, 41.0, np.random.default_rng(seed))
    reach = np.eye(n * n, dtype=bool)
    for street in streets:
        reach[street.u, street.v] = True
    for _ in range(8):  # paths of up to 2^8 streets
        reach = (reach.astype(np.int64) @ reach.astype(np.int64)) > 0
    assert reach.all()
    two_way = {(street.u, street.v) for street in streets}
    assert all(street.one_way == ((street.v, street.u) not in two_way) for street in streets if street.u != street.v)
    assert any(street.one_way for street in streets)


def test_a_road_leads_on_but_not_back_unless_it_must() -> None:
    streets = city_streets(6, -8.0, 41.0, np.random.default_rng(0))
    for number, after in enumerate(successors(streets)):
        assert after and number not in after
        back = [k for k in after if streets[k].v == streets[number].u]
        assert not back or len(after) == len(back)
        assert all(streets[k].u == streets[number].v for k in after)
        assert all(streets[k].vertices[0] == streets[number].vertices[-1] for k in after)


@pytest.mark.parametrize(("location", "lon", "lat"), [("west", -8, 41), ("east", 116, 40)])
def test_the_city_lies_where_it_is_said_to(tmp_path: Path, location, lon: float, lat: float) -> None:
    options = CityOptions(preset="tiny", location=location, n_trips=30)
    make_city(tmp_path, generator=options).generate(tmp_path / "city", SEED)
    roads, _ = read_roads(tmp_path / "city")
    assert np.abs(roads.vertex_lon - lon).max() < 0.02 and np.abs(roads.vertex_lat - lat).max() < 0.02
    # Five blocks of 250 m, and the jitter.
    assert 1000 < (roads.vertex_lat.max() - roads.vertex_lat.min()) * 111_195 < 1600


def test_zones_and_their_changes_agree_with_the_files(root: Path) -> None:
    zone = [int(line) for line in (root / "road_network_partition").read_text().split()]
    assert sorted(set(zone)) == list(range(max(zone) + 1))
    counts = np.zeros((max(zone) + 1,) * 2, dtype=np.int64)
    for roads, _ in trips(root, "train.csv"):
        for a, b in pairwise(map(int, roads)):
            counts[zone[a], zone[b]] += zone[a] != zone[b]
    written = np.load(root / "zone_trans_mat.npy", allow_pickle=False)
    assert written.dtype == np.int64 and np.array_equal(written, counts)


@pytest.mark.parametrize("location", ["west", "east"])
def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(tmp_path: Path, location) -> None:
    def written(name: str, seed: int) -> dict[str, bytes]:
        dataset = make_city(tmp_path, generator=CityOptions(preset="tiny", location=location, n_trips=30))
        dataset.generate(tmp_path / name, seed)
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    one = written("one", 3)
    assert one == written("two", 3)
    other = written("other", 4)
    assert all(one[name] != other[name] for name in ("roadmap.geo", "roadmap.rel", "train.csv"))


def test_drivers_that_agree_drive_the_shortest_way(tmp_path: Path) -> None:
    """Without noise two trips between the same roads at quiet hours go the same way; with much of it they need not."""

    def ways(noise: float) -> list[set[tuple[int, ...]]]:
        options = CityOptions(preset="tiny", route_noise=noise, n_trips=600)
        split = opened_city(tmp_path, generator=options).split("train")
        roads = [tuple(row.tolist()) for row in split.fetch(torch.arange(len(split))).student["road"]]
        of_pair: dict[tuple[int, int], set[tuple[int, ...]]] = {}
        for way, end in zip(roads, split.trips.destination.tolist(), strict=True):
            of_pair.setdefault((way[0], end), set()).add(way)
        return list(of_pair.values())

    calm, wild = ways(0.0), ways(0.6)
    assert np.mean([len(found) > 1 for found in calm]) < np.mean([len(found) > 1 for found in wild])


@pytest.mark.slow
def test_scarce_leaves_the_student_400_of_6000_trips(tmp_path: Path) -> None:
    dataset = opened_city(tmp_path, generator=CityOptions(preset="scarce", n_crossings=6), n_train_trips=400)
    assert (len(dataset.split("train")), len(dataset.teacher_split())) == (400, 6000)
