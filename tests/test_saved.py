"""A saved run is taken up again: repeated with changes in a new folder, or continued as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from contracts.plugins import composed, outside_trusted
from kdexp.check import check_config
from kdexp.errors import ConfigError, DataError
from kdexp.folders import write_config
from kdexp.records import REDACTED, RunFolder
from kdexp.saved import differences, flat, load_saved, own_words, saved_choices, take_up

MOVING = ("schedule@distill.weights.kl=linear", "distill.weights.kl.end=2")
RUN = ("dataset=rings", "seed=5", "trainer.max_epochs=3", *MOVING)


@pytest.fixture(scope="module", autouse=True)
def outside() -> Iterator[None]:
    with outside_trusted():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder as a run leaves it."""
    write_config(RunFolder(tmp_path / "run"), check_config(composed(*RUN)))
    return tmp_path / "run"


def words(folder: Path, key: str, *more: str) -> list[str]:
    """What the command line makes of `from_run=FOLDER`: the saved choices first, then what was typed."""
    given = {word.partition("=")[0] for word in more}
    choices = [f"{group}={name}" for group, name in saved_choices(folder).items() if group not in given]
    return [*choices, f"{key}={folder}", *more]


def taken(folder: Path, key: str, *more: str) -> DictConfig:
    line = words(folder, key, *more)
    return take_up(composed(*line), line)


def test_a_configuration_without_a_saved_run_is_taken_as_it_is() -> None:
    cfg = composed("dataset=rings")
    assert take_up(cfg, ["dataset=rings"]) is cfg


def test_what_was_saved_comes_back_as_plain_values(folder: Path) -> None:
    saved = load_saved(folder)
    assert saved.seed == 5 and saved.resume is None and saved.from_run is None
    assert OmegaConf.to_container(saved, resolve=False) == OmegaConf.to_container(saved, resolve=True)
    assert check_config(saved)["distill"]["weights"]["kl"]["end"] == 2


def test_the_saved_choices_are_those_of_the_groups_without_hydras(folder: Path) -> None:
    choices = saved_choices(folder)
    assert choices["dataset"] == "rings" and choices["schedule@distill.weights.kl"] == "linear"
    assert not any(group.startswith("hydra/") for group in choices)
    assert None not in choices.values() and "experiment" not in choices


@pytest.mark.parametrize("key", ["from_run", "resume"])
def test_taken_up_without_changes_it_is_the_same_run(folder: Path, key: str) -> None:
    cfg = taken(folder, key)
    assert cfg[key] == str(folder)
    assert differences(load_saved(folder), cfg) == {}
    check_config(cfg, overrides=own_words(str(folder), words(folder, key)))


def test_from_run_lays_what_was_typed_over_what_was_saved(folder: Path) -> None:
    cfg = taken(folder, "from_run", "trainer.max_epochs=9", "distill.weights.kl.end=4")
    assert (cfg.trainer.max_epochs, cfg.seed, cfg.distill.weights.kl.end) == (9, 5, 4)
    changed = differences(load_saved(folder), cfg)
    assert changed == {"trainer.max_epochs": (3, 9), "distill.weights.kl.end": (2, 4)}


def test_from_run_takes_another_group_whole(folder: Path) -> None:
    cfg = taken(folder, "from_run", "logger=wandb", "logger.project=mine")
    assert cfg.logger._target_.endswith("wandb_logger") and cfg.logger.project == "mine"
    assert cfg.choices.logger == "wandb" and cfg.seed == 5


def test_from_run_takes_another_schedule_in_its_place(folder: Path) -> None:
    cfg = taken(folder, "from_run", "schedule@distill.weights.kl=cosine", "distill.weights.kl.end=3")
    assert (cfg.distill.weights.kl.name, cfg.distill.weights.kl.end) == ("cosine", 3)
    assert cfg.distill.temperature == load_saved(folder).distill.temperature


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("student/fusion=gated", "student.fusion"),
        ("student/fusion@teacher.model.fusion=gated", "teacher.model.fusion"),
    ],
)
def test_from_run_takes_another_part_of_a_model(tmp_path: Path, word: str, key: str) -> None:
    write_config(RunFolder(tmp_path), check_config(composed("dataset=medpix", "seed=5")))
    cfg = taken(tmp_path, "from_run", word)
    assert OmegaConf.select(cfg, key)._target_.endswith("Gated") and cfg.seed == 5
    assert {name.rpartition(".")[0] for name in differences(load_saved(tmp_path), cfg)} == {key}
    check_config(cfg)


def test_an_added_key_comes_along(folder: Path) -> None:
    assert taken(folder, "from_run", "+optimizer.eps=1e-6").optimizer.eps == 1e-6


def test_a_key_cannot_be_taken_out_of_a_saved_run(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"~optimizer\.fused: a saved run's key cannot be taken out"):
        taken(folder, "from_run", "~optimizer.fused")


def test_resume_refuses_every_change_with_both_values(folder: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        taken(folder, "resume", "trainer.max_epochs=9", "seed=6", "figures=true")
    said = str(refused.value)
    assert "trainer.max_epochs is 3, asked 9" in said and "seed is 5, asked 6" in said
    assert "figures" not in said, "it was so before"
    assert f"resume={folder}" in said and "from_run" in said


def test_resume_passes_over_what_only_repeats(folder: Path) -> None:
    assert taken(folder, "resume", "trainer.max_epochs=3", "seed=5").seed == 5


def test_resume_and_from_run_exclude_each_other(folder: Path) -> None:
    line = [*words(folder, "resume"), f"from_run={folder}"]
    with pytest.raises(ConfigError, match="exclude each other"):
        take_up(composed(*line), line)


def test_a_redacted_value_has_to_be_given_again(folder: Path) -> None:
    saved = load_saved(folder)
    OmegaConf.update(saved, "logger.api_key", REDACTED, force_add=True)
    OmegaConf.save(saved, folder / "config.yaml")
    with pytest.raises(ConfigError, match=r"logger\.api_key: was redacted when the run was saved; give it again"):
        taken(folder, "from_run")
    assert taken(folder, "from_run", "+logger.api_key=new").logger.api_key == "new"


def test_only_what_was_typed_counts_as_typed(folder: Path) -> None:
    line = words(folder, "from_run", "seed=9")
    assert own_words(str(folder), line) == [f"from_run={folder}", "seed=9"]
    assert own_words(None, line) == line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is not a run folder: it holds no config.yaml"),
        (b"a: [1", "is not whole YAML"),
        (b"\xff\xfe\x00", "is not whole YAML"),
        (b"- 1\n- 2\n", "holds no configuration"),
    ],
)
def test_a_folder_that_holds_no_run_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(DataError, match=said) as refused:
        load_saved(tmp_path)
    assert str(tmp_path) in str(refused.value)


def test_leaves_are_listed_by_their_full_key() -> None:
    assert flat({"a": {"b": 1, "c": {"d": [1, {"e": 2}]}}, "f": None}) == {"a.b": 1, "a.c.d": [1, {"e": 2}], "f": None}


def test_differences_see_added_and_missing_keys_and_pass_over_the_way_back() -> None:
    old = OmegaConf.create({"a": 1, "b": {"c": 2}, "resume": None, "choices": {"logger": "none"}})
    new = OmegaConf.create({"a": 1, "b": {"d": 3}, "resume": "x", "choices": {"logger": "wandb"}})
    assert differences(old, new) == {"b.c": (2, None), "b.d": (None, 3)}
