"""Fits the objective to Lightning: one step, one validation pass, and the values of one epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from kdexp.contracts import Batch, LossTerms, Progress, Schedule, StudentOutput, TaskSpec
from kdexp.distill.objective import Objective
from kdexp.errors import ConfigError, RunFailed
from kdexp.seeds import derive_seed
from kdexp.training.metrics import split_metrics
from kdexp.training.signals import SignalSource

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
_FILLERS = {"candidates": -1, "duration": float("nan")}  # targets of padding, where batches differ in shape
_CHECK_EVERY = 16  # steps between looks at the loss where a look would wait for an accelerator


class DistillationModule(pl.LightningModule):
    """Trains one model, a student or (with the objective `none` and `view="teacher"`) a teacher.

    Everything random in an epoch is seeded at its start from (seed, epoch), so an epoch can be repeated exactly.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        objective: Objective,
        tasks: tuple[TaskSpec, ...],
        score: tuple[str, ...],
        make_optimizer: MakeOptimizer,
        learning_rate: Schedule,
        seed: int,
        teacher: SignalSource | None = None,
        view: str = "student",
    ) -> None:
        super().__init__()
        self.model, self.objective = model, objective
        self.tasks, self.score, self.seed, self.view = tasks, score, seed, view
        self._make_optimizer, self._learning_rate = make_optimizer, learning_rate
        self._teacher = teacher
        self._sums: dict[str, Tensor] = {}
        self._n_seen = 0
        self._unchecked: list[tuple[int, dict[str, Tensor]]] = []
        self._validation: list[tuple[StudentOutput, Batch]] = []
        self._terms: LossTerms | None = None
        self.validation_metrics: dict[str, float] = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self._make_optimizer(list(self.parameters()))

    def on_fit_start(self) -> None:
        if self._teacher is not None:
            self._teacher.to(self.device)

    @property
    def progress(self) -> Progress:
        """Where training stands: 0 at the first, 1 at the last planned epoch (step)."""
        epochs, steps = self.trainer.max_epochs or 1, int(self.trainer.estimated_stepping_batches)
        return Progress(
            epoch=min(self.current_epoch / max(epochs - 1, 1), 1.0),
            step=min(self.global_step / max(steps - 1, 1), 1.0),
        )

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(derive_seed(self.seed, "epoch", self.current_epoch, self.global_rank))
        self._sums, self._n_seen = {}, 0

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        progress = self.progress
        rate = self._learning_rate(progress.step if self._learning_rate.per == "step" else progress.epoch)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        output = self.model(getattr(batch, self.view))
        signal = self._teacher.signal(batch) if self._teacher is not None else None
        terms = self.objective(output, signal, batch.targets, self.progress, self.tasks, batch.weights)
        self._terms = terms
        self._account({"loss": terms.total.detach(), **{k: v.detach() for k, v in terms.parts.items()}}, len(batch))
        return terms.total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._validation.append(kept(self.tasks, self.model(getattr(batch, self.view)), batch))

    def on_validation_epoch_end(self) -> None:
        outputs, self._validation = self._validation, []
        self.validation_metrics = split_metrics(self.tasks, self.score, **gathered(self.tasks, outputs))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch if device.type == "cpu" else batch.to(device)

    def epoch_values(self) -> dict[str, float]:
        """What this epoch was, by name: loss parts (means over its samples), weights, temperature, rate, validation."""
        self._refuse_nan(everything=True)
        names = list(self._sums)
        sums = torch.stack(
            [self._sums[name] for name in names] + [torch.tensor(float(self._n_seen), device=self.device)]
        )
        if self.trainer.world_size > 1:
            sums = torch.as_tensor(self.all_gather(sums)).sum(0)
        *parts, n = sums.tolist()
        row = {f"train/{name}": value / n for name, value in zip(names, parts, strict=True)}
        if self._terms is not None:
            row |= {f"weight/{name}": float(weight) for name, weight in self._terms.weights.items()}
            if self._terms.temperature is not None:
                row["temperature"] = float(self._terms.temperature)
        row["lr"] = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        return row | {f"val/{name}": value for name, value in self.validation_metrics.items()}

    def _account(self, values: dict[str, Tensor], n: int) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value * n if name in self._sums else value * n
        self._n_seen += n
        self._unchecked.append((self.global_step, values))
        self._refuse_nan(everything=self.device.type == "cpu")

    def _refuse_nan(self, everything: bool) -> None:
        """Stops at the first loss part that is no number. On an accelerator it looks every few steps."""
        if not everything and len(self._unchecked) < _CHECK_EVERY:
            return
        unchecked, self._unchecked = self._unchecked, []
        for step, values in unchecked:
            if all(bool(torch.isfinite(value)) for value in values.values()):
                continue
            broken = [f"{name} = {float(value)}" for name, value in values.items() if not bool(torch.isfinite(value))]
            parts = [part for part in broken if not part.startswith("loss =")] or broken
            raise RunFailed(
                f"the loss is no number at step {step} (epoch {self.current_epoch + 1}): {', '.join(parts)}; "
                "lower optimizer.lr, set trainer.gradient_clip_val, or look at the schedule of that part"
            )


def kept(tasks: tuple[TaskSpec, ...], output: StudentOutput, batch: Batch) -> tuple[StudentOutput, Batch]:
    """What `gathered` needs of a batch, on the CPU, logits in float32. Raises ConfigError for a task without logits."""
    missing = [task.name for task in tasks if task.name not in output.logits]
    if missing:
        raise ConfigError(
            f"the model gives no logits for {', '.join(missing)}, only for {', '.join(output.logits) or 'nothing'}; a "
            "teacher that does not give all tasks names those that it gives in its class attribute answers"
        )

    def slim(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {task.name: tensors[task.name].detach().cpu() for task in tasks if task.name in tensors}

    logits = {name: tensor.float() for name, tensor in slim(output.logits).items()}
    targets = slim(batch.targets)
    return (
        StudentOutput(logits=logits, masks=slim(output.masks)),
        Batch(
            student={},
            teacher={},
            targets=targets,
            index=batch.index.cpu(),
            weights=None if batch.weights is None else batch.weights.cpu(),
        ),
    )


def gathered(tasks: tuple[TaskSpec, ...], outputs: list[tuple[StudentOutput, Batch]]) -> dict[str, Any]:
    """Batches' logits, targets and masks put together by task, and their weights, in sample order; see `kept`.

    Where candidates or positions differ in number from batch to batch, they are padded to the largest: logits with 0,
    masks with False, targets as their kind says that a position does not count.
    """
    order_N = torch.cat([batch.index for _, batch in outputs]).argsort(stable=True)
    weights = [batch.weights for _, batch in outputs if batch.weights is not None]

    def together(task: TaskSpec, pieces: list[Tensor], filler: float) -> Tensor:
        whole = torch.cat(pieces) if task.kind not in _FILLERS else padded(pieces, filler)
        return whole[order_N]

    return {
        "logits": {t.name: together(t, [output.logits[t.name] for output, _ in outputs], 0) for t in tasks},
        "targets": {
            t.name: together(t, [batch.targets[t.name] for _, batch in outputs], _FILLERS.get(t.kind, 0)) for t in tasks
        },
        "masks": {
            t.name: together(t, [output.masks[t.name] for output, _ in outputs], False)
            for t in tasks
            if t.name in outputs[0][0].masks
        },
        "weights": torch.cat(weights)[order_N] if weights else None,
    }


def padded(pieces: list[Tensor], filler: float) -> Tensor:
    """Pieces one below the other, each filled up behind its last axes to the largest piece."""
    shape = [max(sizes) for sizes in zip(*(piece.shape[1:] for piece in pieces), strict=True)]
    whole = pieces[0].new_full((sum(map(len, pieces)), *shape), filler)
    start = 0
    for piece in pieces:
        whole[(slice(start, start + len(piece)), *map(slice, piece.shape[1:]))] = piece
        start += len(piece)
    return whole
