"""A space means what its words say, and every mistake in it is found before the first trial."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from contracts.plugins import outside_trusted
from kdexp.errors import ConfigError
from kdexp.sweeps import space as space_module
from kdexp.sweeps.grammar import describe_distribution, plain_value, written
from kdexp.sweeps.space import Space, differences, fixed_differences
from kdexp.sweeps.vetting import Jobs
from sweeps.helpers import refused, swept, vetted

FUSION, HEADS = "student/fusion", "student.fusion.heads"
ONLY_CROSS = {HEADS: {FUSION: ["cross_attention"]}}
CONDITIONAL = {FUSION: "choice(cross_attention, gated)", HEADS: "choice(4, 8)", "student.width": "choice(64, 96)"}


@pytest.fixture(scope="module", autouse=True)
def trusted() -> Iterator[None]:
    with outside_trusted():
        yield


def drawn(space: Space, n_trials: int, seed: int = 0) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    values = []
    for _ in range(n_trials):
        trial = study.ask()
        values.append(space.suggest(trial))
        assert values[-1] == trial.params
        study.tell(trial, 0.0)
    return values


GRAMMAR = [
    ("interval(16, 256)", FloatDistribution(16.0, 256.0)),
    ("int(interval(16, 256))", IntDistribution(16, 256)),
    ("tag(log, interval(1e-5, 1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
    ("tag(log, int(interval(16, 256)))", IntDistribution(16, 256, log=True)),
    ("range(2, 9)", IntDistribution(2, 8)),
    ("range(2, 9, 3)", IntDistribution(2, 8, step=3)),
    ("range(0, 1, 0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
    ("choice(4, 8)", CategoricalDistribution((4, 8))),
    ("choice(a, b)", CategoricalDistribution(("a", "b"))),
    ("4,8", CategoricalDistribution((4, 8))),
]


@pytest.mark.parametrize(("word", "meant"), GRAMMAR)
def test_words_mean_distributions(word: str, meant: optuna.distributions.BaseDistribution) -> None:
    assert Space.read({"x": word}).distributions == {"x": meant}


NONSENSE = [
    ("tag(log, interval(0, 1))", "a log scale begins above 0, got interval(0.0, 1.0)"),
    ("tag(log, int(interval(-2, 5)))", "a log scale begins above 0, got interval(-2, 5)"),
    ("tag(log, range(1, 5))", "a range has no log scale; write tag(log, int(interval(low, high)))"),
    ("tag(lgo, interval(1, 5))", "the tag lgo has no effect; the one tag is log"),
    ("tag(log, choice(1, 5))", "the tag log has no effect"),
    ("interval(5, 1)", "interval(5.0, 1.0) is the wrong way round; write interval(1.0, 5.0)"),
    ("interval(1, 1)", "interval(1.0, 1.0) holds one value only; write 1.0 to fix it"),
    ("interval(0, inf)", "both ends must be finite numbers"),
    ("range(3, 3)", "range(3, 3, 1) holds no value; its end is left out"),
    ("range(8, 2)", "range(8, 2, 1) holds no value"),
    ("range(1, 9, 0)", "range(1, 9, 0) holds no value"),
    ("choice(a, b, a)", "names a twice"),
    ("shuffle(choice(a, b))", "shuffle would make another space of it at each start"),
    ("glob(*)", "Glob cannot be searched"),
    ("choice(a", "'choice(a' cannot be read: no viable alternative"),
]


@pytest.mark.parametrize(("word", "said"), NONSENSE)
def test_a_word_that_does_not_mean_what_it_says_is_refused(word: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Space.read({"x.y": word})
    (problem,) = caught.value.problems
    assert problem.startswith(f"hydra.sweeper.params.x.y: {said}")


def test_all_words_that_mean_nothing_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Space.read({"a": "interval(2, 1)", "b": "choice(1, 2)", "c": "tag(log, range(1, 2))"}, ["d=interval(3, 3)"])
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "hydra.sweeper.params.a",
        "hydra.sweeper.params.c",
        "d",
    ]


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "two words",
        "a,b",
        "1e-3",
        "null",
        "true",
        "it's",
        "",
        "back\\slash",
        "it's a back\\slash",
        "quote\\' and end\\",
        "x=1",
        "[1,2]",
        " lead",
        "ü/ß",
        "a:b",
        1,
        -2.5,
        1e-7,
        True,
        None,
    ],
)
def test_a_written_value_is_read_as_it_was(value: Any) -> None:
    read = plain_value(written(value))
    assert read == value and type(read) is type(value)


def test_a_text_stays_text_on_the_way_to_the_job() -> None:
    space = Space.read({"note": r"choice('a b', a\,b, '1', plain)"})
    for choice in space.distributions["note"].choices:
        (word,) = space.overrides({"note": choice})
        value = plain_value(word.partition("=")[2])
        assert isinstance(value, str) and value in ("a b", "a,b", "1", "plain")
    assert len(space.distributions["note"].choices) == 4


def test_group_choices_are_plain_choices() -> None:
    name = "schedule@distill.temperature"
    space = Space.read({name: "choice(constant, linear)", FUSION: "choice(gated)"}, ["~optimizer", "seed=3"])
    assert space.overrides({name: "linear", FUSION: "gated"}) == [
        "~optimizer",
        "seed=3",
        f"{name}=linear",
        f"{FUSION}=gated",
    ]


def test_the_last_word_on_a_parameter_counts() -> None:
    fixed = Space.read({"a": "choice(1, 2)"}, ["a=3"])
    assert (fixed.distributions, fixed.overrides({})) == ({}, ["a=3"])
    searched = Space.read({"a": 3}, ["a=choice(1, 2)"])  # type: ignore[dict-item]
    assert list(searched.distributions) == ["a"] and searched.overrides({"a": 2}) == ["a=2"]


def test_a_fixed_word_is_handed_on_as_it_was_written() -> None:
    assert Space.read({}, ["a=${seed}", "b=[1,'x y']"]).overrides({}) == ["a=${seed}", "b=[1,'x y']"]


def test_a_conditional_parameter_is_drawn_only_where_it_is_active() -> None:
    space = Space.read(CONDITIONAL, active_when=ONLY_CROSS)
    # Conditional ones come after all others.
    assert list(space.distributions) == [FUSION, "student.width", HEADS]
    values = drawn(space, 40)
    assert all((HEADS in one) == (one[FUSION] == "cross_attention") for one in values)
    assert {one[FUSION] for one in values} == {"cross_attention", "gated"}
    for one in values:
        assert any(word.startswith(HEADS) for word in space.overrides(one)) == (one[FUSION] == "cross_attention")


def test_conditions_may_stand_on_conditions_in_any_order() -> None:
    chain = {"c": "choice(7, 8)", "b": "choice(1, 2)", "a": "choice(x, y)"}
    space = Space.read(chain, active_when={"c": {"b": [2], "a": ["x"]}, "b": {"a": "x"}})
    assert list(space.distributions) == ["a", "b", "c"]
    assert space.points() == [
        {"a": "x", "b": 1},
        {"a": "x", "b": 2, "c": 7},
        {"a": "x", "b": 2, "c": 8},
        {"a": "y"},
    ]
    # What a parameter needs is set for its sake.
    assert space.example({"c": 8}) == {"a": "x", "b": 2, "c": 8}
    assert space.example({}, last=True) == {"a": "y"}


def test_fixing_a_parent_settles_its_children() -> None:
    gated = Space.read(CONDITIONAL, [f"{FUSION}=gated"], ONLY_CROSS)
    assert list(gated.distributions) == ["student.width"]
    crossed = Space.read(CONDITIONAL, [f"{FUSION}=cross_attention"], ONLY_CROSS)
    assert list(crossed.distributions) == [HEADS, "student.width"] == list(crossed.unconditional)


def test_a_fixed_parameter_follows_its_condition() -> None:
    space = Space.read({FUSION: "choice(cross_attention, gated)", HEADS: 8}, active_when=ONLY_CROSS)  # type: ignore[dict-item]
    assert space.overrides({FUSION: "cross_attention"}) == [f"{HEADS}=8", f"{FUSION}=cross_attention"]
    assert space.overrides({FUSION: "gated"}) == [f"{FUSION}=gated"]


def test_a_word_of_the_command_line_that_could_have_no_effect_is_refused() -> None:
    for word in (f"{HEADS}=8", f"{HEADS}=choice(4, 8)"):
        with pytest.raises(ConfigError, match=f"^{HEADS}: has no effect"):
            Space.read(CONDITIONAL, [f"{FUSION}=gated", word], ONLY_CROSS)


BAD_CONDITIONS = [
    ({"zzz": {"a": [1]}}, "hydra.sweeper.active_when.zzz: is no parameter of this search; there are: a, b"),
    ({"b": {"zzz": [1]}}, "hydra.sweeper.active_when.b: zzz is no parameter of this search"),
    ({"b": {"a": [3]}}, "hydra.sweeper.active_when.b: a: 3 is not in choice(1, 2)"),
    ({"b": {"a": [True]}}, "hydra.sweeper.active_when.b: a: True is not in choice(1, 2)"),
    ({"b": {"a": []}}, "hydra.sweeper.active_when.b: names no value of a, so it would never be drawn"),
    ({"b": ["a"]}, "hydra.sweeper.active_when.b: expected {other_parameter: [values]}, got ['a']"),
    ({"b": {"b": [0.5]}}, "hydra.sweeper.active_when.b: b and b depend on each other"),
]


@pytest.mark.parametrize(("conditions", "said"), BAD_CONDITIONS)
def test_a_condition_on_nothing_is_refused(conditions: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Space.read({"a": "choice(1, 2)", "b": "interval(0, 1)"}, active_when=conditions)
    assert len(caught.value.problems) == 1 and caught.value.problems[0].startswith(said)


def test_conditions_in_a_circle_or_against_each_other_are_refused() -> None:
    three = {"a": "choice(1, 2)", "b": "choice(1, 2)", "c": "choice(1, 2)"}
    with pytest.raises(ConfigError, match="a and b depend on each other"):
        Space.read(three, active_when={"a": {"b": [1]}, "b": {"a": [1]}})
    with pytest.raises(ConfigError, match=r"active_when\.c: no trial could have it"):
        Space.read(three, active_when={"b": {"a": [1]}, "c": {"b": [1], "a": [2]}})


def test_points_are_all_combinations_and_an_interval_has_no_end() -> None:
    space = Space.read({"a": "range(1, 4)", "b": "range(0, 1, 0.5)", "c": "choice(x, y)"})
    assert len(space.points()) == 3 * 2 * 2 and {"a": 3, "b": 0.5, "c": "y"} in space.points()
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.params\.d: an interval has no end of values"):
        Space.read({"a": "range(1, 4)", "d": "interval(0, 1)"}).points()


def test_a_trial_that_was_cut_off_while_it_was_drawn_is_known() -> None:
    space = Space.read(CONDITIONAL, active_when=ONLY_CROSS)
    assert space.missing({}) == [FUSION, "student.width"]
    assert space.missing({FUSION: "cross_attention", "student.width": 64}) == [HEADS]
    assert space.missing({FUSION: "gated", "student.width": 64}) == []


STORED = [
    ("choice('a b', c)", "a b", "a b"),
    ("'a b',c", "a b", "'a b'"),
    ("'a b',c", "'a b'", "'a b'"),  # as another study holds it
    ("choice(1, 2)", 2, 2),
    ("interval(0, 1)", 1, 1.0),
    ("int(interval(1, 9))", 4.0, 4),
    ("range(0, 1, 0.25)", 0.5, 0.5),
]


@pytest.mark.parametrize(("word", "value", "held"), STORED)
def test_a_plain_value_is_found_as_the_study_holds_it(word: str, value: Any, held: Any) -> None:
    found = Space.read({"x": word}).words.stored("x", value)
    assert found == held and type(found) is type(held)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("choice(1, 2)", 3),
        ("choice(1, 2)", True),
        ("choice(a, b)", None),
        ("interval(0, 1)", 1.5),
        ("interval(0, 1)", "0.5"),
        ("interval(0, 1)", True),
        ("int(interval(1, 9))", 4.5),
        ("range(0, 1, 0.25)", 0.3),
    ],
)
def test_a_value_outside_a_distribution_is_refused(word: str, value: Any) -> None:
    with pytest.raises(ValueError, match="is not in"):
        Space.read({"x": word}).words.stored("x", value)


@pytest.mark.parametrize(("word", "meant"), GRAMMAR)
def test_a_distribution_is_told_in_words(word: str, meant: optuna.distributions.BaseDistribution) -> None:
    told = describe_distribution(meant)
    assert told.startswith("from ") or Space.read({"x": told}).distributions == {"x": meant}


def test_a_description_survives_json_and_an_equal_space_has_no_differences() -> None:
    space = Space.read(CONDITIONAL, ["optimizer.lr=tag(log, interval(1e-4, 1e-2))", "seed=3"], ONLY_CROSS)
    kept = json.loads(json.dumps(space.describe()))
    assert differences(kept, space.describe()) == [] == fixed_differences(kept, space.describe())


def test_every_difference_between_two_spaces_is_a_sentence() -> None:
    old = Space.read(CONDITIONAL | {"a": "interval(1, 5)", "old": "choice(1, 2)"}, ["seed=3"], ONLY_CROSS).describe()
    new = Space.read(CONDITIONAL | {"a": "interval(1, 6)", "new": "range(1, 4)"}, ["seed=4", "~logger"]).describe()
    assert differences(old, new) == [
        "new: was not searched, is now int(interval(1, 3))",
        "old: was choice(1, 2), is no longer searched",
        "a: was interval(1.0, 5.0), is now interval(1.0, 6.0)",
        f"{HEADS}: was drawn when {FUSION} is in ['cross_attention'], is now drawn in every trial",
    ]
    assert fixed_differences(old, new) == ["seed: was 3, is now 4", "taken out: was [], is now ['~logger']"]
    custom = Space(Space.read({}).words, extension_name="rings.more").describe()
    assert differences(Space.read({}).describe(), custom) == ["custom_search_space: was None, is now rings.more"]


def test_every_mistake_of_a_space_is_found_before_the_first_trial() -> None:
    """The whole list, each with its full key: what does not compose, and every value that the schema refuses."""
    found = refused(
        {
            "student.widht": "choice(64, 96)",
            FUSION: "choice(gated, gatd, cross_attention)",
            "trainer.max_epochs": "choice(3, -1, x)",
            "distill.temperature": "interval(0, 4)",
            "student.dropout": "interval(0.5, 1.5)",
            "student.width": "interval(64, 96)",
            "optimizer.lr": "tag(log, range(1, 5))",
        }
    )
    starts = [
        "hydra.sweeper.params.optimizer.lr: a range has no log scale",
        "hydra.sweeper.params.student.widht: no run takes student.widht=64: Could not override 'student.widht'. Key "
        "'widht' is not in struct. Did you mean: 'width'?",
        f"hydra.sweeper.params.{FUSION}: gatd: there is no such option; there are: concat_mlp, cross_attention, ",
        "hydra.sweeper.params.trainer.max_epochs: with -1, teacher.max_epochs: must be greater than or equal to 1",
        "hydra.sweeper.params.trainer.max_epochs: must be greater than or equal to 1, got -1",
        "hydra.sweeper.params.trainer.max_epochs: with x, teacher.max_epochs: must be an integer",
        "hydra.sweeper.params.trainer.max_epochs: must be an integer, got 'x'",
        "hydra.sweeper.params.distill.temperature: distill.temperature must stay above 0",
        "hydra.sweeper.params.student.dropout: must be less than 1, got 1.5",
        "hydra.sweeper.params.student.width: must be an integer, got 64.0; an interval gives floats, write int(",
        "hydra.sweeper.params.student.width: must be an integer, got 96.0; an interval gives floats, write int(",
    ]
    assert len(found) == len(starts), found
    for said, start in zip(found, starts, strict=True):
        assert said.startswith(start), said


def test_a_conditional_parameter_is_checked_where_it_is_active() -> None:
    lists = {FUSION: "choice(gated, cross_attention)", HEADS: "choice(4, many)"}
    assert refused(lists, active_when=ONLY_CROSS) == [f"hydra.sweeper.params.{HEADS}: must be an integer, got 'many'"]
    assert vetted(lists | {HEADS: "choice(4, 8)"}, active_when=ONLY_CROSS).distributions.keys() == lists.keys()


def test_a_parameter_that_needs_a_condition_is_named() -> None:
    found = refused({"distill": "choice(ce_lambda_kl, none)", "distill.weights.kl": "interval(0, 2)"})
    assert found == [
        "hydra.sweeper.params.distill: with none, distill.weights.kl: cannot be set; hydra.sweeper.active_when can say "
        "beside what it is drawn"
    ]


def test_ends_that_touch_are_no_mistake() -> None:
    """Beside each other's first values two parameters may not fit; a value is refused only where it never fits."""
    schedule = {"schedule@distill.temperature": "linear", "distill.temperature.end": "interval(1, 2)"}
    assert len(vetted(schedule, "distill.temperature.start=interval(2, 5)").distributions) == 2


def test_a_parameter_without_effect_is_named_once() -> None:
    found = refused({"teacher.optimizer.lr": "interval(0.1, 0.2)", "student.width": "choice(64, 96)"}, "distill=none")
    assert found == ["hydra.sweeper.params.teacher.optimizer.lr: has no effect, distill=none uses no teacher"]


def test_a_number_beside_a_swept_schedule_is_refused() -> None:
    """It would take the schedule's place without a word."""
    knob, schedule = "distill.weights.kl", "schedule@distill.weights.kl"
    swept_both = {schedule: "choice(constant, linear)", knob: "interval(0.1, 2)"}
    said = f"a number for {knob} takes the place of the schedule; write {knob}.start for it"
    assert refused(swept_both) == [f"hydra.sweeper.params.{schedule}: {said}"]
    assert f"{schedule}: {said}" in " ".join(refused({knob: "interval(0.1, 2)"}, f"{schedule}=linear"))
    started = {
        schedule: "choice(constant, linear)",
        f"{knob}.start": "interval(0.1, 2)",
        f"{knob}.end": "interval(3, 4)",
    }
    assert len(vetted(started, active_when={f"{knob}.end": {schedule: "linear"}}).distributions) == 3


def test_jobs_that_differ_in_values_are_vetted_as_the_launcher_composes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    with swept("dataset=medpix", "hydra/sweeper=optuna") as (config, context):
        jobs = Jobs(context, config)
        for fusion, width in itertools.product(("gated", "cross_attention"), (64, 96)):
            words = ["dataset=medpix", f"{FUSION}={fusion}", f"student.width={width}", "seed=3"]
            job = context.config_loader.load_sweep_config(config, words)
            HydraConfig.instance().set_config(job)
            with open_dict(job):
                job.pop("hydra")
            shared = jobs.composed(words)
            assert shared.student.width == width
            assert OmegaConf.to_container(shared, resolve=True) == OmegaConf.to_container(job, resolve=True)
    assert len(jobs.shared) == 2


def test_nothing_outside_the_trusted_packages_is_searched() -> None:
    target = "student.vision._target_"
    (found,) = refused({target: "choice(os.system, kdexp.systems.multimodal.backbones.Convolutional)"})
    assert found.startswith(
        f"hydra.sweeper.params.{target}: 'os.system' is outside the packages that a config may name"
    )


def test_a_parameter_of_the_command_line_is_named_as_it_was_typed() -> None:
    (found,) = refused({}, "student.width=interval(64, 96)", "trainer.max_epochs=3")[:1]
    assert found.startswith("student.width: must be an integer, got 64.0")


def test_what_hydra_keeps_is_left_as_it_was() -> None:
    from hydra.core.hydra_config import HydraConfig

    before = HydraConfig.instance().cfg
    vetted({"seed": "choice(1, 2)"})
    assert HydraConfig.instance().cfg is before


def test_the_sweep_itself_composes_what_the_space_hands_over() -> None:
    space = vetted(CONDITIONAL, active_when=ONLY_CROSS)
    with swept("hydra/sweeper=optuna") as (config, context):
        for values in (
            {FUSION: "gated", "student.width": 96},
            {FUSION: "cross_attention", "student.width": 64, HEADS: 8},
        ):
            job = context.config_loader.load_sweep_config(config, space.overrides(values))
            assert job.student.width == values["student.width"]
            assert job.student.fusion.get("heads") == values.get(HEADS)


def more(config: Any, trial: optuna.Trial) -> None:
    """A custom search space in upstream's form."""
    trial.suggest_int("data.batch_size", 8, config.data.batch_size)


def test_a_custom_search_space_draws_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(space_module, "locate", lambda name, key: asked.append((name, key)) or more)
    space = vetted({"student.width": "choice(64, 96)"}, custom_search_space="somewhere.more")
    assert asked == [("somewhere.more", "hydra.sweeper.custom_search_space")]
    (values,) = drawn(space, 1)
    assert list(values) == ["student.width", "data.batch_size"] and 8 <= values["data.batch_size"] <= 32
    assert space.overrides(values)[-1] == f"data.batch_size={values['data.batch_size']}"
    assert space.describe()["custom_search_space"] == "somewhere.more"


def test_a_custom_search_space_comes_from_a_trusted_package() -> None:
    with pytest.raises(ConfigError, match=r"custom_search_space: 'os\.system' is outside the packages"):
        vetted({}, custom_search_space="os.system")


def test_settings_may_come_as_hydra_keeps_them() -> None:
    kept = OmegaConf.create({"params": CONDITIONAL, "active_when": ONLY_CROSS, "custom_search_space": None})
    with swept("hydra/sweeper=optuna") as (config, context):
        space = Space.from_config(kept, config, context, [], with_vetting=False)  # type: ignore[arg-type]
    assert space.describe() == Space.read(CONDITIONAL, active_when=ONLY_CROSS).describe()
