"""What was set otherwise in which run: the settings that differ, and which runs are alike but for their seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kdexp.errors import DataError
from kdexp.records import RunFolder, fingerprint

SEEDS = ("seed", "teacher.seed", "data.seed")
_NO_SETTING = (
    "paths", "logger", "figures", "resume", "from_run", "objective", "interval", "with_no_kd", "choices",
    "dataset.root",
)  # fmt: skip
"""Keys that change where results go or what is printed, not what is trained."""
_OF_DISTILLATION = ("distill", "teacher")


@dataclass(frozen=True)
class Settings:
    """A run's configuration: `values` by full key, and the option chosen in each config group."""

    values: Mapping[str, Any]
    choices: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> Settings:
        """Raises DataError where the folder holds no configuration."""
        path = RunFolder(folder).config
        if not path.is_file():
            raise DataError(f"{folder} is not a run folder: it holds no config.yaml")
        try:
            saved = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is not whole YAML: {str(error).splitlines()[0]}") from None
        if not isinstance(saved, Mapping):
            raise DataError(f"{path} holds no configuration")
        values = {key: value for key, value in _leaves(saved, "") if not _within(key, _NO_SETTING)}
        choices = {str(group): str(name) for group, name in (saved.get("choices") or {}).items() if name is not None}
        return cls(values, choices)._without_idle_parts()

    @property
    def is_no_kd(self) -> bool:
        """Whether the student was trained without distillation."""
        return str(self.values.get("distill._target_", "")).endswith(".none")

    def knows(self, key: str) -> bool:
        """Whether the setting could mean anything here: a run without distillation says nothing of a teacher."""
        return not (self.is_no_kd and _within(key, ("teacher",)))

    def alike(self, *, but_for_distillation: bool = False) -> str:
        """The same text for configurations that differ in their seeds only (and in distillation and teacher)."""
        ignored = (*SEEDS, *(_OF_DISTILLATION if but_for_distillation else ()))
        return fingerprint({key: value for key, value in self.values.items() if not _within(key, ignored)})

    def without_distillation(self) -> Settings:
        """Of the student that `with_no_kd` trains beside this one."""
        values = {key: value for key, value in self.values.items() if not _within(key, ("distill",))}
        values["distill._target_"] = "kdexp.distill.objective.none"
        return Settings(values, {**self.choices, "distill": "none"})._without_idle_parts()

    def _without_idle_parts(self) -> Settings:
        """A run without distillation has no teacher, whatever its configuration says of one, and sets nothing of
        distillation by leaving it empty."""
        if not self.is_no_kd:
            return self
        idle = [key for key, value in self.values.items() if _within(key, ("distill",)) and value in (None, {})]
        return Settings(
            {key: value for key, value in self.values.items() if self.knows(key) and key not in idle},
            {group: name for group, name in self.choices.items() if self.knows(_package(group))},
        )


def differing(runs: Sequence[Settings]) -> list[dict[str, Any]]:
    """For each run its value of every setting that is not the same in all, seeds apart; None where it has none.

    Settings that follow from an option of a config group, `distill=crd` or `student/fusion=film`, are told by that
    option alone.
    """
    keys = dict.fromkeys(key for run in runs for key in run.values if key not in SEEDS)
    varying = [key for key in keys if not _is_constant([run.values.get(key) for run in runs if run.knows(key)])]
    groups = dict.fromkeys(group for run in runs for group in run.choices)
    chosen = {group: [run.choices.get(group) for run in runs] for group in groups}
    # The outer group first: student=small tells of student.fusion too.
    by_package = sorted((g for g in chosen if not _is_constant(chosen[g])), key=lambda group: len(_package(group)))
    columns: dict[str, list[Any]] = {}
    for key in varying:
        values = [run.values.get(key) for run in runs]
        group = next((g for g in by_package if _within(key, (_package(g),)) and _follows(values, chosen[g])), None)
        columns[group or key] = chosen[group] if group else values
    return [{name: column[number] for name, column in columns.items()} for number in range(len(runs))]


def _follows(values: Sequence[Any], options: Sequence[str | None]) -> bool:
    """Whether the option says what the value is."""
    pairs = list(zip(values, options, strict=True))
    return all(_is_constant([value for value, own in pairs if own == option]) for option in set(options))


def _is_constant(values: Sequence[Any]) -> bool:
    return len({fingerprint(value) for value in values}) <= 1


def _package(group: str) -> str:
    """Where a group's option lies in the configuration."""
    return group.partition("@")[2] or group.replace("/", ".")


def _within(key: str, places: Sequence[str]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


def _leaves(tree: Mapping[Any, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Full keys and their values; a list is a value, and so is an empty section."""
    for name, value in tree.items():
        key = f"{path}.{name}" if path else str(name)
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, key)
        else:
            yield key, value
