"""Which settings of a command line nothing will read, given the others: each is a mistake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def without_effect(plain: Mapping[str, Any], overrides: Sequence[str]) -> Iterator[str]:
    """Settings of the command line that nothing will read, given the others."""
    keys = [word.lstrip("+~").partition("=")[0] for word in overrides]
    preset = plain["distill"]
    trainer = plain["trainer"]
    for key in keys:
        if key.startswith("schedule@distill."):
            knob = key.removeprefix("schedule@distill.")
            if _at(preset, knob) is None:
                yield f"{key}: has no effect, {preset['_target_']} has no {knob}"
    yield from _replaced_schedules(plain, overrides)
    if preset["_target_"].endswith(".none") and not plain["with_no_kd"]:
        idle = [key for key in keys if (key.partition("@")[2] or key).startswith("teacher")]
        yield from (f"{key}: has no effect, distill=none uses no teacher" for key in idle)
    if preset["_target_"].endswith(".none") and plain["with_no_kd"]:
        yield "with_no_kd: has no effect, distill=none is the no-KD run"
    if trainer["gradient_clip_algorithm"] is not None and trainer["gradient_clip_val"] is None:
        yield "trainer.gradient_clip_algorithm: has no effect without trainer.gradient_clip_val"
    teacher = plain["teacher"]
    if teacher["cache"] == "off" and "teacher.cache_dtype" in keys:
        yield "teacher.cache_dtype: has no effect with teacher.cache=off"
    if teacher["checkpoint"] is not None:
        training = ("teacher.max_epochs", "teacher.seed", "teacher.ema")
        unused = [key for key in keys if key in training or key.startswith("teacher.optimizer")]
        yield from (f"{key}: has no effect, teacher.checkpoint is used instead of training" for key in unused)
    if plain["dataset"].get("source") == "real":
        generator = [key for key in keys if key.startswith("dataset.generator")]
        yield from (f"{key}: has no effect with dataset.source=real" for key in generator)


def _replaced_schedules(plain: Mapping[str, Any], overrides: Sequence[str]) -> Iterator[str]:
    """Moving schedules of the command line in whose place a number stands."""
    for word in overrides:
        group, _, option = word.lstrip("+~").partition("=")
        knob = group.removeprefix("schedule@")
        if knob != group and option not in ("", "constant", "null") and isinstance(_at(plain, knob), (int, float)):
            yield f"{group}: a number for {knob} takes the place of the schedule; write {knob}.start for it"


def _at(plain: Mapping[str, Any], key: str) -> Any:
    """What a full key names; None where there is nothing."""
    value: Any = plain
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
