"""The stages of a run: the teacher from its store, its outputs from the cache, a student trained and measured."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning.loggers import Logger
from torch import nn

from kdexp.building import apply_signal, build_logger, build_model, build_optimizer, check_signal, model_size
from kdexp.connecting import connect
from kdexp.contracts import NUMBERS, Dataset, Split, SplitName, Trial
from kdexp.display import Display
from kdexp.distill.objective import Objective, none, own_loss
from kdexp.errors import CacheError
from kdexp.measuring import measure
from kdexp.records import RunFolder, fingerprint
from kdexp.training.cache import CacheKey, Features, Values, obtain_cache, teacher_outputs
from kdexp.training.features import FeatureStore
from kdexp.training.fit import FitResult, fit, latency_ms, load_checkpoint, model_state
from kdexp.training.loggers import close_logger
from kdexp.training.module import DistillationModule
from kdexp.training.signals import LiveTeacher, SignalSource
from kdexp.training.teacher import TeacherStore, answered, describe_task, load_weights, obtain_teacher

log = logging.getLogger(__name__)

Config = Mapping[str, Any]
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every stage of a run works with."""

    cfg: Config
    dataset: Dataset
    display: Display
    device: torch.device
    is_main: bool

    @cached_property
    def features(self) -> FeatureStore:
        """What frozen parts of the models give."""
        root = Path(self.cfg["paths"]["output_root"]) / "features"
        return FeatureStore(
            root, deterministic=self.dataset.deterministic, device=self.device, stage=self.display.stage
        )

    def measure(
        self, model: nn.Module, splits: Sequence[SplitName], folder: RunFolder, view: str
    ) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, Any]]]:
        """Metrics and intervals by split, with the run's settings."""
        stage = self.display.stage(f"measuring the {view}", len(splits))
        return measure(
            model,
            self.dataset,
            splits,
            folder,
            view=view,
            batch_size=self.cfg["data"]["eval_batch_size"],
            device=self.device,
            interval=self.cfg["interval"],
            features=self.features,
            stage=stage,
        )

    def model_facts(self, model: nn.Module, view: str) -> dict[str, Any]:
        batch_size = min(self.cfg["data"]["eval_batch_size"], len(self.dataset.split("val")))
        latency = latency_ms(model, self.dataset.split("val"), batch_size=batch_size, view=view, device=self.device)
        return {**model_size(model), "latency_ms_per_sample": latency, "latency_batch_size": batch_size}


def prepare_teacher(bench: Bench, objective: Objective) -> tuple[nn.Module, Record]:
    """The teacher from the store, trained first where it is not there, and set to be read as `teacher.signal` says.

    What the store holds does not depend on `teacher.signal`: its metrics are those of the reading it is built with.
    """
    cfg, dataset = bench.cfg, bench.dataset
    teacher = cfg["teacher"]
    signal = teacher.get("signal") or {}
    model = build_model(teacher["model"], dataset, teacher["seed"], "teacher.model")
    check_signal(model, signal)
    connect(objective, cfg, dataset, model, is_main=bench.is_main)
    given = Path(teacher["checkpoint"]) if teacher["checkpoint"] else None
    adopted = load_weights(model, given, dataset.tasks, "teacher.checkpoint") if given else None
    store = TeacherStore(Path(cfg["paths"]["output_root"]) / "teachers" / _teacher_key(bench, model, adopted))

    def make(folder: RunFolder) -> tuple[Mapping[str, torch.Tensor], Record]:
        seconds, epochs = 0.0, 0
        if adopted is None:
            own = getattr(model, "own_loss", None)
            result = _fit(bench, folder, model, own_loss(own) if own else none(), view="teacher", name="teacher")
            seconds, epochs = result.seconds, len(result.history)
        state = {name: tensor.detach().clone().cpu() for name, tensor in model.state_dict().items()}
        metrics, intervals = bench.measure(model, ("val", "test"), folder, "teacher") if bench.is_main else ({}, {})
        return state, {
            "config": {key: value for key, value in teacher.items() if key != "signal"},
            "data": {"name": dataset.name, "source": dataset.source, "fingerprint": dataset.fingerprint},
            "tasks": [describe_task(task) for task in dataset.tasks],
            "seed": teacher["seed"],
            "epochs": epochs,
            "seconds": seconds,
            "metrics": metrics,
            "intervals": intervals,
            "model": bench.model_facts(model, "teacher"),
        }

    manifest, reused = obtain_teacher(store, make, is_main=bench.is_main)
    if reused and bench.is_main:
        log.info("teacher: reused %s from %s", manifest["fingerprint"], store.path)
    load_weights(model, store.weights, dataset.tasks, "teacher")
    apply_signal(model, signal)
    facts = {key: manifest[key] for key in ("fingerprint", "seed", "epochs", "metrics", "intervals", "model")}
    return model, {**facts, "signal": dict(signal), "folder": str(store.path), "reused": reused}


def _teacher_key(bench: Bench, model: nn.Module, adopted: str | None) -> str:
    """All that a trained teacher depends on."""
    cfg, teacher = bench.cfg, bench.cfg["teacher"]
    training = None
    if adopted is None:
        trainer = {
            k: v for k, v in cfg["trainer"].items() if k not in ("accelerator", "devices", "strategy", "max_epochs")
        }
        training = [teacher["seed"], teacher["max_epochs"], teacher["optimizer"], cfg["data"]["batch_size"], trainer]
    frozen = {name: part.fingerprint for name, part in getattr(model, "frozen_parts", dict)().items()}
    facts = [teacher["model"], model.version, bench.dataset.fingerprint, adopted, training]
    ema = teacher.get("ema") if adopted is None else None
    return fingerprint(*facts, *([frozen] if frozen else []), *([{"ema": ema}] if ema else []))


def signal_source(
    bench: Bench, model: nn.Module, facts: Record, objective: Objective
) -> tuple[SignalSource, dict[str, Any]]:
    """The teacher's outputs from the cache where nothing random makes that wrong, else the live teacher."""
    teacher, dataset = bench.cfg["teacher"], bench.dataset
    if teacher["cache"] in ("ram", "memmap") and not dataset.deterministic:
        raise CacheError(
            f"teacher.cache={teacher['cache']}: {dataset.name} draws its samples anew each time, so cached teacher "
            "outputs would belong to other samples; use teacher.cache=off"
        )
    if teacher["cache"] == "off" or not dataset.deterministic:
        return LiveTeacher(model, facts["fingerprint"]), {"outputs": "live"}
    names = objective.teacher_features
    key = CacheKey(
        teacher=facts["fingerprint"],
        data=dataset.fingerprint,
        dtype=teacher["cache_dtype"],
        names=names,
        signal=facts["signal"],
    )

    def compute() -> tuple[Values, Features]:
        split, size = dataset.split("train"), bench.cfg["data"]["eval_batch_size"]
        tasks, _ = answered(model, dataset.tasks, dataset.score)
        return teacher_outputs(
            model,
            bench.features.split(model, split, "teacher"),
            [task for task in tasks if task.kind not in NUMBERS],
            features=names,
            batch_size=size,
            device=bench.device,
            stage=bench.display.stage("teacher outputs", -(-len(split) // size)),
        )

    source, reused = obtain_cache(Path(facts["folder"]) / "outputs", key, teacher["cache"], compute)
    if reused and bench.is_main:
        log.info("teacher outputs: reused from %s", key.folder(Path(facts["folder"]) / "outputs"))
    return source, {"outputs": "reused" if reused else "computed"}


def train_student(
    bench: Bench,
    folder: RunFolder,
    objective: Objective,
    source: SignalSource | None,
    trial: Trial | None,
    name: str = "student",
) -> Record | None:
    """Trains a student to the end, then measures its best checkpoint on val and, outside a sweep, once on test."""
    cfg = bench.cfg
    model = build_model(cfg["student"], bench.dataset, cfg["seed"], "student")
    logger = None
    if bench.is_main and name == "student":
        logger = build_logger(cfg["logger"], cfg, folder.path, bench.dataset)
    try:
        result = _fit(
            bench, folder, model, objective, view="student", name=name, source=source, logger=logger, trial=trial
        )
        if not bench.is_main:
            return None
        facts = _measured_student(bench, folder, model, result, with_test=trial is None and result.pruned is None)
        if logger is not None:
            tested = facts["metrics"]["test"] or {}
            logger.log_metrics({f"test/{metric}": value for metric, value in tested.items()}, step=len(result.history))
            logger.finalize("success")
        return facts
    finally:
        close_logger(logger)


def _measured_student(bench: Bench, folder: RunFolder, model: nn.Module, result: FitResult, with_test: bool) -> Record:
    started = time.perf_counter()
    model.load_state_dict(model_state(load_checkpoint(folder.best_checkpoint)))
    splits: tuple[SplitName, ...] = ("val", "test") if with_test else ("val",)
    metrics, intervals = bench.measure(model, splits, folder, "student")
    return {
        "status": "pruned" if result.pruned else "done",
        "metrics": {
            "val": {"best": metrics["val"], "last": result.last, "best_epoch": result.best_epoch},
            "test": metrics.get("test"),
        },
        "intervals": intervals,
        "epochs": len(result.history),
        "model": bench.model_facts(model, "student"),
        "durations_seconds": {"student": result.seconds, "evaluation": time.perf_counter() - started},
    }


def _train_split(dataset: Dataset, view: str) -> Split:
    """What a model is trained on; a teacher sees more where the data set says so (labels may be scarce)."""
    wider = getattr(dataset, "teacher_split", None)
    return wider() if wider is not None and view == "teacher" else dataset.split("train")


def _fit(
    bench: Bench,
    folder: RunFolder,
    model: nn.Module,
    objective: Objective,
    *,
    view: Literal["teacher", "student"],
    name: str,
    source: SignalSource | None = None,
    logger: Logger | None = None,
    trial: Trial | None = None,
) -> FitResult:
    """Trains a model on its view of the samples, with the seed, the optimiser and the epochs that its section sets."""
    cfg, dataset = bench.cfg, bench.dataset
    section = cfg["teacher"] if view == "teacher" else cfg
    epochs = cfg["teacher"]["max_epochs"] if view == "teacher" else cfg["trainer"]["max_epochs"]
    key = "teacher.optimizer" if view == "teacher" else "optimizer"
    make_optimizer, learning_rate = build_optimizer(section["optimizer"], key)
    tasks, score = answered(model, dataset.tasks, dataset.score)
    module = DistillationModule(
        model,
        objective=objective,
        tasks=tasks,
        score=score,
        make_optimizer=make_optimizer,
        learning_rate=learning_rate,
        seed=section["seed"],
        teacher=source,
        view=view,
    )
    train, val = (
        bench.features.split(model, split, view) for split in (_train_split(dataset, view), dataset.split("val"))
    )
    if isinstance(source, LiveTeacher):
        train = bench.features.split(source.model, train, "teacher")
    return fit(
        module,
        train=train,
        val=val,
        folder=folder,
        trainer_options={**cfg["trainer"], "max_epochs": epochs},
        batch_size=cfg["data"]["batch_size"],
        eval_batch_size=cfg["data"]["eval_batch_size"],
        order_seed=section["seed"],
        decay=section.get("ema") if view == "teacher" else None,
        stage=bench.display.stage(name),
        logger=logger,
        trial=trial,
    )
