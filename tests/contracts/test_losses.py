"""What every distillation loss of `conf/distill` promises; its traits choose the checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import hydra
import pytest
import torch
from hydra._internal.execution_policy import execution_whitelist
from omegaconf import OmegaConf
from torch import Tensor

from kdexp.contracts import Loss, Progress, StudentOutput, TaskSpec, TeacherSignal, Traits
from kdexp.distill import parts
from kdexp.distill.objective import Objective
from kdexp.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf" / "distill"
FILES = sorted(CONF.glob("*.yaml"))


def preset(path: Path) -> Objective:
    """The file as a run gets it: keys that a preset sets to null are not its own."""
    plain = {key: value for key, value in OmegaConf.load(path).items() if value is not None}
    with execution_whitelist("kdexp.distill.*"):
        built = hydra.utils.instantiate(plain, _convert_="all", _recursive_=False)
    assert isinstance(built, Objective)
    return built


PRESETS = {path.stem: preset(path) for path in FILES}
LOSSES: dict[str, Loss] = parts.LOSSES | {n: loss for built in PRESETS.values() for n, loss in built.losses.items()}
TEMPERED = [name for name, loss in LOSSES.items() if loss.traits.uses_temperature]
SHAPES = {
    "multiclass": (6, 5),
    "binary": (6,),
    "candidates": (6, 4),
    "positions": (6, 3, 4),
    "vectors": (6, 7),
    "maps": (6, 3, 4, 5),
    "numbers": (6,),
    "weights": (6, 7),
}
TASK_KINDS = ("multiclass", "binary", "candidates", "positions")


def reads(loss: Loss, kind: str) -> bool:
    """Whether a loss reads logits of this kind, or features of this form."""
    if kind in TASK_KINDS:
        return loss.traits.features is None and ("candidates" if kind == "positions" else kind) in loss.traits.kinds
    return loss.traits.features == kind


# Every loss on all that it reads, and the same for some of the losses.
ALL = [(name, kind) for name, loss in LOSSES.items() for kind in SHAPES if reads(loss, kind)]


def where(chosen: Callable[[Traits], bool]) -> list[tuple[str, str]]:
    return [(name, kind) for name, kind in ALL if chosen(LOSSES[name].traits)]


DIVERGENCES = where(lambda traits: traits.divergence)
PER_SAMPLE = where(lambda traits: not traits.relational)
RELATIONAL = where(lambda traits: traits.relational)
MASKED = [(name, kind) for name, kind in ALL if kind in ("candidates", "positions")]


@dataclass
class Case:
    """Random logits of student and teacher for one task, six samples, with padding where the kind has it; or random
    features of one pair, as a loss gets them: already of one width."""

    kind: str
    student: Tensor
    teacher: Tensor
    mask: Tensor | None = None
    labels: Tensor = field(default_factory=lambda: torch.tensor([0, 1, 2, 2, 1, 4]))

    @property
    def task(self) -> TaskSpec:
        return TaskSpec(name="t", kind="candidates" if self.kind == "positions" else self.kind)  # type: ignore[arg-type]

    def output(self, values: Tensor | None = None) -> StudentOutput:
        values = self.student if values is None else values
        if self.kind not in TASK_KINDS:
            return StudentOutput(logits={}, features={"f": values})
        return StudentOutput(logits={"t": values}, masks={} if self.mask is None else {"t": self.mask})

    def signal(self) -> TeacherSignal:
        if self.kind not in TASK_KINDS:
            return TeacherSignal(values={}, features={"f": self.teacher})
        return TeacherSignal(values={"t": self.teacher})

    def some(self, index: list[int] | slice) -> Case:
        mask = None if self.mask is None else self.mask[index]
        return Case(self.kind, self.student[index], self.teacher[index], mask, self.labels[index])


def case(kind: str, scale: float = 2.0) -> Case:
    generator = torch.Generator().manual_seed(7)
    student, teacher = (torch.randn(SHAPES[kind], generator=generator) * scale for _ in range(2))
    if kind == "weights":
        # Slots that both lack, and two more that the teacher lacks: on these the student's weight changes nothing.
        student, teacher = student.softmax(dim=1), teacher.softmax(dim=1)
        student[:, 6] = teacher[:, 6] = teacher[2, 3] = teacher[4, 0] = 0.0
    if kind not in ("candidates", "positions"):
        return Case(kind, student, teacher)
    # One slot of each row is padding; the first row has one candidate, the second none.
    mask = torch.ones(SHAPES[kind], dtype=torch.bool)
    mask[..., -1] = False
    mask.view(-1, 4)[0] = torch.tensor([True, False, False, False])
    mask.view(-1, 4)[1] = False
    return Case(kind, student, teacher, mask)


def value(
    name: str, of: Case, temperature: float = 2.0, scale_tau2: bool = False, values: Tensor | None = None
) -> Tensor:
    loss = LOSSES[name]
    labels = {"targets": {"t": of.labels}} if loss.traits.uses_labels else {}
    settings = {"tasks": (of.task,), "temperature": temperature, "scale_tau2": scale_tau2}
    return loss(of.output(values), of.signal(), **settings, **labels)  # type: ignore[arg-type]


def test_the_suite_sees_all_presets_and_losses() -> None:
    named = {"ce_lambda_kl", "alpha_beta", "mix", "none", "ce_kl_mse", "combined", "mix_aligned", "mix_attention"}
    of_one_loss = {"crd", "rkd", "rkd_park", "mmd", "dkd", "dist", "attention"}
    beside_others = {"kl", "feature_mse", "cosine", "info_nce", "relational", "attention_summary", "attention_kl"}
    assert named | of_one_loss <= set(PRESETS)
    assert beside_others | of_one_loss <= set(LOSSES) == set(parts.LOSSES)
    assert {"kl", "dkd", "dist"} <= set(TEMPERED)
    assert {name for name, _ in RELATIONAL} >= {"crd", "rkd", "rkd_park", "mmd", "dist", "info_nce", "relational"}
    assert {name for name, _ in DIVERGENCES} == set(LOSSES) - {"crd", "info_nce"}
    assert {kind for _, kind in ALL} == set(SHAPES)
    assert all(isinstance(loss.traits, Traits) for loss in LOSSES.values())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_which_it_is(name: str) -> None:
    assert PRESETS[name].preset in (name, name.partition("_")[0], "weighted")
    assert PRESETS[name].needs_teacher == (name != "none")


@pytest.mark.parametrize(("name", "kind"), ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_loss_is_one_float32_number_per_sample(name: str, kind: str, dtype: torch.dtype) -> None:
    of = case(kind)
    of.student, of.teacher = of.student.to(dtype), of.teacher.to(dtype)
    result = value(name, of)
    assert result.shape == (6,) and result.dtype == torch.float32
    assert result.isfinite().all() and result.abs().sum() > 0


@pytest.mark.parametrize(("name", "kind"), ALL)
def test_autocast_changes_nothing(name: str, kind: str) -> None:
    of = case(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = value(name, of)
    assert torch.equal(inside, value(name, of))


@pytest.mark.parametrize(("name", "kind"), DIVERGENCES)
def test_a_divergence_is_zero_at_equality_with_no_gradient(name: str, kind: str) -> None:
    of = case(kind)
    of.student = of.teacher.clone().requires_grad_()
    result = value(name, of)
    assert result.abs().max() < 1e-6
    assert torch.autograd.grad(result.sum(), of.student)[0].abs().max() < 1e-5


@pytest.mark.parametrize(("name", "kind"), DIVERGENCES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_a_divergence_is_not_negative(name: str, kind: str, scale: float) -> None:
    result = value(name, case(kind, scale))
    least = result.mean() if LOSSES[name].traits.relational else result.min()
    assert least >= -1e-6


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, k in ALL if k in TASK_KINDS])
def test_gradient_reaches_the_student_only(name: str, kind: str) -> None:
    of = case(kind)
    of.student.requires_grad_()
    of.teacher.requires_grad_()
    value(name, of).sum().backward()
    assert of.teacher.grad is None
    assert of.student.grad is not None and of.student.grad.abs().sum() > 0


@pytest.mark.parametrize("file", [name for name, built in PRESETS.items() if built.pairs])
def test_gradient_of_features_reaches_the_student_and_the_projections_only(file: str) -> None:
    """Features come to a loss through the objective, which detaches the teacher's before it projects them."""
    built = preset(CONF / f"{file}.yaml")
    generator = torch.Generator().manual_seed(3)

    def features(side: str, width: int) -> dict[str, Tensor]:
        drawn = {}
        for traits, pair in compared:
            shape = (*SHAPES[traits.features or ""][:1], 4 if traits.same_width else width, 4, 4)
            axes = {"numbers": 1, "maps": 4}.get(traits.features or "", 2)
            values = torch.randn(shape[:axes], generator=generator)
            drawn[getattr(pair, side)] = (
                values.softmax(1) if traits.features == "weights" else values
            ).requires_grad_()
        return drawn

    compared = [(p.pairing.traits, pair) for p in built.pairs.values() for pair in p.pairing.pairs]  # type: ignore[union-attr]
    student = StudentOutput(logits={}, features=features("student", width=4))
    signal = TeacherSignal(values={}, features=features("teacher", width=5))
    for part in [name for name in built.losses if name not in built.pairs]:
        del built.losses[part], built.weights[part]
    built.weights.pop("ce", None)
    built.connect(student, signal, seed=1)
    built(student, signal, {}, Progress(epoch=0.0, step=0.0), ()).total.backward()
    assert all(feature.grad is None for feature in signal.features.values())
    read = {pair.student for paired in built.pairs.values() for pair in paired.pairing.pairs}  # type: ignore[union-attr]
    assert read and all(student.features[name].grad.abs().sum() > 0 for name in read)
    for name, paired in built.pairs.items():
        maps = list(paired.parameters())
        assert bool(maps) == LOSSES[name].traits.projected
        assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in maps)


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, k in ALL if n in TEMPERED])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.37])
def test_scale_tau2_multiplies_by_temperature_squared(name: str, temperature: float, kind: str) -> None:
    plain, scaled = (value(name, case(kind), temperature, scale_tau2) for scale_tau2 in (False, True))
    torch.testing.assert_close(scaled, plain * temperature**2)


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, k in ALL if n not in TEMPERED])
def test_a_loss_without_temperature_does_not_read_it(name: str, kind: str) -> None:
    assert torch.equal(value(name, case(kind), 1.0), value(name, case(kind), 5.0, scale_tau2=True))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("name", TEMPERED)
def test_a_temperature_that_is_not_positive_is_refused(name: str, temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        value(name, case("multiclass"), temperature)


REFUSED = [
    (name, kind)
    for name, loss in LOSSES.items()
    for kind in TASK_KINDS
    if loss.traits.features is None and not reads(loss, kind)
]


@pytest.mark.parametrize(("name", "kind"), REFUSED)
def test_a_kind_of_task_that_a_loss_cannot_read_is_refused_with_the_way_out(name: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"^distill\.weights\.{name}: .*use distill\.weights\.kl"):
        value(name, case(kind))


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.traits.features is None])
def test_numbers_are_passed_over_and_a_teacher_that_answers_nothing_else_is_refused(name: str) -> None:
    of = case("multiclass")
    number = TaskSpec(name="n", kind="regression")
    labels = {"targets": {"t": of.labels}} if LOSSES[name].traits.uses_labels else {}
    settings = {"temperature": 2.0, "scale_tau2": False, **labels}
    both = LOSSES[name](of.output(), of.signal(), tasks=(of.task, number), **settings)  # type: ignore[arg-type]
    assert torch.equal(both, value(name, of))
    with pytest.raises(ConfigError, match=r"the teacher answers none of the tasks .* use distill=none"):
        LOSSES[name](of.output(), of.signal(), tasks=(number,), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "kind"), MASKED)
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_what_lies_in_padding_is_never_read(name: str, garbage: float, kind: str) -> None:
    clean, dirty = case(kind), case(kind)
    assert dirty.mask is not None
    for of in (clean, dirty):
        of.student.requires_grad_()
    with torch.no_grad():
        dirty.student[~dirty.mask] = garbage
        dirty.teacher[~dirty.mask] = garbage
    assert torch.equal(value(name, clean), value(name, dirty))
    # Under `trainer.detect_anomaly` a NaN would stop the run even where it is masked out again.
    with torch.autograd.set_detect_anomaly(True):
        gradients = [torch.autograd.grad(value(name, of).sum(), of.student)[0] for of in (clean, dirty)]
    assert torch.equal(*gradients)
    # Nothing, not even a NaN, flows back to padding.
    assert torch.equal(gradients[1][~dirty.mask], torch.zeros_like(gradients[1][~dirty.mask]))


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, k in MASKED if (n, k) in PER_SAMPLE])
def test_more_padding_changes_nothing(name: str, kind: str) -> None:
    of, wide = case(kind), case(kind)
    assert wide.mask is not None
    pad = (0, 3, 0, 2) if kind == "positions" else (0, 3)
    wide.student, wide.teacher = (torch.nn.functional.pad(x, pad, value=9.0) for x in (wide.student, wide.teacher))
    wide.mask = torch.nn.functional.pad(wide.mask, pad, value=False)
    torch.testing.assert_close(value(name, of), value(name, wide))


@pytest.mark.parametrize(("name", "kind"), PER_SAMPLE)
def test_a_sample_does_not_depend_on_its_batch_mates(name: str, kind: str) -> None:
    of = case(kind)
    alone = torch.cat([value(name, of.some([i])) for i in range(6)])
    torch.testing.assert_close(value(name, of), alone, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "kind"), RELATIONAL)
def test_a_relational_loss_is_of_the_batch_and_its_mean_knows_no_order(name: str, kind: str) -> None:
    of = case(kind)
    turned = value(name, of.some([3, 1, 5, 0, 2, 4]))
    torch.testing.assert_close(turned, value(name, of)[[3, 1, 5, 0, 2, 4]], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(value(name, of)[:3], value(name, of.some(slice(0, 3))))


@pytest.mark.parametrize(("name", "kind"), ALL)
def test_an_empty_batch_gives_no_numbers(name: str, kind: str) -> None:
    assert value(name, case(kind).some(slice(0, 0))).shape == (0,)


@pytest.mark.parametrize(("name", "kind"), ALL)
@pytest.mark.parametrize("student", ["random", "zero", "equal", "alike"])
@pytest.mark.parametrize("teacher", ["random", "zero", "alike"])
@pytest.mark.parametrize("n", [1, 6])
def test_no_degenerate_batch_gives_a_nan_or_a_gradient_that_explodes(
    name: str, kind: str, student: str, teacher: str, n: int
) -> None:
    """A batch of one, zero vectors, equal features, samples all alike: distances and lengths of 0 everywhere."""

    def made(word: str, values: Tensor, other: Tensor) -> Tensor:
        same = values[:1].expand_as(values)
        return {"random": values, "zero": torch.zeros_like(values), "equal": other, "alike": same}[word].clone()

    of = case(kind)
    of.teacher = made(teacher, of.teacher, of.teacher)
    of.student = made(student, of.student, of.teacher)
    of = of.some(slice(0, n))
    of.student.requires_grad_()
    with torch.autograd.set_detect_anomaly(True):
        result = value(name, of)
        gradient = torch.autograd.grad(result.sum(), of.student)[0]
    assert result.isfinite().all() and gradient.isfinite().all()
    assert gradient.abs().max() < 1e3


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, k in ALL if k in TASK_KINDS])
@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
def test_extreme_logits_give_finite_values_and_gradients(name: str, scale: float, kind: str) -> None:
    of = case(kind, scale)
    of.student.requires_grad_()
    result = value(name, of, temperature=1.0)
    gradient = torch.autograd.grad(result.sum(), of.student)[0]
    assert result.isfinite().all() and gradient.isfinite().all()
    # A student that is very wrong is pulled hard; a correlation of certain probabilities does not pull.
    assert LOSSES[name].traits.relational or gradient.abs().max() > 0.3


@pytest.mark.parametrize(("name", "kind"), ALL)
def test_the_gradient_is_the_derivative(name: str, kind: str) -> None:
    of = case(kind)
    of.teacher = of.teacher.double()
    student = of.student.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: value(name, of, 1.7, True, values), (student,))


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.traits.features is None])
def test_tasks_add_up(name: str) -> None:
    first, second = case("multiclass"), case("binary" if reads(LOSSES[name], "binary") else "multiclass", 3.0)
    tasks = (TaskSpec(name="a", kind="multiclass"), TaskSpec(name="b", kind=second.kind))  # type: ignore[arg-type]
    output = StudentOutput(logits={"a": first.student, "b": second.student})
    signal = TeacherSignal(values={"a": first.teacher, "b": second.teacher})
    labels = {"targets": {"a": first.labels, "b": second.labels}} if LOSSES[name].traits.uses_labels else {}
    both = LOSSES[name](output, signal, tasks=tasks, temperature=2.0, scale_tau2=False, **labels)
    torch.testing.assert_close(both, value(name, first) + value(name, second))


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.traits.features])
def test_pairs_are_added_up_or_averaged_alike(name: str) -> None:
    """Two equal pairs are twice one pair, or, where a loss takes the mean over its pairs, as much as one."""
    of = case(LOSSES[name].traits.features or "")
    output = StudentOutput(logits={}, features={"a": of.student, "b": of.student})
    signal = TeacherSignal(values={}, features={"a": of.teacher, "b": of.teacher})
    both = LOSSES[name](output, signal, tasks=(), temperature=1.0, scale_tau2=False)
    times = 2 if name in ("feature_mse", "attention", "attention_summary") else 1
    torch.testing.assert_close(both, times * value(name, of))
