"""A run that is stopped at any moment loses at most its running epoch, and ends as if it had not been stopped."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from support import CommandLine

EPOCHS = "trainer.max_epochs=12"
MOVING = ("schedule@optimizer.lr=cosine", "optimizer.lr.end=1e-4", "optimizer.lr.per=step")
ANNEALED = (
    "distill=mix", "schedule@distill.temperature=linear", "distill.temperature.start=10", "distill.temperature.end=1",
    "schedule@distill.alpha=linear", "distill.alpha.start=0.9", "distill.alpha.end=0.3",
)  # fmt: skip
COMMON = ("train", EPOCHS, *MOVING, *ANNEALED, "figures=false", "with_no_kd=true", "teacher.max_epochs=3")


def rows(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else []
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    assert rows(one) == rows(other)
    for name in ("best", "last"):
        states = [torch.load(f / "checkpoints" / f"{name}.ckpt", weights_only=True) for f in (one, other)]
        for key, tensor in states[0]["state_dict"].items():
            assert torch.equal(tensor, states[1]["state_dict"][key]), key
    for split in ("val", "test"):
        with np.load(one / "predictions" / f"{split}.npz") as a, np.load(other / "predictions" / f"{split}.npz") as b:
            assert np.array_equal(a["logits.ring"], b["logits.ring"])
    records = [json.loads((f / "run.json").read_text()) for f in (one, other)]
    for key in ("metrics", "intervals", "config_hash", "objective", "data"):
        assert records[0][key] == records[1][key]
    assert records[0]["teacher"]["fingerprint"] == records[1]["teacher"]["fingerprint"]


@pytest.fixture(scope="module")
def kdexp(tmp_path_factory) -> CommandLine:
    return CommandLine(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def whole(kdexp) -> Path:
    """A run that nothing stopped."""
    done = kdexp.rings(*COMMON, "hydra.run.dir=whole", "paths.output_root=out_whole")
    assert done.code == 0, done.err
    return kdexp.cwd / "whole"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_stopped_run_resumes_to_the_same_bits(kdexp, whole, how):
    stopped = kdexp.cwd / f"stopped_{how.name}"
    words = (*COMMON, f"hydra.run.dir={stopped}", "paths.output_root=out_stopped")
    ended = kdexp.stop_when(lambda: len(rows(stopped)) >= 4, how, *words)
    assert ended.code == (-9 if how == signal.SIGKILL else 1)
    assert not (stopped / "run.json").exists()
    if how != signal.SIGKILL:
        assert "resume=" in ended.err
        assert "Traceback" not in ended.err
    resumed = kdexp.rings("train", f"resume={stopped}")
    assert resumed.code == 0, resumed.err
    assert_same_run(whole, stopped)
    assert rows(whole / "no_kd") == rows(stopped / "no_kd")
    # The rows that are the same are those of the schedules.
    assert [row["temperature"] for row in rows(stopped)] == pytest.approx([10 - 9 * e / 11 for e in range(12)])
    assert [row["weight/kl"] for row in rows(stopped)] == pytest.approx([0.9 - 0.6 * e / 11 for e in range(12)])


def test_a_teacher_that_is_killed_goes_on_where_it_stood(kdexp, whole):
    words = (*COMMON, "hydra.run.dir=stopped", "paths.output_root=out_killed")
    teachers = kdexp.cwd / "out_killed" / "teachers"
    kdexp.stop_when(lambda: any(teachers.glob("*/checkpoints/last.ckpt")), signal.SIGKILL, *words)
    assert not any(teachers.glob("*/teacher.json"))
    assert kdexp.rings("train", "resume=stopped").code == 0
    assert_same_run(whole, kdexp.cwd / "stopped")


def test_a_finished_run_is_left_as_it_is(kdexp, whole):
    before = (whole / "run.json").read_bytes()
    again = kdexp.rings("train", "resume=whole")
    assert again.code == 0
    assert "finished already" in again.text
    assert (whole / "run.json").read_bytes() == before


def test_resume_with_another_setting_is_refused_with_the_difference(kdexp, whole):
    refused = kdexp.rings("train", "resume=whole", "trainer.max_epochs=20")
    assert refused.code == 2
    assert "trainer.max_epochs is 12, asked 20" in refused.text


def test_from_run_repeats_a_run_in_a_new_folder_with_the_same_metrics_and_hash(kdexp, whole):
    again = kdexp.rings("train", "from_run=whole", "hydra.run.dir=again")
    assert again.code == 0, again.err
    assert_same_run(whole, kdexp.cwd / "again")
    assert json.loads((kdexp.cwd / "again" / "run.json").read_text())["teacher"]["reused"] is True


def test_from_run_takes_changes_along(kdexp, whole):
    changed = kdexp.rings("train", "from_run=whole", "distill=none", "with_no_kd=false", "hydra.run.dir=changed")
    assert changed.code == 0, changed.err
    # The student without distillation that ran beside it is the same run.
    assert rows(kdexp.cwd / "changed") == rows(whole / "no_kd")
