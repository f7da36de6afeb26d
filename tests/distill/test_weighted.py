"""The preset `weighted`: any parts by name, the features that they compare, their projections, and what is refused."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, get_args, get_origin

import pytest
import torch
from hydra.errors import HydraException
from torch import Tensor

from contracts.plugins import checked
from kdexp.contracts import LossTerms, Progress, StudentOutput, TaskSpec, TeacherSignal
from kdexp.distill import parts
from kdexp.distill.losses.features import feature_mse
from kdexp.distill.objective import Objective, ce_lambda_kl, none, weighted
from kdexp.errors import ConfigError

TASK = TaskSpec(name="t", kind="multiclass")
TARGETS = {"t": torch.tensor([0, 2, 1, 1])}
START, END = (Progress(epoch=p, step=p) for p in (0.0, 1.0))
PAIRS: list[Any] = [["img_proj", "img_raw"], ["txt_proj", "txt_raw"]]


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def student(**aux: Tensor) -> StudentOutput:
    features = {"img_proj": random(1, 4, 6), "txt_proj": random(2, 4, 6), "img_map": random(3, 4, 2, 8, 8)}
    return StudentOutput(logits={"t": random(0, 4, 3)}, features=features, aux=aux)


def signal() -> TeacherSignal:
    features = {"img_raw": random(11, 4, 9), "txt_raw": random(12, 4, 5), "img_map": random(13, 4, 3, 4, 4)}
    return TeacherSignal(values={"t": random(10, 4, 3)}, features=features)


def terms(objective: Objective, progress: Progress = START) -> LossTerms:
    return objective(student(), signal(), TARGETS, progress, (TASK,))


def connected(objective: Objective, seed: int = 5) -> Objective:
    objective.connect(student(), signal(), seed)
    return objective


def mse(**settings: Any) -> Objective:
    return weighted(**{"weights": {"ce": 1.0, "feature_mse": 100.0}, "features": PAIRS, **settings})


def test_parts_are_weighed_by_name_and_a_null_is_no_part() -> None:
    falling = {"name": "linear", "start": 10.0, "end": 0.0}
    objective = connected(
        weighted(
            weights={"ce": 1.0, "kl": None, "feature_mse": 100.0, "crd": falling, "dkd": 2.0},
            temperature=4.0,
            features=PAIRS,
            options={"crd": {"tau": 0.2}},
        )
    )
    result = terms(objective)
    assert result.weights == {"ce": 1.0, "feature_mse": 100.0, "crd": 10.0, "dkd": 2.0} and result.temperature == 4.0
    assert list(result.parts) == ["ce", "dkd", "feature_mse", "crd"], "in one order, however a config was put together"
    expected = sum(weight * result.parts[name] for name, weight in result.weights.items())
    torch.testing.assert_close(result.total, torch.as_tensor(expected))
    assert terms(objective, END).weights["crd"] == 0.0


def test_it_is_the_other_presets_where_it_weighs_the_same() -> None:
    one = terms(ce_lambda_kl(temperature=3.0, weights={"ce": 0.5, "kl": 2.0}, scale_tau2=True))
    other = terms(weighted(temperature=3.0, weights={"ce": 0.5, "kl": 2.0}))
    assert torch.equal(one.total, other.total) and one.parts.keys() == other.parts.keys()
    assert torch.equal(terms(none()).total, terms(weighted(weights={"ce": 1.0})).total)
    assert not weighted(weights={"ce": 1.0}).needs_teacher


def test_a_weight_of_zero_is_a_part_that_is_logged_and_does_nothing() -> None:
    result = terms(connected(mse(weights={"ce": 0, "feature_mse": 1.0})))
    assert result.parts["ce"] > 0 and torch.equal(result.total, result.parts["feature_mse"])


def test_the_objective_says_which_of_the_teachers_features_it_reads() -> None:
    assert mse().teacher_features == ("img_raw", "txt_raw")
    own = weighted(
        weights={"crd": 1.0, "attention": 1.0},
        features=[["img_map", "img_map"]],
        options={"crd": {"features": [["txt_proj", "txt_raw"]]}},
    )
    assert own.teacher_features == ("img_map", "txt_raw")
    assert list(terms(connected(own)).parts) == ["crd", "attention"]
    assert none().teacher_features == ce_lambda_kl(temperature=1, weights={"ce": 1, "kl": 1}).teacher_features == ()


# projections


@pytest.mark.parametrize(("project", "widths"), [("teacher", [(6, 9), (6, 5)]), ("student", [(9, 6), (5, 6)])])
def test_each_loss_has_a_linear_of_its_own_per_pair_on_the_side_that_is_said(project: str, widths: Any) -> None:
    objective = mse(weights={"feature_mse": 1.0, "crd": 1.0}, project=project)
    assert list(objective.parameters()) == []
    connected(objective)
    shapes = {name: tuple(p.shape) for name, p in objective.named_parameters() if name.endswith("weight")}
    assert shapes == {f"pairs.{part}.maps.{i}.weight": widths[i] for part in ("feature_mse", "crd") for i in (0, 1)}
    assert sum(name.endswith("bias") for name, _ in objective.named_parameters()) == 4
    assert all(p.requires_grad for p in objective.parameters())
    drawn = [p for name, p in objective.named_parameters() if name.endswith("0.weight")]
    assert not torch.equal(drawn[0], drawn[1])


def test_a_projected_part_is_the_loss_of_the_projected_feature() -> None:
    objective = connected(mse(weights={"feature_mse": 1.0}))
    weight, bias, *others = objective.parameters()
    expected = (student().features["img_proj"] - signal().features["img_raw"] @ weight.T - bias).square().mean()
    expected += (
        (student().features["txt_proj"] - signal().features["txt_raw"] @ others[0].T - others[1]).square().mean()
    )
    torch.testing.assert_close(terms(objective).parts["feature_mse"], expected)
    assert feature_mse.traits.projected


def test_projections_come_from_their_seed_alone_and_touch_no_random_stream() -> None:
    before = torch.get_rng_state()
    one = connected(mse())
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    same, other = connected(mse()), connected(mse(), seed=6)
    states = [torch.cat([p.flatten() for p in made.parameters()]) for made in (one, same, other)]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_projections_are_float32_under_autocast() -> None:
    objective = connected(mse(weights={"feature_mse": 1.0, "crd": 1.0}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = terms(objective)
    assert torch.equal(inside.total, terms(objective).total)


def test_an_objective_that_is_not_connected_says_so() -> None:
    with pytest.raises(ValueError, match=r"the projections are not made yet; call Objective\.connect first"):
        terms(mse())


def test_connect_names_every_feature_that_a_model_does_not_give_or_gives_in_another_form() -> None:
    objective = weighted(
        weights={"feature_mse": 1.0, "crd": 1.0, "attention": 1.0},
        features=[["img_projj", "img_raw"], ["txt_proj", "text"]],
        options={"crd": {"features": [["img_map", "img_raw"]]}, "attention": {"features": [["img_map", "img_raw"]]}},
    )
    with pytest.raises(ConfigError) as raised:
        connected(objective)
    assert raised.value.problems == [
        "distill.features: the student gives no 'img_projj'; it gives img_map, img_proj, txt_proj",
        "distill.features: the teacher gives no 'text'; it gives img_map, img_raw, txt_raw",
        "distill.options.crd.features: must name vectors (batch, width), but the student's 'img_map' is (4, 2, 8, 8)",
        "distill.options.attention.features: must name maps (batch, channels, height, width), "
        "but the teacher's 'img_raw' is (4, 9)",
    ]


@pytest.mark.parametrize("part", ["cosine", "info_nce"])
def test_a_loss_that_does_not_project_needs_one_width(part: str) -> None:
    equal = weighted(weights={part: 1.0}, features=[["img_proj", "img_proj"]])
    output = student()
    equal.connect(output, TeacherSignal(values={}, features=output.features), 1)
    with pytest.raises(ConfigError) as raised:
        connected(weighted(weights={part: 1.0}, features=PAIRS))
    assert raised.value.problems == [
        "distill.features: img_proj and img_raw must be of one width, but the student's is (6,), the teacher's (9,); "
        "give both models the same, or use a loss that projects (feature_mse, crd)",
        "distill.features: txt_proj and txt_raw must be of one width, but the student's is (6,), the teacher's (5,); "
        "give both models the same, or use a loss that projects (feature_mse, crd)",
    ]


def test_a_feature_of_one_number_and_weights_over_slots_have_forms_of_their_own() -> None:
    parts_on = {"attention_summary": [["txt_proj", "txt_raw"]], "attention_kl": [["img_map", "img_map"]]}
    options = {part: {"features": pairs} for part, pairs in parts_on.items()}
    with pytest.raises(ConfigError) as raised:
        connected(weighted(weights=dict.fromkeys(parts_on, 1.0), options=options))
    said = raised.value.problems
    assert said[0] == (
        "distill.options.attention_summary.features: must name numbers (batch,), but the student's 'txt_proj' is (4, 6)"
    )
    assert said[2].startswith("distill.options.attention_kl.features: must name weights (batch, slots), but the ")


def test_auxiliary_parts_that_nothing_weighs_are_known() -> None:
    energy = torch.ones(4)
    assert none().idle_parts(student(energy=energy, time=energy)) == ("energy", "time")
    assert none(aux={"energy": 0.0}).idle_parts(student(energy=energy, time=energy)) == ("time",)


# what is refused

CE, KL = {"ce": 1.0}, {"ce": 1.0, "kl": 1.0}
REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    ({"weights": {"ce": 1, "klx": 1}}, ["distill.weights.klx weighs nothing: choose among ('ce', 'kl', 'dkd',"]),
    ({"weights": {"ce": None, "kl": None}}, ["distill.weights: all are null, so there is nothing to train on"]),
    ({"weights": {"ce": 1, "crd": -1}, "features": PAIRS}, ["distill.weights.crd must stay at or above 0"]),
    ({"weights": KL}, ["distill.temperature: missing, kl needs it"]),
    ({"weights": KL, "temperature": -1}, ["distill.temperature must stay above 0"]),
    (
        {"weights": {"ce": 1, "crd": 1}, "temperature": 2.0, "features": PAIRS},
        ["distill.temperature: has no effect, no part that is weighed uses it"],
    ),
    ({"weights": CE, "scale_tau2": False}, ["distill.scale_tau2: false has no effect"]),
    ({"weights": CE, "positions": "all"}, ["distill.positions: all has no effect, only kl reads it"]),
    ({"weights": KL, "temperature": 2, "positions": "some"}, ["distill.positions: must be decisions, all, last or"]),
    ({"weights": CE, "features": PAIRS}, ["distill.features: has no effect, no part that is weighed reads it"]),
    ({"weights": {"crd": 1.0}}, ["distill.features: missing, crd compares features; list [[student's, teacher's]"]),
    ({"weights": {"crd": 1.0}, "features": []}, ["distill.features: must list at least one pair"]),
    ({"weights": {"crd": 1.0}, "features": [["a"]]}, ["distill.features: must list pairs [student's feature, teacher"]),
    ({"weights": {"crd": 1.0}, "features": [["a", "b"]] * 2}, ["distill.features: lists a and b twice"]),
    (
        {"weights": {"crd": 1.0}, "features": PAIRS, "options": {"crd": {"features": PAIRS}}},
        ["distill.features: has no effect, no part that is weighed reads it"],
    ),
    (
        {"weights": {"rkd_park": 1.0}, "features": PAIRS, "project": "student"},
        ["distill.project: student has no effect, no part that is weighed projects a feature"],
    ),
    ({"weights": {"crd": 1.0}, "features": PAIRS, "project": "both"}, ["distill.project: must be teacher or student"]),
    ({"weights": CE, "options": {"crd": {"tau": 1}}}, ["distill.options.crd: has no effect, distill.weights.crd is"]),
    (
        {"weights": {"crd": 1.0}, "features": PAIRS, "options": {"crd": {"tau": 0, "tow": 1}}},
        [
            "distill.options.crd.tow: unknown setting, so it would have no effect; crd has tau",
            "distill.options.crd.tau: must be above 0, got 0",
        ],
    ),
    (
        {"weights": {"rkd": 1.0}, "features": PAIRS, "options": {"rkd": {"distance": -1, "angle": float("nan")}}},
        [
            "distill.options.rkd.distance: must be at or above 0, got -1",
            "distill.options.rkd.angle: must be a finite number, got nan",
        ],
    ),
    (
        {"weights": {"mmd": 1.0}, "features": PAIRS, "options": {"mmd": {"bandwidths": [1.0, 0]}}},
        ["distill.options.mmd.bandwidths: must be above 0, got 0"],
    ),
    (
        {"weights": {"mmd": 1.0}, "features": PAIRS, "options": {"mmd": {"bandwidths": []}}},
        ["distill.options.mmd.bandwidths: must hold at least 1 number, got []"],
    ),
    (
        {"weights": {"mmd": 1.0}, "features": PAIRS, "options": {"mmd": {"bandwidths": 2.0}}},
        ["distill.options.mmd.bandwidths: must be a list of numbers, got 2.0"],
    ),
    (
        {"weights": KL, "temperature": 2, "options": {"kl": {"positions": "all"}}},
        ["distill.options.kl.positions: unknown setting, so it would have no effect; kl has confidence"],
    ),
    (
        {"weights": KL, "temperature": 2, "options": {"kl": {"confidence": 1}}},
        ["distill.options.kl.confidence: must be true or false, got 1"],
    ),
    (
        {"weights": KL, "temperature": 2, "fused": True, "options": {"kl": {"confidence": True}}},
        ["distill.options.kl.confidence: is not known to the fused KL; set distill.fused to false"],
    ),
    ({"weights": KL, "temperature": 2, "options": {"kl": 3}}, ["distill.options.kl: must be settings by name, got 3"]),
    ({"weights": CE, "aux": {"rkd": 1}}, ["distill.aux.rkd has the name of another part"]),
    (
        {"weights": {"ce": -1, "crd": 1, "x": 1}, "temperature": 0, "options": {"mmd": {}, "crd": {"tau": -1}}},
        [
            "distill.weights.x weighs nothing",
            "distill.temperature: has no effect",
            "distill.temperature must stay above 0",
            "distill.weights.ce must stay at or above 0",
            "distill.options.mmd: has no effect",
            "distill.options.crd.tau: must be above 0",
            "distill.features: missing",
        ],
    ),
]


@pytest.mark.parametrize(("settings", "expected"), REFUSED)
def test_what_is_wrong_or_without_effect_is_refused_all_at_once(settings: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        weighted(**settings)
    said = raised.value.problems
    assert len(said) == len(expected), said
    for problem, begins in zip(said, expected, strict=True):
        assert problem.startswith(begins)


OF_THE_COMMAND_LINE = [
    (["distill=combined", "distill.weights.crd=-1"], "distill.weights.crd must stay at or above 0"),
    (["distill=combined", "distill.options.crd.tau=0"], "distill.options.crd.tau: must be above 0, got 0"),
    (
        ["distill=combined", "distill.weights.crd=null"],
        "distill.options.crd: has no effect, distill.weights.crd is not",
    ),
    (["distill=combined", "distill.features=[[img_proj]]"], "distill.features: field required, got [['img_proj']]"),
    (["distill=combined", "distill.project=both"], "distill.project: must be 'teacher' or 'student', got 'both'"),
    (["distill=combined", "+distill.weights.klx=1"], "distill.weights.klx weighs nothing: choose among ('ce', 'kl',"),
    (["distill=combined", "distill.temperature=null"], "distill.temperature: missing, kl needs it"),
    (["distill=mmd", "distill.options.mmd.bandwidths=[1,-1]"], "distill.options.mmd.bandwidths: must be above 0"),
    (["distill=crd", "distill.temperature=3"], "distill.temperature: has no effect, no part that is weighed uses it"),
    (["distill=crd", "distill.tau=3"], "Could not override 'distill.tau'"),
    (["schedule@distill.weights.crd=linear"], "distill.weights.crd weighs nothing: choose among ('ce', 'kl')"),
    (["distill=rkd", "schedule@distill.weights.kl=linear"], "schedule@distill.weights.kl: has no effect"),
    (["distill=crd", "distill.fused=true"], "Could not override 'distill.fused'"),
    (
        ["distill=mix", "distill.weights={kl: 1}"],
        "distill.weights.kl: has no effect, distill.alpha weighs kl; set",
    ),
    (["distill=mix", "distill.options.kl.confidence=2"], "distill.options.kl.confidence: must be true or false, got 2"),
    (["distill=mix_aligned", "distill.weights.info_nce=-1"], "distill.weights.info_nce must stay at or above 0"),
    (["distill=mix_aligned", "distill.weights.cosine=null", "distill.weights.info_nce=null"], "distill.options.info_n"),
    (["distill=crd", "+distill.fused=true"], "distill.fused: has no effect, it takes ce and kl together"),
]


@pytest.mark.parametrize(("words", "says"), OF_THE_COMMAND_LINE)
def test_check_finds_the_same_on_a_command_line_before_any_work(words: list[str], says: str) -> None:
    with pytest.raises((ConfigError, HydraException)) as raised:
        checked(*words)
    assert str(raised.value).startswith(says)


def test_a_preset_is_changed_from_the_command_line() -> None:
    made = checked(
        "distill=combined", "distill.weights.ce=0", "distill.features=[[img_proj,img_proj]]", "distill.project=student"
    )
    assert made["distill"]["features"] == [["img_proj", "img_proj"]]
    more = checked("distill=crd", "+distill.weights.attention=3", "distill.options.crd.tau=0.07")["distill"]["weights"]
    assert more == {"ce": 1.0, "kl": None, "crd": {"start": 1.0}, "attention": 3}
    beside = checked("distill=mix", "+distill.weights={relational: 2}", "+distill.features=[[img_proj,img_proj]]")
    assert beside["distill"]["weights"] == {"relational": 2}
    moved = checked("distill=mix_aligned", "schedule@distill.weights.cosine=linear", "distill.weights.cosine.end=0")
    assert moved["distill"]["weights"]["cosine"]["end"] == 0


@pytest.mark.parametrize("name", parts.LOSSES)
def test_every_setting_of_a_loss_has_a_range_and_a_default_within_it(name: str) -> None:
    given = {"tasks", "temperature", "scale_tau2", "targets", "positions"}
    loss = parts.LOSSES[name]
    hints = inspect.get_annotations(inspect.unwrap(loss), eval_str=True)
    options = {
        one.name: one.default
        for one in inspect.signature(loss).parameters.values()
        if one.kind is inspect.Parameter.KEYWORD_ONLY and one.name not in given
    }
    numbers = [option for option in options if hints[option] is not bool]
    assert all(get_origin(hints[option]) is Annotated and len(get_args(hints[option])) > 1 for option in numbers)
    parts.make_loss(name, options)
