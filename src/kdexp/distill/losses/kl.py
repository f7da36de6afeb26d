"""KL(teacher ‖ student) at a temperature: Hinton, Vinyals and Dean, arXiv:1503.02531.

Shape suffixes: B samples, P positions of a sample, K classes or candidates.
Bx is (B,) or (B, P), BxK is (B, K) or (B, P, K).
"""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import Tensor

from kdexp.contracts import NUMBERS, Loss, StudentOutput, TaskSpec, TeacherSignal, Traits
from kdexp.distill.losses import declares, with_options
from kdexp.distill.losses.log_probabilities import candidate_mask, log_probabilities, mean_over_positions, widen
from kdexp.distill.losses.positions import check_form, check_task, chosen
from kdexp.errors import ConfigError


@declares(Traits(divergence=True, uses_temperature=True))
def kl(
    student: StudentOutput,
    signal: TeacherSignal,
    *,
    tasks: tuple[TaskSpec, ...],
    temperature: float,
    scale_tau2: bool,
    positions: str = "decisions",
    confidence: bool = False,
) -> Tensor:
    """Σ_tasks Σ_k q_k (log q_k - log p_k), with q = softmax(z / T), p = softmax(s / T); times T² where `scale_tau2`.

    z are the teacher's logits, s the student's. Float32 (B,); for a task with positions, the mean over those that
    `positions` counts (see `positions.py`). Gradient: (p - q) / T to the student, none to the teacher. Tasks that
    predict a number, and those that the teacher does not answer, are passed over; ConfigError where none is left.

    With `confidence` each task's number is multiplied by how sure the teacher is of the sample, see `sureness`.
    """
    check_temperature(temperature)
    distilled = distillable(tasks, signal.values)
    values = [_of_task(student, signal, task, temperature, positions) for task in distilled]
    if confidence:
        values = [sureness(signal, task) * value for task, value in zip(distilled, values, strict=True)]
    per_task = torch.stack(values).sum(dim=0)
    return per_task * temperature**2 if scale_tau2 else per_task


def sureness(signal: TeacherSignal, task: TaskSpec) -> Tensor:
    """(C · max_k q_k - 1) / (C - 1), q of the teacher at temperature 1, without gradient: 0 where all classes are alike
    to it, 1 where it is certain. Of two classes |2σ(z) - 1|. Float32 (B,).

    Raises ConfigError for candidates, whose number differs from position to position.
    """
    if task.kind == "candidates":
        raise ConfigError(
            f"distill.options.kl.confidence: task {task.name!r} chooses among candidates, and only of classes is it "
            "known how sure the teacher is; set it to false"
        )
    q_BC = log_probabilities(teacher_logits(signal, task), task, None).exp()
    return (q_BC.shape[1] * q_BC.amax(dim=1) - 1) / max(q_BC.shape[1] - 1, 1)


def kl_at(positions: str) -> Loss:
    """`kl` over these positions. Raises ConfigError for a word that names none."""
    check_form(positions)
    return with_options(kl, positions=positions)


def check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature=}")


def distillable(tasks: tuple[TaskSpec, ...], answered: Container[str], part: str = "KL") -> tuple[TaskSpec, ...]:
    """The tasks that choose, among those that a teacher answers. Raises ConfigError where there is none."""
    found = tuple(task for task in tasks if task.kind not in NUMBERS and task.name in answered)
    if not found:
        named = ", ".join(f"{task.name} ({task.kind})" for task in tasks)
        raise ConfigError(
            f"distill has a {part} part, but the teacher answers none of the tasks that have classes or candidates; "
            f"the tasks are {named}: use distill=none"
        )
    return found


def _of_task(
    student: StudentOutput, signal: TeacherSignal, task: TaskSpec, temperature: float, positions: str
) -> Tensor:
    logits = softened(student, signal, task, temperature)
    mask_BxK = candidate_mask(student, task)
    student_BxK, teacher_BxK = (log_probabilities(values, task, mask_BxK) for values in logits)
    return mean_over_positions(divergence(teacher_BxK, student_BxK), _counted(mask_BxK, task, positions))


def _counted(mask_BxK: Tensor | None, task: TaskSpec, positions: str) -> Tensor | None:
    has_positions = mask_BxK is not None and mask_BxK.ndim == 3
    check_task(positions, task, has_positions=has_positions)
    if mask_BxK is None:
        return None
    return chosen(mask_BxK.sum(dim=-1), positions) if has_positions else mask_BxK.any(dim=-1)


def divergence(log_q_BxK: Tensor, log_p_BxK: Tensor) -> Tensor:
    """Σ_k q_k (log q_k - log p_k) over the last axis, where q_k = 0 adds nothing."""
    q_BxK = log_q_BxK.exp()
    return (q_BxK * (log_q_BxK - log_p_BxK).where(q_BxK != 0, 0.0)).sum(dim=-1)


def softened(
    student: StudentOutput, signal: TeacherSignal, task: TaskSpec, temperature: float
) -> tuple[Tensor, Tensor]:
    """s / T and z / T, the teacher's without gradient. Raises ValueError where they do not have the same shape."""
    check_shapes(student, signal, task)
    return widen(student.logits[task.name]) / temperature, teacher_logits(signal, task) / temperature


def teacher_logits(signal: TeacherSignal, task: TaskSpec) -> Tensor:
    """The teacher's logits at temperature 1, up to a constant that no softmax sees.

    Log-probabilities are logits already, except for a lone log p(y = 1): its logit is log p - log(1 - p).
    """
    values = widen(signal.values[task.name].detach())
    if signal.kind == "log_probabilities" and task.kind == "binary":
        values = values - (-values.expm1()).log()
    return values * signal.temperature


def check_shapes(student: StudentOutput, signal: TeacherSignal, task: TaskSpec) -> None:
    student_shape, teacher_shape = student.logits[task.name].shape, signal.values[task.name].shape
    if student_shape != teacher_shape:
        raise ValueError(
            f"task {task.name!r}: the student's logits are {tuple(student_shape)}, "
            f"the teacher's are {tuple(teacher_shape)}; both must lie in the student's label space"
        )
