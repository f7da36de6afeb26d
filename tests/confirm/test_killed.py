"""A confirmation that is killed loses nothing: the same command goes on, and comes to the same verdict."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from support import OUTSIDE, CommandLine

CONF = ("-cd", str(OUTSIDE / "conf"))
CONFIRM = (
    "confirm",
    *CONF,
    "study=found",
    "top=2",
    "seeds=[42,43,44]",
    "n_workers=2",
    "overrides=[trainer.max_epochs=12]",
)
TRUST = {"KDEXP_TRUSTED_PACKAGES": "rings"}


def verdict_of(cwd: Path) -> dict[str, Any]:
    return dict(json.loads((cwd / "outputs/studies/found/confirm/verdict.json").read_text()))


@pytest.mark.slow
def test_killed_in_mid_run_and_given_again(kdexp: CommandLine, tmp_path: Path) -> None:
    study = kdexp(
        "train", *CONF, "-m", "hparams_search=rings", "trainer.max_epochs=2", "hydra.sweeper.n_trials=3",
        "hydra.sweeper.study_name=found", "hydra/sweeper/pruner=nop", **TRUST,
    )  # fmt: skip
    assert study.code == 0, study.text
    whole = CommandLine(tmp_path / "whole")
    shutil.copytree(tmp_path / "outputs", whole.cwd / "outputs", symlinks=True)
    runs = tmp_path / "outputs/studies/found/confirm/runs"
    process = kdexp.start(*CONFIRM, **TRUST)
    deadline = time.monotonic() + 200
    while not (begun := list(runs.glob("*/metrics.jsonl"))) or not list(runs.glob("*/run.json")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(3)  # workers notice within a second that their leader is gone
    n_finished = len(list(runs.glob("*/run.json")))
    assert begun and n_finished < 9
    again = kdexp(*CONFIRM, **TRUST)
    assert again.code == 0, again.text
    assert f"{9 - n_finished} of them to train" in again.text
    assert whole(*CONFIRM, **TRUST).code == 0
    assert verdict_of(tmp_path)["contenders"] == verdict_of(whole.cwd)["contenders"]
    assert len(list(runs.glob("*/run.json"))) == 9


@pytest.mark.slow
def test_workers_that_break_say_why(kdexp: CommandLine, tmp_path: Path) -> None:
    """A learning rate that breaks every run: the leader names what broke, and finished runs stay."""
    study = kdexp(
        "train", *CONF, "-m", "hparams_search=rings", "trainer.max_epochs=2", "hydra.sweeper.n_trials=1",
        "hydra.sweeper.study_name=found", "hydra/sweeper/pruner=nop", **TRUST,
    )  # fmt: skip
    assert study.code == 0, study.text
    broken = kdexp(
        "confirm",
        *CONF,
        "study=found",
        "top=1",
        "seeds=[42,43]",
        "n_workers=2",
        "overrides=[optimizer.lr=1e30]",
        **TRUST,
    )
    assert broken.code != 0
    assert "the loss is no number" in broken.text and "Traceback" not in broken.text
    assert not (tmp_path / "outputs/studies/found/confirm/verdict.json").exists()
