"""The real roads and trips of Porto, where they are: the figures that their README gives, counted by other means."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kdexp.contracts import SPLITS
from kdexp.systems.trajectories.dataset import Trajectories
from kdexp.systems.trajectories.partition import zone_changes
from kdexp.systems.trajectories.rules import PLACES

ROOT = Path(os.environ.get("KDEXP_DATA", "")) / "porto_small"
pytestmark = pytest.mark.skipif(
    "KDEXP_DATA" not in os.environ or not ROOT.is_dir(), reason="the files of porto_small are not under KDEXP_DATA"
)

RULES = {
    "frequent": (0.8792, 0.8215, 0.8831, 0.8271),
    "nearest": (0.8352, 0.7566, 0.8307, 0.7497),
    "frequent_else_nearest": (0.8877, 0.8340, 0.8908, 0.8386),
    "chance": (0.6502, 0.4832, 0.6506, 0.4834),
    "n": (12_224, 8_273, 11_897, 8_047),
}


@pytest.fixture(scope="module")
def porto(tmp_path_factory: pytest.TempPathFactory) -> Trajectories:
    dataset = Trajectories(root=ROOT, generated_root=tmp_path_factory.mktemp("none"), source="real", name="porto_small")
    dataset.setup(42)
    return dataset


@pytest.fixture(scope="module")
def found(porto: Trajectories) -> dict:
    return porto.inspect()


@pytest.mark.parametrize("rule", RULES)
def test_the_rules_have_the_published_accuracies(found: dict, rule: str) -> None:
    assert found["test_accuracy_of_rules"][rule] == dict(zip(PLACES, RULES[rule], strict=True))


def test_roads_moves_and_dirt(found: dict) -> None:
    roads = found["map"]
    assert (roads["roads"], roads["moves"], roads["zones"]) == (16_924, 29_638, 300)
    assert (roads["without_successor"], roads["without_predecessor"], roads["loop_roads"]) == (60, 94, 92)
    assert (roads["bracketed_classes"], roads["cells"], roads["tokens"]) == (78, "56 x 140", 7_843)
    assert found["roads_by_out_degree"] == {"0": 60, "1": 5_201, "2": 10_577, "3": 1_061, "4": 25}
    assert found["blank_fields"]["lanes"] / 16_924 == pytest.approx(0.76, abs=0.005)
    assert found["blank_fields"]["maxspeed"] / 16_924 == pytest.approx(0.91, abs=0.005)


def test_trips(found: dict) -> None:
    splits = found["splits"]
    assert [splits[name]["trips"] for name in SPLITS] == [1_143, 163, 327]
    assert [splits[name]["steps"] for name in SPLITS] == [41_253, 6_269, 12_224]
    assert sum(splits[name]["at_weekend"] for name in SPLITS) == 74
    assert sum(splits[name]["over_midnight"] + splits[name]["one_road_rows_skipped"] for name in SPLITS) == 0
    decisions, steps = (sum(splits[name][key] for name in SPLITS) for key in ("decisions", "steps"))
    assert decisions / steps == pytest.approx(0.679, abs=0.0005)
    assert all(splits[name]["decisions_with_a_shared_cell"] == pytest.approx(0.36, abs=0.005) for name in SPLITS)
    shared = found["test_and_train"]
    assert shared["roads_seen_in_train"] == 5_766
    assert shared["share_of_test_roads_unseen_in_train"] == pytest.approx(0.048, abs=0.0005)
    assert shared["test_trips_with_od_in_train"] / 327 == pytest.approx(0.073, abs=0.0005)
    assert shared["trip_ids_used_twice"] == 0


def test_zone_changes_are_those_of_the_file(porto: Trajectories) -> None:
    road_map = porto.model_arguments()["road_map"]
    written = np.load(ROOT / "zone_trans_mat.npy", allow_pickle=False)
    assert np.array_equal(zone_changes(porto.split("train").trips.pieces(), road_map.zone), written)


def test_batches_are_whole(porto: Trajectories) -> None:
    for name in SPLITS:
        split = porto.split(name)
        for index in torch.arange(len(split)).split(128):
            batch = split.fetch(index)
            student, real = batch.student, batch.student["position_mask"]
            assert (student["label"] >= 0).equal(real)
            chosen = student["candidates"].gather(2, student["label"].clamp(min=0)[..., None])[..., 0]
            following = torch.cat([student["road"][:, 1:], torch.zeros(len(index), 1, dtype=torch.int64)], dim=1)
            last = torch.arange(real.shape[1]) == torch.as_tensor(split.lengths[index])[:, None] - 1
            following = torch.where(last, student["destination"][:, None], following)
            assert torch.equal(chosen[real], following[real])
            assert all(tensor.isfinite().all() for tensor in student.values() if tensor.is_floating_point())
