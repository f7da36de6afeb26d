"""What a student minimises: named parts, each with a weight that may move over training.

    total = Σ_part weight_part(progress) · mean_over_batch(part)

`ce` is what the labels say; every other part is a distillation loss or one of the student's own auxiliary numbers.
The functions below the class are the presets of `conf/distill`; their parameters are its keys. `positions` says which
positions of a sample the KL counts; `fused` computes CE and KL in one pass, to the same result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdexp.contracts import Loss, LossTerms, Progress, StudentOutput, TaskSpec, TeacherSignal
from kdexp.distill.losses.ce import ce
from kdexp.distill.losses.fused import ce_and_kl
from kdexp.distill.parts import LOSSES, PARTS, make_loss
from kdexp.distill.projections import FeaturePairs, Pairing, Side
from kdexp.distill.schedules import Complement, Course, ScheduleSetting, at
from kdexp.distill.weighing import (
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    WeightSettings,
    check_fused,
    check_names,
    check_used,
    gathering,
    read_losses,
    read_pairings,
    read_schedules,
)
from kdexp.errors import ConfigError


class Objective(nn.Module):
    """One preset made concrete. `weights` name all parts; those in `losses` need the teacher and, if they use it,
    the temperature; `ce` is the supervised loss; the rest must be in the student's `aux`.

    `pairings` say which features those losses compare that read any. `fused` takes `ce` and `kl` together.
    """

    def __init__(
        self,
        *,
        preset: str,
        weights: Mapping[str, Course | Complement],
        losses: Mapping[str, Loss],
        temperature: Course | None = None,
        scale_tau2: bool = False,
        pairings: Mapping[str, Pairing] | None = None,
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.preset = preset
        self.weights = dict(weights)
        self.losses = dict(losses)
        self.temperature = temperature
        self.scale_tau2 = scale_tau2
        self.pairs = nn.ModuleDict({name: FeaturePairs(pairing) for name, pairing in (pairings or {}).items()})
        self.fused = fused

    @property
    def needs_teacher(self) -> bool:
        return bool(self.losses)

    @property
    def teacher_features(self) -> tuple[str, ...]:
        """The teacher's features that the losses read; a cache keeps these beside the logits."""
        return tuple(sorted({pair.teacher for paired in self._pairs for pair in paired.pairing.pairs}))

    def connect(self, output: StudentOutput, signal: TeacherSignal | None, seed: int) -> None:
        """Makes the trained projections, for models whose outputs are like these; the seed alone decides their weights.

        To be called before training, so that the optimiser gets them. Raises ConfigError for features that a model
        does not give.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            problems: list[str] = []
            for paired in self._pairs:
                with gathering(problems):
                    paired.connect(output, self._present(signal))
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))

    def idle_parts(self, output: StudentOutput) -> tuple[str, ...]:
        """The student's auxiliary parts that nothing weighs."""
        return tuple(sorted(set(output.aux) - set(self.weights)))

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
        by_part = self._fused(output, signal, targets, temperature, tasks) if self.fused else {}
        for name in self.weights:
            if name in by_part:
                continue
            if name == "ce":
                by_part[name] = ce(output, targets, tasks=tasks)
            elif name in self.losses:
                by_part[name] = self._distilled(name, output, signal, targets, temperature, tasks)
            else:
                by_part[name] = self._auxiliary(name, output)
        parts = {name: by_part[name].mean() for name in self.weights}
        weights = {name: at(schedule, progress) for name, schedule in self.weights.items()}
        total = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        return LossTerms(total=total, parts=parts, weights=weights, temperature=temperature)

    @property
    def _pairs(self) -> list[FeaturePairs]:
        return [paired for paired in self.pairs.values() if isinstance(paired, FeaturePairs)]

    def _present(self, signal: TeacherSignal | None) -> TeacherSignal:
        if signal is None:
            raise ValueError(f"distill={self.preset} needs a teacher, but no teacher signal came with the batch")
        return signal

    def _fused(
        self,
        output: StudentOutput,
        signal: TeacherSignal | None,
        targets: Mapping[str, Tensor],
        temperature: float | None,
        tasks: tuple[TaskSpec, ...],
    ) -> dict[str, Tensor]:
        assert temperature is not None, "a preset with a KL has a temperature"
        settings: dict[str, Any] = {"tasks": tasks, "temperature": temperature, "scale_tau2": self.scale_tau2}
        return dict(zip(("ce", "kl"), ce_and_kl(output, self._present(signal), targets, **settings), strict=True))

    def _distilled(
        self,
        name: str,
        output: StudentOutput,
        signal: TeacherSignal | None,
        targets: Mapping[str, Tensor],
        temperature: float | None,
        tasks: tuple[TaskSpec, ...],
    ) -> Tensor:
        loss, signal = self.losses[name], self._present(signal)
        if name in self.pairs:
            output, signal = self.pairs[name](output, signal)
        labels = {"targets": targets} if loss.traits.uses_labels else {}
        used = 1.0 if temperature is None else temperature
        return loss(output, signal, tasks=tasks, temperature=used, scale_tau2=self.scale_tau2, **labels)

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
    fused: bool = False,
    aux: WeightSettings | None = None,
) -> Objective:
    """CE + λ·KL, where `weights` holds exactly `ce` and `kl` (λ). Without T², as in HOSER: KL's pull falls as 1/T²."""
    check_names(weights, ("ce", "kl"))
    settings = {f"weights.{name}": (setting, NOT_NEGATIVE) for name, setting in weights.items()}
    schedules, extra = read_schedules({"temperature": (temperature, POSITIVE), **settings}, aux)
    ce_and_kl_weights = {"ce": schedules["weights.ce"], "kl": schedules["weights.kl"], **extra}
    return _of_kl("ce_lambda_kl", ce_and_kl_weights, schedules["temperature"], scale_tau2, positions, fused)


def alpha_beta(
    *,
    temperature: ScheduleSetting,
    alpha: ScheduleSetting,
    beta: ScheduleSetting,
    scale_tau2: bool = True,
    positions: str = "decisions",
    fused: bool = False,
    aux: WeightSettings | None = None,
) -> Objective:
    """α·CE + β·T²·KL."""
    settings = {"temperature": (temperature, POSITIVE), "alpha": (alpha, NOT_NEGATIVE), "beta": (beta, NOT_NEGATIVE)}
    schedules, extra = read_schedules(settings, aux)
    weights = {"ce": schedules["alpha"], "kl": schedules["beta"], **extra}
    return _of_kl("alpha_beta", weights, schedules["temperature"], scale_tau2, positions, fused)


def mix(
    *,
    temperature: ScheduleSetting,
    alpha: ScheduleSetting,
    scale_tau2: bool = True,
    positions: str = "decisions",
    fused: bool = False,
    aux: WeightSettings | None = None,
) -> Objective:
    """(1 - α)·CE + α·T²·KL."""
    schedules, extra = read_schedules({"temperature": (temperature, POSITIVE), "alpha": (alpha, FRACTION)}, aux)
    weights: dict[str, Course | Complement] = {"ce": Complement(schedules["alpha"]), "kl": schedules["alpha"], **extra}
    return _of_kl("mix", weights, schedules["temperature"], scale_tau2, positions, fused)


def weighted(
    *,
    weights: dict[str, ScheduleSetting | None],
    temperature: ScheduleSetting | None = None,
    scale_tau2: bool = True,
    positions: str = "decisions",
    features: list[tuple[str, str]] | None = None,
    project: Side = "teacher",
    fused: bool = False,
    options: dict[str, dict[str, Any]] | None = None,
    aux: WeightSettings | None = None,
) -> Objective:
    """Σ_part weight_part · part, over the parts in `weights` that are not null: `ce` and any of `parts.LOSSES`.

    `features` lists the pairs [student's, teacher's] that losses on features compare, `options.PART` sets a part's own
    numbers, and `options.PART.features` other pairs. `project` says whose feature gets the trained Linear: the
    teacher's, as in the multimodal study, or the student's, as in FitNets. A map of the teacher's feature alone has a
    trivial zero, where map and student are constant; only the other parts hold a student away from it.
    """
    given, problems = options or {}, list[str]()
    weighed = {name: setting for name in (*PARTS, *weights) if (setting := weights.get(name)) is not None}
    names = [name for name in weighed if name in LOSSES]
    problems += [f"distill.weights.{n} weighs nothing: choose among {PARTS}" for n in weighed if n not in PARTS]
    settings = {f"weights.{name}": (setting, NOT_NEGATIVE) for name, setting in weighed.items()}
    if temperature is not None:
        settings["temperature"] = (temperature, POSITIVE)
    with gathering(problems):
        check_used(weighed, temperature, scale_tau2, positions, fused)
    with gathering(problems):
        schedules, extra = read_schedules(settings, aux)
    with gathering(problems):
        losses = read_losses(names, given, positions)
    with gathering(problems):
        pairings = read_pairings(names, features, given, project)
    if problems:
        raise ConfigError(problems)
    return Objective(
        preset="weighted",
        weights={**{name: schedules[f"weights.{name}"] for name in weighed}, **extra},
        losses=losses,
        temperature=schedules.get("temperature"),
        scale_tau2=scale_tau2,
        pairings=pairings,
        fused=fused,
    )


def none(*, aux: WeightSettings | None = None) -> Objective:
    """CE alone: the student without a teacher."""
    _, extra = read_schedules({}, aux)
    return Objective(preset="none", weights={"ce": Course(start=1.0), **extra}, losses={})


def own_loss(part: str) -> Objective:
    """One of a model's own auxiliary parts alone, without labels: how a teacher with an `own_loss` is trained."""
    return Objective(preset="own_loss", weights={part: Course(start=1.0)}, losses={})


def _of_kl(
    preset: str,
    weights: Mapping[str, Course | Complement],
    temperature: Course,
    scale_tau2: bool,
    positions: str,
    fused: bool,
) -> Objective:
    check_fused(fused, positions)
    losses = {"kl": make_loss("kl", {}, positions)}
    return Objective(
        preset=preset, weights=weights, losses=losses, temperature=temperature, scale_tau2=scale_tau2, fused=fused
    )
