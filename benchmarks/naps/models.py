"""A linear model that sleeps once in each training step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn

from kdexp.contracts import StudentOutput, TaskSpec


class Napper(nn.Module):
    """Logits (B, 2) from points (B, 2); `seconds` of sleep where it is trained, none where it is evaluated."""

    version = 1

    def __init__(self, *, tasks: tuple[TaskSpec, ...], seconds: Annotated[float, Ge(0)] = 0.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.heads = nn.ModuleDict({task.name: nn.Linear(2, len(task.classes)) for task in tasks})

    def forward(self, inputs: Mapping[str, Tensor]) -> StudentOutput:
        if self.training and self.seconds:
            time.sleep(self.seconds)
        return StudentOutput(logits={name: head(inputs["points"]) for name, head in self.heads.items()})
