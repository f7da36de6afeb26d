"""The presets: what they weigh, what they refuse, and that λ = 0 is plain training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from kdexp.contracts import LossTerms, Progress, StudentOutput, TaskSpec, TeacherSignal
from kdexp.distill.losses.ce import ce
from kdexp.distill.objective import Objective, alpha_beta, ce_lambda_kl, mix, none, own_loss
from kdexp.distill.weighing import batch_mean
from kdexp.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"
TASK = TaskSpec(name="t", kind="multiclass", classes=("a", "b", "c"))
TARGETS = {"t": torch.tensor([0, 2, 1, 1])}
START, MIDDLE, END = (Progress(epoch=p, step=p) for p in (0.0, 0.5, 1.0))


def logits(seed: int) -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))


def terms(objective: Objective, student: Tensor | None = None, progress: Progress = START, **aux: Tensor) -> LossTerms:
    output = StudentOutput(logits={"t": logits(0) if student is None else student}, aux=aux)
    signal = TeacherSignal(values={"t": logits(1)}) if objective.needs_teacher else None
    result = objective(output, signal, TARGETS, progress, (TASK,))
    assert isinstance(result, LossTerms)
    return result


LINEAR = {"name": "linear", "start": 1.0, "end": 0.0}


def test_ce_lambda_kl_weighs_by_name_and_leaves_temperature_out() -> None:
    result = terms(ce_lambda_kl(temperature=2.0, weights={"ce": 0.5, "kl": 3.0}))
    assert result.weights == {"ce": 0.5, "kl": 3.0} and result.temperature == 2.0
    torch.testing.assert_close(result.total, 0.5 * result.parts["ce"] + 3.0 * result.parts["kl"])
    with_tau2 = terms(ce_lambda_kl(temperature=2.0, weights={"ce": 0.5, "kl": 3.0}, scale_tau2=True))
    torch.testing.assert_close(with_tau2.parts["kl"], 4.0 * result.parts["kl"])


def test_the_presets_agree_where_their_formulas_do() -> None:
    # 0.3·CE + 0.7·T²·KL, said in three ways.
    said = [
        ce_lambda_kl(temperature=3.0, weights={"ce": 0.3, "kl": 0.7}, scale_tau2=True),
        alpha_beta(temperature=3.0, alpha=0.3, beta=0.7),
        mix(temperature=3.0, alpha=0.7),
    ]
    totals = [terms(objective).total for objective in said]
    torch.testing.assert_close(totals[1], totals[0])
    torch.testing.assert_close(totals[2], totals[0])


def test_none_is_cross_entropy_without_a_teacher() -> None:
    objective = none()
    assert not objective.needs_teacher
    result = terms(objective)
    assert list(result.parts) == ["ce"] and result.temperature is None
    assert torch.equal(result.total, torch.nn.functional.cross_entropy(logits(0), TARGETS["t"]))


@pytest.mark.parametrize(
    "objective",
    [
        none(),
        ce_lambda_kl(temperature=2.0, weights={"ce": 1.0, "kl": 0.0}),
        alpha_beta(temperature=2.0, alpha=1.0, beta=0.0),
        mix(temperature=2.0, alpha=0.0),
    ],
    ids=lambda objective: objective.preset,
)
def test_a_weight_of_zero_on_kl_is_plain_training_to_the_bit(objective: Objective) -> None:
    student, plain = logits(0).requires_grad_(), logits(0).requires_grad_()
    terms(objective, student).total.backward()
    ce(StudentOutput(logits={"t": plain}), TARGETS, tasks=(TASK,)).mean().backward()
    assert student.grad is not None and plain.grad is not None
    assert torch.equal(student.grad, plain.grad)


def test_every_number_is_a_schedule_on_its_own_clock() -> None:
    falling = {"name": "linear", "start": 4.0, "end": 1.0, "per": "step"}
    objective = alpha_beta(temperature=falling, alpha=LINEAR, beta={"name": "cosine", "start": 0.0, "end": 2.0})
    result = terms(objective, progress=Progress(epoch=0.5, step=2 / 3))
    assert result.temperature == pytest.approx(2.0)
    assert result.weights == pytest.approx({"ce": 0.5, "kl": 1.0})
    assert terms(objective, progress=END).weights == {"ce": 0.0, "kl": 2.0}


def test_mix_gives_ce_what_kl_leaves() -> None:
    objective = mix(temperature=1.0, alpha={"name": "exponential", "start": 0.9, "end": 0.1})
    weights = terms(objective, progress=MIDDLE).weights
    assert weights == pytest.approx({"ce": 0.7, "kl": 0.3})
    assert terms(objective, progress=START).weights["ce"] == pytest.approx(0.1)


def test_mix_adds_further_parts_beside_the_mixture() -> None:
    feature = torch.randn(4, 5, generator=torch.Generator().manual_seed(4))
    output = StudentOutput(logits={"t": logits(0)}, features={"z": feature})
    signal = TeacherSignal(values={"t": logits(1)}, features={"z": feature.flip(0), "other": feature})
    further: Any = {"kl": None, "cosine": 0.1, "relational": LINEAR}
    pairs: Any = {"features": [["z", "z"]], "options": {"relational": {"features": [["z", "other"]]}}}
    made = mix(temperature=3.0, alpha=0.7, weights=further, **pairs)
    assert made.preset == "mix" and made.teacher_features == ("other", "z")
    result = made(output, signal, TARGETS, START, (TASK,))
    assert result.weights == pytest.approx({"ce": 0.3, "kl": 0.7, "cosine": 0.1, "relational": 1.0})
    assert result.parts["cosine"] > 0 and result.parts["relational"] == 0
    plain = terms(mix(temperature=3.0, alpha=0.7)).total
    torch.testing.assert_close(result.total, plain + 0.1 * result.parts["cosine"])


def test_a_kl_by_confidence_is_the_kl_of_each_sample_times_how_sure_the_teacher_is() -> None:
    options: Any = {"kl": {"confidence": True}}
    made = mix(temperature=3.0, alpha=1.0, options=options)
    sure = (3 * logits(1).softmax(1).amax(1) - 1) / 2  # at temperature 1
    assert terms(made).parts["kl"].item() == pytest.approx(float((sure * per_sample_kl(3.0)).mean()))
    assert torch.equal(
        terms(mix(temperature=3.0, alpha=1.0, options={"kl": {"confidence": False}})).total,
        terms(mix(temperature=3.0, alpha=1.0)).total,
    )


def per_sample_kl(temperature: float) -> Tensor:
    student, teacher = ((logits(seed) / temperature).log_softmax(1) for seed in (0, 1))
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(1)


EVERY_PART = {"cosine": 0.5, "info_nce": 0.2, "relational": 3.0, "crd": 1.0}


def weighed_by_sample(weights: Tensor | None) -> tuple[LossTerms, Tensor]:
    """Many parts of one batch and the student's gradient, with these sample weights."""
    student = logits(0).requires_grad_()
    feature = torch.randn(4, 5, generator=torch.Generator().manual_seed(4))
    further: Any = {"weights": EVERY_PART, "features": [["z", "z"]], "aux": {"energy": 2.0}}
    made = mix(temperature=3.0, alpha=0.7, **further)
    output = StudentOutput(logits={"t": student}, features={"z": feature}, aux={"energy": torch.arange(4.0)})
    signal = TeacherSignal(values={"t": logits(1)}, features={"z": feature.roll(1, dims=0)})
    made.connect(output, signal, seed=1)
    result = made(output, signal, TARGETS, START, (TASK,), weights)
    result.total.backward()
    assert student.grad is not None
    return result, student.grad


def test_every_part_is_a_weighted_mean_where_samples_have_weights() -> None:
    w = torch.tensor([0.5, 2.0, 0.0, 1.5])
    result, gradient = weighed_by_sample(w)
    plain, _ = weighed_by_sample(None)
    labels = -logits(0).log_softmax(1)[torch.arange(4), TARGETS["t"]]
    for name, values in {"ce": labels, "kl": per_sample_kl(3.0), "energy": torch.arange(4.0)}.items():
        assert result.parts[name].item() == pytest.approx(float((w * values).sum() / w.sum()), rel=1e-5)
    # Parts that compare samples are weighted too, anchor by anchor.
    assert all(result.parts[name] != plain.parts[name] for name in EVERY_PART)
    # A weight of 0 is a sample that does not pull, and only the ratios of weights matter.
    assert not gradient[2].any() and gradient[[0, 1, 3]].abs().sum(1).all()
    torch.testing.assert_close(weighed_by_sample(10 * w)[0].total, result.total)


def test_a_batch_whose_weights_are_all_0_gives_0_and_teaches_nothing() -> None:
    with torch.autograd.set_detect_anomaly(True):
        result, gradient = weighed_by_sample(torch.zeros(4))
    assert result.total == 0 and not any(part for part in result.parts.values())
    assert torch.equal(gradient, torch.zeros(4, 3))


def test_a_gradient_of_any_size_from_above_stays_0_where_all_weights_are_0() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    (1e30 * batch_mean(values, torch.zeros(2))).backward()
    assert values.grad is not None and values.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("scale", [1e-38, 1e-3, 1.0, 1e30])
def test_weights_of_any_size_give_their_mean_to_the_bit(scale: float) -> None:
    values, w = logits(0)[:, 0], scale * torch.tensor([0.5, 2.0, 0.0, 1.5])
    assert torch.equal(batch_mean(values, w), (w * values).sum() / w.sum())


def test_a_nan_passes_through_the_mean_of_a_batch() -> None:
    assert batch_mean(torch.tensor([1.0, math.nan]), torch.zeros(2)).isnan()
    assert batch_mean(torch.tensor([1.0, 2.0]), torch.tensor([1.0, math.nan])).isnan()


def test_without_sample_weights_and_with_equal_ones_a_loss_is_the_plain_mean() -> None:
    none_given, equal = weighed_by_sample(None), weighed_by_sample(torch.full((4,), 0.25))
    torch.testing.assert_close(equal[0].total, none_given[0].total)
    torch.testing.assert_close(equal[1], none_given[1])
    plain = terms(none())
    assert torch.equal(plain.total, torch.nn.functional.cross_entropy(logits(0), TARGETS["t"]))


def test_auxiliary_parts_count_only_where_they_have_a_weight() -> None:
    energy = torch.tensor([1.0, 2.0, 3.0, 6.0])
    silent = terms(none(), energy=energy)
    assert "energy" not in silent.parts
    result = terms(none(aux={"energy": 0.5}), energy=energy.half())
    assert result.parts["energy"].item() == 3.0 and result.parts["energy"].dtype == torch.float32
    torch.testing.assert_close(result.total, silent.total + 1.5)
    with pytest.raises(ConfigError, match=r"distill\.aux\.energy weighs a part .* it gives time"):
        terms(none(aux={"energy": 0.5}), time=energy)


def test_a_loss_of_ones_own_is_the_total_and_needs_neither_labels_nor_teacher() -> None:
    energy = torch.tensor([1.0, 2.0, 3.0, 6.0])
    objective = own_loss("energy")
    assert not objective.needs_teacher
    result = terms(objective, energy=energy)
    assert list(result.parts) == ["energy"] and result.total.item() == 3.0 and result.weights == {"energy": 1.0}
    with pytest.raises(ConfigError, match="the model's own_loss is 'energy', a part that it does not give; it gives t"):
        terms(objective, time=energy)


def test_a_nan_is_seen_in_the_part_it_came_from() -> None:
    student = logits(0)
    student[2, 1] = math.nan
    result = terms(ce_lambda_kl(temperature=2.0, weights={"ce": 1.0, "kl": 1.0}), student)
    assert result.total.isnan() and result.parts["ce"].isnan() and result.parts["kl"].isnan()


def test_a_missing_teacher_is_named() -> None:
    output = StudentOutput(logits={"t": logits(0)})
    with pytest.raises(ValueError, match="distill=mix needs a teacher"):
        mix(temperature=1.0, alpha=0.5)(output, None, TARGETS, START, (TASK,))


REFUSED: list[tuple[Any, dict[str, Any], list[str]]] = [
    (ce_lambda_kl, {"temperature": 0, "weights": {"ce": 1, "kl": -1}}, ["distill.temperature", "distill.weights.kl"]),
    (ce_lambda_kl, {"temperature": 2, "weights": {"ce": 1}}, ["distill.weights.kl"]),
    (
        ce_lambda_kl,
        {"temperature": 2, "weights": {"ce": 1, "kl": 1, "mse": 1, "crd": 1}},
        ["distill.weights.mse", "distill.weights.crd"],
    ),
    (alpha_beta, {"temperature": math.nan, "alpha": -1, "beta": 1}, ["distill.temperature:", "distill.alpha"]),
    (mix, {"temperature": 2, "alpha": 1.5}, ["distill.alpha"]),
    (mix, {"temperature": {"name": "linear", "start": 2, "end": -2}, "alpha": 0.5}, ["distill.temperature"]),
    (mix, {"temperature": {"name": "linear", "start": 2, "end": 2}, "alpha": 0.5}, ["distill.temperature.end"]),
    (
        mix,
        {"temperature": 0, "alpha": 2, "weights": {"ce": 1, "x": 1, "cosine": -1}, "options": {"crd": {}}},
        [
            "distill.weights.ce:",
            "distill.weights.x",
            "distill.temperature",
            "distill.alpha",
            "distill.weights.cosine",
            "distill.options.crd:",
            "distill.features:",
        ],
    ),
    (mix, {"temperature": 2, "alpha": 0.5, "features": [["a", "b"]]}, ["distill.features:"]),
    (none, {"aux": {"energy": -1}}, ["distill.aux.energy"]),
    (none, {"aux": {"kl": 1}}, ["distill.aux.kl"]),
]


@pytest.mark.parametrize(("preset", "settings", "keys"), REFUSED)
def test_what_is_out_of_range_is_refused_under_its_full_key(preset: Any, settings: dict[str, Any], keys: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        preset(**settings)
    assert [problem.split()[0] for problem in raised.value.problems] == keys


PRIMARY = """
defaults:
  - schedule@distill.temperature: constant
  - schedule@distill.weights.kl: constant
  - schedule@distill.alpha: null
  - schedule@distill.beta: null
  - distill: ce_lambda_kl
  - _self_
hydra:
  searchpath: ["file://{conf}"]
"""


def composed(folder: Path, *overrides: str) -> dict[str, Any]:
    """`distill` as the mounts of `conf/train.yaml` compose it."""
    (folder / "primary.yaml").write_text(PRIMARY.format(conf=CONF), encoding="utf-8")
    with initialize_config_dir(str(folder)):
        plain = OmegaConf.to_container(compose("primary", list(overrides)), resolve=True)
    assert isinstance(plain, dict)
    return dict(plain["distill"])


def test_a_preset_sets_the_number_and_the_schedule_the_way(tmp_path: Path) -> None:
    assert composed(tmp_path)["temperature"] == {
        "name": "constant",
        "start": 2.0,
        "warmup": 0.0,
        "warmup_start": None,
        "per": "epoch",
    }
    moved = composed(tmp_path, "schedule@distill.temperature=linear", "distill.temperature.end=0.5")
    assert (moved["temperature"]["name"], moved["temperature"]["start"], moved["temperature"]["end"]) == (
        "linear",
        2.0,
        0.5,
    )


COMPOSED = [
    # (overrides, builder, weights at the end, temperature at the end)
    ([], ce_lambda_kl, {"ce": 1.0, "kl": 1.0}, 2.0),
    (["distill.temperature=4", "distill.weights.kl=0.25"], ce_lambda_kl, {"ce": 1.0, "kl": 0.25}, 4.0),
    (["schedule@distill.temperature=linear"], ce_lambda_kl, {"ce": 1.0, "kl": 1.0}, 1.0),
    (["distill=alpha_beta", "schedule@distill.beta=step", "distill.beta.end=0"], alpha_beta, {"ce": 1, "kl": 0}, 2.0),
    (["distill=mix", "schedule@distill.alpha=cosine"], mix, {"ce": 0.0, "kl": 1.0}, 3.0),
    (["distill=mix", "distill.alpha=0.75"], mix, {"ce": 0.25, "kl": 0.75}, 3.0),
    (["distill=none"], none, {"ce": 1.0}, None),
    (
        ["schedule@distill.weights.kl=exponential", "distill.weights.kl.end=0.5"],
        ce_lambda_kl,
        {"ce": 1.0, "kl": 0.5},
        2.0,
    ),
]


@pytest.mark.parametrize(("overrides", "builder", "weights", "temperature"), COMPOSED)
def test_presets_and_schedules_compose(
    tmp_path: Path, overrides: list[str], builder: Any, weights: dict[str, float], temperature: float | None
) -> None:
    config = composed(tmp_path, *overrides)
    assert config.pop("_target_") == f"kdexp.distill.objective.{builder.__name__}"
    objective = builder(**{key: value for key, value in config.items() if value is not None})
    result = terms(objective, progress=END)
    assert result.weights == weights and result.temperature == temperature
