"""The data set of trajectories: its splits and settings, where it reads from, and how the command shows it."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from trajectories_files import SEED, make_city, opened, opened_city, trip, write_crossing

from kdexp.contracts import SPLITS, Dataset, Split
from kdexp.errors import ConfigError, DataError
from kdexp.systems.trajectories.city import CityOptions
from kdexp.systems.trajectories.grid import GridOptions
from kdexp.systems.trajectories.partition import ZoneOptions
from support import Finished


def test_the_contract_is_kept(tmp_path: Path) -> None:
    dataset = opened_city(tmp_path)
    assert isinstance(dataset, Dataset)
    for name in SPLITS:
        split = dataset.split(name)
        assert isinstance(split, Split)
        assert len(split) == len(split.clusters) == len(split.lengths)
    assert set(dataset.model_arguments()) == {"tasks", "road_map", "grid", "time_mean", "time_std"}
    batch = dataset.split("train").fetch(torch.tensor([3, 0]))
    assert set(batch.targets) == {task.name for task in dataset.tasks}
    with pytest.raises(IndexError):
        dataset.split("val").fetch(torch.tensor([len(dataset.split("val"))]))


def test_using_it_before_setup_is_an_error_and_the_constructor_reads_nothing(tmp_path: Path) -> None:
    dataset = make_city(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError, match="setup"):
        dataset.split("train")


SETTINGS = {
    "grid size": {"grid": GridOptions(size_degrees=0.002)},
    "downsample": {"grid": GridOptions(downsample=2)},
    "zones": {"zones": ZoneOptions(source="built_in", count=3)},
    "top k": {"candidate_top_k": 64},
    "lost label": {"lost_label": "ignore"},
    "max length": {"max_length": 6},
    "legacy angle": {"legacy_angle": True},
    "labelled trips": {"n_train_trips": 100},
    "generator": {"generator": CityOptions(preset="tiny", route_noise=0.2)},
}


def test_every_setting_is_in_the_fingerprint(tmp_path: Path) -> None:
    found = {name: opened_city(tmp_path, **settings).fingerprint for name, settings in SETTINGS.items()}
    found["none"] = opened_city(tmp_path).fingerprint
    found["another draw"] = opened_city(tmp_path, seed=SEED + 1, n_train_trips=100).fingerprint
    assert len(set(found.values())) == len(found) == len(SETTINGS) + 2


def test_the_fingerprint_is_that_of_the_contents_and_not_of_the_place_or_the_seed(tmp_path: Path) -> None:
    one = write_crossing(tmp_path / "one")
    shutil.copytree(one, tmp_path / "two")
    first, second = opened(one), opened(tmp_path / "two")
    second.setup(SEED + 1)
    assert first.fingerprint == second.fingerprint
    (one / "val.csv").write_text((one / "val.csv").read_text().replace("08:00:45Z", "08:00:46Z"))
    assert opened(one).fingerprint != first.fingerprint


def test_labelled_trips_are_a_draw_of_train_and_the_teacher_has_all(tmp_path: Path) -> None:
    whole = opened_city(tmp_path)
    few = opened_city(tmp_path, n_train_trips=30)
    again = opened_city(tmp_path, n_train_trips=30)
    names = few.split("train").clusters.tolist()
    assert len(set(names)) == 30 and set(names) < set(whole.split("train").clusters.tolist())
    assert names == again.split("train").clusters.tolist()
    assert few.teacher_split().clusters.tolist() == whole.split("train").clusters.tolist()
    assert few.split("test").clusters.tolist() == whole.split("test").clusters.tolist()
    # What the student is told of train comes from the labelled trips alone.
    assert few.model_arguments()["time_mean"] != whole.model_arguments()["time_mean"]
    few_map, whole_map = (dataset.model_arguments()["road_map"] for dataset in (few, whole))
    assert few_map.zone_weights.tolist() != whole_map.zone_weights.tolist()
    assert few.inspect()["train_trips_of_the_teacher"] == len(whole.split("train"))


def test_another_seed_draws_other_labelled_trips(tmp_path: Path) -> None:
    root = write_crossing(tmp_path / "porto", train=[trip(str(k), [0, 2]) for k in range(40)])
    drawn = []
    for seed in (1, 2):
        dataset = opened(root, n_train_trips=10)
        dataset.setup(seed)
        drawn.append(dataset.split("train").clusters.tolist())
    assert drawn[0] != drawn[1]
    assert all(names == sorted(names, key=int) for names in drawn)


def test_more_labelled_trips_than_there_are_is_refused(tmp_path: Path) -> None:
    root = write_crossing(tmp_path / "porto")
    with pytest.raises(ConfigError, match=r"dataset\.n_train_trips: is 5, but .*train\.csv has 1 trips"):
        opened(root, n_train_trips=5)


def test_real_files_are_read_where_they_are_and_else_the_city_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make_city(tmp_path, source="auto", name="porto")
    dataset.setup(SEED)
    assert dataset.source == "synthetic" and "SYNTHETIC data: porto" in caplog.text
    caplog.clear()
    write_crossing(tmp_path / "city")
    real = make_city(tmp_path, source="auto", name="porto", generator=CityOptions(location="east"))
    real.setup(SEED)
    assert real.source == "real" and len(real.split("train")) == 1
    assert caplog.text == ""
    with pytest.raises(DataError, match="no porto files"):
        make_city(tmp_path / "nowhere", source="real", name="porto").setup(SEED)


def test_a_generated_folder_is_no_real_data(tmp_path: Path) -> None:
    make_city(tmp_path).generate(tmp_path / "city", SEED)
    with pytest.raises(DataError, match="marks a generated folder"):
        make_city(tmp_path, source="real").setup(SEED)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"generator": CityOptions(preset="tiny")}, "dataset.generator has no effect"),
        ({"zones": ZoneOptions(count=5)}, "dataset.zones.count has no effect"),
    ],
)
def test_a_setting_without_effect_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture, settings, key) -> None:
    caplog.set_level(logging.WARNING)
    opened(write_crossing(tmp_path / "porto"), **settings)
    assert key in caplog.text


def test_a_batch_needs_no_python_for_each_trip(tmp_path: Path) -> None:
    """As many calls for forty trips as for four of the same length."""
    split = opened_city(tmp_path).split("train")
    same = torch.from_numpy(np.flatnonzero(split.lengths == np.bincount(split.lengths).argmax()))

    def calls(index: torch.Tensor) -> int:
        count = 0

        def seen(frame, event, argument) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(seen)
        try:
            split.fetch(index)
        finally:
            sys.setprofile(None)
        return count

    assert len(same) >= 10
    assert calls(same[:2]) == calls(same[:2].repeat(20))


def test_the_command_generates_and_inspects_a_city(tmp_path: Path, run_main: Callable[..., Finished]) -> None:
    tiny = "dataset.generator.preset=tiny"
    made = run_main(tmp_path, "data", "action=generate", "dataset=city", tiny, "root=town")
    assert made.code == 0, made.err
    assert (tmp_path / "town" / "roadmap.geo").is_file()
    words = ("dataset=city", "dataset.source=auto", "dataset.root=town", tiny)
    seen = run_main(tmp_path, "data", "action=inspect", *words)
    assert seen.code == 0, seen.err
    for part in ("city (synthetic)", "frequent_else_nearest", "one_road_rows_skipped", "loop_roads"):
        assert part in seen.text


@pytest.mark.parametrize("name", ["beijing", "porto", "porto_small", "san_francisco"])
def test_without_files_the_city_stands_in(name: str, tmp_path: Path, run_main: Callable[..., Finished]) -> None:
    seen = run_main(tmp_path, "data", "action=inspect", f"dataset={name}", "dataset.generator.preset=tiny")
    assert seen.code == 0, seen.err
    assert f"{name} (synthetic)" in seen.text and "SYNTHETIC" in seen.text


def test_damage_is_bad_input_to_the_command(tmp_path: Path, run_main: Callable[..., Finished]) -> None:
    root = write_crossing(tmp_path / "porto", train=[trip("x", [1, 0])])
    seen = run_main(tmp_path, "data", "action=inspect", "dataset=porto", f"dataset.root={root}")
    assert seen.code == 2
    assert "train.csv, line 2 (trip x)" in seen.text and "Traceback" not in seen.text
