"""What the parts of an experiment promise each other; everything else depends on this and on nothing below it.

Shape suffixes: B samples in a batch, C classes, K candidates (padded), P positions of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

TaskKind = Literal["multiclass", "binary", "candidates", "regression", "duration"]
NUMBERS: tuple[TaskKind, ...] = ("regression", "duration")
"""Kinds that predict a number instead of choosing: no probabilities, and so no divergence to a teacher."""
SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One thing that a student predicts.

    `multiclass`: logits (B, C), target int64 (B,). `binary`: one logit (B,), target 0 or 1 (B,).
    `candidates`: logits (B, K) or (B, P, K) with a mask of the same shape, target int64 (B,) or (B, P), -1 where a
    position does not count; real candidates and positions come first, and K is the batch's largest number of them.
    `regression`: prediction (B,), target float (B,). `duration`: predicted log(1 + seconds) (B, P), target the same of
    the true seconds, float (B, P), NaN where a position does not count. P and K may differ from batch to batch.
    """

    name: str
    kind: TaskKind
    classes: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("acc", "f1")


@dataclass(kw_only=True)
class Batch:
    """Samples fetched together. `index` (B,) holds the samples' positions in their split, so that a cached teacher
    output can be looked up; `student` and `teacher` may be different views of the same samples. `weights` (B,), where
    there are any, say how much each sample counts in loss and metrics; none is negative, and a batch whose weights sum
    to 0 teaches nothing."""

    student: dict[str, Tensor]
    teacher: dict[str, Tensor]
    targets: dict[str, Tensor]
    index: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""

        def move(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        return Batch(
            student=move(self.student),
            teacher=move(self.teacher) if self.teacher is not self.student else move(self.student),
            targets=move(self.targets),
            index=self.index.to(device),
            weights=None if self.weights is None else self.weights.to(device),
        )


@dataclass(kw_only=True)
class StudentOutput:
    """What a model returns, teacher or student: logits by task, features by name, auxiliary numbers by name
    (each (B,)), and for `candidates` tasks the mask of real candidates, True where there is one."""

    logits: dict[str, Tensor]
    features: dict[str, Tensor] = field(default_factory=dict)
    aux: dict[str, Tensor] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)


@dataclass(kw_only=True)
class TeacherSignal:
    """What the teacher says about a batch, in the student's label space; live and cached are the same to a loss.

    `values[task]` are logits, or natural log-probabilities when `kind` says so, made at `temperature`.
    """

    values: dict[str, Tensor]
    kind: Literal["logits", "log_probabilities"] = "logits"
    temperature: float = 1.0
    features: dict[str, Tensor] = field(default_factory=dict)
    fingerprint: str = ""


class Progress(NamedTuple):
    """How far training is, each in [0, 1]: both ends are reached, at the first and the last epoch (or step)."""

    epoch: float
    step: float


@dataclass(kw_only=True)
class LossTerms:
    """The parts of one loss, by name: `parts` are batch means before weighting, `weights` what they were weighed by."""

    total: Tensor
    parts: dict[str, Tensor]
    weights: dict[str, float]
    temperature: float | None = None


FeatureForm = Literal["vectors", "maps", "numbers", "weights"]
"""Vectors (B, d); maps (B, C, H, W); numbers (B,); weights (B, M) over slots, 0 where a slot is empty."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a distillation loss is, so that the objective feeds it and the contract suite knows which checks it must
    pass."""

    divergence: bool
    """Zero, with no gradient, where student and teacher agree."""
    uses_temperature: bool
    relational: bool = False
    """It compares samples of a batch: a sample's number is its share, and only their mean means anything."""
    uses_labels: bool = False
    """It takes `targets` as well."""
    features: FeatureForm | None = None
    """The form of the paired features that it reads; None: it reads the tasks' logits."""
    projected: bool = False
    """A trained Linear brings the two features of a pair to one width first."""
    same_width: bool = False
    """It compares the two features of a pair number by number, as they are."""
    kinds: tuple[TaskKind, ...] = ("multiclass", "binary", "candidates")
    """The kinds of task whose logits it can read; it refuses the others with a ConfigError, but passes over numbers."""


class Loss(Protocol):
    """(student, signal) -> one float32 number per sample (B,), T² included where `scale_tau2`.

    One on logits is summed over the tasks that the signal is about. One on features finds the two of each pair under
    one name in `student.features` and `signal.features`, the teacher's detached; no other feature is there.
    """

    traits: Traits

    def __call__(
        self,
        student: StudentOutput,
        signal: TeacherSignal,
        *,
        tasks: tuple[TaskSpec, ...],
        temperature: float,
        scale_tau2: bool,
        **more: Any,
    ) -> Tensor: ...


class Schedule(Protocol):
    """A pure function of progress in [0, 1]; `per` says whether it moves once an epoch or every step."""

    @property
    def per(self) -> Literal["epoch", "step"]: ...

    def __call__(self, progress: float) -> float: ...


@runtime_checkable
class Split(Protocol):
    """One split, held in memory or mapped.

    It may have `lengths` (N,), how long each sample is: batches are then made of samples of like length. It may have
    `covariates`, numbers (N,) by name, of which the metrics are shown in bins; a name may end in its unit, `pT [GeV]`.
    """

    clusters: np.ndarray
    """Who belongs together (case, trip, event, task), one string per sample; intervals resample these."""

    def __len__(self) -> int: ...

    def fetch(self, index: Tensor) -> Batch:
        """The samples at these positions, fetched whole: no Python per sample."""
        ...


@runtime_checkable
class Dataset(Protocol):
    """A data set with its splits. The constructor takes plain settings and does no work; `setup` reads the files.

    Where labels are scarce, a class may also have `teacher_split()`: the samples that a teacher is trained on, `train`
    and more. Where the teacher's view of the samples has another shape, `teacher_arguments()` tells a teacher what
    `model_arguments` tells a student. `notes()` may say in sentences what its settings make of the data; the record
    keeps them, and tables and reports repeat them. `trivial_rules(split)` may name rules that need no model, with their
    metrics (`task/metric` and `score`): what a student has to beat.
    """

    name: str
    source: Literal["real", "synthetic"]
    """Known after `setup`: what was asked as `auto` is one of the two by then."""
    fingerprint: str
    """A hash of all file contents read and of every setting that changes a batch; known after `setup`."""
    tasks: tuple[TaskSpec, ...]
    score: tuple[str, ...]
    """The metrics (`task/metric`) whose mean is `val/score`."""
    cluster: str
    """What a cluster is, in one word: `case`, `trip`, `event`."""
    deterministic: bool
    """Whether a sample is the same whenever it is fetched; if not, teacher outputs cannot be cached."""

    def setup(self, seed: int, progress: ProgressReport | None = None) -> None:
        """Reads and validates all files. `seed` is `data.seed`: it drives a generator or a subset draw.

        Raises DataError naming file and record.
        """
        ...

    def split(self, name: SplitName) -> Split: ...

    def model_arguments(self) -> dict[str, Any]:
        """What a model needs to know of the data, by constructor argument name (`tasks`, `vocabulary_size`, ...)."""
        ...

    def inspect(self) -> dict[str, Any]:
        """Counts, label tables and dirt for `data action=inspect`; plain values only."""
        ...

    def generate(self, root: Path, seed: int, progress: ProgressReport | None = None) -> None:
        """Writes the synthetic stand-in to `root`, in the real on-disk format."""
        ...


class ProgressReport(Protocol):
    """Called as work goes on: what is being done, how much is done, how much there is."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


@runtime_checkable
class Model(Protocol):
    """A teacher or a student. `version` is raised by hand when the same settings would build a different model.

    A teacher's class may also have `answers`, the names of the tasks that it gives, where it does not give all;
    `own_loss`, the name of the part of its `aux` that it is trained on instead of the labels; and `read_with(...)`,
    which takes `teacher.signal` and sets how its outputs are read, not what it learns.

    A model with parts that are never trained may have `frozen_parts()`, a dict of `FrozenPart` by the name of an input:
    where that input is given, the model takes it in place of what the part reads. What these parts give is then
    computed once and kept on disk, and the parts' weights stay out of the state dict.
    """

    version: int

    def __call__(self, inputs: Mapping[str, Tensor]) -> StudentOutput: ...


@dataclass(frozen=True, kw_only=True)
class FrozenPart:
    """A part of a model that is never trained, so that what it gives is a constant of the data: `module` takes the
    inputs named in `reads`, in this order, and returns one row per sample. `fingerprint` names its weights and how it
    uses them."""

    module: nn.Module
    reads: tuple[str, ...]
    fingerprint: str


class Trial(Protocol):
    """What a run needs of a sweep."""

    def report(self, step: int, value: float) -> None: ...

    def should_prune(self) -> bool: ...


EpochReport = Callable[[int, Mapping[str, float]], None]
"""Called after each epoch with its number (from 1) and its logged values."""
