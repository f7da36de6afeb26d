"""What a batch of trips holds, worked out by hand on a crossing and from the raw files on a tiny city."""

from __future__ import annotations

import csv
import math
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from trajectories_files import SEED, TRIP, make_city, opened, trip, write_crossing

from kdexp.contracts import SPLITS, Batch
from kdexp.errors import DataError
from kdexp.systems.trajectories.dataset import Trajectories
from kdexp.systems.trajectories.geometry import great_circle, surface_points

DEGREE = 111_195.08  # metres of latitude
MORNING = "2019-11-25T08:00:0"


@pytest.fixture(scope="module")
def city_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("features")
    make_city(base).generate(base / "city", SEED)
    return base / "city"


@pytest.fixture(scope="module")
def city(city_root: Path) -> Trajectories:
    return city_with(city_root)


def city_with(root: Path, **settings: Any) -> Trajectories:
    dataset = make_city(root.parent, source="auto", **settings)
    dataset.setup(SEED)
    return dataset


def batch_of(tmp_path: Path, *trips, **settings: Any) -> Batch:
    split = opened(write_crossing(tmp_path / "porto", train=trips), **settings).split("train")
    return split.fetch(torch.arange(len(split)))


def everything(dataset: Trajectories, split: str) -> Batch:
    held = dataset.split(split)
    return held.fetch(torch.arange(len(held)))


def tensors(batch: Batch) -> dict[str, Tensor]:
    groups = {"student": batch.student, "teacher": batch.teacher, "targets": batch.targets}
    return {f"{group}.{name}": tensor for group, some in groups.items() for name, tensor in some.items()}


def read_moves(root: Path) -> dict[int, list[int]]:
    moves: dict[int, list[int]] = {}
    with (root / "roadmap.rel").open(newline="") as stream:
        for row in csv.DictReader(stream):
            moves.setdefault(int(row["origin_id"]), []).append(int(row["destination_id"]))
    return moves


def read_trips(root: Path, split: str) -> list[tuple[str, list[int], list[datetime]]]:
    """The trips of a file by other means than ours."""
    with (root / f"{split}.csv").open(newline="") as stream:
        rows = [(r["traj_id"], r["rid_list"].split(","), r["time_list"].split(",")) for r in csv.DictReader(stream)]
    parsed = [
        (name, list(map(int, roads)), [datetime.fromisoformat(time) for time in times]) for name, roads, times in rows
    ]
    return [row for row in parsed if len(row[1]) > 1]


def test_candidates_are_the_successors_in_file_order_and_the_label_is_the_next_road(tmp_path: Path) -> None:
    """Road 0 may move to 3, 1, 2, 5 in that order, road 1 to 4, road 5 to 1 and 2."""
    batch = batch_of(tmp_path, trip("a", [0, 1, 4]), trip("b", [0, 5, 2]), trip("c", [0, 3]))
    student = batch.student
    assert student["road"].tolist() == [[0, 1], [0, 5], [0, 0]]
    assert student["destination"].tolist() == [4, 2, 3]
    assert student["candidates"][0].tolist() == [[3, 1, 2, 5], [4, 0, 0, 0]]
    assert student["candidates"][1, 1].tolist() == [1, 2, 0, 0]
    assert student["candidate_mask"].sum(dim=-1).tolist() == [[4, 1], [4, 2], [4, 0]]
    assert student["position_mask"].tolist() == [[True, True], [True, True], [True, False]]
    assert student["label"].tolist() == [[1, 0], [3, 1], [0, -1]]
    assert torch.equal(batch.targets["next_road"], student["label"])


@pytest.mark.parametrize("split", SPLITS)
def test_every_step_of_a_city_is_what_the_raw_files_say(city: Trajectories, city_root: Path, split: str) -> None:
    moves, trips = read_moves(city_root), read_trips(city_root, split)
    batch, held = everything(city, split), city.split(split)
    assert held.clusters.tolist() == [name for name, _, _ in trips]
    assert held.lengths.tolist() == [len(roads) - 1 for _, roads, _ in trips]
    n_steps = 0
    for i, (_, roads, times) in enumerate(trips):
        assert batch.student["destination"][i] == roads[-1]
        for t, (road, following) in enumerate(pairwise(roads)):
            real = batch.student["candidate_mask"][i, t]
            label = batch.student["label"][i, t]
            assert batch.student["road"][i, t] == road
            assert batch.student["candidates"][i, t][real].tolist() == moves[road]
            assert moves[road][label] == following == batch.student["candidates"][i, t, label]
            seconds = (times[t + 1] - times[t]).total_seconds()
            assert batch.targets["duration"][i, t] == pytest.approx(math.log1p(seconds), rel=1e-6)
            n_steps += 1
    assert n_steps == int(batch.student["position_mask"].sum()) > 100


def test_the_metric_of_distance_by_hand(tmp_path: Path) -> None:
    """From 0 to 4, whose centroid is at (10.02, 60.005): the candidates' centroids are 3 (10, 59.995), 1 (10.01, 60),
    2 (10, 60.005) and the loop near (10.0005, 59.99975). Here 0.02 degrees of longitude are 0.01 of latitude."""
    metric = batch_of(tmp_path, trip("a", [0, 1, 4])).student["metric_distance"][0]
    near = DEGREE * math.hypot(0.01 / 2, 0.005)
    metres = [DEGREE * math.hypot(0.02 / 2, 0.01), near, DEGREE * 0.02 / 2, DEGREE * math.hypot(0.0195 / 2, 0.00525)]
    assert metric[0].tolist() == pytest.approx([math.log1p((m - near) / 100) for m in metres], abs=2e-3)
    # A single candidate is the nearest; padding is 0.
    assert metric[1].tolist() == [0, 0, 0, 0]


def test_the_metric_of_angle_by_hand(tmp_path: Path) -> None:
    """At the crossing to the north-east, 45 degrees: south is 135 away, east and north 45;
    the loop ends at the crossing itself, and that counts as east."""
    angle = batch_of(tmp_path, trip("a", [0, 1, 4])).student["metric_angle"][0]
    assert angle[0].tolist() == pytest.approx([0.75, 0.25, 0.25, 0.25], abs=1e-6)
    assert angle[1].tolist() == [0, 0, 0, 0]


def test_the_published_angle_swaps_longitude_and_latitude(tmp_path: Path) -> None:
    """There 0.02 degrees of longitude count whole and latitude by the cosine of the longitude, 10 degrees."""
    angle = batch_of(tmp_path, trip("a", [0, 1, 4]), legacy_angle=True).student["metric_angle"][0, 0]
    to_destination = math.atan2(0.02, 0.01 * math.cos(math.radians(10)))
    south, east, north, loop = math.pi, math.pi / 2, 0.0, 0.0
    expected = [abs(bearing - to_destination) / math.pi for bearing in (south, east, north, loop)]
    assert angle.tolist() == pytest.approx(expected, abs=1e-6)


def test_distances_between_roads_of_a_trip(tmp_path: Path) -> None:
    """Centroids of 0, 5 and 1; the first pair by hand, and more than a kilometre counts as one."""
    student = batch_of(tmp_path, trip("a", [0, 5, 1, 4]), trip("b", [0, 2])).student
    distance = student["distance"]
    assert distance.shape == (2, 3, 3)
    metres = DEGREE * math.hypot(0.0105 / 2, 0.00025)
    assert distance[0, 0, 1] == pytest.approx(metres / 1000, abs=1e-3)
    assert distance[0, 0, 2] == 1
    assert torch.equal(distance, distance.transpose(1, 2)) and not distance.diagonal(dim1=1, dim2=2).any()
    # Padding is silent.
    assert not distance[1, 1:].any() and not distance[1, :, 1:].any()


def test_distances_of_a_city_are_great_circles_between_centroids(city: Trajectories) -> None:
    student, road_map = everything(city, "val").student, city.model_arguments()["road_map"]
    points = surface_points(road_map.centroid_lon, road_map.centroid_lat)[student["road"].numpy()]
    metres = great_circle(points[:, :, None], points[:, None, :])
    both = (student["position_mask"][:, :, None] & student["position_mask"][:, None, :]).numpy()
    expected = np.where(both, np.minimum(metres, 1000) / 1000, 0)
    assert np.abs(student["distance"].numpy() - expected).max() < 1e-5


def test_intervals_are_seconds_apart_and_midnight_is_no_border(tmp_path: Path) -> None:
    times = ["2019-11-25T23:59:30Z", "2019-11-26T00:00:15Z", "2019-11-26T00:10:15Z", "2019-11-26T00:10:16Z"]
    interval = batch_of(tmp_path, ("a", [0, 5, 1, 4], times)).student["interval"][0]
    assert torch.allclose(interval, torch.tensor([[0, 0.15, 1], [0.15, 0, 1], [1, 1, 0]]))


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["2019-11-25T06:00:00Z", "2019-11-25T06:00:36Z", "2019-11-25T12:00:00Z"], [0.25, 0.25 + 36 / 86400]),
        (["2019-11-30T06:00:00Z", "2019-11-30T12:00:00Z", "2019-11-30T13:00:00Z"], [-0.25, -0.5]),
        (["2019-12-01T23:00:00Z", "2019-12-02T06:00:00Z", "2019-12-02T07:00:00Z"], [-23 / 24, -0.25]),
        (["2019-11-29T23:00:00Z", "2019-11-30T06:00:00Z", "2019-11-30T07:00:00Z"], [23 / 24, 0.25]),
    ],
    ids=["Monday", "Saturday", "Sunday into Monday", "Friday into Saturday"],
)
def test_the_time_of_day_is_negative_in_trips_that_start_at_a_weekend(tmp_path: Path, times, expected) -> None:
    assert batch_of(tmp_path, ("a", [0, 1, 4], times)).student["temporal"][0].tolist() == pytest.approx(expected)


def test_times_of_a_city_agree_with_the_calendar(city: Trajectories, city_root: Path) -> None:
    temporal, trips = everything(city, "train").student["temporal"], read_trips(city_root, "train")
    for i, (_, roads, times) in enumerate(trips):
        sign = -1 if times[0].weekday() >= 5 else 1
        assert times[0].tzinfo == UTC
        shares = [sign * (at.hour * 60 + at.minute + at.second / 60) / 1440 for at in times[:-1]]
        assert temporal[i, : len(roads) - 1].tolist() == pytest.approx(shares, abs=1e-6)
    assert (temporal < 0).any() and (temporal > 0).any()


def test_the_teacher_sees_cells_of_all_roads_and_of_the_candidates(tmp_path: Path) -> None:
    root = write_crossing(tmp_path / "porto", train=[trip("a", [0, 1, 4]), trip("b", [0, 2])])
    dataset = opened(root)
    grid = dataset.model_arguments()["grid"]
    teacher, cell = everything(dataset, "train").teacher, grid.cell_of_road
    assert teacher["cells"].tolist() == [[cell[0], cell[1], cell[4]], [cell[0], cell[2], grid.pad]]
    assert teacher["candidate_cells"][0, 0].tolist() == [cell[3], cell[1], cell[2], cell[5]]
    assert teacher["candidate_cells"][0, 1].tolist() == [cell[4], *[grid.pad] * 3]
    assert teacher["length"].tolist() == [2, 1]
    assert teacher["candidate_mask"].sum(dim=-1).tolist() == [[4, 1], [4, 0]]


def test_types_and_padding(city: Trajectories) -> None:
    batch = everything(city, "train")
    floats = {"student.temporal", "student.distance", "student.interval", "student.metric_distance"}
    floats |= {"student.metric_angle", "targets.duration"}
    masks = {"student.position_mask", "student.candidate_mask", "teacher.candidate_mask"}
    for name, tensor in tensors(batch).items():
        kind = torch.float32 if name in floats else torch.bool if name in masks else torch.int64
        assert tensor.dtype == kind, name
    padding = ~batch.student["position_mask"]
    assert padding.any()
    assert batch.targets["duration"].isnan().equal(padding)
    assert (batch.student["label"] == -1).equal(padding)
    assert not batch.student["candidate_mask"][padding].any()
    for name in ("road", "temporal", "candidates", "metric_distance", "metric_angle"):
        assert not batch.student[name][padding].any(), name
    angle = batch.student["metric_angle"]
    assert angle.min() >= 0 and angle.max() <= 1


def test_a_trip_is_the_same_alone_and_among_others_but_for_padding(city: Trajectories) -> None:
    split = city.split("test")
    index = torch.tensor([5, 0, 11, 5])
    together = tensors(split.fetch(index))
    for place, position in enumerate(index):
        for name, alone in tensors(split.fetch(position[None])).items():
            block = together[name][place][tuple(slice(0, n) for n in alone.shape[1:])]
            assert torch.equal(block.nan_to_num(-1), alone[0].nan_to_num(-1)), name


def test_only_what_a_batch_needs_is_padded(city: Trajectories) -> None:
    split = city.split("train")
    for position in range(10):
        student = split.fetch(torch.tensor([position])).student
        assert student["road"].shape == (1, split.lengths[position])
        assert student["candidates"].shape[-1] == student["candidate_mask"].sum(dim=-1).max()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_nearest_candidates_are_kept_and_the_label_stays_with_its_road(
    city: Trajectories, city_root: Path, k: int
) -> None:
    """Against the uncut batch: the k nearest are kept in the map's order, and a label is lost only with its road."""
    whole = everything(city, "test")
    cut = everything(city_with(city_root, candidate_top_k=k, lost_label="ignore"), "test")
    assert cut.student["candidates"].shape[-1] == k < whole.student["candidates"].shape[-1]
    lost = 0
    for i, t in whole.student["position_mask"].nonzero().tolist():
        real = whole.student["candidate_mask"][i, t]
        roads, metric = whole.student["candidates"][i, t][real], whole.student["metric_distance"][i, t][real]
        nearest = metric.argsort(stable=True)[:k].sort().values
        kept = cut.student["candidate_mask"][i, t]
        assert cut.student["candidates"][i, t][kept].tolist() == roads[nearest].tolist()
        assert cut.student["metric_distance"][i, t][kept].tolist() == metric[nearest].tolist()
        true, label = roads[whole.student["label"][i, t]], cut.student["label"][i, t]
        if true in roads[nearest]:
            assert cut.student["candidates"][i, t, label] == true and cut.student["candidate_mask"][i, t, label]
        else:
            assert label == -1 and cut.targets["duration"][i, t].isnan()
            lost += 1
    # Else the cut was never tried.
    assert lost > 0


def test_keeping_more_candidates_than_there_are_changes_nothing(city: Trajectories, city_root: Path) -> None:
    most = everything(city, "train").student["candidates"].shape[-1]
    for k in (most, most + 1, 64):
        kept = tensors(everything(city_with(city_root, candidate_top_k=k), "train"))
        for name, tensor in tensors(everything(city, "train")).items():
            assert torch.equal(tensor.nan_to_num(-1), kept[name].nan_to_num(-1)), name


def test_a_cut_that_would_lose_the_next_road_is_refused_by_file_and_line(tmp_path: Path) -> None:
    """From 0 to 4 road 1 is the nearest and to 3 road 3 itself, but to 2 it is not the loop."""
    root = write_crossing(tmp_path / "porto", val=[trip("a", [0]), trip("b", [0, 3]), trip("c", [0, 5, 2])])
    with pytest.raises(DataError) as error:
        opened(root, candidate_top_k=1)
    message = str(error.value)
    for part in ("val.csv, line 4 (trip c)", "road 5 after 0", "1 candidates", "lost_label=ignore"):
        assert part in message
    assert len(opened(root, candidate_top_k=1, lost_label="ignore").split("val")) == 2


def test_a_crop_keeps_the_last_moves_of_everything_together(city: Trajectories, city_root: Path) -> None:
    most = 4
    short = city_with(city_root, max_length=most)
    for split in SPLITS:
        whole, cropped = city.split(split), short.split(split)
        assert whole.lengths.max() > most
        assert cropped.lengths.tolist() == np.minimum(whole.lengths, most).tolist()
        for position in range(20):
            long = tensors(whole.fetch(torch.tensor([position])))
            kept = tensors(cropped.fetch(torch.tensor([position])))
            assert kept["teacher.length"].item() == cropped.lengths[position]
            for name in ("student.road", "student.candidates", "student.label", "student.temporal", "targets.duration"):
                tail = long[name][:, -most:]
                assert torch.equal(kept[name], tail[..., : kept[name].shape[-1]] if kept[name].ndim == 3 else tail), (
                    name
                )
            for name in ("student.distance", "student.interval"):
                assert torch.allclose(kept[name], long[name][:, -most:, -most:], atol=1e-6), name
            assert torch.equal(kept["teacher.cells"], long["teacher.cells"][:, -most - 1 :])
            assert torch.equal(kept["student.destination"], long["student.destination"])


def test_durations_are_standardised_by_train(tmp_path: Path) -> None:
    """Train holds moves of 45 and 600 seconds."""
    told = opened(write_crossing(tmp_path / "porto", train=[TRIP])).model_arguments()
    logs = np.log1p([45.0, 600.0])
    assert (told["time_mean"], told["time_std"]) == (pytest.approx(logs.mean()), pytest.approx(logs.std()))
    equal = opened(write_crossing(tmp_path / "equal", train=[trip("a", [0, 1, 4])])).model_arguments()
    assert (equal["time_mean"], equal["time_std"]) == (pytest.approx(math.log(2)), 1.0)
