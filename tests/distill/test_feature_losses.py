"""The losses on features: against numbers worked out by hand and against plain loops over samples."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdexp.contracts import Loss, StudentOutput, TeacherSignal
from kdexp.distill.losses.attention import attention
from kdexp.distill.losses.contrastive import crd, info_nce
from kdexp.distill.losses.discrepancy import mmd
from kdexp.distill.losses.features import cosine, feature_mse
from kdexp.distill.losses.pooling import attention_kl, attention_summary
from kdexp.distill.losses.relational import relational, rkd, rkd_park

N = 6


def of(loss: Loss, student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    output = StudentOutput(logits={}, features={"f": student})
    signal = TeacherSignal(values={}, features={"f": teacher})
    return loss(output, signal, tasks=(), temperature=1.0, scale_tau2=False, **options)


def random(seed: int, width: int = 4, scale: float = 1.0) -> Tensor:
    return torch.randn(N, width, generator=torch.Generator().manual_seed(seed)).double() * scale


def huber(gap: float) -> float:
    return 0.5 * gap**2 if abs(gap) < 1 else abs(gap) - 0.5


def test_feature_mse_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, -1.0]])
    assert of(feature_mse, student, teacher).tolist() == [2.5, 5.0]


def test_the_mean_of_feature_mse_is_the_mean_over_batch_and_width() -> None:
    student, teacher = random(1), random(2)
    torch.testing.assert_close(of(feature_mse, student, teacher).mean(), torch.nn.functional.mse_loss(student, teacher))


def test_crd_by_hand() -> None:
    # Cosines (1, 0; 0, 1) over τ = 1/2: -log(e²/(e² + 1)) each. The second sample's length does not matter.
    student, teacher = torch.tensor([[1.0, 0.0], [0.0, 5.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    expected = math.log(1 + math.exp(-2))
    assert of(crd, student, teacher, tau=0.5).tolist() == pytest.approx([expected] * 2)


@pytest.mark.parametrize("tau", [0.07, 0.1, 1.0])
def test_crd_agrees_with_a_plain_loop(tau: float) -> None:
    student, teacher = random(1), random(2)

    def cosine(i: int, j: int) -> float:
        s, t = student[i].numpy(), teacher[j].numpy()
        return float(s @ t / (np.linalg.norm(s) * np.linalg.norm(t)))

    expected = [-cosine(i, i) / tau + math.log(sum(math.exp(cosine(i, j) / tau) for j in range(N))) for i in range(N)]
    np.testing.assert_allclose(of(crd, student, teacher, tau=tau).numpy(), expected, rtol=1e-9)


def test_rkd_by_hand() -> None:
    # Unit vectors: student (1, 0) and (0, 1), teacher both (1, 0). Distances √2 against 0, cosines 0 against 1, both
    # off the diagonal: h(√2) = √2 - 1/2, h(1) = 1/2; a row's mean halves them, its diagonal is 0.
    student, teacher = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [4.0, 0.0]])
    expected = 25 * (math.sqrt(2) - 0.5) / 2 + 50 * 0.5 / 2
    assert of(rkd, student, teacher).tolist() == pytest.approx([expected] * 2)
    assert of(rkd, student, teacher, distance=0.0, angle=1.0).tolist() == pytest.approx([0.25] * 2)


def test_rkd_agrees_with_a_plain_double_loop() -> None:
    student, teacher = random(1), random(2)
    s, t = (x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True) for x in (student, teacher))
    expected = [
        np.mean(
            [
                25 * huber(np.linalg.norm(s[i] - s[j]) - np.linalg.norm(t[i] - t[j]))
                + 50 * huber(s[i] @ s[j] - t[i] @ t[j])
                for j in range(N)
            ]
        )
        for i in range(N)
    ]
    np.testing.assert_allclose(of(rkd, student, teacher).numpy(), expected, rtol=1e-9)


def relative(x: np.ndarray) -> np.ndarray:
    apart = np.array([[np.linalg.norm(x[i] - x[j]) for j in range(N)] for i in range(N)])
    return apart / apart[apart > 0].mean()


def cosine_at(x: np.ndarray, i: int, j: int, k: int) -> float:
    one, other = x[j] - x[i], x[k] - x[i]
    lengths = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / lengths) if lengths > 0 else 0.0


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_rkd_park_agrees_with_plain_loops_over_pairs_and_triples(scale: float) -> None:
    student, teacher = random(1, scale=scale), random(2, width=7)
    s, t = student.numpy(), teacher.numpy()
    apart_s, apart_t = relative(s), relative(t)
    expected = [
        25 * np.mean([huber(apart_s[i, j] - apart_t[i, j]) for j in range(N)])
        + 50 * np.mean([huber(cosine_at(s, i, j, k) - cosine_at(t, i, j, k)) for j, k in product(range(N), repeat=2)])
        for i in range(N)
    ]
    np.testing.assert_allclose(of(rkd_park, student, teacher).numpy(), expected, rtol=1e-9)


def test_rkd_park_knows_neither_scale_nor_place_nor_turn() -> None:
    x = random(1)
    turn = torch.linalg.qr(random(3)[:4])[0]
    assert of(rkd_park, 7 * x @ turn + 3, x).abs().max() < 1e-9
    assert of(rkd, 7 * x @ turn + 3, x).abs().max() > 0.1, "the study's variant measures from the origin"


def test_mmd_by_hand() -> None:
    # One bandwidth 1: k = exp(-d²/2). Student 0 and 1, teacher 0 and 0: within (1 + e^-½) + 2, across 2 (1 + e^-½).
    student, teacher = torch.tensor([[0.0], [1.0]]), torch.zeros(2, 1)
    mean_of_k = (1 + math.exp(-0.5)) / 2
    expected = mean_of_k + 1 - 2 * mean_of_k
    assert of(mmd, student, teacher, bandwidths=[1.0]).mean().item() == pytest.approx(expected)


def test_the_mean_of_mmd_agrees_with_a_plain_double_loop() -> None:
    student, teacher = random(1), random(2, scale=2.0)
    bandwidths = (0.2, 0.5, 1.0, 2.0, 5.0)

    def mean_kernel(x: Tensor, y: Tensor) -> float:
        squares = [float((a - b).square().sum()) for a, b in product(x, y)]
        return float(np.mean([np.mean([math.exp(-d / (2 * b * b)) for b in bandwidths]) for d in squares]))

    expected = mean_kernel(student, student) + mean_kernel(teacher, teacher) - 2 * mean_kernel(student, teacher)
    assert of(mmd, student, teacher).mean().item() == pytest.approx(expected, rel=1e-9)


def test_mmd_does_not_care_which_sample_is_which() -> None:
    student, teacher = random(1), random(2)
    turned = of(mmd, student, teacher[[3, 1, 5, 0, 2, 4]]).mean()
    torch.testing.assert_close(turned, of(mmd, student, teacher).mean())
    assert of(mmd, student, student[[3, 1, 5, 0, 2, 4]]).mean().abs() < 1e-12


def cosines(x: Tensor, y: Tensor) -> np.ndarray:
    a, b = (z.numpy() / np.linalg.norm(z.numpy(), axis=1, keepdims=True) for z in (x, y))
    return np.asarray(a @ b.T)


def test_cosine_by_hand_and_by_its_formula() -> None:
    # Equal, at a right angle, opposite; lengths do not matter. Without a direction it is ½, or 0 where both have none.
    student = torch.tensor([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    teacher = torch.tensor([[5.0, 0.0], [1.0, 0.0], [4.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert of(cosine, student, teacher).tolist() == pytest.approx([0.0, 1.0, 2.0, 0.5, 0.0])
    expected = 1 - cosines(random(1), random(2)).diagonal()
    np.testing.assert_allclose(of(cosine, random(1), random(2)).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_info_nce_finds_the_partner_from_both_sides(tau: float) -> None:
    student, teacher = random(1), random(2)
    scaled = cosines(student, teacher) / tau
    one_way, back = (
        [-matrix[i, i] + math.log(sum(math.exp(matrix[i, j]) for j in range(N))) for i in range(N)]
        for matrix in (scaled, scaled.T)
    )
    expected = [(a + b) / 2 for a, b in zip(one_way, back, strict=True)]
    np.testing.assert_allclose(of(info_nce, student, teacher, tau=tau).numpy(), expected, rtol=1e-9)
    # `crd` is one of the directions.
    half = (of(crd, student, teacher, tau=tau) + of(crd, teacher, student, tau=tau)) / 2
    torch.testing.assert_close(of(info_nce, student, teacher, tau=tau), half)


def test_relational_agrees_with_a_plain_double_loop_whatever_the_widths() -> None:
    student, teacher = random(1), random(2, width=7)
    gap = (cosines(student, student) - cosines(teacher, teacher)) ** 2
    expected = [sum(gap[i, j] for j in range(N) if j != i) / (N - 1) for i in range(N)]
    np.testing.assert_allclose(of(relational, student, teacher).numpy(), expected, rtol=1e-9)
    assert of(relational, student[:1], teacher[:1]).tolist() == [0.0]
    # A vector without a direction differs from the others' cosines, not from its own.
    zero, unlike = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    assert of(relational, zero, unlike).tolist() == pytest.approx([0.5, 0.5])


def test_the_attention_summary_adds_the_squared_gaps_of_entropy_and_maximum() -> None:
    output = StudentOutput(logits={}, features={"H": torch.tensor([1.0, 2.0]), "max": torch.tensor([0.5, 0.2])})
    signal = TeacherSignal(values={}, features={"H": torch.tensor([3.0, 2.0]), "max": torch.tensor([0.25, 0.6])})
    summary = attention_summary(output, signal, tasks=(), temperature=1.0, scale_tau2=False)
    assert summary.tolist() == pytest.approx([4.0 + 0.0625, 0.16])


def test_attention_kl_by_hand_over_the_slots_that_both_views_have() -> None:
    # First: slots 0 and 2 are in common; of sum 1 there, the teacher's are (3/4, 1/4), the student's (1/2, 1/2).
    # Second: none is. Third: one is, and one weight alone is 1 in both.
    student = torch.tensor([[0.2, 0.6, 0.2, 0.0], [1.0, 0.0, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.6, 0.0, 0.2, 0.2], [0.0, 0.5, 0.3, 0.2], [0.0, 0.3, 0.3, 0.4]])
    made = of(attention_kl, student, teacher)
    # The mean is over the first and the third: two of three count.
    first = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert made.mean().item() == pytest.approx(first / 2)
    assert made.tolist() == pytest.approx([first * 3 / 2, 0.0, 0.0])
    (gradient,) = torch.autograd.grad(made.mean(), student)
    # d/ds_k = 1/Σs - t_k/s_k with t of sum 1: only slots in common pull.
    assert gradient[0].tolist() == pytest.approx([(2.5 - 0.75 / 0.2) / 2, 0.0, (2.5 - 0.25 / 0.2) / 2, 0.0])
    assert gradient[1:].abs().max() < 1e-6


def test_attention_kl_leaves_jets_without_a_common_slot_out_of_the_mean() -> None:
    student, teacher = (torch.rand(5, 4, generator=torch.Generator().manual_seed(seed)) + 0.1 for seed in (1, 2))
    student[1] = torch.tensor([1.0, 1.0, 0.0, 0.0])
    teacher[1] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    teacher[3] = 0.0
    made, counted = of(attention_kl, student, teacher), [0, 2, 4]
    assert made[[1, 3]].tolist() == [0.0, 0.0]
    torch.testing.assert_close(made.mean(), of(attention_kl, student[counted], teacher[counted]).mean())
    # Where no jet has a common slot the mean is 0.
    assert of(attention_kl, student[[1, 3]], teacher[[1, 3]]).mean() == 0
    # Two pairs, of which each leaves out its own samples: the mean of their means.
    output = StudentOutput(logits={}, features={"a": student, "b": student.roll(1, 0)})
    signal = TeacherSignal(values={}, features={"a": teacher, "b": teacher.flip(0)})
    both = attention_kl(output, signal, tasks=(), temperature=1.0, scale_tau2=False)
    other = of(attention_kl, student.roll(1, 0), teacher.flip(0))
    torch.testing.assert_close(both.mean(), (made.mean() + other.mean()) / 2)


@pytest.mark.parametrize("scale", [50.0, 1e4])
def test_attention_that_is_all_on_one_slot_gives_finite_gradients_through_the_softmax(scale: float) -> None:
    scores = (random(1, 8).float() * scale).requires_grad_()
    loss = of(attention_kl, scores.softmax(1), (random(2, 8).float() * scale).softmax(1))
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert loss.isfinite().all() and gradient.isfinite().all()


def maps(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_attention_by_hand() -> None:
    # Energies (9, 16) and (25, 0) over two places; of length 1, (9, 16)/√337 and (1, 0).
    student, teacher = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[5.0, 0.0]]]])
    one = 9 / math.sqrt(337), 16 / math.sqrt(337)
    assert of(attention, student, teacher).item() == pytest.approx(((one[0] - 1) ** 2 + one[1] ** 2) / 2)


def test_attention_agrees_with_a_plain_loop_whatever_the_channels() -> None:
    student, teacher = maps(1, 3, 5, 4, 6), maps(2, 3, 2, 4, 6)
    expected = []
    for s, t in zip(student.numpy(), teacher.numpy(), strict=True):
        one, other = ((x**2).mean(0) for x in (s, t))
        expected.append(((one / np.linalg.norm(one) - other / np.linalg.norm(other)) ** 2).mean())
    np.testing.assert_allclose(of(attention, student, teacher).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("sizes", [((8, 8), (4, 4)), ((4, 4), (7, 5)), ((3, 9), (5, 4)), ((1, 1), (3, 3))])
def test_the_larger_map_is_averaged_down_to_the_smaller(sizes: Any) -> None:
    student, teacher = maps(1, 2, 3, *sizes[0]), maps(2, 2, 3, *sizes[1])
    small = tuple(min(pair) for pair in zip(*sizes, strict=True))
    one, other = (
        torch.nn.functional.adaptive_avg_pool2d(x.square().mean(1, keepdim=True), small).flatten(1)
        for x in (student, teacher)
    )
    gap = one / one.norm(dim=1, keepdim=True) - other / other.norm(dim=1, keepdim=True)
    torch.testing.assert_close(of(attention, student, teacher), gap.square().mean(dim=1))


@pytest.mark.parametrize("loss", [crd, rkd, mmd, rkd_park, cosine, info_nce, relational])
def test_pairs_are_averaged_over_image_and_text(loss: Loss) -> None:
    output = StudentOutput(logits={}, features={"image": random(1), "text": random(2)})
    signal = TeacherSignal(values={}, features={"image": random(3), "text": random(4)})
    both = loss(output, signal, tasks=(), temperature=1.0, scale_tau2=False)
    torch.testing.assert_close(both, (of(loss, random(1), random(3)) + of(loss, random(2), random(4))) / 2)
