"""A saved run's configuration, taken up again: repeated in a new folder, or continued in its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from kdexp.errors import ConfigError, DataError
from kdexp.records import REDACTED, RunFolder

_NOT_COMPARED = ("resume", "from_run", "choices")


def load_saved(folder: Path) -> DictConfig:
    """A run's resolved configuration. Raises DataError where the folder holds none."""
    path = RunFolder(folder).config
    if not path.is_file():
        raise DataError(f"{folder} is not a run folder: it holds no config.yaml")
    try:
        saved = OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not whole YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(saved, DictConfig) or not saved:
        raise DataError(f"{path} holds no configuration")
    return saved


def saved_choices(folder: Path) -> dict[str, str]:
    """The option that the saved run chose in each config group."""
    choices = load_saved(folder).get("choices") or {}
    return {str(group): str(name) for group, name in choices.items() if name is not None}


def take_up(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """What to run: `cfg` itself, or the saved configuration with the overrides that came along.

    `from_run` lays the overrides over the saved values; `resume` refuses any that would change one.
    """
    folder = cfg.resume or cfg.from_run
    if not folder:
        return cfg
    if cfg.resume and cfg.from_run:
        raise ConfigError("resume and from_run exclude each other: continue that run, or repeat it in a new folder")
    saved = load_saved(Path(folder))
    wanted = OmegaConf.create(OmegaConf.to_container(saved, resolve=False))
    assert isinstance(wanted, DictConfig)
    for word in overrides:
        _lay_over(wanted, cfg, word)
    if cfg.resume:
        changed = differences(saved, wanted)
        if changed:
            shown = "; ".join(f"{key} is {old!r}, asked {new!r}" for key, (old, new) in changed.items())
            raise ConfigError(
                f"resume={folder}: a run continues as it was saved ({shown}); for a changed run use from_run"
            )
    hidden = [key for key, value in flat(OmegaConf.to_container(wanted)).items() if value == REDACTED]
    if hidden:
        raise ConfigError([f"{key}: was redacted when the run was saved; give it again, {key}=..." for key in hidden])
    wanted.resume, wanted.from_run = cfg.resume, cfg.from_run
    return wanted


def own_words(folder: str | None, overrides: Sequence[str]) -> list[str]:
    """The overrides without those that only repeat the saved run's choices, which the command line puts in front."""
    if not folder:
        return list(overrides)
    repeated = {f"{group}={name}" for group, name in saved_choices(Path(folder)).items()}
    return [word for word in overrides if word not in repeated]


def differences(old: DictConfig, new: DictConfig) -> dict[str, tuple[Any, Any]]:
    """Full key -> (old, new) wherever two configurations differ; a key that is not there counts as None."""
    before, after = (flat(OmegaConf.to_container(cfg, resolve=True)) for cfg in (old, new))
    keys = [key for key in {**before, **after} if key.split(".")[0] not in _NOT_COMPARED]
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Leaves by full key; a list is a leaf."""
    if not isinstance(tree, Mapping):
        return {path: tree}
    return {
        key: value
        for name, inner in tree.items()
        for key, value in flat(inner, f"{path}.{name}" if path else str(name)).items()
    }


def _lay_over(wanted: DictConfig, cfg: DictConfig, word: str) -> None:
    key = word.lstrip("+").partition("=")[0]
    if key in ("resume", "from_run"):
        return
    if key.startswith("~"):
        raise ConfigError(f"{word}: a saved run's key cannot be taken out; set it to another value")
    if key in cfg.choices:
        if wanted.choices.get(key) == cfg.choices[key]:
            return
        wanted.choices[key] = cfg.choices[key]
        package = key.partition("@")[2] or key.replace("/", ".")
        if OmegaConf.select(cfg, package, throw_on_missing=False) is None:
            raise ConfigError(f"{word}: changes several sections at once, so it cannot be laid over a saved run")
        key = package
    node = OmegaConf.select(cfg, key, throw_on_missing=False)
    value = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    OmegaConf.update(wanted, key, value, merge=False, force_add=True)
