"""KL taken apart into the target and the other classes: decoupled KD, Zhao et al., arXiv:2203.08679.

Shape suffixes: B samples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn.functional import one_hot

from kdexp.contracts import StudentOutput, TaskSpec, TeacherSignal, Traits
from kdexp.distill.losses import declares
from kdexp.distill.losses.kl import check_temperature, distillable, divergence, softened
from kdexp.distill.losses.log_probabilities import over_candidates
from kdexp.errors import ConfigError


@declares(Traits(divergence=True, uses_temperature=True, uses_labels=True, kinds=("multiclass",)))
def dkd(
    student: StudentOutput,
    signal: TeacherSignal,
    *,
    tasks: tuple[TaskSpec, ...],
    temperature: float,
    scale_tau2: bool,
    targets: Mapping[str, Tensor],
    target: Annotated[float, Ge(0)] = 1.0,
    others: Annotated[float, Gt(0)] = 8.0,
) -> Tensor:
    """Σ_tasks target · KL(b_T ‖ b_S) + others · KL(r_T ‖ r_S), times T² where `scale_tau2`. Float32 (B,).

    With p = softmax(logits / T) and the label y: b = (p_y, 1 - p_y), and r is p over the other classes alone, which sum
    to 1 there. `target` and `others` are the paper's α and β. With target = 1 and 1 - p_y of the teacher for `others`
    it would be KL. A task of two classes has one other class, so its second term is 0.

    Raises ConfigError where that holds of all tasks, as there is nothing to take apart; and for a task that has one
    logit, which is two classes, or candidates, whose few others differ from position to position.
    """
    check_temperature(temperature)
    distilled = distillable(tasks, signal.values, "decoupled KD (dkd)")
    _check(student, distilled)
    per_task = [
        _of_task(*softened(student, signal, task, temperature), targets[task.name], target, others)
        for task in distilled
    ]
    total = torch.stack(per_task).sum(dim=0)
    return total * temperature**2 if scale_tau2 else total


def _of_task(student_BC: Tensor, teacher_BC: Tensor, y_B: Tensor, target: float, others: float) -> Tensor:
    is_target_BC = one_hot(y_B, student_BC.shape[-1]).bool()
    of_target_B = divergence(_target_or_not(teacher_BC, is_target_BC), _target_or_not(student_BC, is_target_BC))
    among_others_B = divergence(*(over_candidates(logits, ~is_target_BC) for logits in (teacher_BC, student_BC)))
    return target * of_target_B + others * among_others_B


def _target_or_not(logits_BC: Tensor, is_target_BC: Tensor) -> Tensor:
    """(B, 2): log p_y and log(1 - p_y), the latter summed over the others and so exact where p_y is near 1."""
    log_p_BC = logits_BC.log_softmax(dim=-1)
    parts = [log_p_BC.masked_fill(~keep_BC, -torch.inf).logsumexp(dim=-1) for keep_BC in (is_target_BC, ~is_target_BC)]
    return torch.stack(parts, dim=-1)


def _check(student: StudentOutput, tasks: tuple[TaskSpec, ...]) -> None:
    wrong = [f"{task.name} ({task.kind})" for task in tasks if task.kind != "multiclass"]
    if wrong:
        raise ConfigError(
            f"distill.weights.dkd: decoupled KD needs three classes that all samples share, which {', '.join(wrong)} "
            "has not; use distill.weights.kl"
        )
    if all(student.logits[task.name].shape[-1] < 3 for task in tasks):
        raise ConfigError(
            "distill.weights.dkd: no task has more than two classes, so beside the target there is nothing to take "
            "apart, and decoupled KD is KL; use distill.weights.kl"
        )
