"""CE and KL in one pass: the same numbers and the same gradient as the two losses apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdexp.contracts import LossTerms, Progress, StudentOutput, TaskSpec, TeacherSignal
from kdexp.distill.losses.ce import ce
from kdexp.distill.losses.fused import ce_and_kl
from kdexp.distill.losses.kl import kl
from kdexp.distill.objective import Objective, alpha_beta, ce_lambda_kl, mix, weighted
from kdexp.errors import ConfigError

A, B = (TaskSpec(name=name, kind="multiclass") for name in "ab")
N = 6
TARGETS = {"a": torch.tensor([0, 4, 2, 1, 3, 3]), "b": torch.tensor([1, 0, 0, 1, 1, 0])}


def random(seed: int, n_classes: int, scale: float = 3.0) -> Tensor:
    return torch.randn(N, n_classes, generator=torch.Generator().manual_seed(seed)) * scale


def outputs(dtype: torch.dtype, scale: float = 3.0) -> tuple[StudentOutput, TeacherSignal]:
    logits = {"a": random(1, 5, scale).to(dtype).requires_grad_(), "b": random(2, 2, scale).to(dtype).requires_grad_()}
    values = {"a": random(3, 5, scale).to(dtype).requires_grad_(), "b": random(4, 2, scale).to(dtype).requires_grad_()}
    return StudentOutput(logits=logits), TeacherSignal(values=values)


@pytest.mark.parametrize("scale_tau2", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_it_is_ce_and_kl_in_float64(temperature: float, scale_tau2: bool) -> None:
    settings: Any = {"tasks": (A, B), "temperature": temperature, "scale_tau2": scale_tau2}
    output, signal = outputs(torch.float64)
    plain = ce(output, TARGETS, tasks=(A, B)), kl(output, signal, **settings)
    fused = ce_and_kl(output, signal, TARGETS, **settings)
    towards = torch.randn(2, N, generator=torch.Generator().manual_seed(9)).double()
    gradients = [
        torch.autograd.grad((torch.stack(pair) * towards).sum(), list(output.logits.values()))
        for pair in (plain, fused)
    ]
    for one, other in zip([*plain, *gradients[0]], [*fused, *gradients[1]], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)


def test_its_gradient_is_the_derivative() -> None:
    _, signal = outputs(torch.float64)

    def both(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        settings: Any = {"tasks": (A, B), "temperature": 1.7, "scale_tau2": True}
        return ce_and_kl(StudentOutput(logits={"a": a, "b": b}), signal, TARGETS, **settings)

    assert torch.autograd.gradcheck(
        both, (random(1, 5).double().requires_grad_(), random(2, 2).double().requires_grad_())
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_float32_also_under_autocast_and_leaves_the_teacher_alone(dtype: torch.dtype) -> None:
    settings: Any = {"tasks": (A, B), "temperature": 2.0, "scale_tau2": False}
    output, signal = outputs(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = ce_and_kl(output, signal, TARGETS, **settings)
    (results[0] + results[1]).sum().backward()
    assert all(result.dtype == torch.float32 and result.shape == (N,) for result in results)
    assert all(values.grad is None for values in signal.values.values())
    assert all(logits.grad is not None and logits.grad.dtype == dtype for logits in output.logits.values())
    torch.testing.assert_close(results[1], kl(output, signal, **settings), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
def test_extreme_logits_give_finite_values_and_gradients(scale: float) -> None:
    output, signal = outputs(torch.float32, scale)
    results = ce_and_kl(output, signal, TARGETS, tasks=(A, B), temperature=1.0, scale_tau2=False)
    (results[0] + results[1]).sum().backward()
    assert all(result.isfinite().all() for result in results)
    assert all(logits.grad.isfinite().all() for logits in output.logits.values())  # type: ignore[union-attr]


def test_a_task_that_the_teacher_does_not_answer_has_its_ce() -> None:
    output, signal = outputs(torch.float64)
    del signal.values["b"]
    settings: Any = {"tasks": (A, B), "temperature": 2.0, "scale_tau2": False}
    fused = ce_and_kl(output, signal, TARGETS, **settings)
    torch.testing.assert_close(fused[0], ce(output, TARGETS, tasks=(A, B)))
    torch.testing.assert_close(fused[1], kl(output, signal, **settings))


@pytest.mark.parametrize("kind", ["binary", "candidates", "regression"])
def test_another_kind_of_task_is_refused(kind: Any) -> None:
    output, signal = outputs(torch.float32)
    with pytest.raises(
        ConfigError, match=rf"distill\.fused: only multiclass tasks can be fused, not c \({kind}\); set it"
    ):
        ce_and_kl(output, signal, TARGETS, tasks=(A, TaskSpec(name="c", kind=kind)), temperature=1.0, scale_tau2=False)


def test_shapes_and_temperatures_that_do_not_fit_are_named_as_without_it() -> None:
    output, signal = outputs(torch.float32)
    with pytest.raises(ValueError, match="temperature must be positive"):
        ce_and_kl(output, signal, TARGETS, tasks=(A,), temperature=0.0, scale_tau2=False)
    signal.values["a"] = random(3, 4)
    with pytest.raises(ValueError, match=r"task 'a': the student's logits are \(6, 5\), the teacher's are \(6, 4\)"):
        ce_and_kl(output, signal, TARGETS, tasks=(A,), temperature=1.0, scale_tau2=False)


WEIGHTS = {"ce": 0.5, "kl": 2.0}
PRESETS = [
    lambda fused: ce_lambda_kl(temperature=2.0, weights=dict(WEIGHTS), fused=fused),
    lambda fused: alpha_beta(temperature=2.0, alpha=0.5, beta=2.0, fused=fused),
    lambda fused: mix(temperature=2.0, alpha=0.7, fused=fused),
    lambda fused: weighted(temperature=2.0, weights={"dkd": 1.0, **WEIGHTS}, fused=fused),
]


def terms(objective: Objective, output: StudentOutput, signal: TeacherSignal) -> LossTerms:
    return objective(output, signal, TARGETS, Progress(epoch=0.0, step=0.0), (A, B))


@pytest.mark.parametrize("preset", PRESETS)
def test_an_objective_uses_it_behind_the_same_names(preset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    output, signal = outputs(torch.float64)
    plain = terms(preset(False), output, signal)
    # Where it is fused, neither loss is called for itself.
    objective = preset(True)
    monkeypatch.setitem(objective.losses, "kl", None)
    monkeypatch.setattr("kdexp.distill.objective.ce", None)
    fused = terms(objective, output, signal)
    assert list(fused.parts) == list(plain.parts) and fused.weights == plain.weights
    for name, part in plain.parts.items():
        torch.testing.assert_close(fused.parts[name], part)
    logits = list(output.logits.values())
    for one, other in zip(
        torch.autograd.grad(plain.total, logits), torch.autograd.grad(fused.total, logits), strict=True
    ):
        torch.testing.assert_close(other, one)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"weights": {"ce": 1.0}}, "distill.fused: has no effect, it takes ce and kl together"),
        ({"weights": {"kl": 1.0}, "temperature": 2.0}, "distill.fused: has no effect, it takes ce and kl together"),
        (
            {"weights": WEIGHTS, "temperature": 2.0, "positions": "last"},
            "distill.fused: tasks that can be fused have no positions; got distill.positions=last",
        ),
    ],
)
def test_what_it_cannot_do_is_refused_before_any_batch(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        weighted(**settings, fused=True)
    assert raised.value.problems[0].startswith(says)
    with pytest.raises(ConfigError, match=r"distill\.fused: tasks that can be fused have no positions"):
        mix(temperature=2.0, alpha=0.5, positions="sample:2", fused=True)
