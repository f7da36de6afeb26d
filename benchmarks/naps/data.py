"""A few points in two classes. Reading them is a trial's first act, so here a trial waits for others, and notes what
its process has used so far."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge

from kdexp.contracts import Batch, ProgressReport, SplitName, TaskSpec
from kdexp.records import append_line, fingerprint

_LOOK_SECONDS = 0.02


class NapSplit:
    def __init__(self, points: torch.Tensor) -> None:
        self.points, self.sides = points, (points[:, 0] > 0).long()
        self.clusters = np.array([f"point_{number}" for number in range(len(points))])

    def __len__(self) -> int:
        return len(self.points)

    def fetch(self, index: torch.Tensor) -> Batch:
        inputs = {"points": self.points[index]}
        return Batch(student=inputs, teacher=inputs, targets={"side": self.sides[index]}, index=index)


class Naps:
    """`n` points in each split.

    With `barrier`, the folder of a study's trials, a trial waits until all earlier batches of `batch` trials have
    finished: the batch barrier. Its place in the study is `number`, its seed, less `first_number`. With `meter`, each
    reading adds a line to this file: what the process has used.
    """

    cluster = "point"
    deterministic = True
    score = ("side/acc",)
    tasks = (TaskSpec(name="side", kind="multiclass", classes=("left", "right"), metrics=("acc",)),)

    def __init__(
        self,
        *,
        name: str,
        n: Annotated[int, Ge(2)] = 32,
        number: Annotated[int, Ge(0)] = 0,
        first_number: Annotated[int, Ge(0)] = 0,
        barrier: Path | None = None,
        batch: Annotated[int, Ge(1)] = 1,
        meter: Path | None = None,
    ) -> None:
        self.name, self.n = name, n
        self._trials = Path(barrier) if barrier else None
        self._n_before = (number - first_number) // batch * batch
        self._meter = Path(meter) if meter else None
        self.source: Literal["real", "synthetic"] = "synthetic"
        self.fingerprint = ""
        self._splits: dict[str, NapSplit] = {}

    def setup(self, seed: int, progress: ProgressReport | None = None) -> None:
        if self._meter is not None:
            append_line(self._meter, used())
        while self._trials is not None and len(list(self._trials.glob("*/run.json"))) < self._n_before:
            time.sleep(_LOOK_SECONDS)
        generator = torch.Generator().manual_seed(seed)
        points = {name: torch.randn(self.n, 2, generator=generator) for name in ("train", "val", "test")}
        self._splits = {name: NapSplit(drawn) for name, drawn in points.items()}
        self.fingerprint = fingerprint(seed, self.n)

    def split(self, name: SplitName) -> NapSplit:
        return self._splits[name]

    def model_arguments(self) -> dict[str, Any]:
        return {"tasks": self.tasks}

    def inspect(self) -> dict[str, Any]:
        return {"points": {name: {"n": len(split)} for name, split in self._splits.items()}}

    def generate(self, root: Path, seed: int, progress: ProgressReport | None = None) -> None:
        root.mkdir(parents=True, exist_ok=True)
        (root / "naps.json").write_text(json.dumps({"seed": seed, "n": self.n}))


def used() -> dict[str, float]:
    """What this process has used, from /proc (Linux): seconds of processor and clock, resident memory in MB (10^6
    bytes) of itself and of its children, open file descriptors, threads."""
    process = Path("/proc/self")
    children = [pid for listed in process.glob("task/*/children") for pid in listed.read_text().split()]
    return {
        "process_seconds": time.process_time(),
        "seconds": time.monotonic(),
        "memory_mb": _resident_mb(process),
        "children_mb": sum(_resident_mb(Path("/proc") / pid) for pid in children),
        "children": len(children),
        "descriptors": len(list((process / "fd").iterdir())) - 1,  # without the one that lists them
        "threads": len(list((process / "task").iterdir())),
    }


def _resident_mb(process: Path) -> float:
    n_pages = int((process / "statm").read_text().split()[1])
    return n_pages * os.sysconf("SC_PAGE_SIZE") / 1e6
