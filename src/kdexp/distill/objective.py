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
from kdexp.distill.parts import LOSSES, PARTS
from kdexp.distill.projections import FeaturePairs, Pairing, Side
from kdexp.distill.schedules import Complement, Course, ScheduleSetting, at
from kdexp.distill.weighing import (
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    Parts,
    WeightSettings,
    batch_mean,
    check_further,
    check_names,
    check_used,
    gathering,
    read_parts,
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
        sample_weights: Tensor | None = None,
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
        parts = {name: batch_mean(by_part[name], sample_weights) for name in self.weights}
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
    weighed = {name: weights[name] for name in ("ce", "kl")}
    own = {"temperature": (temperature, POSITIVE)}
    parts = read_parts(weighed, own, positions=positions, fused=fused, aux=aux)
    return _of_parts("ce_lambda_kl", parts, {}, scale_tau2, fused)


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
    own = {"temperature": (temperature, POSITIVE), "alpha": (alpha, NOT_NEGATIVE), "beta": (beta, NOT_NEGATIVE)}
    parts = read_parts({}, own, own_losses=("kl",), positions=positions, fused=fused, aux=aux)
    return _of_parts("alpha_beta", parts, {"ce": parts.own["alpha"], "kl": parts.own["beta"]}, scale_tau2, fused)


def mix(
    *,
    temperature: ScheduleSetting,
    alpha: ScheduleSetting,
    weights: dict[str, ScheduleSetting | None] | None = None,
    scale_tau2: bool = True,
    positions: str = "decisions",
    features: list[tuple[str, str]] | None = None,
    project: Side = "teacher",
    fused: bool = False,
    options: dict[str, dict[str, Any]] | None = None,
    aux: WeightSettings | None = None,
) -> Objective:
    """(1 - α)·CE + α·T²·KL + Σ_part weight_part · part, over further parts in `weights` that are not null.

    `features`, `project` and `options` are those of `weighted`; `options.kl.confidence` multiplies a sample's KL by how
    sure the teacher is of it.
    """
    problems: list[str] = []
    given = weights or {}
    with gathering(problems):
        check_further(given, by={"ce": "distill.alpha", "kl": "distill.alpha"})
    further = {name: setting for name in LOSSES if name != "kl" and (setting := given.get(name)) is not None}
    parts = read_parts(
        further,
        {"temperature": (temperature, POSITIVE), "alpha": (alpha, FRACTION)},
        own_losses=("kl",),
        positions=positions,
        features=features,
        project=project,
        fused=fused,
        options=options,
        aux=aux,
        problems=problems,
    )
    mixture: dict[str, Course | Complement] = {"ce": Complement(parts.own["alpha"]), "kl": parts.own["alpha"]}
    return _of_parts("mix", parts, mixture, scale_tau2, fused)


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
    problems: list[str] = []
    with gathering(problems):
        check_further(weights, by={})
    weighed = {name: setting for name in PARTS if (setting := weights.get(name)) is not None}
    with gathering(problems):
        check_used(weighed, temperature, scale_tau2, positions, fused)
    parts = read_parts(
        weighed,
        {} if temperature is None else {"temperature": (temperature, POSITIVE)},
        positions=positions,
        features=features,
        project=project,
        fused=fused,
        options=options,
        aux=aux,
        problems=problems,
    )
    return _of_parts("weighted", parts, {}, scale_tau2, fused)


def none(*, aux: WeightSettings | None = None) -> Objective:
    """CE alone: the student without a teacher."""
    _, extra = read_schedules({}, aux)
    return Objective(preset="none", weights={"ce": Course(start=1.0), **extra}, losses={})


def own_loss(part: str) -> Objective:
    """One of a model's own auxiliary parts alone, without labels: how a teacher with an `own_loss` is trained."""
    return Objective(preset="own_loss", weights={part: Course(start=1.0)}, losses={})


def _of_parts(
    preset: str, parts: Parts, own_weights: Mapping[str, Course | Complement], scale_tau2: bool, fused: bool
) -> Objective:
    return Objective(
        preset=preset,
        weights={**own_weights, **parts.weights},
        losses=parts.losses,
        temperature=parts.own.get("temperature"),
        scale_tau2=scale_tau2,
        pairings=parts.pairings,
        fused=fused,
    )
