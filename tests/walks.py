"""A tiny system of sequences for tests: walks of different lengths, at each step a few ways to go on, and how long it
took. The teacher learns from walks themselves (its own loss) and answers one of the two tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Gt
from torch import Tensor, nn

from kdexp.contracts import Batch, ProgressReport, SplitName, StudentOutput, TaskSpec
from kdexp.records import fingerprint

TASKS = (
    TaskSpec(name="way", kind="candidates", metrics=("acc", "acc_decisions", "acc_inner")),
    TaskSpec(name="time", kind="duration", metrics=("mape_log", "mape_sec")),
)
LONGEST, WIDEST = 9, 5


class WalkSplit:
    def __init__(self, name: str, n: int, generator: torch.Generator) -> None:
        self.clusters = np.array([f"{name}{i}" for i in range(n)])
        steps = torch.randint(1, LONGEST + 1, (n, 1), generator=generator)
        self.lengths = steps[:, 0].numpy()
        there = torch.arange(LONGEST) < steps
        n_ways = torch.randint(1, WIDEST + 1, (n, LONGEST), generator=generator) * there
        self.mask = torch.arange(WIDEST) < n_ways[..., None]
        self.ways = torch.randn(n, LONGEST, WIDEST, 2, generator=generator) * self.mask[..., None]
        steepest = (self.ways.sum(-1)).masked_fill(~self.mask, -torch.inf).argmax(-1)
        self.way = steepest.where(there, -1)
        seconds = torch.rand(n, LONGEST, generator=generator) * 90
        self.time = seconds.log1p().where(there, torch.nan)

    def __len__(self) -> int:
        return len(self.clusters)

    def fetch(self, index: Tensor) -> Batch:
        n_steps = int(self.lengths[index.numpy()].max())
        mask = self.mask[index, :n_steps]
        n_ways = int(mask.sum(-1).max())
        view = {"ways": self.ways[index, :n_steps, :n_ways], "mask": mask[..., :n_ways]}
        targets = {"way": self.way[index, :n_steps], "time": self.time[index, :n_steps]}
        return Batch(student=view, teacher=view, targets=targets, index=index)


class Walks:
    name, cluster, deterministic, score, tasks = "walks", "walk", True, ("way/acc",), TASKS
    source: Literal["real", "synthetic"] = "synthetic"

    def __init__(self, *, n: int = 60) -> None:
        self.n, self.fingerprint = n, ""
        self._splits: dict[str, WalkSplit] = {}

    def setup(self, seed: int, progress: ProgressReport | None = None) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._splits = {name: WalkSplit(name, self.n, generator) for name in ("train", "val", "test")}
        self.fingerprint = fingerprint(seed, self.n)

    def split(self, name: SplitName) -> WalkSplit:
        return self._splits[name]

    def model_arguments(self) -> dict[str, Any]:
        return {}

    def inspect(self) -> dict[str, Any]:
        return {"n": self.n}

    def generate(self, root: Path, seed: int, progress: ProgressReport | None = None) -> None:
        raise NotImplementedError


class Walker(nn.Module):
    """Scores each way by its two numbers, element by element, so that no batch mate can move a bit."""

    version = 1

    def __init__(self) -> None:
        super().__init__()
        self.taste, self.pace = nn.Parameter(torch.randn(2)), nn.Parameter(torch.ones(()))

    def scores(self, ways: Tensor) -> Tensor:
        return ways[..., 0] * self.taste[0] + ways[..., 1] * self.taste[1]

    def forward(self, inputs: Mapping[str, Tensor]) -> StudentOutput:
        logits = {"way": self.scores(inputs["ways"]), "time": self.pace * inputs["mask"].sum(-1)}
        return StudentOutput(logits=logits, masks={"way": inputs["mask"]})


class Guide(Walker):
    """Has a loss of its own, answers one task, and can be read in two ways."""

    own_loss, answers = "surprise", ("way",)

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = 1.0

    def read_with(self, sharpness: Annotated[float, Gt(0)] = 1.0) -> None:
        if not sharpness > 0:
            raise ValueError(f"sharpness must be positive, got {sharpness}")
        self.sharpness = sharpness

    def forward(self, inputs: Mapping[str, Tensor]) -> StudentOutput:
        mask = inputs["mask"]
        log_p = self.scores(inputs["ways"]).masked_fill(~mask, -1e9).log_softmax(-1) * self.sharpness
        surprise = -log_p.where(mask, 0.0).sum((1, 2)) / mask.sum((1, 2)) + 0.1 * self.pace**2
        return StudentOutput(logits={"way": log_p.where(mask, 0.0)}, masks={"way": mask}, aux={"surprise": surprise})
