"""What a sweep is to do: the sweeper's settings, checked, with the study's name, folder and storage settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kdexp.errors import ConfigError
from kdexp.records import RunFolder
from kdexp.sweeps.limits import Limit, name_problems, read_limits

_COUNTS = {"n_trials": 1, "n_workers": 1, "max_retries": 0, "max_consecutive_failures": 1, "keep_checkpoints": 0}

_AS_THEY_ARE = ("timeout", "pairing", "base_seed", "comparison", "heartbeat_seconds")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One sweep. `directions` has an entry per objective."""

    study_name: str
    folder: Path
    url: str
    directions: tuple[str, ...]
    objectives: tuple[str, ...]
    n_trials: int
    n_workers: int
    max_retries: int
    max_consecutive_failures: int
    timeout: float | None
    pairing: str
    base_seed: int
    keep_checkpoints: int
    comparison: str | None
    heartbeat_seconds: int
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any]
    enqueue: Any
    constraints: tuple[Limit, ...]
    wandb: Mapping[str, Any] | None
    """`project`, `entity` and `mode` of a study whose trials log to W&B."""

    def trial_folder(self, number: int) -> RunFolder:
        """Folders are named by trial number, so a re-run never meets an older trial's files."""
        return RunFolder(self.folder / "trials" / f"trial_{number:05d}")

    def seed_of(self, slot: int) -> int:
        """A retry keeps its slot, and so its seed."""
        return self.base_seed if self.pairing == "common" else self.base_seed + slot


def make_plan(settings: Mapping[str, Any], config: DictConfig) -> Plan:
    """Raises ConfigError with everything that is wrong with `hydra.sweeper`."""
    problems = [
        f"hydra.sweeper.{name}: must be a whole number, at least {least}, got {settings[name]!r}"
        for name, least in _COUNTS.items()
        if not isinstance(settings[name], int) or isinstance(settings[name], bool) or settings[name] < least
    ]
    if settings["pairing"] not in ("slot", "common"):
        problems.append(f"hydra.sweeper.pairing: must be slot or common, got {settings['pairing']!r}")
    if settings["comparison"] not in (None, "val", "test"):
        problems.append(f"hydra.sweeper.comparison: must be val, test or null, got {settings['comparison']!r}")
    if settings["timeout"] is not None and not settings["timeout"] > 0:
        problems.append(f"hydra.sweeper.timeout: must be above 0 seconds, got {settings['timeout']!r}")
    directions = _directions(settings["direction"])
    objectives = _names(config.objective)
    if len(directions) != len(objectives):
        problems.append(
            f"hydra.sweeper.direction: {len(directions)} directions for {len(objectives)} objectives "
            f"({', '.join(objectives)}); objective and direction need an entry each"
        )
    problems += [
        f"hydra.sweeper.direction: must be maximize or minimize, got {direction!r}"
        for direction in directions
        if direction not in ("maximize", "minimize")
    ]
    problems += [problem for name in objectives for problem in name_problems(name, "objective")]
    if len(directions) > 1 and _prunes(settings["pruner"]):
        problems.append(
            "hydra/sweeper/pruner: Optuna cannot prune a study of several objectives; use hydra/sweeper/pruner=nop"
        )
    limits, wrong = read_limits(_plain(settings["constraints"]))
    problems += wrong
    name = settings["study_name"] or config.choices.get("hparams_search")
    if not name or "/" in str(name):
        problems.append("hydra.sweeper.study_name: give the study a name (one folder name, without a slash)")
    if problems:
        raise ConfigError(problems)
    folder = Path(config.paths.output_root).resolve() / "studies" / str(name)
    return Plan(
        study_name=str(name),
        folder=folder,
        url=_url(settings["storage"], folder),
        directions=directions,
        objectives=objectives,
        sampler=_plain(settings["sampler"]) or {},
        pruner=_plain(settings["pruner"]) or {"_target_": "optuna.pruners.NopPruner"},
        enqueue=_plain(settings["enqueue"]),
        constraints=limits,
        wandb=wandb_settings(config.logger),
        **{key: settings[key] for key in (*_COUNTS, *_AS_THEY_ARE)},
    )


def wandb_settings(logger: Mapping[str, Any]) -> dict[str, Any] | None:
    """Where runs with this logger go in W&B, so that what is logged about them goes there too; None for another one."""
    if not str(logger["_target_"]).endswith(".wandb_logger"):
        return None
    return {key: logger[key] for key in ("project", "entity", "mode")}


def _directions(value: Any) -> tuple[str, ...]:
    entries = list(value) if OmegaConf.is_list(value) or isinstance(value, (list, tuple)) else [value]
    return tuple(str(getattr(entry, "name", entry)) for entry in entries)


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _prunes(pruner: Any) -> bool:
    target = (_plain(pruner) or {}).get("_target_", "")
    return bool(target) and not target.endswith("NopPruner")


def _url(storage: str | None, folder: Path) -> str:
    """The storage's URL; a relative SQLite path is made absolute once, so that jobs may change directory."""
    if storage is None:
        return f"sqlite:///{folder / 'study.db'}"
    prefix = "sqlite:///"
    if storage.startswith(prefix) and ":memory:" not in storage:
        return f"{prefix}{Path(storage.removeprefix(prefix)).resolve()}"
    if storage == prefix or ":memory:" in storage or storage == "sqlite://":
        raise ConfigError(
            "hydra.sweeper.storage: a study in memory cannot be resumed or shared; name a file or a server"
        )
    return storage


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True, enum_to_str=True) if OmegaConf.is_config(node) else node
