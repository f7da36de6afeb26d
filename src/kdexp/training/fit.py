"""Trains one model in one folder, from where the folder stands; and runs a trained model over a split."""

from __future__ import annotations

import logging
import pickle
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from kdexp.contracts import Batch, Split, StudentOutput, TaskSpec, Trial
from kdexp.display import Stage
from kdexp.errors import CacheError
from kdexp.records import RunFolder, read_lines
from kdexp.training.callbacks import AveragedWeights, EpochProgress, EpochRecorder
from kdexp.training.loader import BatchLoader
from kdexp.training.module import DistillationModule, gathered, kept

_LATENCY_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What training left: one row per epoch, the best epoch (from 1), and where a pruner stopped it."""

    history: list[dict[str, Any]]
    best_epoch: int
    seconds: float
    pruned: tuple[int, float] | None = None

    @property
    def best(self) -> dict[str, float]:
        return _validation(self.history[self.best_epoch - 1])

    @property
    def last(self) -> dict[str, float]:
        return _validation(self.history[-1])


def fit(
    module: DistillationModule,
    *,
    train: Split,
    val: Split,
    folder: RunFolder,
    trainer_options: Mapping[str, Any],
    batch_size: int,
    eval_batch_size: int,
    order_seed: int,
    decay: float | None = None,
    stage: Stage,
    logger: Logger | None = None,
    trial: Trial | None = None,
) -> FitResult:
    """Trains to the last planned epoch, going on from `last.ckpt` where the folder has one.

    The result is bitwise the same on CPU, interrupted or not. With a `decay` the model that is measured and kept is the
    exponential moving average of all weights and buffers over the steps. Raises RunFailed (the last good checkpoint is
    kept).
    """
    started = time.perf_counter()
    recorder = EpochRecorder(folder, logger, trial)
    averaging = [] if decay is None else [AveragedWeights(decay=decay)]
    trainer = _trainer(trainer_options, [*averaging, recorder, EpochProgress(stage)], folder)
    loader = BatchLoader(
        train,
        batch_size=batch_size,
        seed=order_seed,
        epoch=lambda: int(getattr(trainer.fit_loop.epoch_progress.current, "processed", 0)),
        rank=trainer.global_rank,
        world_size=trainer.world_size,
    )
    validation = BatchLoader(val, batch_size=eval_batch_size)
    checkpoint = folder.last_checkpoint if folder.last_checkpoint.exists() else None
    if checkpoint is not None:
        load_checkpoint(checkpoint)  # a torn file is refused before Lightning sees it
    with warnings.catch_warnings():
        # Our loaders are plain iterables over tensors in memory: Lightning's advice on workers does not apply.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*number of training batches.*smaller than the logging interval.*")
        # What is in eval mode then is frozen, and meant to stay so.
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*treespec.*")
        try:
            trainer.fit(module, loader, validation, ckpt_path=checkpoint, weights_only=True)
        except SystemExit as error:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt(str(error.__context__ or "")) from None
    return FitResult(
        history=read_lines(folder.metrics),
        best_epoch=recorder.best_epoch,
        seconds=time.perf_counter() - started,
        pruned=recorder.pruned,
    )


def _trainer(options: Mapping[str, Any], callbacks: list[pl.Callback], folder: RunFolder) -> pl.Trainer:
    for name in ("pytorch_lightning", "lightning_fabric", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.WARNING)  # device lines and product tips; they set INFO on import
    return pl.Trainer(
        **options,
        callbacks=callbacks,
        default_root_dir=folder.path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, tensors and plain values only. Raises CacheError for a torn file or one with code."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # refused or read, not guessed at
            return dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise CacheError(f"{path} does not exist") from None
    except pickle.UnpicklingError as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CacheError(
            f"{path} holds more than tensors and plain values and could run code, so it is not opened ({reason}); "
            "save its state_dict alone with torch.save and use that"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CacheError(f"{path} is torn or no checkpoint ({reason}); remove it and run again") from None


def model_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The trained model's own weights out of a training checkpoint."""
    return {name.removeprefix("model."): t for name, t in checkpoint["state_dict"].items() if name.startswith("model.")}


@dataclass(frozen=True, kw_only=True)
class SplitOutputs:
    """A model's outputs on a split, in sample order, by task; `weights` (N,) where samples count differently."""

    logits: dict[str, Tensor]
    targets: dict[str, Tensor]
    masks: dict[str, Tensor]
    weights: Tensor | None


@torch.inference_mode()
def predict(
    model: nn.Module,
    split: Split,
    tasks: tuple[TaskSpec, ...],
    *,
    batch_size: int,
    view: str,
    device: torch.device | None = None,
) -> SplitOutputs:
    """Runs a model in eval mode over a whole split."""
    outputs = outputs_of(model, split, batch_size=batch_size, view=view, device=device)
    return SplitOutputs(**gathered(tasks, [kept(tasks, output, batch) for output, batch in outputs]))


@torch.inference_mode()
def outputs_of(
    model: nn.Module,
    split: Split,
    *,
    batch_size: int,
    view: str,
    device: torch.device | None = None,
    stage: Stage | None = None,
) -> Iterator[tuple[StudentOutput, Batch]]:
    """A model's outputs on a whole split in eval mode, batch by batch, in the loader's order."""
    device = device or torch.device("cpu")
    model = model.to(device).eval()
    for batch in BatchLoader(split, batch_size=batch_size):
        moved = batch.to(device)
        yield model(getattr(moved, view)), moved
        if stage is not None:
            stage.advance()


@torch.inference_mode()
def latency_ms(model: nn.Module, split: Split, *, batch_size: int, view: str, device: torch.device) -> float:
    """Milliseconds per sample of a forward pass: the median of five passes over one batch, after one to warm up; of
    fewer, at least one, where they take more than five seconds in all."""
    model = model.to(device).eval()
    batch = split.fetch(torch.arange(min(batch_size, len(split)))).to(device)
    seconds: list[float] = []
    while len(seconds) < 2 or (len(seconds) < 6 and sum(seconds) < _LATENCY_SECONDS):
        started = time.perf_counter()
        model(getattr(batch, view))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return median(seconds[1:]) * 1000 / len(batch)


def _validation(row: Mapping[str, Any]) -> dict[str, float]:
    return {name.removeprefix("val/"): value for name, value in row.items() if name.startswith("val/")}
