"""What happens at the end of an epoch: its values are written down, the state is saved, the sweep is told."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.loggers import Logger

from kdexp.contracts import Trial
from kdexp.display import Stage
from kdexp.errors import RunFailed
from kdexp.records import RunFolder, append_line, keep_lines, read_lines
from kdexp.training.module import DistillationModule

MONITOR = "val/score"


class EpochRecorder(pl.Callback):
    """Writes a line per epoch, then `last.ckpt`, and `best.ckpt` where `val/score` rose.

    The line comes first: on resume, lines beyond the checkpoint's epoch are taken out again. State that a resumed
    run needs (best score and its epoch) travels in the checkpoint.
    """

    def __init__(self, folder: RunFolder, logger: Logger | None = None, trial: Trial | None = None) -> None:
        self.folder, self.logger, self.trial = folder, logger, trial
        self.best_score, self.best_epoch = float("-inf"), 0
        self.pruned: tuple[int, float] | None = None
        self._started = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            rows = [row for row in read_lines(self.folder.metrics) if row["epoch"] <= trainer.current_epoch]
            keep_lines(self.folder.metrics, rows)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DistillationModule)
        epoch = trainer.current_epoch + 1
        values = pl_module.epoch_values()
        score = values[MONITOR]
        is_best = score > self.best_score
        if is_best:
            self.best_score, self.best_epoch = score, epoch
        if trainer.is_global_zero:
            row = {"epoch": epoch, **values, "seconds": round(time.perf_counter() - self._started, 3)}
            append_line(self.folder.metrics, row)
            if self.logger is not None:
                self.logger.log_metrics(values, step=epoch)
        self._save(trainer, is_best)
        self._ask_trial(trainer, epoch, score)

    def _save(self, trainer: pl.Trainer, is_best: bool) -> None:
        last, best = self.folder.last_checkpoint, self.folder.best_checkpoint
        temporary = last.with_suffix(".tmp")
        try:
            trainer.save_checkpoint(temporary, weights_only=False)
            if not trainer.is_global_zero:
                return
            temporary.replace(last)
            if is_best:
                _link_or_copy(last, best)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise RunFailed(f"cannot save {last} ({error}); free space first") from error

    def _ask_trial(self, trainer: pl.Trainer, epoch: int, score: float) -> None:
        """Reports the 1-based epoch; rank zero decides for all. A trial is never pruned at its last epoch."""
        if self.trial is None:
            return
        prune = False
        if trainer.is_global_zero:
            self.trial.report(epoch, score)
            prune = epoch < (trainer.max_epochs or 0) and self.trial.should_prune()
        if trainer.strategy.broadcast(prune):
            self.pruned = (epoch, score)
            trainer.should_stop = True


class AveragedWeights(EMAWeightAveraging):
    """The average of the weights stands in for them in validation, in checkpoints and at the end, also at the end of a
    training that had nothing left to do."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device  # where the model will be, but is not yet
        super().setup(trainer, pl_module, stage)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.on_train_end(trainer, pl_module)


class EpochProgress(pl.Callback):
    """Moves the display: a step at a time, and a word on each epoch."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stage.total = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
        self.stage.at(trainer.current_epoch * int(trainer.num_training_batches))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.stage.advance()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = _shown(pl_module)
        self.stage.note(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {values}")


def _shown(module: pl.LightningModule) -> str:
    assert isinstance(module, DistillationModule)
    metrics: Mapping[str, float] = module.validation_metrics
    return "  ".join(f"val {name} {value:.3f}" for name, value in metrics.items() if name in ("score", *module.score))


def _link_or_copy(source: Path, target: Path) -> None:
    temporary = target.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, temporary)
    temporary.replace(target)
