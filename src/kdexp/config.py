"""The shape of a configuration: a dataclass per section, with types and ranges.

Sections that build an object (`Node`) are checked against the signature of what they name; see `check.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, Len


@dataclass(frozen=True)
class NodeKind:
    """Marks a section that builds an object. `injected` are the parameters that Python adds (None: any); a config may
    name a class, and where `returns` is given also a function that returns such an object."""

    injected: frozenset[str] | None = frozenset()
    returns: str | None = None


Node = Annotated[dict[str, Any], NodeKind()]
ModelNode = Annotated[dict[str, Any], NodeKind(injected=None)]
OptimizerNode = Annotated[dict[str, Any], NodeKind(injected=frozenset({"params"}))]
LoggerNode = Annotated[dict[str, Any], NodeKind(frozenset({"run_dir", "config", "source"}), returns="Logger")]
DistillNode = Annotated[dict[str, Any], NodeKind(returns="Objective")]

Seed = Annotated[int, Ge(0)]

STUDENT_FACTS = ("parameters", "bytes", "latency_ms_per_sample", "latency_batch_size")
"""What a run records of its student's size and speed; `objective` names them as `student/...`."""


@dataclass(kw_only=True)
class DataConfig:
    seed: Seed
    batch_size: Annotated[int, Ge(1)]
    eval_batch_size: Annotated[int, Ge(1)]


@dataclass(kw_only=True)
class TeacherConfig:
    model: ModelNode
    seed: Seed
    max_epochs: Annotated[int, Ge(1)]
    optimizer: OptimizerNode
    cache: Literal["auto", "ram", "memmap", "off"]
    cache_dtype: Literal["float32", "float16"]
    checkpoint: str | None
    ema: Annotated[float, Interval(gt=0, lt=1)] | None = None
    signal: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class TrainerConfig:
    """Arguments of `pytorch_lightning.Trainer`, under Lightning's own names."""

    max_epochs: Annotated[int, Ge(1)]
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu", "hpu"]
    devices: Annotated[int, Ge(1)] | Literal["auto"] | list[int]
    num_nodes: Annotated[int, Ge(1)]
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true"]
    """Every rank goes through all stages, so strategies that start their processes in the middle (spawn) do not fit."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed"]
    gradient_clip_val: Annotated[float, Gt(0)] | None
    gradient_clip_algorithm: Literal["norm", "value"] | None
    accumulate_grad_batches: Annotated[int, Ge(1)]
    limit_train_batches: Annotated[int, Ge(1)] | Annotated[float, Interval(gt=0, le=1)]
    deterministic: bool | Literal["warn"]
    benchmark: bool | None
    detect_anomaly: bool


@dataclass(kw_only=True)
class PathsConfig:
    data_root: Annotated[str, Len(1)]
    output_root: Annotated[str, Len(1)]


@dataclass(kw_only=True)
class IntervalConfig:
    """The interval beside every metric: a bootstrap that resamples clusters (case, trip, event)."""

    n_resamples: Annotated[int, Ge(100)]
    level: Annotated[float, Interval(gt=0.5, lt=1)]
    seed: Seed


@dataclass(kw_only=True)
class TrainConfig:
    seed: Seed
    data: DataConfig
    dataset: Node
    teacher: TeacherConfig
    student: ModelNode
    distill: DistillNode
    optimizer: OptimizerNode
    trainer: TrainerConfig
    logger: LoggerNode
    paths: PathsConfig
    interval: IntervalConfig
    objective: str | Annotated[list[str], Len(1)]
    with_no_kd: bool
    figures: bool
    resume: str | None
    from_run: str | None
    choices: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class EvaluateConfig:
    run: Annotated[str, Len(1)]
    split: Literal["train", "val", "test"]
    paths: PathsConfig
    interval: IntervalConfig
    eval_batch_size: Annotated[int, Ge(1)]


@dataclass(kw_only=True)
class DataVerbConfig:
    action: Literal["inspect", "generate", "fetch"]
    root: str | None
    seed: Seed
    dataset: Node
    paths: PathsConfig


@dataclass(kw_only=True)
class DashboardConfig:
    study: Annotated[str, Len(1)]
    storage: str | None
    target: Literal["optuna", "wandb"]
    port: Annotated[int, Interval(ge=0, le=65535)]
    entity: str | None
    project: str | None
    paths: PathsConfig


@dataclass(kw_only=True)
class ConfirmConfig:
    study: Annotated[str, Len(1)]
    top: Annotated[int, Ge(1)]
    contenders: dict[str, str | list[str]] | None
    seeds: list[Seed]
    overrides: list[str]
    no_kd: Literal["plain", "tuned"]
    teacher_seeds: Literal["fixed", "fresh"]
    n_workers: Annotated[int, Ge(1)]
    margin: Annotated[float, Gt(0)]
    interval: IntervalConfig
    paths: PathsConfig


@dataclass(kw_only=True)
class ReportConfig:
    runs: Annotated[str, Len(1)] | Annotated[list[str], Len(1)] | None
    study: Annotated[str, Len(1)] | None
    reference: str | None
    split: Literal["val", "test"] | None
    chosen_on: Literal["val", "test"]
    top: Annotated[int, Ge(1)]
    name: Annotated[str, Len(1)] | None
    eval_batch_size: Annotated[int, Ge(1)]
    interval: IntervalConfig
    paths: PathsConfig
