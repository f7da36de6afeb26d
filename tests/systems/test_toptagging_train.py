"""Whole runs of top tagging: the command, its record, and what distillation must not change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdexp.analysis.figures import draw_run
from kdexp.analysis.roc import rejection_curves
from kdexp.analysis.run import Run
from kdexp.records import RunFolder, read_json, read_lines
from support import Finished

SMALL = (
    "dataset=toptagging",
    "dataset.source=synthetic",
    "dataset.max_constituents=16",
    "trainer.accelerator=cpu",
    "figures=false",
    "interval.n_resamples=200",
    "paths.output_root=out",
)
TINY = (*SMALL, "dataset.generator.preset=small", "trainer.max_epochs=2", "data.batch_size=64", "student.width=8")
RunMain = Callable[..., Finished]


@pytest.fixture(scope="module")
def without_weight(run_main: RunMain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose KD part weighs nothing, with its no-KD student."""
    cwd = tmp_path_factory.mktemp("run")
    words = ("distill=mix", "distill.alpha=0", "with_no_kd=true", "hydra.run.dir=run")
    finished = run_main(cwd, "train", *TINY, *words)
    assert finished.code == 0, finished.text
    return cwd / "run"


def test_the_record_has_rejections_with_intervals(without_weight: Path) -> None:
    record = read_json(RunFolder(without_weight).record)
    assert record["score"] == ["top/auc"] and record["data"]["cluster"] == "event"
    for name in ("rejection_30", "rejection_50", "rejection_80", "auc", "acc"):
        value, interval = (record[of]["test"][f"top/{name}"] for of in ("metrics", "intervals"))
        assert interval["low"] <= interval["high"] and value > 0
    assert record["models"]["teacher"]["parameters"] == 24_545 > record["models"]["student"]["parameters"]


def test_with_a_kd_weight_of_zero_a_student_is_the_no_kd_student(without_weight: Path) -> None:
    with_kd, no_kd = (read_lines(RunFolder(folder).metrics) for folder in (without_weight, without_weight / "no_kd"))
    assert len(with_kd) == len(no_kd) == 2
    for one, other in zip(with_kd, no_kd, strict=True):
        shared = {name for name in other if name.startswith("val/")} | {"train/ce"}
        assert len(shared) >= 7 and {name: one[name] for name in shared} == {name: other[name] for name in shared}


def test_the_rejection_is_drawn_for_the_student_and_the_no_kd_student(without_weight: Path) -> None:
    drawn = [path.name for path in draw_run(without_weight)]
    of_task = ["confusion_top.png", "roc_top.png", "reliability_top.png"]
    assert drawn == ["learning_curves.png", *of_task, "by_jet_pT.png", "by_jet_pT.csv"]
    run = Run.read(without_weight)
    figure = rejection_curves(run, run.tasks[0], "test")
    curves = {line.get_label(): line.get_ydata() for line in figure.axes[0].get_lines()}
    assert {"student", "no-KD"} <= set(curves)
    there = run.predictions("test")
    at_most = int((there.targets["top"] == 0).sum())
    for name in ("student", "no-KD"):
        rejection = np.asarray(curves[name])
        assert (np.diff(rejection) <= 0).all() and rejection[-1] == 1 and rejection.max() <= at_most


@pytest.mark.slow
def test_a_model_that_sees_the_jets_offline_is_better(run_main: RunMain, tmp_path: Path) -> None:
    """The information is lost in the view; nothing is claimed of distillation."""
    words = ("dataset.generator.n_per_class=3000", "dataset.max_constituents=30", "trainer.max_epochs=8")
    rest = ("with_no_kd=true", "hydra.run.dir=run")
    finished = run_main(tmp_path, "train", *SMALL[:2], *SMALL[3:], *words, *rest)
    assert finished.code == 0, finished.text
    record: dict[str, Any] = read_json(RunFolder(tmp_path / "run").record)
    teacher, no_kd = (record[name]["metrics"]["test"]["top/auc"] for name in ("teacher", "no_kd"))
    assert teacher > no_kd + 0.015 and no_kd > 0.75
    history = read_lines(RunFolder(tmp_path / "run").metrics)
    assert len(history) == 8 and all(row["train/kl"] is not None for row in history)
