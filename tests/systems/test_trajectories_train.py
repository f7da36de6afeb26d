"""Trips through the command: LM-TAD distilled into HOSER on a tiny generated city."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import Finished

RunMain = Callable[..., Finished]
TINY = ("dataset=city", "dataset.generator.preset=tiny", "trainer.max_epochs=2", "figures=false")


def record_of(cwd: Path) -> dict[str, Any]:
    (path,) = (cwd / "outputs/city").rglob("run.json")
    return dict(json.loads(path.read_text()))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, run_main: RunMain) -> tuple[Path, Finished]:
    cwd = tmp_path_factory.mktemp("trips")
    return cwd, run_main(cwd, "train", *TINY, "teacher.signal.window=4", "teacher.cache_dtype=float16")


def test_the_table_sets_the_student_beside_rules_that_need_no_model(trained: tuple[Path, Finished]) -> None:
    cwd, done = trained
    assert done.code == 0, done.text
    record = record_of(cwd)
    for split in ("val", "test"):
        rules = record["trivial_rules"][split]
        assert set(rules) == {"frequent", "nearest", "both rules"}
        for values in rules.values():
            assert values["score"] == values["next_road/acc"]
            assert 0 < values["next_road/acc_decisions"] <= values["next_road/acc"] < 1
    assert "Without a model: frequent, nearest, both rules" in done.text and "SYNTHETIC" in done.out
    assert set(record["metrics"]["test"]) == {
        "next_road/acc", "next_road/acc_decisions", "next_road/acc_inner", "duration/mape_log", "duration/mape_sec",
        "score",
    }  # fmt: skip
    assert record["intervals"]["test"]["score"]["n_clusters"] == record["data"]["n"]["test"]


def test_the_teacher_answers_for_roads_alone_and_says_how_it_was_read(trained: tuple[Path, Finished]) -> None:
    cwd, _ = trained
    teacher = record_of(cwd)["teacher"]
    assert teacher["signal"] == {"window": 4, "shared_cells": "split", "keep_sot": False}
    assert set(teacher["metrics"]["test"]) == {
        "next_road/acc",
        "next_road/acc_decisions",
        "next_road/acc_inner",
        "score",
    }


def test_another_window_shares_the_teacher_and_has_outputs_of_its_own(
    trained: tuple[Path, Finished], run_main: RunMain
) -> None:
    cwd, _ = trained
    words = ("teacher.cache_dtype=float16", "hydra.run.dir=again")
    again = run_main(cwd, "train", *TINY, "teacher.signal.window=2", *words)
    assert again.code == 0, again.text
    assert "teacher: reused" in again.text and "teacher outputs: reused" not in again.text
    (store,) = [path for path in (cwd / "outputs/teachers").iterdir() if path.is_dir()]
    assert len([path for path in (store / "outputs").iterdir() if path.is_dir()]) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("distill.positions=first",), "decisions"),
        (("+teacher.signal.speed=3",), "speed"),
        (("dataset.candidate_top_k=1",), "candidate_top_k"),
    ],
)
def test_bad_input_stops_with_a_sentence(
    trained: tuple[Path, Finished], run_main: RunMain, words: tuple[str, ...], sentence: str
) -> None:
    cwd, _ = trained
    done = run_main(cwd, "train", *TINY, "hydra.run.dir=bad", *words)
    assert done.code == 2, done.text
    assert sentence in done.err and "Traceback" not in done.text
    assert not (cwd / "bad").exists()
