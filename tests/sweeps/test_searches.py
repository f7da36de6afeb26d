"""The searches that are shipped: each composes, every value of its space is sound, and it is what its study says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import optuna
import pytest
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import FloatDistribution, IntDistribution

from contracts.plugins import outside_trusted
from kdexp.sweeps.samplers import check_sampler, make_pruner, make_sampler, sampler_warnings
from kdexp.sweeps.space import Space
from sweeps.helpers import CONF, swept

SEARCHES = sorted(path.stem for path in (CONF / "hparams_search").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def trusted() -> Iterator[None]:
    with outside_trusted():
        yield


@dataclass(frozen=True)
class Search:
    config: DictConfig
    sweeper: dict[str, Any]
    space: Space


@cache
def search(name: str, *words: str) -> Search:
    with swept(f"hparams_search={name}", *words) as (config, context):
        space = Space.from_config(config.hydra.sweeper, config, context, [f"hparams_search={name}", *words])
        sweeper: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True, enum_to_str=True)
    return Search(config, sweeper, space)


def test_the_searches_are_there() -> None:
    assert {"smoke", "medpix_tpe", "medpix_wide", "hoser_cmaes"} <= set(SEARCHES)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_is_sound_in_every_value(name: str) -> None:
    found = search(name)
    assert found.space.distributions.keys() == found.sweeper["params"].keys() - set(found.sweeper["without"] or ())
    assert found.sweeper["study_name"] == name and found.sweeper["direction"] == "maximize"
    assert "mode" not in OmegaConf.load(CONF / "hparams_search" / f"{name}.yaml").get("hydra", {})
    check_sampler(found.sweeper["sampler"], found.space, has_enqueue=bool(found.sweeper["enqueue"]))
    make_pruner(found.sweeper["pruner"])
    assert sampler_warnings(found.sweeper["sampler"], found.space) == []
    # A trial's words compose and pass for what is drawn in between, too.
    study = optuna.create_study()
    study.sampler = make_sampler(found.sweeper["sampler"], slot=0, space=found.space)
    values = found.space.suggest(study.ask())
    with swept(f"hparams_search={name}") as (config, context):
        job = context.config_loader.load_sweep_config(config, found.space.overrides(values))
    assert job.hydra.runtime.choices.hparams_search == name


def test_medpix_tpe_is_the_study() -> None:
    found = search("medpix_tpe")
    assert found.sweeper["n_trials"] == 30
    assert found.sweeper["sampler"] | {"_target_": "optuna.samplers.TPESampler", "seed": 42} == found.sweeper["sampler"]
    pruner = {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 5, "n_warmup_steps": 2}
    assert found.sweeper["pruner"] | pruner == found.sweeper["pruner"]
    space = found.space.distributions
    # Thirteen in the study, less the two dead numbers of layers.
    assert len(space) == 11 and not any("layers" in name for name in space)
    assert space["distill.weights.feature_mse"] == FloatDistribution(50.0, 200.0)
    assert space["distill.weights.kl"] == FloatDistribution(0.5, 2.0)
    assert space["distill.temperature"] == FloatDistribution(2.0, 6.0)
    assert space["student.dropout"] == space["teacher.model.dropout"] == FloatDistribution(0.05, 0.3)
    assert found.config.distill.scale_tau2 is True and found.config.dataset.name == "medpix"
    for side in ("student", "teacher.model"):
        widths, heads = space[f"{side}.width"].choices, space[f"{side}.fusion.heads"].choices  # type: ignore[attr-defined]
        assert heads == (4, 8) and all(width % most == 0 for width in widths for most in heads)


def test_medpix_wide_draws_the_numbers_of_a_fusion_only_beside_it() -> None:
    space = search("medpix_wide").space
    bound = set(space.distributions) - set(space.unconditional)
    parts = ("heads", "layers", "hidden_mult", "p_img", "p_txt")
    assert bound == {f"{side}.fusion.{part}" for side in ("student", "teacher.model") for part in parts}
    gated = {"student/fusion": "gated", "student/fusion@teacher.model.fusion": "gated"}
    assert not bound & set(space.example(gated))
    for side in ("student", "teacher.model"):
        widths = space.distributions[f"{side}.width"].choices  # type: ignore[attr-defined]
        most = max(space.distributions[f"{side}.fusion.heads"].choices)  # type: ignore[attr-defined]
        assert all(width % most == 0 for width in widths)
    narrow = search("medpix_tpe").space.distributions
    # Wider on every side that both have.
    for name, inner in narrow.items():
        outer = space.distributions[name]
        if isinstance(inner, (FloatDistribution, IntDistribution)):
            assert isinstance(outer, (FloatDistribution, IntDistribution))
            assert outer.low < inner.low and outer.high > inner.high
        else:
            assert set(inner.choices) < set(outer.choices)  # type: ignore[attr-defined]


def test_hoser_cmaes_is_the_study() -> None:
    found = search("hoser_cmaes")
    assert found.space.distributions == {
        "distill.weights.kl": FloatDistribution(0.001, 0.1, log=True),
        "distill.temperature": FloatDistribution(1.0, 5.0),
        "teacher.signal.window": IntDistribution(2, 8),
    }
    sampler = {"_target_": "optuna.samplers.CmaEsSampler", "seed": 42, "n_startup_trials": 0}
    assert found.sweeper["sampler"] | sampler == found.sweeper["sampler"]
    assert found.sweeper["sampler"]["consider_pruned_trials"] is True
    pruner = {"_target_": "optuna.pruners.HyperbandPruner", "min_resource": 5, "max_resource": 8, "reduction_factor": 3}
    assert found.sweeper["pruner"] | pruner == found.sweeper["pruner"]
    assert found.sweeper["n_trials"] == 12 and found.config.trainer.max_epochs == 8
    assert found.config.distill.scale_tau2 is False and found.config.dataset.name == "beijing"
    given = search("hoser_cmaes", "dataset=porto_small")
    assert given.config.dataset.name == "porto_small"
    assert given.space.describe()["parameters"] == found.space.describe()["parameters"]


def test_hoser_refined_is_the_second_study() -> None:
    found = search("hoser_refined")
    assert found.space.distributions == {
        "distill.weights.kl": FloatDistribution(0.003, 0.01, log=True),
        "distill.temperature": FloatDistribution(2.0, 3.5),
    }
    assert found.sweeper["sampler"]["seed"] == 44 and found.config.teacher.signal.window == 4
    assert found.sweeper["n_trials"] == 10 == found.config.trainer.max_epochs == found.sweeper["pruner"]["max_resource"]


def test_smoke_is_small_and_synthetic() -> None:
    found = search("smoke")
    assert (found.config.dataset.source, found.config.dataset.generator.preset) == ("synthetic", "small")
    assert found.config.trainer.max_epochs <= 5 and found.sweeper["n_trials"] == 8
    assert found.space.conditions and found.sweeper["pruner"]["n_startup_trials"] == 2


@pytest.mark.parametrize("sampler", ["random", "cmaes", "nsgaii"])
@pytest.mark.parametrize("pruner", ["nop", "hyperband", "patient"])
def test_sampler_and_pruner_can_be_switched_on_the_command_line(sampler: str, pruner: str) -> None:
    with swept("hparams_search=medpix_tpe", f"hydra/sweeper/sampler={sampler}", f"hydra/sweeper/pruner={pruner}") as (
        config,
        _,
    ):
        assert config.hydra.sweeper.sampler._target_.lower().endswith(f"{sampler}sampler")
        assert config.hydra.sweeper.pruner._target_.lower().endswith(f"{pruner}pruner")


def test_a_parameter_can_be_fixed_or_narrowed_on_the_command_line() -> None:
    fixed = search("smoke", "student/fusion=gated")
    assert set(fixed.space.distributions) == {"optimizer.lr", "distill.weights.kl", "distill.temperature"}
    narrow = search("smoke", "distill.temperature=3")
    assert "distill.temperature" not in narrow.space.distributions and len(narrow.space.distributions) == 4


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONF / "hparams_search" / "tune").glob("*.yaml")))
@pytest.mark.parametrize("name", ["medpix_tpe", "wound_tpe"])
def test_a_search_takes_each_option_file(name: str, option: str) -> None:
    found, alone = search(f"[{name},tune/{option}]"), search(name)
    assert len(found.space.distributions) > len(alone.space.distributions)
    study = optuna.create_study()
    study.sampler = make_sampler(found.sweeper["sampler"], slot=0, space=found.space)
    words = f"hparams_search=[{name},tune/{option}]"
    with swept(words) as (config, context):
        for _ in range(3):  # whatever is drawn composes
            values = found.space.suggest(study.ask())
            assert context.config_loader.load_sweep_config(config, found.space.overrides(values))
