"""Decoupled KD and DIST: against numbers worked out by hand and against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kdexp.contracts import StudentOutput, TaskSpec, TeacherSignal
from kdexp.distill.losses.dist import dist
from kdexp.distill.losses.dkd import dkd
from kdexp.distill.losses.kl import kl
from kdexp.errors import ConfigError

TASK = TaskSpec(name="t", kind="multiclass")
BINARY = TaskSpec(name="t", kind="binary")
LABELS = torch.tensor([2, 0, 1, 1, 3, 0, 2])


def random(seed: int, *shape: int, scale: float = 2.0) -> Tensor:
    return torch.randn(*(shape or (7, 4)), generator=torch.Generator().manual_seed(seed)).double() * scale


def of_dkd(
    student: Tensor, teacher: Tensor, labels: Tensor = LABELS, temperature: float = 1.0, **options: float
) -> Tensor:
    output, signal = StudentOutput(logits={"t": student}), TeacherSignal(values={"t": teacher})
    targets = {"t": labels}
    return dkd(output, signal, tasks=(TASK,), temperature=temperature, scale_tau2=False, targets=targets, **options)


def of_dist(
    student: Tensor, teacher: Tensor, temperature: float = 1.0, task: TaskSpec = TASK, **options: float
) -> Tensor:
    output, signal = StudentOutput(logits={"t": student}), TeacherSignal(values={"t": teacher})
    return dist(output, signal, tasks=(task,), temperature=temperature, scale_tau2=False, **options)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def kl_of(q: np.ndarray, p: np.ndarray) -> float:
    return float(sum(a * math.log(a / b) for a, b in zip(q, p, strict=True) if a > 0))


def test_dkd_by_hand() -> None:
    # Label 0. Teacher (1/2, 1/3, 1/6): target (1/2, 1/2), others (2/3, 1/3). Student (1/4, 3/8, 3/8): target
    # (1/4, 3/4), others (1/2, 1/2). 1/2 ln 2 + 1/2 ln(2/3) = 0.1438410362; 2/3 ln(4/3) + 1/3 ln(2/3) = 0.0566330123.
    student, teacher = torch.tensor([[1 / 4, 3 / 8, 3 / 8]]).log(), torch.tensor([[1 / 2, 1 / 3, 1 / 6]]).log()
    label = torch.tensor([0])
    assert of_dkd(student, teacher, label, target=1.0, others=1e-9).item() == pytest.approx(0.1438410362, abs=1e-6)
    assert of_dkd(student, teacher, label, target=0.0, others=1.0).item() == pytest.approx(0.0566330123, abs=1e-6)
    assert of_dkd(student, teacher, label).item() == pytest.approx(0.1438410362 + 8 * 0.0566330123, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 4.0])
def test_dkd_agrees_with_a_plain_loop(temperature: float) -> None:
    student, teacher = random(1), random(2)
    expected = []
    for s, z, y in zip(student.numpy(), teacher.numpy(), LABELS.tolist(), strict=True):
        p, q = softmax(s / temperature), softmax(z / temperature)
        target = kl_of(np.array([q[y], 1 - q[y]]), np.array([p[y], 1 - p[y]]))
        p_others, q_others = (softmax(np.delete(x, y) / temperature) for x in (s, z))
        expected.append(1.5 * target + 3.0 * kl_of(q_others, p_others))
    made = of_dkd(student, teacher, temperature=temperature, target=1.5, others=3.0)
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-9)


def test_dkd_with_the_teachers_own_weight_on_the_others_is_kl() -> None:
    """KL = KL(b_T ‖ b_S) + (1 - p_y of the teacher) · KL(r_T ‖ r_S), which is the paper's starting point."""
    student, teacher = random(1), random(2)
    output, signal = StudentOutput(logits={"t": student}), TeacherSignal(values={"t": teacher})
    of_target = of_dkd(student, teacher, target=1.0, others=1.0) - of_dkd(student, teacher, target=0.0, others=1.0)
    left = 1 - teacher.softmax(dim=1).gather(1, LABELS[:, None]).squeeze(1)
    rebuilt = of_target + left * of_dkd(student, teacher, target=0.0, others=1.0)
    torch.testing.assert_close(rebuilt, kl(output, signal, tasks=(TASK,), temperature=1.0, scale_tau2=False))


def test_dkd_reads_the_labels() -> None:
    student, teacher = random(1), random(2)
    assert not torch.allclose(of_dkd(student, teacher), of_dkd(student, teacher, labels=(LABELS + 1) % 4))


def test_two_classes_of_one_task_beside_more_of_another_give_kl_to_the_first() -> None:
    two, many = TaskSpec(name="two", kind="multiclass"), TaskSpec(name="many", kind="multiclass")
    student = StudentOutput(logits={"two": random(3, 7, 2), "many": random(4)})
    signal = TeacherSignal(values={"two": random(5, 7, 2), "many": random(6)})
    targets = {"two": torch.tensor([0, 1, 1, 0, 1, 0, 0]), "many": LABELS}
    both = dkd(student, signal, tasks=(two, many), temperature=2.0, scale_tau2=False, targets=targets)
    alone = dkd(student, signal, tasks=(many,), temperature=2.0, scale_tau2=False, targets=targets)
    torch.testing.assert_close(both - alone, kl(student, signal, tasks=(two,), temperature=2.0, scale_tau2=False))
    with pytest.raises(ConfigError, match=r"distill\.weights\.dkd: no task has more than two classes, .*; use distill"):
        dkd(student, signal, tasks=(two,), temperature=2.0, scale_tau2=False, targets=targets)


def test_dkd_stays_exact_where_the_target_is_all_but_certain() -> None:
    """1 - p_y is 2e-20 here: as a difference it would be 0, and its logarithm infinite."""
    teacher = torch.tensor([[46.0, 0.0, 0.0]], requires_grad=False)
    student = torch.tensor([[45.0, 1.0, 0.0]], requires_grad=True)
    result = of_dkd(student, teacher, torch.tensor([0]), others=1.0)
    result.sum().backward()
    # The others: teacher (1/2, 1/2), student (e, 1)/(e + 1): ln((e + 1)/2) - 1/2.
    assert result.item() == pytest.approx(math.log((math.e + 1) / 2) - 0.5, abs=1e-6)
    assert student.grad is not None and student.grad[0, 1].item() == pytest.approx(
        math.e / (math.e + 1) - 0.5, abs=1e-6
    )


def pearson(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1])


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize(("inter", "intra"), [(1.0, 1.0), (2.0, 0.5), (0.0, 1.0)])
def test_dist_agrees_with_a_plain_loop(temperature: float, inter: float, intra: float) -> None:
    student, teacher = random(1), random(2)
    p, q = ((x / temperature).softmax(dim=1).numpy() for x in (student, teacher))
    of_samples = np.mean([1 - pearson(p[i], q[i]) for i in range(7)])
    of_classes = np.mean([1 - pearson(p[:, c], q[:, c]) for c in range(4)])
    made = of_dist(student, teacher, temperature, inter=inter, intra=intra)
    assert made.mean().item() == pytest.approx(inter * of_samples + intra * of_classes, rel=1e-9)


def test_one_logit_relates_the_samples_alone() -> None:
    student, teacher = random(1, 7), random(2, 7)
    expected = 1 - pearson(student.sigmoid().numpy(), teacher.sigmoid().numpy())
    for inter in (0.0, 5.0):
        made = of_dist(student, teacher, task=BINARY, inter=inter)
        assert made.mean().item() == pytest.approx(expected, rel=1e-9)


def test_a_student_that_stretches_its_teachers_probabilities_is_right() -> None:
    """What DIST is for: relations, not values. p = 1/4 + (q - 1/4)/2 has the correlation 1 with q throughout."""
    q = random(2).softmax(dim=1)
    p = 0.25 + (q - 0.25) / 2
    assert of_dist(p.log(), q.log()).abs().max() < 1e-12


def test_where_the_teacher_is_constant_there_is_nothing_to_learn_and_a_constant_student_has_correlation_0() -> None:
    student, flat = random(1), torch.zeros(7, 4).double()
    assert torch.equal(of_dist(student, flat), torch.zeros(7).double())
    assert of_dist(flat, student).mean().item() == pytest.approx(2.0)  # 1 - 0, over classes and over samples
    assert torch.equal(of_dist(student[:1], student[:1].flip(1), inter=0.0), torch.zeros(1).double())
