"""Every sampler draws what its option promises, for the slot and not for the trial; pruners are built from options."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from kdexp.errors import ConfigError
from kdexp.sweeps import options
from kdexp.sweeps.samplers import (
    check_sampler,
    drawn_by,
    draws_again,
    is_exhaustive,
    make_pruner,
    make_sampler,
    n_points,
    sampler_warnings,
)
from kdexp.sweeps.space import Space, Values
from sweeps.helpers import CONF, swept

HAS_SCIPY = importlib.util.find_spec("scipy") is not None
NEEDS_SCIPY = {"qmc", "qmc_sobol", "qmc_halton", "gp"}
NUMBERS = {"x": "interval(-5, 5)", "y": "tag(log, interval(0.01, 10))", "n": "int(interval(1, 20))"}
MIXED = {**NUMBERS, "kind": "choice(a, b, c)", "depth": "choice(1, 2)"}
DEEP = {"depth": {"kind": ["a", "b"]}}
FINITE = {"kind": "choice(a, b, c)", "depth": "choice(1, 2)", "n": "range(1, 4)"}


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / "hydra" / "sweeper" / group).glob("*.yaml"))


SAMPLERS, PRUNERS = names("sampler"), names("pruner")


@cache
def option(group: str, name: str) -> dict[str, Any]:
    """An option as the sweeper gets it."""
    with swept("hydra/sweeper=optuna", f"hydra/sweeper/{group}={name}") as (config, _):
        node: Any = OmegaConf.to_container(config.hydra.sweeper[group], resolve=True)
    assert isinstance(node, dict), f"hydra/sweeper/{group}={name} came out as {node}"
    return node


def sampler_option(name: str, **changed: Any) -> dict[str, Any]:
    if name in NEEDS_SCIPY and not HAS_SCIPY:
        pytest.skip("needs scipy: pip install scipy")
    return option("sampler", name) | changed


def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


def value_of(values: Mapping[str, Any]) -> float:
    return float(values.get("x", 0.0)) ** 2 + float(values.get("n", 0)) + float(values.get("y", 0.0))


def run(
    node: Mapping[str, Any],
    space: Space,
    n_slots: int,
    *,
    url: str | None = None,
    stop: Callable[[int, int], str | None] = lambda slot, attempt: None,
) -> tuple[dict[int, Values], optuna.Study]:
    """A sweep in small, one worker: a sampler per trial, a slot until it holds a finished trial. `stop(slot, attempt)`
    says what becomes of a trial: nothing; `cut`, killed and run again as it was; `early`, killed before it was drawn;
    `fail`, failed by itself."""
    made: dict[int, Values] = {}
    study = optuna.create_study(storage=url, study_name="study")
    for slot in range(n_slots):
        attempt = failures = 0
        while slot not in made:
            # A worker of its own for each trial: nothing is kept between them but the study.
            study = optuna.load_study(study_name="study", storage=study._storage)
            study.sampler = make_sampler(node, slot=slot, space=space, n_failures=failures)
            trial = study.ask()
            ending, attempt = stop(slot, attempt), attempt + 1
            if ending == "early":
                study.tell(trial, state=TrialState.FAIL)
                continue
            values = space.suggest(trial)
            trial.set_user_attr("drawn_by", drawn_by(study.sampler, study, trial))
            if ending in ("cut", "fail"):
                failures += ending == "fail"
                study.tell(trial, state=TrialState.FAIL)
                if ending == "cut":
                    frozen = study._storage.get_trial(trial._trial_id)
                    study.add_trial(
                        optuna.trial.create_trial(
                            state=TrialState.WAITING,
                            params=frozen.params,
                            distributions=frozen.distributions,
                            system_attrs={**frozen.system_attrs, "fixed_params": frozen.params},
                        )
                    )
                continue
            study.tell(trial, value_of(values))
            made[slot] = values
    return made, study


def test_all_kinds_of_samplers_and_pruners_have_an_option() -> None:
    kinds = {"grid", "random", "qmc", "tpe", "tpe_multivariate", "tpe_group", "gp", "cmaes", "nsgaii", "nsgaiii"}
    assert kinds | {"brute_force", "qmc_sobol", "qmc_halton"} <= set(SAMPLERS)
    assert {
        *("nop", "median", "percentile", "successive_halving", "hyperband", "patient", "threshold", "wilcoxon"),
        *("median_5_2", "hyperband_5_8_3"),
    } <= set(PRUNERS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_option_draws_without_a_warning(name: str) -> None:
    node = sampler_option(name)
    space = Space.read(FINITE if is_exhaustive(node) else MIXED, active_when=DEEP)
    check_sampler(node, space)
    made, study = run(node, space, 14)
    assert len(made) == 14 == len(study.trials)
    for values, trial in zip(made.values(), study.trials, strict=True):
        assert space.missing(values) == [] and ("depth" in values) == (values["kind"] in "ab")
        assert set(trial.user_attrs["drawn_by"]) == set(values)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "brute_force"])
def test_workers_draw_different_points(name: str) -> None:
    """Every sampler is built with the seed of its slot: the first trials of eight workers are eight points.

    Brute force sees what others try, and takes another.
    """
    node = sampler_option(name)
    space = Space.read(FINITE if is_exhaustive(node) else NUMBERS)
    firsts = []
    for slot in range(8):
        study = optuna.create_study(sampler=make_sampler(node, slot=slot, space=space))
        firsts.append(space.suggest(study.ask()))
    assert len({tuple(values.items()) for values in firsts}) == 8


SEEDED = ["random", "grid", "qmc_sobol", "qmc_halton", "tpe", "tpe_multivariate", "tpe_group", "tpe_short", "cmaes"]
INTERRUPTIONS = {(1, 0): "early", (3, 0): "cut", (3, 1): "early", (6, 0): "early", (6, 1): "early", (12, 0): "cut"}


@pytest.mark.parametrize("name", SEEDED)
def test_an_interrupted_study_draws_what_an_uninterrupted_one_does(name: str, tmp_path: Path) -> None:
    node = sampler_option(name)
    space = Space.read(FINITE if is_exhaustive(node) else (NUMBERS if name == "cmaes" else MIXED))
    whole, _ = run(node, space, 16)
    stopped, study = run(
        node, space, 16, url=storage(tmp_path), stop=lambda slot, attempt: INTERRUPTIONS.get((slot, attempt))
    )
    assert stopped == whole
    assert len(study.trials) == 16 + len(INTERRUPTIONS)


@pytest.mark.parametrize("name", [name for name in SEEDED if name != "grid"])
def test_after_a_failure_a_slot_draws_something_else_and_the_others_the_same_space(name: str) -> None:
    node = sampler_option(name)
    assert draws_again(node)
    space = Space.read(NUMBERS)
    first, _ = run(node, space, 1)
    second, study = run(node, space, 1, stop=lambda slot, attempt: "fail" if attempt == 0 else None)
    assert first[0] == study.trials[0].params != second[0]


def test_a_grids_point_belongs_to_its_slot() -> None:
    node, space = sampler_option("grid"), Space.read(FINITE, active_when=DEEP)
    assert not draws_again(node) and n_points(node, space) == (2 * 2 + 1) * 3 == 15
    in_order, _ = run(node, space, 15)
    assert {tuple(values.items()) for values in in_order.values()} == {tuple(p.items()) for p in space.points()}
    # The order is shuffled, and it is the same in whatever order slots are taken.
    assert list(in_order.values()) != space.points()
    for slot in (14, 3, 9):
        study = optuna.create_study(sampler=make_sampler(node, slot=slot, space=space))
        assert space.suggest(study.ask()) == in_order[slot]
    other, _ = run(sampler_option("grid", seed=7), space, 15)
    assert other != in_order


def test_brute_force_tries_every_combination_once() -> None:
    node, space = sampler_option("brute_force"), Space.read(FINITE, active_when=DEEP)
    made, _ = run(node, space, 15)
    assert n_points(node, space) == 15 == len({tuple(values.items()) for values in made.values()})


def test_a_grid_needs_an_end() -> None:
    for name in ("grid", "brute_force"):
        with pytest.raises(ConfigError, match=r"hydra\.sweeper\.params\.x: an interval has no end of values"):
            check_sampler(sampler_option(name), Space.read(NUMBERS))
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.enqueue: a grid has all its points already"):
        check_sampler(sampler_option("grid"), Space.read(FINITE), has_enqueue=True)


@pytest.mark.parametrize("kind", ["sobol", "halton"])
def test_a_sequence_is_one_for_all_slots(kind: str) -> None:
    """Drawn slot by slot, in any order, it is scipy's own sequence."""
    node = sampler_option(f"qmc_{kind}")
    qmc = pytest.importorskip("scipy.stats").qmc
    engine = {"sobol": qmc.Sobol, "halton": qmc.Halton}[kind](2, scramble=True, seed=42)
    expected = engine.random(8)
    space = Space.read({"a": "interval(0, 1)", "b": "interval(0, 1)"})
    for slot in (5, 0, 7, 3):
        study = optuna.create_study(sampler=make_sampler(node, slot=slot, space=space))
        assert list(space.suggest(study.ask()).values()) == pytest.approx(expected[slot])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options.importlib.util, "find_spec", lambda name: None)
    for name, needed in (("qmc", "scipy"), ("gp", "scipy torch"), ("cmaes", "cmaes")):
        with pytest.raises(ConfigError, match=f"which is not installed; pip install {needed}$"):
            make_sampler(option("sampler", name), slot=0, space=Space.read(NUMBERS))
    with pytest.raises(ConfigError, match="WilcoxonPruner needs scipy"):
        make_pruner(option("pruner", "wilcoxon"))


def test_cma_es_draws_from_the_first_trial_on_and_improves() -> None:
    node, space = sampler_option("cmaes"), Space.read(NUMBERS)
    made, study = run(node, space, 42)
    assert all(set(t.user_attrs["drawn_by"].values()) == {"CmaEsSampler"} for t in study.trials)
    assert {trial.system_attrs["cma:generation"] for trial in study.trials} == {0, 1, 2, 3, 4, 5}
    values = [value_of(made[slot]) for slot in range(42)]
    assert sum(values[-7:]) < 0.5 * sum(values[:7])


def test_a_queued_trial_with_fewer_parameters_does_not_end_cma_es() -> None:
    """In the HOSER study a first trial without parameters emptied the space, and all others were drawn at random."""
    space = Space.read(NUMBERS)
    study = optuna.create_study()
    study.add_trial(optuna.trial.create_trial(value=1.0, params={}, distributions={}))
    study.sampler = make_sampler(sampler_option("cmaes"), slot=1, space=space)
    trial = study.ask()
    space.suggest(trial)
    assert set(drawn_by(study.sampler, study, trial).values()) == {"CmaEsSampler"}


def test_who_drew_what_is_told_apart() -> None:
    space = Space.read(MIXED | {"one": "choice(only)"}, active_when=DEEP)
    study = optuna.create_study(sampler=make_sampler(sampler_option("cmaes"), slot=0, space=space))
    study.enqueue_trial({"kind": "a", "x": 1.0})
    trial = study.ask()
    space.suggest(trial)
    assert drawn_by(study.sampler, study, trial) == {
        "x": "given",
        "y": "CmaEsSampler",
        "n": "CmaEsSampler",
        "kind": "given",
        "one": "only value",
        "depth": "RandomSampler (independent)",
    }


def by_trial(name: str, params: Mapping[str, str], n_trials: int = 14, **more: Any) -> list[set[str]]:
    _, study = run(sampler_option(name), Space.read(params, **more), n_trials)
    return [set(trial.user_attrs["drawn_by"].values()) for trial in study.trials]


START_UP = {"RandomSampler (independent)"}


@pytest.mark.parametrize(
    ("name", "sampler", "start_up"),
    [
        ("tpe", "TPESampler", 10),
        ("tpe_multivariate", "TPESampler", 10),
        ("tpe_short", "TPESampler", 4),
        ("random", "RandomSampler", 0),
        ("qmc_sobol", "QMCSampler", 0),
        ("gp", "GPSampler", 10),
    ],
)
def test_a_start_up_is_recorded_as_what_it_is(name: str, sampler: str, start_up: int) -> None:
    drawn = by_trial(name, NUMBERS)
    assert drawn == [START_UP] * start_up + [{sampler}] * (14 - start_up)


def test_a_first_generation_is_drawn_at_random() -> None:
    node = sampler_option("nsgaii", population_size=6, mutation_prob=0.0)
    _, study = run(node, Space.read(NUMBERS), 18)
    drawn = [set(trial.user_attrs["drawn_by"].values()) for trial in study.trials]
    assert drawn == [START_UP] * 6 + [{"NSGAIISampler"}] * 12


WARNINGS = [
    ("cmaes", NUMBERS, None, []),
    ("cmaes", MIXED, None, ["kind, depth: drawn by RandomSampler, CmaEsSampler takes numbers that every trial has"]),
    (
        "cmaes",
        {"kind": "choice(a, b)"},
        None,
        [
            "CmaEsSampler was asked for and will draw nothing, it takes numbers that every trial has: RandomSampler "
            "draws kind"
        ],
    ),
    (
        "cmaes",
        {},
        None,
        [
            "CmaEsSampler was asked for and will draw nothing, it takes numbers that every trial has: there is nothing "
            "to draw"
        ],
    ),
    ("tpe", MIXED, DEEP, []),
    ("tpe_group", MIXED, DEEP, []),
    ("tpe_multivariate", MIXED, DEEP, ["depth: not in every trial, so drawn at random; tpe_group estimates them"]),
    ("gp", MIXED, DEEP, ["depth: drawn by RandomSampler, GPSampler takes parameters that every trial has"]),
    ("random", MIXED, DEEP, []),
]


@pytest.mark.parametrize(("name", "params", "conditions", "said"), WARNINGS)
def test_a_study_says_what_its_sampler_will_not_draw(
    name: str, params: dict[str, str], conditions: dict[str, Any] | None, said: list[str]
) -> None:
    assert sampler_warnings(option("sampler", name), Space.read(params, active_when=conditions)) == said


BAD_OPTIONS = [
    ({"seed": None}, "hydra.sweeper.sampler.seed: must be a whole number from 0, or no study could be continued"),
    ({"seed": -1}, "hydra.sweeper.sampler.seed: must be a whole number from 0"),
    ({"n_startup_trials": "many"}, "hydra.sweeper.sampler.n_startup_trials: must be int, got 'many'"),
    ({"n_startup_trials": True}, "hydra.sweeper.sampler.n_startup_trials: must be int, got True"),
    ({"group": 1}, "hydra.sweeper.sampler.group: must be bool, got 1"),
    ({"n_start": 3}, "hydra.sweeper.sampler.n_start: unknown key in TPESampler; there are: consider_prior"),
    ({"group": True}, "hydra.sweeper.sampler: TPESampler refuses its settings: ``group`` option can only be enabled"),
    ({"_target_": "os.system"}, "hydra.sweeper.sampler._target_: 'os.system' is outside the packages"),
    ({"_target_": "optuna.samplers._tpe.sampler.os.system"}, "hydra.sweeper.sampler._target_: optuna.samplers has no"),
    ({"_target_": "optuna.samplers.TPE"}, "hydra.sweeper.sampler._target_: optuna.samplers has no optuna.samplers.TPE"),
    ({"_target_": "optuna.samplers.nsgaii.SBXCrossover"}, "hydra.sweeper.sampler._target_: optuna.samplers.nsgaii"),
    (
        {"_target_": "kdexp.distill.objective.none"},
        "hydra.sweeper.sampler._target_: kdexp.distill.objective.none is no",
    ),
]


@pytest.mark.parametrize(("changed", "said"), BAD_OPTIONS)
def test_a_bad_sampler_option_is_refused_with_its_key(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_sampler(option("sampler", "tpe") | changed, Space.read(NUMBERS))
    assert caught.value.problems[0].startswith(said)


def test_all_bad_settings_of_an_option_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        make_sampler(option("sampler", "tpe") | {"group": 1, "zzz": 1}, slot=0, space=Space.read(NUMBERS))
    assert len(caught.value.problems) == 2


def test_a_sampler_may_hold_others() -> None:
    node = sampler_option("cmaes", independent_sampler={**option("sampler", "tpe"), "n_startup_trials": 0})
    space = Space.read(MIXED)
    _, study = run(node, space, 4)
    assert study.trials[-1].user_attrs["drawn_by"]["kind"] == "TPESampler (independent)"
    assert "drawn by TPESampler" in sampler_warnings(node, space)[0]
    crossed = sampler_option("nsgaii", crossover={"_target_": "optuna.samplers.nsgaii.SBXCrossover"}, population_size=4)
    assert len(run(crossed, Space.read(NUMBERS), 9)[0]) == 9
    points = sampler_option("nsgaiii", reference_points=[[0.0, 1.0], [1.0, 0.0]])
    assert make_sampler(points, slot=0, space=space).label == "NSGAIIISampler"


def test_cma_es_has_one_objective() -> None:
    with pytest.raises(ConfigError, match="CMA-ES has one objective only"):
        check_sampler(sampler_option("cmaes"), Space.read(NUMBERS), n_objectives=2)
    check_sampler(sampler_option("nsgaii"), Space.read(NUMBERS), n_objectives=2)


def test_several_objectives_are_sampled() -> None:
    space = Space.read(NUMBERS)
    for name in ("tpe_short", "nsgaii", "nsgaiii", "random"):
        study = optuna.create_study(directions=["minimize", "maximize"])
        for slot in range(8):
            study.sampler = make_sampler(sampler_option(name), slot=slot, space=space)
            trial = study.ask()
            values = space.suggest(trial)
            study.tell(trial, [values["x"] ** 2, values["n"]])
        assert len(study.best_trials) >= 1


@pytest.fixture
def study() -> Iterator[optuna.Study]:
    """Maximised; five trials are complete, at 0.5 in each of eight steps."""
    made = optuna.create_study(direction="maximize")
    for _ in range(5):
        steps = dict.fromkeys(range(1, 9), 0.5)
        made.add_trial(optuna.trial.create_trial(value=0.5, intermediate_values=steps))
    yield made


def asked(pruner: optuna.pruners.BasePruner, study: optuna.Study, *values: float) -> bool:
    trial: FrozenTrial = optuna.trial.create_trial(
        state=TrialState.RUNNING, intermediate_values=dict(enumerate(values, start=1))
    )
    trial.number = 5
    return pruner.prune(study, trial)


# At which of the epochs 1 to 4 a trial far below, and one far above, would be ended.
DECISIONS = [
    ("nop", [], []),
    ("median", [1, 2, 3, 4], []),
    ("median_5_2", [2, 3, 4], []),
    ("median_2_2", [2, 3, 4], []),
    ("percentile", [1, 2, 3, 4], []),
    ("threshold", [], []),
]


@pytest.mark.parametrize(("name", "below", "above"), DECISIONS)
def test_a_pruner_decides_as_its_option_says(
    name: str, below: list[int], above: list[int], study: optuna.Study
) -> None:
    pruner = make_pruner(option("pruner", name))
    assert [epoch for epoch in range(1, 5) if asked(pruner, study, *[0.1] * epoch)] == below
    assert [epoch for epoch in range(1, 5) if asked(pruner, study, *[0.9] * epoch)] == above


def test_a_patient_pruner_asks_the_other_only_after_a_decline(study: optuna.Study) -> None:
    pruner = make_pruner(option("pruner", "patient"))
    assert not asked(pruner, study, 0.1, 0.2, 0.3, 0.4)
    assert not asked(pruner, study, 0.4, 0.3, 0.2)
    assert asked(pruner, study, 0.4, 0.3, 0.2, 0.1)
    assert not asked(pruner, study, 0.9, 0.8, 0.7, 0.6)  # the median has nothing against it


def test_hyperband_has_one_rung_at_epoch_five_for_hoser() -> None:
    pruner = make_pruner(option("pruner", "hyperband_5_8_3"))
    study = optuna.create_study(direction="maximize", pruner=pruner)
    ended = []
    for quality in (0.9, 0.8, 0.7, 0.6, 0.95, 0.5):
        trial = study.ask()
        for epoch in range(1, 9):
            trial.report(quality, epoch)
            if trial.should_prune():
                ended.append((trial.number, epoch))
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, quality)
    # A trial goes on where it is among the best third of those seen at the rung.
    assert ended == [(1, 5), (2, 5), (3, 5), (5, 5)]


@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_option_is_built_without_a_warning(name: str) -> None:
    if name == "wilcoxon" and not HAS_SCIPY:
        pytest.skip("needs scipy: pip install scipy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(make_pruner(option("pruner", name))).__name__ == option("pruner", name)["_target_"].split(".")[-1]


def test_no_pruner_is_nop() -> None:
    assert isinstance(make_pruner(None), optuna.pruners.NopPruner)


BAD_PRUNERS = [
    ("median", {"n_startup_trials": -1}, "hydra.sweeper.pruner: MedianPruner refuses its settings: Number of startup"),
    ("median", {"n_startup_trials": "x"}, "hydra.sweeper.pruner.n_startup_trials: must be int, got 'x'"),
    (
        "median",
        {"startup": 1},
        "hydra.sweeper.pruner.startup: unknown key in MedianPruner; there are: n_startup_trials",
    ),
    ("threshold", {"lower": None}, "hydra.sweeper.pruner: ThresholdPruner refuses its settings: Either lower or upper"),
    ("hyperband", {"max_resource": "many"}, "hydra.sweeper.pruner: HyperbandPruner refuses its settings"),
    (
        "nop",
        {"_target_": "optuna.samplers.TPESampler"},
        "hydra.sweeper.pruner._target_: 'optuna.samplers.TPESampler' is",
    ),
]


@pytest.mark.parametrize(("name", "changed", "said"), BAD_PRUNERS)
def test_a_bad_pruner_option_is_refused_with_its_key(name: str, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_pruner(option("pruner", name) | changed)
    assert caught.value.problems[0].startswith(said)


def test_several_objectives_are_not_pruned() -> None:
    with pytest.raises(ConfigError, match="MedianPruner compares one value, and this study has 2 objectives"):
        make_pruner(option("pruner", "median"), n_objectives=2)
    assert isinstance(make_pruner(option("pruner", "nop"), n_objectives=2), optuna.pruners.NopPruner)
