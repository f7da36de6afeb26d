"""Every benchmark runs in its smallest form and prints its ratios; what they come to is asserted nowhere."""

from __future__ import annotations

import re
import subprocess
import sys

from support import ROOT, CommandLine

RATIOS = (
    "kdexp --help / import hydra",
    "kdexp train --help / import hydra",
    "cached-teacher epoch / student-only epoch",
    "the same, training steps alone",
    "live-teacher epoch / cached-teacher epoch",
    "Lightning fit / hand-written loop",
)


def test_every_benchmark_runs_small_and_prints_its_ratios_and_what_they_were_measured_on(kdexp: CommandLine) -> None:
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-m", "benchmarks", "--smoke"],
        cwd=ROOT,
        env=kdexp.environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    lines = re.findall(r"^\W*(\S.*?)\s{2,}\W+(\d+\.\d{3})\W+(\d+\.\d{3})\W+(\d+\.\d{3})", finished.stdout, re.MULTILINE)
    assert tuple(name for name, *_ in lines) == RATIOS
    assert all(float(value) > 0 for _, *values in lines for value in values)
    assert re.search(r"medpix, SYNTHETIC \(train \d+, val \d+\), \d+ steps", finished.stdout)
