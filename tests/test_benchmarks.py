"""Every benchmark runs in its smallest form and prints its figures; what they come to is asserted nowhere."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from benchmarks.sweeps import in_batches, one_by_one

from support import ROOT, CommandLine

RATIOS = (
    "kdexp --help / import hydra",
    "kdexp train --help / import hydra",
    "cached-teacher epoch / student-only epoch",
    "the same, training steps alone",
    "live-teacher epoch / cached-teacher epoch",
    "Lightning fit / hand-written loop",
)
OF_FUSED = tuple(
    name.format(classes)
    for classes in ("5 classes", "32,000 classes")
    for name in (
        "time, {}: fused / plain",
        "peak memory, {}: fused / plain",
        "time of the plain form, {}, ms",
        "peak memory of the plain form, {}, MB",
    )
)
OF_TRAJECTORIES = (
    "cached-teacher epoch / student-only epoch",
    "the same, training steps alone",
    "live-teacher epoch / cached-teacher epoch",
    "KD part of a step, cached signal / online teacher (at 0.05: 20 times cheaper)",
    "KD part of a step with the cached signal, ms",
    "KD part of a step with the online teacher, ms",
    *(
        f"{what}, heads of width {width}{unit}"
        for width in (64, 128)
        for what, unit in (
            ("time", ""),
            ("peak memory", ""),
            ("largest tensor", ""),
            ("peak memory of the plain form", ", MB"),
        )
    ),
)
OF_SWEEPS = (
    "batches / free: from the first trial's start to the last one's end",
    "batches / free: the whole command, start-up and report included",
    "batches / free: the sleep alone, on workers without overhead (computed)",
    "batches, trials, seconds",
    "free, trials, seconds",
    "trial through the sweep / the same training called directly",
    "the sweep's part of a trial, ms of processor time",
    "the sweep's part of a trial, ms by the clock",
    "a trial through the sweep, ms of processor time",
    "the same training called directly, ms of processor time",
    "resident memory, MB",
    "resident memory of its helper (wandb-core), MB",
    "open file descriptors",
    "threads",
)
_ROW = re.compile(r"^\W*(\S.*?)\s{2,}\W+(-?\d+\.?\d*)\W+(-?\d+\.?\d*)\W+(-?\d+\.?\d*)", re.MULTILINE)


def test_every_training_benchmark_runs_small_and_prints_its_ratios_and_what_they_were_measured_on(
    kdexp: CommandLine,
) -> None:
    printed = smoke(kdexp, "startup", "teacher", "loop")
    lines = _ROW.findall(printed)
    assert tuple(name for name, *_ in lines) == RATIOS
    assert all(float(value) > 0 for _, *values in lines for value in values)
    assert re.search(r"medpix, SYNTHETIC \(train \d+, val \d+\), \d+ steps", printed)


def test_the_benchmark_of_the_fused_loss_runs_small_and_prints_its_figures(kdexp: CommandLine) -> None:
    lines = _ROW.findall(smoke(kdexp, "fused"))
    assert tuple(name for name, *_ in lines) == OF_FUSED
    assert all(float(value) > 0 for _, *values in lines for value in values)


def test_every_benchmark_of_trajectories_runs_small_and_prints_its_figures(kdexp: CommandLine) -> None:
    printed = smoke(kdexp, "trajectories")
    lines = _ROW.findall(printed)
    assert tuple(name for name, *_ in lines) == OF_TRAJECTORIES
    assert all(float(value) > 0 for _, *values in lines for value in values)
    assert re.search(r"city, SYNTHETIC \(train \d+, val \d+\), \d+ steps", printed)


@pytest.mark.slow
def test_every_benchmark_of_sweeps_runs_small_and_prints_its_figures(kdexp: CommandLine) -> None:
    printed = smoke(kdexp, "workers", "trial", "wandb")
    assert tuple(name for name, *_ in _ROW.findall(printed)) == OF_SWEEPS


def test_batches_wait_for_their_slowest_and_free_workers_for_nobody() -> None:
    # Two workers, batches (1, 3) and (1, 1). Free: 1 + 1 + 1 beside 3.
    assert in_batches([1, 3, 1, 1], 2) == 4
    assert one_by_one([1, 3, 1, 1], 2) == 3


def smoke(kdexp: CommandLine, *which: str) -> str:
    """What these benchmarks print in their smallest form."""
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-m", "benchmarks", *which, "--smoke"],
        cwd=ROOT,
        env=kdexp.environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout
