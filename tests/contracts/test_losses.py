"""What every distillation loss of `conf/distill` promises; its traits choose the checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import hydra
import pytest
import torch
from hydra._internal.execution_policy import execution_whitelist
from omegaconf import OmegaConf
from torch import Tensor

from kdexp.contracts import Loss, StudentOutput, TaskSpec, TeacherSignal, Traits
from kdexp.distill.objective import Objective

CONF = Path(__file__).parents[2] / "conf" / "distill"
FILES = sorted(CONF.glob("*.yaml"))


def preset(path: Path) -> Objective:
    """The file as a run gets it: keys that a preset sets to null are not its own."""
    plain = {key: value for key, value in OmegaConf.load(path).items() if value is not None}
    with execution_whitelist("kdexp.distill.*"):
        built = hydra.utils.instantiate(plain)
    assert isinstance(built, Objective)
    return built


PRESETS = {path.stem: preset(path) for path in FILES}
LOSSES: dict[str, Loss] = {name: loss for built in PRESETS.values() for name, loss in built.losses.items()}
DIVERGENCES = [name for name, loss in LOSSES.items() if loss.traits.divergence]
PER_SAMPLE = [name for name, loss in LOSSES.items() if not loss.traits.relational]
TEMPERED = [name for name, loss in LOSSES.items() if loss.traits.uses_temperature]


@dataclass
class Case:
    """Random logits of student and teacher for one task, six samples, with padding where the kind has it."""

    task: TaskSpec
    student: Tensor
    teacher: Tensor
    mask: Tensor | None = None

    def output(self, logits: Tensor | None = None) -> StudentOutput:
        masks = {} if self.mask is None else {self.task.name: self.mask}
        return StudentOutput(logits={self.task.name: self.student if logits is None else logits}, masks=masks)

    def signal(self, logits: Tensor | None = None) -> TeacherSignal:
        return TeacherSignal(values={self.task.name: self.teacher if logits is None else logits})


SHAPES = {"multiclass": (6, 5), "binary": (6,), "candidates": (6, 4), "positions": (6, 3, 4)}
KINDS = list(SHAPES)


def case(kind: str, scale: float = 2.0) -> Case:
    generator = torch.Generator().manual_seed(7)
    student, teacher = (torch.randn(SHAPES[kind], generator=generator) * scale for _ in range(2))
    if kind in ("multiclass", "binary"):
        return Case(TaskSpec(name="t", kind=kind), student, teacher)  # type: ignore[arg-type]
    # One slot of each row is padding; the first row has one candidate, the second none.
    mask = torch.ones(SHAPES[kind], dtype=torch.bool)
    mask[..., -1] = False
    mask.view(-1, 4)[0] = torch.tensor([True, False, False, False])
    mask.view(-1, 4)[1] = False
    return Case(TaskSpec(name="t", kind="candidates"), student, teacher, mask)


def value(loss: Loss, of: Case, temperature: float = 2.0, scale_tau2: bool = False) -> Tensor:
    return loss(of.output(), of.signal(), tasks=(of.task,), temperature=temperature, scale_tau2=scale_tau2)


def test_the_suite_sees_all_presets_and_losses() -> None:
    assert len(FILES) >= 4
    assert {"ce_lambda_kl", "alpha_beta", "mix", "none"} <= set(PRESETS)
    assert "kl" in LOSSES and "kl" in DIVERGENCES and "kl" in TEMPERED
    assert all(isinstance(loss.traits, Traits) for loss in LOSSES.values())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_named_as_its_file(name: str) -> None:
    assert PRESETS[name].preset == name
    assert PRESETS[name].needs_teacher == (name != "none")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_loss_is_one_float32_number_per_sample(name: str, kind: str, dtype: torch.dtype) -> None:
    of = case(kind)
    of.student, of.teacher = of.student.to(dtype), of.teacher.to(dtype)
    result = value(LOSSES[name], of)
    assert result.shape == (6,) and result.dtype == torch.float32
    assert result.isfinite().all() and result.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES)
def test_autocast_changes_nothing(name: str, kind: str) -> None:
    of = case(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = value(LOSSES[name], of)
    assert torch.equal(inside, value(LOSSES[name], of))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_is_zero_at_equality_with_no_gradient(name: str, kind: str) -> None:
    of = case(kind)
    of.student = of.teacher.clone().requires_grad_()
    result = value(LOSSES[name], of)
    assert result.abs().max() < 1e-7
    assert torch.autograd.grad(result.sum(), of.student)[0].abs().max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_is_not_negative(name: str, kind: str, scale: float) -> None:
    assert value(LOSSES[name], case(kind, scale)).min() >= -1e-7


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES)
def test_gradient_reaches_the_student_only(name: str, kind: str) -> None:
    of = case(kind)
    of.student.requires_grad_()
    of.teacher.requires_grad_()
    value(LOSSES[name], of).sum().backward()
    assert of.teacher.grad is None
    assert of.student.grad is not None and of.student.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.37])
@pytest.mark.parametrize("name", TEMPERED)
def test_scale_tau2_multiplies_by_temperature_squared(name: str, temperature: float, kind: str) -> None:
    plain, scaled = (value(LOSSES[name], case(kind), temperature, scale_tau2) for scale_tau2 in (False, True))
    torch.testing.assert_close(scaled, plain * temperature**2)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("name", TEMPERED)
def test_a_temperature_that_is_not_positive_is_refused(name: str, temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        value(LOSSES[name], case("binary"), temperature)


@pytest.mark.parametrize("kind", ["candidates", "positions"])
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("name", LOSSES)
def test_what_lies_in_padding_is_never_read(name: str, garbage: float, kind: str) -> None:
    clean, dirty = case(kind), case(kind)
    assert dirty.mask is not None
    for of in (clean, dirty):
        of.student.requires_grad_()
    with torch.no_grad():
        dirty.student[~dirty.mask] = garbage
        dirty.teacher[~dirty.mask] = garbage
    assert torch.equal(value(LOSSES[name], clean), value(LOSSES[name], dirty))
    # Under `trainer.detect_anomaly` a NaN would stop the run even where it is masked out again.
    with torch.autograd.set_detect_anomaly(True):
        gradients = [torch.autograd.grad(value(LOSSES[name], of).sum(), of.student)[0] for of in (clean, dirty)]
    assert torch.equal(*gradients)
    # Nothing, not even a NaN, flows back to padding.
    assert torch.equal(gradients[1][~dirty.mask], torch.zeros_like(gradients[1][~dirty.mask]))


@pytest.mark.parametrize("kind", ["candidates", "positions"])
@pytest.mark.parametrize("name", PER_SAMPLE)
def test_more_padding_changes_nothing(name: str, kind: str) -> None:
    of, wide = case(kind), case(kind)
    assert wide.mask is not None
    pad = (0, 3, 0, 2) if kind == "positions" else (0, 3)
    wide.student, wide.teacher = (torch.nn.functional.pad(x, pad, value=9.0) for x in (wide.student, wide.teacher))
    wide.mask = torch.nn.functional.pad(wide.mask, pad, value=False)
    torch.testing.assert_close(value(LOSSES[name], of), value(LOSSES[name], wide))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PER_SAMPLE)
def test_a_sample_does_not_depend_on_its_batch_mates(name: str, kind: str) -> None:
    of = case(kind)
    alone = [
        value(
            LOSSES[name],
            Case(of.task, of.student[[i]], of.teacher[[i]], None if of.mask is None else of.mask[[i]]),
        )
        for i in range(6)
    ]
    assert torch.equal(value(LOSSES[name], of), torch.cat(alone))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PER_SAMPLE)
def test_an_empty_batch_gives_no_numbers(name: str, kind: str) -> None:
    of = case(kind)
    nothing = Case(of.task, of.student[:0], of.teacher[:0], None if of.mask is None else of.mask[:0])
    assert value(LOSSES[name], nothing).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_give_finite_values_and_gradients(name: str, scale: float, kind: str) -> None:
    of = case(kind, scale)
    of.student.requires_grad_()
    result = value(LOSSES[name], of, temperature=1.0)
    gradient = torch.autograd.grad(result.sum(), of.student)[0]
    assert result.isfinite().all() and gradient.isfinite().all()
    assert gradient.abs().max() > 0.3, "a student that is very wrong is pulled hard"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_the_derivative(name: str, kind: str) -> None:
    of = case(kind)
    of.teacher = of.teacher.double()

    def function(logits: Tensor) -> Tensor:
        return LOSSES[name](of.output(logits), of.signal(), tasks=(of.task,), temperature=1.7, scale_tau2=True)

    assert torch.autograd.gradcheck(function, (of.student.double().requires_grad_(),))


@pytest.mark.parametrize("name", LOSSES)
def test_tasks_add_up(name: str) -> None:
    first, second = case("multiclass"), case("binary")
    first.task, second.task = TaskSpec(name="a", kind="multiclass"), TaskSpec(name="b", kind="binary")
    output = StudentOutput(logits={"a": first.student, "b": second.student})
    signal = TeacherSignal(values={"a": first.teacher, "b": second.teacher})
    both = LOSSES[name](output, signal, tasks=(first.task, second.task), temperature=2.0, scale_tau2=False)
    torch.testing.assert_close(both, value(LOSSES[name], first) + value(LOSSES[name], second))
