"""Relations instead of probabilities: DIST, Huang et al., arXiv:2205.10536.

Shape suffixes: B samples, C classes.
"""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from kdexp.contracts import StudentOutput, TaskSpec, TeacherSignal, Traits
from kdexp.distill.losses import declares
from kdexp.distill.losses.geometry import unit
from kdexp.distill.losses.kl import check_temperature, distillable, softened
from kdexp.distill.losses.log_probabilities import log_probabilities
from kdexp.errors import ConfigError

_CONSTANT = 1e-6
"""Probabilities whose deviations from their mean are no longer than this, as a vector, are all alike."""


@declares(Traits(divergence=True, uses_temperature=True, relational=True, kinds=("multiclass", "binary")))
def dist(
    student: StudentOutput,
    signal: TeacherSignal,
    *,
    tasks: tuple[TaskSpec, ...],
    temperature: float,
    scale_tau2: bool,
    inter: Annotated[float, Ge(0)] = 1.0,
    intra: Annotated[float, Gt(0)] = 1.0,
) -> Tensor:
    """Σ_tasks inter · mean_i (1 - ρ(p_i, q_i)) + intra · mean_c (1 - ρ(p_·c, q_·c)), times T² where `scale_tau2`.

    p = softmax(s / T) and q = softmax(z / T), student and teacher, are (B, C); ρ is Pearson's correlation, `inter` over
    the classes of a sample, `intra` over the samples of a class. Float32 (B,), each sample's share; the mean over the
    batch is the loss. `inter` and `intra` are the paper's β and γ.

    Where the teacher's side is constant there is no relation to learn, and it adds 0; where the student's alone is, ρ
    counts as 0. Between two classes every ρ is 1 or -1, without gradient, so only `intra` is taken there. Raises
    ConfigError for candidates: the k-th of one sample has nothing to do with the k-th of another.
    """
    check_temperature(temperature)
    distilled = distillable(tasks, signal.values, "DIST")
    wrong = [task.name for task in distilled if task.kind == "candidates"]
    if wrong:
        raise ConfigError(
            f"distill.weights.dist: DIST relates the samples of a class, and the candidates of {', '.join(wrong)} are "
            "no classes that samples share; use distill.weights.kl"
        )
    total = torch.stack([_of_task(student, signal, task, temperature, inter, intra) for task in distilled]).sum(dim=0)
    return total * temperature**2 if scale_tau2 else total


def _of_task(
    student: StudentOutput, signal: TeacherSignal, task: TaskSpec, temperature: float, inter: float, intra: float
) -> Tensor:
    logits = softened(student, signal, task, temperature)
    p_BC, q_BC = (log_probabilities(values, task, None).exp() for values in logits)
    n_samples, n_classes = p_BC.shape
    shares_B = intra * n_samples * _unrelated(p_BC, q_BC, dim=0).mean(dim=1)
    return shares_B + inter * _unrelated(p_BC, q_BC, dim=1).sum(dim=1) if n_classes > 2 else shares_B


def _unrelated(p_BC: Tensor, q_BC: Tensor, dim: int) -> Tensor:
    """(B, C) whose sum along `dim` is 1 - ρ: b (b - a), with a and b the unit vectors of the deviations of p and q."""
    a_BC, b_BC = (unit(x - x.mean(dim=dim, keepdim=True), dim=dim, shortest=_CONSTANT) for x in (p_BC, q_BC))
    return b_BC * (b_BC - a_BC)
