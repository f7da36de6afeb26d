"""Every option of every config group composes and passes the check, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf, open_dict

from contracts.plugins import CONF, DATASETS, HOMES, checked, composed, model_cases, options, outside_trusted, plain
from kdexp.building import build_objective, build_optimizer
from kdexp.check import check_config
from kdexp.config import DataVerbConfig, EvaluateConfig
from kdexp.distill.schedules import make_schedule

PRIMARIES = sorted(path.stem for path in CONF.glob("*.yaml"))
GROUPS = sorted({str(path.parent.relative_to(home)) for home in HOMES for path in home.rglob("*.yaml")} - {"."})
MODELS = ("dataset", "teacher", "student")
OWN_TESTS = {*MODELS, *(group for group in GROUPS if group.startswith(("student/", "dataset/"))), "schedule"}
PLAIN_GROUPS = [group for group in GROUPS if group not in OWN_TESTS and not group.startswith("hydra/")]
RECIPES = ("experiment", "hparams_search", "hparams_search/tune")

with outside_trusted():
    MODEL_CASES = model_cases()


@pytest.fixture(scope="module", autouse=True)
def outside() -> Iterator[None]:
    with outside_trusted():
        yield


def at(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree[name]
    return tree


def test_the_suite_sees_all_groups_and_options() -> None:
    assert {"train", "check", "data", "evaluate"} <= set(PRIMARIES)
    floors = {
        "dataset": {"medpix", "wound", "rings"},
        "teacher": {"base", "medpix", "wound", "rings"},
        "student": {"medpix", "wound", "rings"},
        "student/vision": {"convolutional", "efficientnet_lite0", "hub"},
        "student/text": {"hashed_transformer", "minilm", "hub"},
        "dataset/text": {"words", "minilm", "hub"},
        "student/fusion": {"cross_attention", "gated", "shomr", "simple"},
        "distill": {"ce_lambda_kl", "alpha_beta", "mix", "none"},
        "schedule": {"constant", "linear", "cosine", "exponential", "step"},
        "optimizer": {"adamw"},
        "trainer": {"default"},
        "logger": {"none", "wandb", "tensorboard"},
        "paths": {"default"},
        "hydra/job_logging": {"kdexp"},
        "hydra/hydra_logging": {"kdexp"},
    }
    assert set(floors) <= set(GROUPS)
    for group, named in floors.items():
        assert named <= set(options(group)), group
    assert set(PLAIN_GROUPS) >= {"distill", "optimizer", "trainer", "logger", "paths"}


PLAIN = [(group, option) for group in PLAIN_GROUPS for option in options(group) if group not in RECIPES]


@pytest.mark.parametrize(("group", "option"), PLAIN)
def test_an_option_composes_and_is_sound(group: str, option: str) -> None:
    made = checked(f"{group}={option}")
    assert made["choices"][group] == option


@pytest.mark.parametrize("name", DATASETS)
def test_models_follow_the_data_set(name: str) -> None:
    made = checked(f"dataset={name}")
    assert {group: made["choices"][group] for group in MODELS} == dict.fromkeys(MODELS, name)
    assert made["dataset"]["name"] == name
    # What every teacher shares is filled in.
    assert {"seed", "max_epochs", "optimizer", "cache", "cache_dtype", "checkpoint"} <= set(made["teacher"])


@pytest.mark.parametrize("case", MODEL_CASES, ids=str)
def test_every_model_and_every_part_of_it_is_sound(case: Any) -> None:
    made = checked(f"dataset={case.dataset}", *case.words)
    assert at(made, case.node)["_target_"]
    for word in case.words[:1]:  # the others say what it needs of the data
        key, _, option = word.partition("=")
        assert made["choices"][key] == option


def parts_of_data_sets() -> list[tuple[str, str, str]]:
    """(data set, group, option) of groups inside `dataset`, such as `dataset/view`."""
    groups = [group for group in GROUPS if group.startswith("dataset/")]
    found = {name: composed(f"dataset={name}").choices for name in DATASETS}
    return [
        (name, group, option)
        for group in groups
        for name in DATASETS
        if group in found[name]
        for option in options(group)
    ]


with outside_trusted():
    PARTS_OF_DATA_SETS = parts_of_data_sets()


@pytest.mark.parametrize(("name", "group", "option"), PARTS_OF_DATA_SETS)
def test_every_part_of_a_data_set_is_sound(name: str, group: str, option: str) -> None:
    made = checked(f"dataset={name}", f"{group}={option}")
    assert made["choices"][group] == option


def test_no_part_of_a_data_set_is_passed_over() -> None:
    every = {(group, option) for group in GROUPS if group.startswith("dataset/") for option in options(group)}
    assert every == {(group, option) for _, group, option in PARTS_OF_DATA_SETS}
    assert ("dataset/view", "seed_wiring") in every


def mounts() -> list[str]:
    """Where `conf/train.yaml` lets a schedule be put: `distill.temperature`, `optimizer.lr`, ..."""
    entries = OmegaConf.to_container(OmegaConf.load(CONF / "train.yaml"))["defaults"]  # type: ignore[index,call-overload]
    keys = [key for entry in entries if isinstance(entry, dict) for key in entry]
    return [key.removeprefix("schedule@") for key in keys if key.startswith("schedule@")]


def knobs(preset: str) -> list[str]:
    """The mounts that a preset has a number for, and the learning rate."""
    loaded = OmegaConf.load(CONF / "distill" / f"{preset}.yaml")
    found = [mount for mount in mounts() if OmegaConf.select(loaded, mount.removeprefix("distill.")) is not None]
    return [*found, "optimizer.lr"]


PRESETS = [preset for preset in options("distill") if len(knobs(preset)) > 1]


def test_schedules_are_mounted_on_every_knob_of_every_preset() -> None:
    known = {"distill.temperature", "distill.weights.kl", "distill.alpha", "distill.beta", "optimizer.lr"}
    assert known <= set(mounts()) == {knob for preset in PRESETS for knob in knobs(preset)}
    counts = {preset: len(knobs(preset)) for preset in PRESETS}
    assert counts.items() >= {"ce_lambda_kl": 3, "alpha_beta": 4, "mix": 3}.items()


@pytest.mark.parametrize("kind", options("schedule"))
@pytest.mark.parametrize("preset", PRESETS)
def test_every_schedule_fits_every_knob(preset: str, kind: str) -> None:
    ends = [] if kind == "constant" else [f"{knob}.end=0.25" for knob in knobs(preset)]
    made = checked(f"distill={preset}", *(f"schedule@{knob}={kind}" for knob in knobs(preset)), *ends)
    default = plain(f"distill={preset}")
    for knob in knobs(preset):
        setting, own = at(made, knob), at(default, knob)
        assert setting["name"] == kind
        course = make_schedule(setting, knob)
        # The preset's own number stays the start; the schedule's placeholder never shows.
        assert course(0.0) == (own["start"] if isinstance(own, dict) else own)
        assert course(1.0) == (0.25 if ends else course(0.0))
    build_objective(made["distill"])
    assert build_optimizer(made["optimizer"], "optimizer")[1](0.0) > 0


@pytest.mark.parametrize("preset", PRESETS)
def test_a_bare_number_is_a_constant(preset: str) -> None:
    made = checked(f"distill={preset}", *(f"{knob}=0.125" for knob in knobs(preset)))
    assert all(make_schedule(at(made, knob), knob)(0.7) == 0.125 for knob in knobs(preset))


@pytest.mark.parametrize("name", DATASETS)
def test_the_data_verb_takes_every_data_set(name: str) -> None:
    for action in ("inspect", "generate", "fetch"):
        cfg = composed(f"dataset={name}", f"action={action}", verb="data")
        assert check_config(cfg, DataVerbConfig)["dataset"]["name"] == name


def test_evaluate_and_check_compose() -> None:
    assert check_config(composed("run=somewhere", verb="evaluate"), EvaluateConfig)["split"] == "test"
    # `check` takes what `train` takes, and holds it against the same; a switch of its own lists a search's trials.
    cfg = composed(verb="check")
    with open_dict(cfg):
        assert cfg.pop("list_trials") is False
    assert check_config(cfg) == check_config(composed())


@pytest.mark.parametrize("primary", PRIMARIES)
def test_a_primary_config_leaves_no_folder_of_hydras_behind(primary: str) -> None:
    loaded = OmegaConf.load(CONF / f"{primary}.yaml")
    hydra = loaded.hydra
    inherits = "train" in loaded.defaults
    assert inherits or hydra.output_subdir is None
    assert hydra.help.app_name == f"kdexp {primary}"


def recipes(homes: tuple[Path, ...], group: str) -> list[Path]:
    """Files that are run by name; those in `hparams_search/tune` are added to a search and tested there."""
    found = [path for home in homes for path in (home / group).rglob("*.yaml")]
    return sorted(path for path in found if path.parent.name != "tune")


def assert_sound(recipe: Path, home: Path) -> None:
    """A recipe's first comment is the command that runs it (Hydra wants `@package` before it); it passes the check."""
    group = recipe.relative_to(home).parts[0]
    option = recipe.relative_to(home / group).with_suffix("")
    first = next(line for line in recipe.read_text(encoding="utf-8").split("\n") if not line.startswith("# @"))
    assert first.startswith("# python -m kdexp ") and f"{group}={option}" in first
    assert checked(f"{group}={option}", homes=(home,))["choices"][group] == str(option)


def test_every_committed_recipe_is_sound() -> None:
    for group in RECIPES:
        for recipe in recipes((CONF,), group):
            assert_sound(recipe, CONF)


def test_a_recipe_is_found_and_one_with_a_mistake_refused(tmp_path: Path) -> None:
    named = {path.stem for group in RECIPES for path in recipes((CONF,), group)}
    assert {"medpix_packaged", "medpix_packaged_finetuned", "medpix_hub", "medpix_trial_11", "medpix_tpe"} <= named
    folder = tmp_path / "experiment"
    folder.mkdir()
    head = "# @package _global_\n# python -m kdexp train experiment={name}\ndefaults:\n  - override /distill: mix\n"
    (folder / "good.yaml").write_text(head.format(name="good") + "distill:\n  alpha: 0.9\n")
    (folder / "bad.yaml").write_text(head.format(name="bad") + "distill:\n  alpha: 1.5\n")
    bad, good = recipes((tmp_path,), "experiment")
    assert_sound(good, tmp_path)
    with pytest.raises(Exception, match=r"distill\.alpha must stay at or below 1"):
        assert_sound(bad, tmp_path)
