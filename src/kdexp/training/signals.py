"""Where a teacher's signal comes from: the model itself, or its outputs computed once. A loss cannot tell which."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from kdexp.contracts import Batch, TeacherSignal
from kdexp.training.ragged import Ragged


class SignalSource(Protocol):
    def signal(self, batch: Batch) -> TeacherSignal: ...

    def to(self, device: torch.device) -> None: ...


class LiveTeacher:
    """Runs the teacher on each batch: frozen, in eval mode, and no part of the student's checkpoint."""

    def __init__(self, model: nn.Module, fingerprint: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.fingerprint = fingerprint

    def to(self, device: torch.device) -> None:
        self.model.to(device)

    @torch.no_grad()
    def signal(self, batch: Batch) -> TeacherSignal:
        with torch.autocast(batch.index.device.type, enabled=False):  # the student's precision is not the teacher's
            output = self.model(batch.teacher)
        return TeacherSignal(
            values={task: logits.float() for task, logits in output.logits.items()},
            features={name: feature.float() for name, feature in output.features.items()},
            fingerprint=self.fingerprint,
        )


class CachedTeacher:
    """Looks the batch's rows up in stored outputs, held in memory or mapped from disk, in sample order."""

    def __init__(self, values: dict[str, Tensor | Ragged], features: dict[str, Tensor], fingerprint: str) -> None:
        self.values, self.features, self.fingerprint = values, features, fingerprint
        self._device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        self._device = device

    def signal(self, batch: Batch) -> TeacherSignal:
        index = batch.index.cpu()

        def rows(name: str, stored: Tensor | Ragged) -> Tensor:
            found = stored.rows(index, batch.targets[name]) if isinstance(stored, Ragged) else stored[index]
            return found.to(self._device).float()

        return TeacherSignal(
            values={name: rows(name, stored) for name, stored in self.values.items()},
            features={name: rows(name, stored) for name, stored in self.features.items()},
            fingerprint=self.fingerprint,
        )
