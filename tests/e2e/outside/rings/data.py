"""Points on noisy rings; each ring is a class, each group of four points a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge

from kdexp.contracts import Batch, ProgressReport, SplitName, TaskSpec
from kdexp.records import fingerprint


class RingSplit:
    def __init__(self, name: str, points: torch.Tensor, rings: torch.Tensor) -> None:
        self.points, self.rings = points, rings
        self.clusters = np.array([f"{name}_{i // 4}" for i in range(len(points))])

    def __len__(self) -> int:
        return len(self.points)

    def fetch(self, index: torch.Tensor) -> Batch:
        inputs = {"points": self.points[index]}
        return Batch(student=inputs, teacher=inputs, targets={"ring": self.rings[index]}, index=index)


class Rings:
    """Three rings; `n` points are split 60 / 20 / 20."""

    cluster = "group"
    deterministic = True
    score = ("ring/f1",)
    tasks = (TaskSpec(name="ring", kind="multiclass", classes=("inner", "middle", "outer"), metrics=("acc", "f1")),)

    def __init__(self, *, name: str, n: Annotated[int, Ge(30)] = 300, noise: Annotated[float, Ge(0)] = 0.1) -> None:
        self.name, self.n, self.noise = name, n, noise
        self.source: Literal["real", "synthetic"] = "synthetic"
        self.fingerprint = ""
        self._splits: dict[str, RingSplit] = {}

    def setup(self, seed: int, progress: ProgressReport | None = None) -> None:
        generator = torch.Generator().manual_seed(seed)
        rings = torch.randint(0, 3, (self.n,), generator=generator)
        angle = 2 * torch.pi * torch.rand(self.n, generator=generator)
        radius = 1.0 + rings + self.noise * torch.randn(self.n, generator=generator)
        points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
        first, second = int(0.6 * self.n), int(0.8 * self.n)
        for name, part in zip(("train", "val", "test"), ((0, first), (first, second), (second, self.n)), strict=True):
            self._splits[name] = RingSplit(name, points[slice(*part)], rings[slice(*part)])
        self.fingerprint = fingerprint(seed, self.n, self.noise, points.sum().item())

    def split(self, name: SplitName) -> RingSplit:
        return self._splits[name]

    def model_arguments(self) -> dict[str, Any]:
        return {"tasks": self.tasks, "n_inputs": 2}

    def inspect(self) -> dict[str, Any]:
        return {"points": {name: {"n": len(split)} for name, split in self._splits.items()}}

    def generate(self, root: Path, seed: int, progress: ProgressReport | None = None) -> None:
        root.mkdir(parents=True, exist_ok=True)
        (root / "rings.json").write_text(json.dumps({"seed": seed, "n": self.n}))
