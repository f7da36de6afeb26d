"""Several processes at once, a full disk, and a distributed run: what needs processes of its own."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from support import CommandLine, rings_words

SHORT = ("train", "figures=false", "trainer.max_epochs=3", "teacher.max_epochs=40")


def started(kdexp: CommandLine, *words: str) -> subprocess.Popen[str]:
    return kdexp.start(*rings_words(*SHORT, *words), KDEXP_TRUSTED_PACKAGES="rings")


def test_two_runs_that_want_the_same_teacher_train_it_once(kdexp):
    processes = [started(kdexp, f"seed={seed}") for seed in (1, 2)]
    ended = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    records = [json.loads(path.read_text()) for path in (kdexp.cwd / "outputs" / "rings").rglob("run.json")]
    assert len(records) == 2
    assert sorted(record["teacher"]["reused"] for record in records) == [False, True]
    assert len({record["teacher"]["fingerprint"] for record in records}) == 1
    assert len(list((kdexp.cwd / "outputs" / "teachers").glob("*/teacher.json"))) == 1
    metrics = next((kdexp.cwd / "outputs" / "teachers").glob("*/metrics.jsonl")).read_text().splitlines()
    assert len(metrics) == 40


def test_a_second_run_on_the_same_folder_is_refused(kdexp):
    first = started(kdexp, "hydra.run.dir=here", "trainer.max_epochs=100000")
    deadline = time.monotonic() + 120
    while not (kdexp.cwd / "here" / "config.yaml").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    second = kdexp.rings(*SHORT, "hydra.run.dir=here", "seed=7")
    resumed = kdexp.rings("train", "resume=here")
    ended = first.poll()
    first.kill()
    said = first.communicate()
    assert ended is None, f"the first run should still be at work: {said}"
    for refused in (second, resumed):
        assert refused.code == 2
        assert "another process runs in this folder" in refused.text
    assert "seed: 42" in (kdexp.cwd / "here" / "config.yaml").read_text()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_keeps_the_last_good_checkpoint(kdexp, small_disk):
    run = small_disk / "run"
    words = ("train", "figures=false", "trainer.max_epochs=500", "teacher.max_epochs=2", f"hydra.run.dir={run}")
    process = kdexp.start(*rings_words(*words), KDEXP_TRUSTED_PACKAGES="rings")
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(b"\0" * 512)
        except OSError:
            pass
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "No space left" in err
    assert "Traceback" not in err
    assert f"resume={run}" in err
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert not (run / "run.json").exists()
    (small_disk / "filler").unlink()
    ended = kdexp.rings("train", f"resume={run}")
    assert ended.code == 0, ended.err


@pytest.mark.slow
def test_two_ranks_train_together(kdexp):
    ended = kdexp.rings(
        "train",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "trainer.strategy=ddp",
        "trainer.max_epochs=6",
        "with_no_kd=true",
        "figures=false",
        "hydra.run.dir=two",
    )
    assert ended.code == 0, ended.err
    record = json.loads((kdexp.cwd / "two" / "run.json").read_text())
    assert record["status"] == "done"
    assert record["no_kd"]["metrics"]["test"]["score"] > 0
    lines = (kdexp.cwd / "two" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert len(list((kdexp.cwd / "outputs" / "teachers").glob("*/teacher.json"))) == 1
