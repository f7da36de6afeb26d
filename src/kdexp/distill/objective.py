"""What a student minimises: named parts, each with a weight that may move over training.

    total = Σ_part weight_part(progress) · mean_over_batch(part)

`ce` is what the labels say; every other part is a distillation loss or one of the student's own auxiliary numbers.
The functions below the class are the presets of `conf/distill`; their parameters are its keys. `positions` says which
positions of a sample the KL counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from annotated_types import Interval
from torch import Tensor

from kdexp.contracts import Loss, LossTerms, Progress, StudentOutput, TaskSpec, TeacherSignal
from kdexp.distill.losses.ce import ce
from kdexp.distill.losses.kl import kl_at
from kdexp.distill.schedules import Complement, Course, ScheduleSetting, at, make_schedules
from kdexp.errors import ConfigError

POSITIVE = Interval(gt=0)
NOT_NEGATIVE = Interval(ge=0)
FRACTION = Interval(ge=0, le=1)
PARTS = ("ce", "kl")
WeightSettings = dict[str, ScheduleSetting]


class Objective(torch.nn.Module):
    """One preset made concrete. `weights` name all parts; those in `losses` need the teacher and, if they use it,
    the temperature; `ce` is the supervised loss; the rest must be in the student's `aux`."""

    def __init__(
        self,
        *,
        preset: str,
        weights: Mapping[str, Course | Complement],
        losses: Mapping[str, Loss],
        temperature: Course | None = None,
        scale_tau2: bool = False,
    ) -> None:
        super().__init__()
        self.preset = preset
        self.weights = dict(weights)
        self.losses = dict(losses)
        self.temperature = temperature
        self.scale_tau2 = scale_tau2

    @property
    def needs_teacher(self) -> bool:
        return bool(self.losses)

    @property
    def teacher_features(self) -> tuple[str, ...]:
        """The teacher's features that the losses read; a cache keeps these beside the logits."""
        return ()

    def forward(
        self,
        output: StudentOutput,
        signal: TeacherSignal | None,
        targets: Mapping[str, Tensor],
        progress: Progress,
        tasks: tuple[TaskSpec, ...],
    ) -> LossTerms:
        """All parts of one batch, in float32 also under autocast. A NaN passes through: the caller names the batch."""
        temperature = None if self.temperature is None else at(self.temperature, progress)
        parts = {}
        for name in self.weights:
            if name == "ce":
                per_sample = ce(output, targets, tasks=tasks)
            elif name in self.losses:
                per_sample = self._distilled(self.losses[name], output, signal, tasks, temperature)
            else:
                per_sample = self._auxiliary(name, output)
            parts[name] = per_sample.mean()
        weights = {name: at(schedule, progress) for name, schedule in self.weights.items()}
        total = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        return LossTerms(total=total, parts=parts, weights=weights, temperature=temperature)

    def _distilled(
        self,
        loss: Loss,
        output: StudentOutput,
        signal: TeacherSignal | None,
        tasks: tuple[TaskSpec, ...],
        temperature: float | None,
    ) -> Tensor:
        if signal is None:
            raise ValueError(f"distill={self.preset} needs a teacher, but no teacher signal came with the batch")
        used = 1.0 if temperature is None else temperature
        return loss(output, signal, tasks=tasks, temperature=used, scale_tau2=self.scale_tau2)

    def _auxiliary(self, name: str, output: StudentOutput) -> Tensor:
        if name not in output.aux:
            there = ", ".join(sorted(output.aux)) or "none"
            if self.preset == "own_loss":
                raise ConfigError(f"the model's own_loss is {name!r}, a part that it does not give; it gives {there}")
            raise ConfigError(f"distill.aux.{name} weighs a part that this student does not give; it gives {there}")
        return output.aux[name].float()


def ce_lambda_kl(
    *,
    temperature: ScheduleSetting,
    weights: WeightSettings,
    scale_tau2: bool = False,
    positions: str = "decisions",
    aux: WeightSettings | None = None,
) -> Objective:
    """CE + λ·KL, where `weights` holds exactly `ce` and `kl` (λ). Without T², as in HOSER: KL's pull falls as 1/T²."""
    _check_names(weights, ("ce", "kl"))
    settings = {f"weights.{name}": (setting, NOT_NEGATIVE) for name, setting in weights.items()}
    schedules, extra = _schedules({"temperature": (temperature, POSITIVE), **settings}, aux)
    return Objective(
        preset="ce_lambda_kl",
        weights={"ce": schedules["weights.ce"], "kl": schedules["weights.kl"], **extra},
        losses={"kl": kl_at(positions)},
        temperature=schedules["temperature"],
        scale_tau2=scale_tau2,
    )


def alpha_beta(
    *,
    temperature: ScheduleSetting,
    alpha: ScheduleSetting,
    beta: ScheduleSetting,
    scale_tau2: bool = True,
    positions: str = "decisions",
    aux: WeightSettings | None = None,
) -> Objective:
    """α·CE + β·T²·KL."""
    settings = {"temperature": (temperature, POSITIVE), "alpha": (alpha, NOT_NEGATIVE), "beta": (beta, NOT_NEGATIVE)}
    schedules, extra = _schedules(settings, aux)
    return Objective(
        preset="alpha_beta",
        weights={"ce": schedules["alpha"], "kl": schedules["beta"], **extra},
        losses={"kl": kl_at(positions)},
        temperature=schedules["temperature"],
        scale_tau2=scale_tau2,
    )


def mix(
    *,
    temperature: ScheduleSetting,
    alpha: ScheduleSetting,
    scale_tau2: bool = True,
    positions: str = "decisions",
    aux: WeightSettings | None = None,
) -> Objective:
    """(1 - α)·CE + α·T²·KL."""
    schedules, extra = _schedules({"temperature": (temperature, POSITIVE), "alpha": (alpha, FRACTION)}, aux)
    return Objective(
        preset="mix",
        weights={"ce": Complement(schedules["alpha"]), "kl": schedules["alpha"], **extra},
        losses={"kl": kl_at(positions)},
        temperature=schedules["temperature"],
        scale_tau2=scale_tau2,
    )


def none(*, aux: WeightSettings | None = None) -> Objective:
    """CE alone: the student without a teacher."""
    _, extra = _schedules({}, aux)
    return Objective(preset="none", weights={"ce": Course(start=1.0), **extra}, losses={})


def own_loss(part: str) -> Objective:
    """One of a model's own auxiliary parts alone, without labels: how a teacher with an `own_loss` is trained."""
    return Objective(preset="own_loss", weights={part: Course(start=1.0)}, losses={})


def _check_names(weights: WeightSettings, parts: tuple[str, ...]) -> None:
    problems = [f"distill.weights.{name} is missing" for name in parts if name not in weights]
    problems += [
        f"distill.weights.{name} weighs nothing: choose among {parts}" for name in weights if name not in parts
    ]
    if problems:
        raise ConfigError(problems)


def _schedules(
    settings: Mapping[str, tuple[ScheduleSetting, Interval]], aux: WeightSettings | None
) -> tuple[dict[str, Course], dict[str, Course]]:
    """The preset's schedules by key below `distill`, and those of auxiliary parts; all problems at once."""
    auxiliary = aux or {}
    taken = [f"distill.aux.{name} has the name of another part; rename it" for name in auxiliary if name in PARTS]
    if taken:
        raise ConfigError(taken)
    keyed = {f"distill.{key}": setting for key, setting in settings.items()}
    keyed |= {f"distill.aux.{name}": (setting, NOT_NEGATIVE) for name, setting in auxiliary.items()}
    schedules = make_schedules(keyed)
    return (
        {key: schedules[f"distill.{key}"] for key in settings},
        {name: schedules[f"distill.aux.{name}"] for name in auxiliary},
    )
