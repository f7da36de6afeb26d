"""Builds the objects that a configuration names; the only place that instantiates."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from annotated_types import Interval
from hydra.utils import instantiate
from pytorch_lightning.loggers import Logger
from torch import nn

from kdexp.bootstrap import check_metrics
from kdexp.check import locate
from kdexp.contracts import SPLITS, Dataset, Model, ProgressReport, Schedule
from kdexp.distill.objective import Objective
from kdexp.distill.schedules import make_schedule
from kdexp.errors import ConfigError, DataError
from kdexp.records import redact
from kdexp.seeds import derive_seed
from kdexp.training.module import MakeOptimizer

Config = Mapping[str, Any]


def build_dataset(node: Config) -> Dataset:
    """The data set, not read yet."""
    dataset = instantiate(node, _convert_="all")
    missing = [name for name in ("setup", "split", "model_arguments") if not hasattr(dataset, name)]
    if missing:
        raise ConfigError(f"dataset._target_: {node['_target_']} is no data set, it has no {', '.join(missing)}")
    return dataset


def open_dataset(node: Config, seed: int, report: ProgressReport | None = None) -> Dataset:
    """The data set, read and validated. Raises DataError where a split is empty."""
    dataset = build_dataset(node)
    check_metrics(dataset.tasks, dataset.score)
    dataset.setup(seed, report)
    for name in SPLITS:
        if len(dataset.split(name)) == 0:
            raise DataError(f"{dataset.name}: the split {name} is empty; look at it with `data action=inspect`")
    return dataset


def build_model(node: Config, dataset: Dataset, seed: int, key: str) -> nn.Module:
    """A model with weights drawn from the seed. It is told of the data what its constructor asks for; one under the key
    `teacher` hears what the data set tells teachers, where that differs."""
    accepted = inspect.signature(locate(node["_target_"], f"{key}._target_")).parameters
    of_teacher = getattr(dataset, "teacher_arguments", None) if key.partition(".")[0] == "teacher" else None
    arguments = (of_teacher or dataset.model_arguments)()
    told = {name: value for name, value in arguments.items() if name in accepted}
    given = {name: value for name, value in node.items() if name not in told}
    overridden = [f"{key}.{name}: is told by the data set; take it out" for name in node if name in told]
    if overridden:
        raise ConfigError(overridden)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        try:
            model = instantiate(given, _convert_="all", _partial_=True)(**told)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{key}: {node['_target_']} cannot be built: {error}") from error
    if not isinstance(model, nn.Module) or not isinstance(model, Model):
        raise ConfigError(
            f"{key}._target_: {node['_target_']} is no model; it needs to be a torch module with `version`"
        )
    return model


def check_signal(model: nn.Module, settings: Config) -> None:
    """Holds `teacher.signal` against the model's `read_with`. Raises ConfigError for a key that it does not have."""
    if not settings:
        return
    name, read_with = type(model).__name__, getattr(model, "read_with", None)
    if read_with is None:
        raise ConfigError(f"teacher.signal: {name} has no read_with, its outputs are read in one way; take it out")
    known = list(inspect.signature(read_with).parameters)
    unknown = [key for key in settings if key not in known]
    if unknown:
        there = f"{name}.read_with has {', '.join(known)}"
        raise ConfigError(
            [f"teacher.signal.{key}: unknown key, so it would have no effect; {there}" for key in unknown]
        )


def apply_signal(model: nn.Module, settings: Config) -> None:
    """Sets how a teacher's outputs are read. Raises ConfigError for a setting or value that it refuses."""
    check_signal(model, settings)
    if not settings:
        return
    try:
        getattr(model, "read_with")(**settings)  # noqa: B009
    except (TypeError, ValueError) as error:
        raise ConfigError(f"teacher.signal: {type(model).__name__} refuses {dict(settings)}: {error}") from error


def build_objective(node: Config) -> Objective:
    """A preset's objective; a null for a knob that the preset does not have is passed over."""
    accepted = inspect.signature(locate(node["_target_"], "distill._target_")).parameters
    given = {name: value for name, value in node.items() if name == "_target_" or name in accepted}
    objective = instantiate(given, _convert_="all", _recursive_=False)
    if not isinstance(objective, Objective):
        raise ConfigError(f"distill._target_: {node['_target_']} builds no Objective")
    return objective


def build_optimizer(node: Config, key: str) -> tuple[MakeOptimizer, Schedule]:
    """What makes the optimiser from parameters, and the schedule of its learning rate."""
    rate = make_schedule(node["lr"], f"{key}.lr", Interval(ge=0))
    options = {**node, "lr": rate(0.0), "_partial_": True}

    def make(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return instantiate(options, _convert_="all")(parameters)

    return make, rate


def build_logger(node: Config, cfg: Config, folder: Path, dataset: Dataset) -> Logger | None:
    """The optional logger; metrics.jsonl is written without it."""
    made = instantiate(node, _convert_="all", _partial_=True)
    return made(run_dir=folder, config=redact(cfg), source=dataset.source)


def device_of(trainer: Config) -> torch.device:
    """Where the stages beside training run: the accelerator that the Trainer would take."""
    wants_gpu = trainer["accelerator"] in ("auto", "gpu", "cuda")
    return torch.device("cuda" if wants_gpu and torch.cuda.is_available() else "cpu")


def model_size(model: nn.Module) -> dict[str, int]:
    """Parameters and the bytes of all weights and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": sum(t.numel() * t.element_size() for t in tensors),
    }
