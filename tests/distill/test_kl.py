"""KL against digits worked out by hand, limits, and an implementation in numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdexp.contracts import StudentOutput, TaskSpec, TeacherSignal
from kdexp.distill.losses.kl import kl
from kdexp.errors import ConfigError

MULTICLASS = TaskSpec(name="t", kind="multiclass")
BINARY = TaskSpec(name="t", kind="binary")
CANDIDATES = TaskSpec(name="t", kind="candidates")


def of(
    task: TaskSpec,
    student: Any,
    teacher: Any,
    mask: Any = None,
    *,
    temperature: float = 1.0,
    scale_tau2: bool = False,
    kind: Any = "logits",
    made_at: float = 1.0,
    positions: str = "decisions",
    confidence: bool = False,
) -> Tensor:
    masks = {} if mask is None else {"t": torch.as_tensor(mask)}
    output = StudentOutput(logits={"t": torch.as_tensor(student)}, masks=masks)
    signal = TeacherSignal(values={"t": torch.as_tensor(teacher)}, kind=kind, temperature=made_at)
    settings: dict[str, Any] = {"temperature": temperature, "scale_tau2": scale_tau2, "positions": positions}
    return kl(output, signal, tasks=(task,), **settings, confidence=confidence)


def random(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def reference(student: np.ndarray, teacher: np.ndarray, temperature: float) -> np.ndarray:
    """KL of softmaxes over the last axis, by plain probabilities in float64."""

    def softmax(logits: np.ndarray) -> np.ndarray:
        powers = np.exp((logits - logits.max(-1, keepdims=True)) / temperature)
        return powers / powers.sum(-1, keepdims=True)

    q, p = softmax(teacher), softmax(student)
    return (q * np.log(q / p)).sum(-1)


def test_three_classes_by_hand() -> None:
    # Teacher (1/2, 1/4, 1/4), student uniform: 1/2 ln(3/2) + 2 · 1/4 ln(3/4) = 0.2027325541 - 0.1438410362.
    teacher = [[math.log(2), 0.0, 0.0]]
    assert of(MULTICLASS, [[5.0, 5.0, 5.0]], teacher).item() == pytest.approx(0.0588915178, abs=1e-7)


def test_one_logit_by_hand() -> None:
    # Teacher 3/4 (logit ln 3), student 1/2: 3/4 ln(3/2) + 1/4 ln(1/2) = 0.3040988311 - 0.1732867951.
    assert of(BINARY, [0.0], [math.log(3)]).item() == pytest.approx(0.1308120360, abs=1e-7)


@pytest.mark.parametrize(("scale_tau2", "expected"), [(False, 0.1927447570), (True, 0.7709790281)])
def test_temperature_two_by_hand(scale_tau2: bool, expected: float) -> None:
    # Teacher logits (ln 16, 0) at T = 2 are (4/5, 1/5), student (1/2, 1/2):
    # 4/5 ln(8/5) + 1/5 ln(2/5) = 0.3760029034 - 0.1832581464; times T² = 4.
    result = of(MULTICLASS, [[0.0, 0.0]], [[math.log(16), 0.0]], temperature=2.0, scale_tau2=scale_tau2)
    assert result.item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("positions", "expected"), [("all", 0.0654060180), ("decisions", 0.1308120360)])
def test_a_trip_of_three_positions_by_hand(positions: str, expected: float) -> None:
    # First position: teacher (3/4, 1/4), student (1/2, 1/2), KL 0.1308120360. Second: one candidate, KL 0, which
    # counts among all but is no decision. Third: no candidate, never counted.
    teacher = [[[math.log(3), 0.0, 7.0], [2.0, 7.0, 7.0], [7.0, 8.0, 9.0]]]
    mask = [[[True, True, False], [True, False, False], [False, False, False]]]
    result = of(CANDIDATES, torch.zeros(1, 3, 3), teacher, mask, positions=positions)
    assert result.item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 4.0])
def test_it_agrees_with_numpy(temperature: float) -> None:
    student, teacher = random(20, 7), random(20, 7, seed=1)
    expected = reference(student.numpy(), teacher.numpy(), temperature)
    np.testing.assert_allclose(of(MULTICLASS, student, teacher, temperature=temperature), expected, rtol=1e-12)
    in_float32 = of(MULTICLASS, student.float(), teacher.float(), temperature=temperature)
    np.testing.assert_allclose(in_float32, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("positions", "least"), [("all", 1), ("decisions", 2)])
def test_candidates_agree_with_numpy_row_by_row(positions: str, least: int) -> None:
    student, teacher = random(8, 5, 6), random(8, 5, 6, seed=1)
    mask = torch.rand(8, 5, 6, generator=torch.Generator().manual_seed(2)) < 0.5
    mask[:, 0] = False
    expected = []
    for s, t, m in zip(student.numpy(), teacher.numpy(), mask.numpy(), strict=True):
        rows = [reference(s[p][m[p]], t[p][m[p]], 1.5) for p in range(5) if m[p].sum() >= least]
        expected.append(np.mean(rows))
    result = of(CANDIDATES, student, teacher, mask, temperature=1.5, positions=positions)
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_one_logit_is_two_classes() -> None:
    student, teacher = random(30), random(30, seed=1)
    two = [torch.stack([torch.zeros_like(x), x], dim=-1) for x in (student, teacher)]
    torch.testing.assert_close(of(BINARY, student, teacher, temperature=3.0), of(MULTICLASS, *two, temperature=3.0))


def test_candidates_that_are_all_there_are_classes() -> None:
    student, teacher = random(9, 4), random(9, 4, seed=1)
    full = torch.ones(9, 4, dtype=torch.bool)
    torch.testing.assert_close(of(CANDIDATES, student, teacher, full), of(MULTICLASS, student, teacher))


@pytest.mark.parametrize("made_at", [1.0, 2.5])
@pytest.mark.parametrize("kind", ["multiclass", "binary", "candidates"])
def test_log_probabilities_and_logits_are_the_same_signal(kind: str, made_at: float) -> None:
    task = TaskSpec(name="t", kind=kind)  # type: ignore[arg-type]
    shape = (12,) if kind == "binary" else (12, 5)
    student, teacher = random(*shape), random(*shape, seed=1)
    mask = (random(12, 5, seed=2) > -1.0) if kind == "candidates" else None
    softened = teacher / made_at
    stored = -torch.log1p((-softened).exp()) if kind == "binary" else softened.log_softmax(-1)
    live = of(task, student, teacher, mask, temperature=4.0)
    for values, word in ((stored, "log_probabilities"), (softened, "logits")):
        cached = of(task, student, values, mask, temperature=4.0, kind=word, made_at=made_at)
        torch.testing.assert_close(cached, live)


@pytest.mark.parametrize("n_classes", [2, 5])
def test_a_high_temperature_matches_centred_logits(n_classes: int) -> None:
    # T²·KL → 1/(2C) Σ_c ((s_c - mean s) - (z_c - mean z))².
    student, teacher = random(10, n_classes), random(10, n_classes, seed=1)
    gap = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    result = of(MULTICLASS, student, teacher, temperature=1e4, scale_tau2=True)
    torch.testing.assert_close(result, gap.square().mean(-1) / 2, rtol=2e-3, atol=0)


def test_a_high_temperature_matches_single_logits() -> None:
    # T²·KL → (s - z)² / 8.
    student, teacher = random(10), random(10, seed=1)
    result = of(BINARY, student, teacher, temperature=1e4, scale_tau2=True)
    torch.testing.assert_close(result, (student - teacher).square() / 8, rtol=2e-3, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_gradient_is_the_gap_of_probabilities_over_temperature(temperature: float) -> None:
    student, teacher = random(10, 4).requires_grad_(), random(10, 4, seed=1)
    of(MULTICLASS, student, teacher, temperature=temperature).sum().backward()
    gap = (student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, gap.detach() / temperature)


def test_one_logit_stays_exact_where_a_sigmoid_has_saturated() -> None:
    student = torch.tensor([-500.0, 500.0, 300.0, 500.0], requires_grad=True)
    result = of(BINARY, student, [500.0, -500.0, 300.0, 200.0])
    # log(σ(500) / σ(-500)) = 500; two saturated ones on the same side agree.
    assert result.tolist() == [500.0, 500.0, 0.0, 0.0]
    result.sum().backward()
    assert student.grad is not None and student.grad.tolist() == [-1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("certain", [0.0, -math.inf])
def test_a_certain_teacher_is_cross_entropy(certain: float) -> None:
    # log p = 0 or -inf for one logit: KL = -log σ(±s), with s = 1: softplus(∓1).
    expected = math.log1p(math.exp(-1.0)) if certain == 0.0 else math.log1p(math.exp(1.0))
    assert of(BINARY, [1.0], [certain], kind="log_probabilities").item() == pytest.approx(expected, abs=1e-6)
    # A class without any mass adds nothing: teacher (1/2, 1/2, 0), student uniform: ln(3/2).
    half = [[math.log(0.5), math.log(0.5), -math.inf]]
    result = of(MULTICLASS, [[0.0, 0.0, 0.0]], half, kind="log_probabilities")
    assert result.item() == pytest.approx(math.log(1.5), abs=1e-6)


def test_by_confidence_a_sample_counts_as_much_as_the_teacher_is_sure_at_temperature_1() -> None:
    teacher = torch.tensor([0.0, math.log(3), -math.log(3), 40.0], dtype=torch.float64, requires_grad=True)
    student = random(4, seed=1).requires_grad_()
    plain, sure = (of(BINARY, student, teacher, temperature=7.0, confidence=on) for on in (False, True))
    # |2σ - 1| of σ = 1/2, 3/4, 1/4 and 1.
    torch.testing.assert_close(sure, plain * torch.tensor([0.0, 0.5, 0.5, 1.0], dtype=torch.float64))
    sure.sum().backward()
    assert teacher.grad is None and student.grad is not None and student.grad[0] == 0


def test_how_sure_a_teacher_is_of_many_classes_is_0_where_all_are_alike_and_1_where_one_is_certain() -> None:
    teacher = torch.tensor([[2.0, 2.0, 2.0], [90.0, 0.0, 0.0], [math.log(2), 0.0, 0.0]], dtype=torch.float64)
    plain, sure = (of(MULTICLASS, random(3, 3), teacher, temperature=2.0, confidence=on) for on in (False, True))
    torch.testing.assert_close(sure / plain, torch.tensor([0.0, 1.0, 0.25], dtype=torch.float64))
    # Two classes are one logit, their difference.
    two, one = random(5, 2, seed=2), random(5, 2, seed=3)
    as_classes = of(MULTICLASS, one, two, confidence=True)
    torch.testing.assert_close(as_classes, of(BINARY, *(x[:, 1] - x[:, 0] for x in (one, two)), confidence=True))


def test_confidence_is_refused_for_candidates() -> None:
    with pytest.raises(ConfigError, match=r"^distill\.options\.kl\.confidence: task 't' chooses among candidates"):
        of(CANDIDATES, random(2, 3), random(2, 3, seed=1), torch.ones(2, 3, dtype=torch.bool), confidence=True)


def test_a_teacher_that_is_nan_is_not_hidden() -> None:
    assert of(MULTICLASS, [[0.0, 0.0]], [[math.nan, 0.0]]).isnan().all()
    nowhere = [[-math.inf, -math.inf, 0.0]]
    assert of(CANDIDATES, [[0.0, 0.0, 0.0]], nowhere, [[True, True, False]]).isnan().all()


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"task 't': the student's logits are \(2, 3\), the teacher's are \(2, 4\)"):
        of(MULTICLASS, torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="no mask for task 't'"):
        of(CANDIDATES, torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"the mask of task 't' is \(3,\), its logits are \(2, 3\)"):
        of(CANDIDATES, torch.zeros(2, 3), torch.zeros(2, 3), [True, True, False])
    with pytest.raises(ConfigError, match=r"answers none of the tasks .* are t \(regression\): use distill=none"):
        of(TaskSpec(name="t", kind="regression"), torch.zeros(2), torch.zeros(2))
    silent = TeacherSignal(values={"other": torch.zeros(2)})
    with pytest.raises(ConfigError, match=r"answers none of the tasks .* are t \(binary\): use distill=none"):
        kl(StudentOutput(logits={"t": torch.zeros(2)}), silent, tasks=(BINARY,), temperature=1.0, scale_tau2=False)
