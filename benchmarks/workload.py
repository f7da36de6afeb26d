"""The MedPix student with its data and its teacher's outputs, made from the configuration as `train` makes them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.execution_policy import execution_whitelist
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict
from rich.progress import Progress
from torch import nn

from kdexp.building import build_model, build_objective, build_optimizer, open_dataset
from kdexp.check import check_config
from kdexp.cli import config_directory
from kdexp.contracts import Dataset
from kdexp.display import Stage
from kdexp.distill.objective import Objective, none
from kdexp.records import RunFolder
from kdexp.training.cache import CacheKey, Features, Values, obtain_cache, teacher_outputs
from kdexp.training.fit import FitResult, fit
from kdexp.training.module import DistillationModule
from kdexp.training.signals import CachedTeacher, LiveTeacher, SignalSource
from kdexp.trust import execution_whitelist as trusted_names

SMALL = ("dataset.source=synthetic", "dataset.generator.preset=small", "dataset.image_size=32")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What all training benchmarks share. The teacher is not trained: its weights do not change its cost."""

    cfg: dict[str, Any]
    dataset: Dataset
    live: LiveTeacher
    cached: CachedTeacher
    distilled: Objective
    plain: Objective

    @property
    def n_steps(self) -> int:
        """Optimiser steps of one epoch."""
        return -(-len(self.dataset.split("train")) // self.cfg["data"]["batch_size"])

    def student(self) -> nn.Module:
        """A new student; every one has the same weights."""
        return build_model(self.cfg["student"], self.dataset, self.cfg["seed"], "student")

    def describe(self) -> str:
        sizes = ", ".join(f"{name} {len(self.dataset.split(name))}" for name in ("train", "val"))
        source = "real files" if self.dataset.source == "real" else "SYNTHETIC"
        size = self.cfg["data"]["batch_size"]
        return f"{self.dataset.name}, {source} ({sizes}), {self.n_steps} steps an epoch, batch {size}"


@contextmanager
def opened(small: bool) -> Iterator[Workload]:
    """Reads the data (real files under KDEXP_DATA, else the generator's; `small`: a small generated set) and computes
    the teacher's outputs, in a folder that is removed afterwards."""
    with TemporaryDirectory() as folder, execution_whitelist(trusted_names()):
        cfg = composed([f"paths.output_root={folder}", "trainer.accelerator=cpu", *(SMALL if small else ())])
        dataset = open_dataset(cfg["dataset"], cfg["data"]["seed"])
        teacher = build_model(cfg["teacher"]["model"], dataset, cfg["teacher"]["seed"], "teacher.model")
        distilled = build_objective(cfg["distill"])
        yield Workload(
            cfg=cfg,
            dataset=dataset,
            live=LiveTeacher(teacher, "untrained"),
            cached=_cached(cfg, dataset, teacher, distilled, Path(folder)),
            distilled=distilled,
            plain=none(),
        )


def composed(words: list[str]) -> dict[str, Any]:
    """`conf/train.yaml` with these overrides, checked, as plain values."""
    with initialize_config_dir(str(config_directory())):
        cfg = compose("train", words, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        cfg.pop("hydra")
    return check_config(cfg, overrides=words)


def _cached(
    cfg: dict[str, Any], dataset: Dataset, teacher: nn.Module, objective: Objective, folder: Path
) -> CachedTeacher:
    options, names = cfg["teacher"], objective.teacher_features
    key = CacheKey(teacher="untrained", data=dataset.fingerprint, dtype=options["cache_dtype"], names=names)

    def compute() -> tuple[Values, Features]:
        size = cfg["data"]["eval_batch_size"]
        return teacher_outputs(teacher, dataset.split("train"), dataset.tasks, features=names, batch_size=size)

    return obtain_cache(folder / "outputs", key, options["cache"], compute)[0]


class EpochClock(Stage):
    """Counts processor time where a run's progress is told: its training steps, and its epochs from first step to
    checkpoint, validation included. Draws nothing, as where there is no terminal."""

    def __init__(self) -> None:
        super().__init__(Progress(disable=True), "student", 1, logs=False)
        self.steps, self.epochs = 0.0, 0.0
        self._began = self._stepped = 0.0

    def at(self, done: int) -> None:
        super().at(done)
        self._began = self._stepped = time.process_time()

    def advance(self) -> None:
        super().advance()
        self._stepped = time.process_time()

    def note(self, text: str) -> None:
        super().note(text)
        self.epochs += time.process_time() - self._began
        self.steps += self._stepped - self._began


def lightning_fit(
    work: Workload, model: nn.Module, objective: Objective, source: SignalSource | None, n_epochs: int, stage: Stage
) -> FitResult:
    """`kdexp.training.fit.fit` in a new folder, as `train` calls it."""
    cfg = work.cfg
    make_optimizer, learning_rate = build_optimizer(cfg["optimizer"], "optimizer")
    module = DistillationModule(
        model,
        objective=objective,
        tasks=work.dataset.tasks,
        score=work.dataset.score,
        make_optimizer=make_optimizer,
        learning_rate=learning_rate,
        seed=cfg["seed"],
        teacher=source,
    )
    with TemporaryDirectory() as folder:
        return fit(
            module,
            train=work.dataset.split("train"),
            val=work.dataset.split("val"),
            folder=RunFolder(Path(folder)),
            trainer_options={**cfg["trainer"], "max_epochs": n_epochs},
            batch_size=cfg["data"]["batch_size"],
            eval_batch_size=cfg["data"]["eval_batch_size"],
            order_seed=cfg["seed"],
            stage=stage,
        )
