"""Which positions the KL counts: worked out by hand, drawn evenly, refused with the forms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from kdexp.contracts import StudentOutput, TaskSpec, TeacherSignal
from kdexp.distill.losses.kl import kl, kl_at
from kdexp.distill.losses.positions import chosen
from kdexp.distill.objective import alpha_beta, ce_lambda_kl, mix
from kdexp.errors import ConfigError

WAY = TaskSpec(name="way", kind="candidates")
TIME = TaskSpec(name="time", kind="duration")
PAD = 50.0
"""What lies in padding here: it would be seen if it were read."""

# Two trips of up to four positions, three candidates at most; the student knows nothing (logits 0).
# At T = 2 the teacher's log-odds are halved: (ln 16, 0) is (4/5, 1/5), (ln 9, 0) is (3/4, 1/4).
#   trip 1: a choice (ln 16, 0):    4/5 ln(8/5) + 1/5 ln(2/5)           = 0.3760029034 - 0.1832581464 = 0.1927447570
#           one candidate                                                                             = 0
#           three, (ln 4, 0, 0):    q = (1/2, 1/4, 1/4): 1/2 ln(3/2) + 1/2 ln(3/4)                    = 0.0588915178
#           one candidate                                                                             = 0
#   trip 2: a choice (ln 9, 0):     3/4 ln(3/2) + 1/4 ln(1/2)                                         = 0.1308120360
N_CANDIDATES = torch.tensor([[2, 1, 3, 1], [2, 0, 0, 0]])
TEACHER = torch.tensor(
    [
        [
            [math.log(16), 0.0, PAD],
            [3.0, PAD, PAD],
            [math.log(4), 0.0, 0.0],
            [7.0, PAD, PAD],
        ],
        [[math.log(9), 0.0, PAD], [PAD] * 3, [PAD] * 3, [PAD] * 3],
    ]
)
MASK = torch.arange(3) < N_CANDIDATES[..., None]
BY_HAND = [
    ("decisions", [(0.1927447570 + 0.0588915178) / 2, 0.1308120360]),
    ("all", [(0.1927447570 + 0.0588915178) / 4, 0.1308120360]),
    ("last", [0.0, 0.1308120360]),
    ("sample:4", [(0.1927447570 + 0.0588915178) / 4, 0.1308120360]),
    ("sample:99", [(0.1927447570 + 0.0588915178) / 4, 0.1308120360]),
]


def of(positions: str, student: Tensor | None = None, teacher: Tensor = TEACHER, mask: Tensor = MASK) -> Tensor:
    logits = torch.zeros_like(teacher) if student is None else student
    output = StudentOutput(logits={"way": logits}, masks={"way": mask})
    signal = TeacherSignal(values={"way": teacher})
    return kl_at(positions)(output, signal, tasks=(WAY,), temperature=2.0, scale_tau2=False)


@pytest.mark.parametrize(("positions", "expected"), BY_HAND)
def test_values_by_hand(positions: str, expected: list[float]) -> None:
    assert of(positions).tolist() == pytest.approx(expected, abs=1e-7)


def test_decisions_are_the_default() -> None:
    output, signal = (
        StudentOutput(logits={"way": TEACHER * 0}, masks={"way": MASK}),
        TeacherSignal(values={"way": TEACHER}),
    )
    assert torch.equal(kl(output, signal, tasks=(WAY,), temperature=2.0, scale_tau2=False), of("decisions"))


@pytest.mark.parametrize("positions", ["decisions", "all", "last"])
def test_a_trip_does_not_depend_on_its_batch_mates(positions: str) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(1, 4, 5, generator=generator) * 4 for _ in range(2))
    mask = torch.arange(5) < torch.tensor([[2, 1, 5, 4]])[..., None]
    alone = of(positions, student, teacher, mask)
    # The same trip beside longer ones with more candidates, whatever lies in its padding.
    wide = torch.nn.functional.pad
    mates = of(
        positions,
        torch.cat([wide(student, (0, 3, 0, 5), value=PAD), torch.randn(3, 9, 8, generator=generator)]),
        torch.cat([wide(teacher, (0, 3, 0, 5), value=-PAD), torch.randn(3, 9, 8, generator=generator)]),
        torch.cat([wide(mask, (0, 3, 0, 5)), torch.ones(3, 9, 8, dtype=torch.bool)]),
    )
    assert alone.item() > 0
    assert mates[0].item() == pytest.approx(alone.item(), abs=1e-6)


def test_the_gradient_is_the_gap_of_probabilities_over_temperature_and_count() -> None:
    student = torch.zeros_like(TEACHER).requires_grad_()
    of("decisions", student)[0].backward()
    assert student.grad is not None
    # (p - q) / (T · 2 positions), p = (1/2, 1/2), q = (4/5, 1/5).
    assert student.grad[0, 0].tolist() == pytest.approx([-0.3 / 4, 0.3 / 4, 0.0], abs=1e-7)
    assert student.grad[0, 2].tolist() == pytest.approx([-1 / 24, 1 / 48, 1 / 48], abs=1e-7)
    assert student.grad[0, [1, 3]].abs().sum() == student.grad[1].abs().sum() == 0


def test_sampled_positions_are_k_of_those_that_are_there_each_as_often_as_another() -> None:
    n_candidates = torch.tensor([[2, 1, 3, 1, 0, 0], [1, 0, 2, 2, 2, 4], [1, 0, 0, 0, 0, 0]])
    torch.manual_seed(0)
    drawn = torch.stack([chosen(n_candidates, "sample:2") for _ in range(3000)])
    assert (drawn.sum(-1) == torch.tensor([2, 2, 1])).all()
    assert not drawn[:, n_candidates == 0].any()
    # Half of four, two fifths of five; chance moves a share by about 0.01.
    share = drawn.float().mean(0)
    assert share[0, :4].tolist() == pytest.approx([0.5] * 4, abs=0.05)
    assert share[1, [0, 2, 3, 4, 5]].tolist() == pytest.approx([0.4] * 5, abs=0.05)


def test_the_draw_is_that_of_the_global_seed() -> None:
    n_candidates = torch.full((50, 20), 2)
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(chosen(n_candidates, "sample:5"))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("positions", ["decisions", "all"])
@pytest.mark.parametrize("kind", ["multiclass", "binary", "candidates"])
def test_without_positions_decisions_and_all_change_nothing(positions: str, kind: Any) -> None:
    task = TaskSpec(name="t", kind=kind)
    shape = (5,) if kind == "binary" else (5, 4)
    student, teacher = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1)).unbind()
    masks = {"t": torch.arange(4) < torch.tensor([[1], [4], [2], [0], [3]])} if kind == "candidates" else {}
    output, signal = StudentOutput(logits={"t": student}, masks=masks), TeacherSignal(values={"t": teacher})
    one, other = (
        kl_at(word)(output, signal, tasks=(task,), temperature=2.0, scale_tau2=True) for word in (positions, "all")
    )
    assert torch.equal(one, other) and one.sum() > 0


@pytest.mark.parametrize("positions", ["last", "sample:2"])
@pytest.mark.parametrize("kind", ["multiclass", "binary", "candidates"])
def test_without_positions_last_and_sample_are_refused(positions: str, kind: Any) -> None:
    values = torch.zeros(5) if kind == "binary" else torch.zeros(5, 4)
    output = StudentOutput(logits={"t": values}, masks={"t": torch.ones(5, 4, dtype=torch.bool)})
    with pytest.raises(ConfigError, match=f"distill.positions={positions}: has no effect on task 't', whose samples"):
        kl_at(positions)(
            output,
            TeacherSignal(values={"t": values}),
            tasks=(TaskSpec(name="t", kind=kind),),
            temperature=1.0,
            scale_tau2=False,
        )


@pytest.mark.parametrize("word", ["first", "sample", "sample:0", "sample:-1", "sample:1.5", "sample:four", "", 4, None])
@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        (ce_lambda_kl, {"temperature": 2.0, "weights": {"ce": 1.0, "kl": 1.0}}),
        (alpha_beta, {"temperature": 2.0, "alpha": 1.0, "beta": 1.0}),
        (mix, {"temperature": 2.0, "alpha": 0.5}),
    ],
)
def test_another_word_is_refused_with_the_forms(preset: Any, settings: dict[str, Any], word: Any) -> None:
    with pytest.raises(ConfigError, match=r"^distill\.positions: must be decisions, all, last or sample:k.*, got"):
        preset(**settings, positions=word)


def test_every_preset_with_a_kl_has_the_key_and_uses_it() -> None:
    conf = Path(__file__).parents[2] / "conf" / "distill"
    loaded = {path.stem: OmegaConf.load(path) for path in conf.glob("*.yaml")}
    always = ("ce_lambda_kl", "alpha_beta", "mix")
    with_kl = {
        name
        for name, preset in loaded.items()
        if preset["_target_"].endswith(always) or (preset.weights is not None and preset.weights.kl is not None)
    }
    assert len(with_kl) >= 7
    found = {name: preset.get("positions") for name, preset in loaded.items()}
    assert found == {name: "decisions" if name in with_kl else None for name in loaded}
    for preset, settings in (
        (ce_lambda_kl, {"weights": {"ce": 1.0, "kl": 1.0}}),
        (alpha_beta, {"alpha": 1.0, "beta": 1.0}),
        (mix, {"alpha": 0.5}),
    ):
        built = preset(temperature=2.0, scale_tau2=False, positions="last", **settings)  # type: ignore[operator]
        output = StudentOutput(logits={"way": TEACHER * 0}, masks={"way": MASK})
        result = built.losses["kl"](
            output, TeacherSignal(values={"way": TEACHER}), tasks=(WAY,), temperature=2.0, scale_tau2=False
        )
        assert torch.equal(result, of("last"))


# tasks that have no divergence, or no answer


def test_durations_and_what_the_teacher_does_not_answer_are_passed_over() -> None:
    other = TaskSpec(name="other", kind="multiclass")
    output = StudentOutput(
        logits={"way": torch.zeros_like(TEACHER), "time": torch.ones(2, 4), "other": torch.randn(2, 3)},
        masks={"way": MASK},
    )
    signal = TeacherSignal(values={"way": TEACHER, "time": torch.zeros(2, 4)})
    result = kl(output, signal, tasks=(WAY, TIME, other), temperature=2.0, scale_tau2=False)
    assert torch.equal(result, of("decisions"))


@pytest.mark.parametrize("answered", [(), ("time",)])
def test_a_teacher_that_answers_nothing_with_a_choice_is_refused(answered: tuple[str, ...]) -> None:
    output = StudentOutput(logits={"way": torch.zeros_like(TEACHER), "time": torch.ones(2, 4)}, masks={"way": MASK})
    signal = TeacherSignal(values={name: torch.zeros(2, 4) for name in answered})
    with pytest.raises(ConfigError, match=r"answers none of the tasks .* way \(candidates\), time \(duration\): use"):
        kl(output, signal, tasks=(WAY, TIME), temperature=2.0, scale_tau2=False)
