"""A network of two layers, teacher and student alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from annotated_types import Ge, Interval
from torch import Tensor, nn

from kdexp.contracts import StudentOutput, TaskSpec


class RingNet(nn.Module):
    version = 1

    def __init__(
        self,
        *,
        tasks: tuple[TaskSpec, ...],
        n_inputs: int,
        width: Annotated[int, Ge(1)] = 16,
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1,
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(n_inputs, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width), nn.ReLU()
        )
        self.heads = nn.ModuleDict({task.name: nn.Linear(width, len(task.classes)) for task in tasks})

    def forward(self, inputs: Mapping[str, Tensor]) -> StudentOutput:
        hidden = self.body(inputs["points"])
        return StudentOutput(logits={name: head(hidden) for name, head in self.heads.items()})
