"""CE and KL of the same logits in one pass, with a gradient of its own: less memory where there are many classes.

Shape suffixes: B samples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdexp.contracts import StudentOutput, TaskSpec, TeacherSignal
from kdexp.distill.losses.ce import ce
from kdexp.distill.losses.kl import check_shapes, check_temperature, distillable, teacher_logits
from kdexp.distill.losses.log_probabilities import widen
from kdexp.errors import ConfigError


def ce_and_kl(
    student: StudentOutput,
    signal: TeacherSignal,
    targets: Mapping[str, Tensor],
    *,
    tasks: tuple[TaskSpec, ...],
    temperature: float,
    scale_tau2: bool,
) -> tuple[Tensor, Tensor]:
    """What `ce` and `kl` give, each (B,) in float32, with the same gradient; for `multiclass` tasks.

    Raises ConfigError for tasks of another kind.
    """
    check_temperature(temperature)
    wrong = [f"{task.name} ({task.kind})" for task in tasks if task.kind != "multiclass"]
    if wrong:
        raise ConfigError(f"distill.fused: only multiclass tasks can be fused, not {', '.join(wrong)}; set it to false")
    both = [_both(student, signal, targets[task.name], task, temperature) for task in distillable(tasks, signal.values)]
    unanswered = tuple(task for task in tasks if task.name not in signal.values)
    ce_B, kl_B = (torch.stack(parts).sum(dim=0) for parts in zip(*both, strict=True))
    ce_B = ce_B + ce(student, targets, tasks=unanswered) if unanswered else ce_B
    return ce_B, kl_B * temperature**2 if scale_tau2 else kl_B


def _both(
    student: StudentOutput, signal: TeacherSignal, target: Tensor, task: TaskSpec, temperature: float
) -> tuple[Tensor, Tensor]:
    check_shapes(student, signal, task)
    return _CeAndKl.apply(widen(student.logits[task.name]), teacher_logits(signal, task), target, temperature)


class _CeAndKl(torch.autograd.Function):
    """(s, z, y, T) -> (-log softmax(s)_y, KL(softmax(z/T) ‖ softmax(s/T))).

    Kept for the gradient: the logits themselves and three normalisers a sample; plain autograd keeps four (B, C).
    """

    @staticmethod
    def forward(ctx: Any, s_BC: Tensor, z_BC: Tensor, y_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        whole_B1 = s_BC.logsumexp(dim=1, keepdim=True)
        ce_B = (whole_B1 - s_BC.gather(1, y_B[:, None])).squeeze(1)
        log_q_BC, log_p_BC = z_BC / temperature, s_BC / temperature
        q_B1, p_B1 = (x_BC.logsumexp(dim=1, keepdim=True) for x_BC in (log_q_BC, log_p_BC))
        log_q_BC.sub_(q_B1)
        gap_BC = log_p_BC.sub_(p_B1).neg_().add_(log_q_BC)
        kl_B = gap_BC.mul_(log_q_BC.exp_()).sum(dim=1)
        ctx.save_for_backward(s_BC, z_BC, y_B, whole_B1, p_B1, q_B1)
        ctx.temperature = temperature
        return ce_B, kl_B

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Σ of d_ce (softmax(s) - 1_y) and d_kl (softmax(s/T) - softmax(z/T)) / T."""
        s_BC, z_BC, y_B, whole_B1, p_B1, q_B1 = ctx.saved_tensors
        d_ce_B1, d_kl_B1 = (gradient[:, None] for gradient in gradients)
        p_BC = (s_BC / ctx.temperature).sub_(p_B1).exp_()
        p_BC.sub_((z_BC / ctx.temperature).sub_(q_B1).exp_()).mul_(d_kl_B1 / ctx.temperature)
        p_BC.add_((s_BC - whole_B1).exp_().mul_(d_ce_B1))
        p_BC.scatter_(1, y_B[:, None], p_BC.gather(1, y_B[:, None]) - d_ce_B1)
        return p_BC, None, None, None
