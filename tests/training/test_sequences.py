"""A whole run on a system of sequences: a teacher with a loss of its own that answers one of two tasks, read in a way
that the config sets, distilled at chosen positions; live, cached and resumed it is the same."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra._internal.execution_policy import execution_whitelist
from omegaconf import OmegaConf

from contracts.plugins import checked, outside_trusted
from kdexp import trust
from kdexp.analysis.figures import draw_run
from kdexp.check import check_config
from kdexp.config import TrainConfig
from kdexp.errors import ConfigError, RunFailed
from kdexp.experiment import Command, run
from kdexp.training.callbacks import EpochRecorder
from kdexp.training.teacher import answered
from walks import TASKS, Guide, Walker, Walks

WAY_METRICS = {"way/acc", "way/acc_decisions", "way/acc_inner", "score"}
TIME_METRICS = {"time/mape_log", "time/mape_sec"}


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    """A configuration of walks, made from that of the small outside system."""
    with outside_trusted():
        cfg = copy.deepcopy(checked("dataset=rings", "trainer.max_epochs=3", "trainer.accelerator=cpu"))
    cfg["dataset"] = {"_target_": "walks.Walks", "n": 60}
    cfg["teacher"]["model"], cfg["student"] = {"_target_": "walks.Guide"}, {"_target_": "walks.Walker"}
    cfg["data"] |= {"batch_size": 8, "eval_batch_size": 7}
    cfg["interval"]["n_resamples"] = 100
    return cfg


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(trust.TRUST_VARIABLE, "walks")
    with execution_whitelist(trust.execution_whitelist()):
        yield


Train = Callable[..., dict[str, Any]]


@pytest.fixture
def train(plain: dict[str, Any], tmp_path: Path) -> Train:
    """Trains in a folder of its own, with some keys changed; all runs share one store of teachers."""

    def configured(changes: dict[str, Any]) -> dict[str, Any]:
        cfg = copy.deepcopy(plain)
        cfg["paths"]["output_root"] = str(tmp_path / "outputs")
        for key, value in changes.items():
            *sections, last = key.split(".")
            node = cfg
            for section in sections:
                node = node[section]
            node[last] = value
        return cfg

    def trained(name: str, **changes: Any) -> dict[str, Any]:
        cfg = configured({key.replace("__", "."): value for key, value in changes.items()})
        folder = tmp_path / name
        record = run(cfg, Command(folder=folder))
        assert record is not None
        return record | {"rows": rows(folder), "run": folder}

    return trained


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_a_run_on_sequences_leaves_what_every_run_leaves(train: Train) -> None:
    record = train("run")
    assert record["status"] == "done"
    assert set(record["metrics"]["test"]) == WAY_METRICS | TIME_METRICS
    assert set(record["intervals"]["test"]) == WAY_METRICS | TIME_METRICS
    interval = record["intervals"]["test"]["time/mape_sec"]
    assert interval["low"] < record["metrics"]["test"]["time/mape_sec"] < interval["high"]
    with np.load(record["run"] / "predictions" / "test.npz") as file:
        assert file["logits.way"].shape == file["mask.way"].shape == (60, 9, 5)
        assert file["target.time"].shape == (60, 9) and np.isnan(file["target.time"]).any()
        # In sample order, though batches were sorted by length.
        made = Walks()
        made.setup(42)
        assert np.array_equal(file["target.way"], made.split("test").way.numpy())
    names = {path.name for path in draw_run(record["run"])}
    assert names == {"learning_curves.png", "reliability_way.png"}, "durations have no probabilities to draw"


def test_the_teacher_learns_by_its_own_loss_and_is_measured_on_what_it_answers(train: Train) -> None:
    teacher = train("run")["teacher"]
    history = rows(Path(teacher["folder"]))
    assert len(history) == 3
    for row in history:
        assert {name for name in row if name.startswith("train/")} == {"train/loss", "train/surprise"}
        assert {name.removeprefix("val/") for name in row if name.startswith("val/")} == WAY_METRICS
    assert set(teacher["metrics"]["test"]) == WAY_METRICS
    with np.load(Path(teacher["folder"]) / "predictions" / "val.npz") as file:
        assert set(file.files) == {"index", "cluster", "logits.way", "target.way", "mask.way"}
    assert teacher["signal"] == {}


def test_live_and_cached_train_the_same_student_to_the_bit(train: Train) -> None:
    live, cached, mapped = (train(mode, teacher__cache=mode) for mode in ("off", "ram", "memmap"))
    assert [record["teacher"]["outputs"] for record in (live, cached, mapped)] == ["live", "computed", "reused"]
    assert live["rows"] == cached["rows"] == mapped["rows"]
    assert all(row["train/kl"] > 0 for row in live["rows"])


def test_how_the_teacher_is_read_is_another_cache_of_the_same_teacher(train: Train) -> None:
    plain, sharp = train("plain"), train("sharp", teacher__signal={"sharpness": 3.0})
    again = train("again", teacher__signal={"sharpness": 3.0})
    assert plain["teacher"]["folder"] == sharp["teacher"]["folder"] == again["teacher"]["folder"]
    assert [record["teacher"]["reused"] for record in (plain, sharp, again)] == [False, True, True]
    assert [record["teacher"]["outputs"] for record in (plain, sharp, again)] == ["computed", "computed", "reused"]
    assert sharp["teacher"]["signal"] == {"sharpness": 3.0}
    assert sharp["teacher"]["metrics"] == plain["teacher"]["metrics"]
    assert sharp["rows"] == again["rows"] != plain["rows"]
    # Read live, it is read in the same way.
    live = train("live", teacher__signal={"sharpness": 3.0}, teacher__cache="off")
    assert live["rows"] == sharp["rows"]
    stored = json.loads((Path(plain["teacher"]["folder"]) / "teacher.json").read_text())
    assert "signal" not in stored["config"]


@pytest.mark.parametrize(
    ("signal", "said"),
    [
        ({"window": 4}, r"teacher\.signal\.window: unknown key.*; Guide\.read_with has sharpness"),
        ({"sharpness": -1.0}, r"teacher\.signal: Guide refuses \{'sharpness': -1\.0\}: sharpness must be positive"),
    ],
)
def test_a_way_of_reading_that_the_teacher_does_not_have_is_refused(train: Train, signal: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        train("run", teacher__signal=signal)


def test_a_teacher_that_is_read_in_one_way_takes_no_signal(train: Train, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teacher\.signal: Walker has no read_with"):
        train("run", teacher__model={"_target_": "walks.Walker"}, teacher__signal={"sharpness": 2.0})
    assert not (tmp_path / "outputs" / "teachers").exists(), "refused before a teacher is trained"


def test_the_check_of_a_configuration_knows_positions_and_signal(plain: dict[str, Any]) -> None:
    def check(positions: str, signal: Any) -> None:
        cfg = copy.deepcopy(plain)
        cfg["distill"]["positions"], cfg["teacher"]["signal"] = positions, signal
        check_config(OmegaConf.create(cfg), TrainConfig)

    check("sample:4", {"sharpness": 2.0})
    with pytest.raises(ConfigError, match=r"distill\.positions: must be decisions, all, last or sample:k.*'first'"):
        check("first", {})
    with pytest.raises(ConfigError, match=r"teacher\.signal: "):
        check("all", 3)


def test_positions_change_the_student_and_are_composed_from_the_command_line(train: Train) -> None:
    with outside_trusted():
        for positions in ("all", "last", "sample:2"):
            said = checked("dataset=rings", f"distill.positions={positions}")
            assert said["distill"]["positions"] == positions
    found = [train(p, distill__positions=p)["rows"] for p in ("decisions", "all", "last", "sample:2")]
    assert all(one != other for i, one in enumerate(found) for other in found[:i])
    assert train("again", distill__positions="sample:2")["rows"] == found[3]


@pytest.mark.parametrize("positions", ["last", "sample:2"])
def test_positions_without_effect_stop_before_a_teacher_is_trained(
    plain: dict[str, Any], tmp_path: Path, positions: str
) -> None:
    with outside_trusted():
        cfg = copy.deepcopy(checked("dataset=rings", f"distill.positions={positions}"))
        cfg["paths"]["output_root"] = str(tmp_path / "outputs")
        with pytest.raises(ConfigError, match=f"distill.positions={positions}: has no effect on task 'ring'"):
            run(cfg, Command(folder=tmp_path / "run"))
    assert not (tmp_path / "outputs" / "teachers").exists()


def test_an_interrupted_run_with_drawn_positions_ends_in_the_same_bits(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"distill__positions": "sample:2", "trainer__max_epochs": 4, "teacher__max_epochs": 2}
    whole = train("whole", **settings)
    saved = EpochRecorder._save

    def stop_after_two(self: EpochRecorder, trainer: Any, is_best: bool) -> None:
        saved(self, trainer, is_best)
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(RunFailed, match="go on with"):
        patch.setattr(EpochRecorder, "_save", stop_after_two)
        train("stopped", **settings)
    folder = whole["run"].parent / "stopped"
    assert len(rows(folder)) == 2
    resumed = train("stopped", resume=str(folder), **settings)
    assert resumed["rows"] == whole["rows"]
    states = [
        torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for f in (folder, whole["run"])
    ]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


# what a model gives


def test_a_model_gives_all_tasks_unless_its_class_names_some() -> None:
    score = ("way/acc", "time/mape_log")
    assert answered(Walker(), TASKS, score) == (TASKS, score)
    assert answered(Guide(), TASKS, score) == (TASKS[:1], ("way/acc",))


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (("wya",), "Odd answers wya; tasks: way, time"),
        ((), "Odd answers nothing; tasks: way, time"),
        (("time",), "Odd answers time, and the score reads way/acc, so it cannot be measured"),
    ],
)
def test_answers_that_name_no_task_or_nothing_of_the_score_are_refused(answers: tuple[str, ...], said: str) -> None:
    odd = type("Odd", (Walker,), {"answers": answers})()
    with pytest.raises(ConfigError, match=said):
        answered(odd, TASKS, ("way/acc",))
