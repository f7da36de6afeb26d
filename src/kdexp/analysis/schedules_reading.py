"""A study's runs read as configurations with schedules, with its teacher and its runs without distillation.

Reads records, configurations and `trials.csv` only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdexp.analysis.compared import Entry
from kdexp.analysis.schedules_rows import CONSTANT, Configuration, Frame, Metric, Reference, Span
from kdexp.analysis.settings import SEEDS, Settings, differing
from kdexp.analysis.study import is_feasible
from kdexp.analysis.trials_table import read_trials
from kdexp.bootstrap import ERRORS
from kdexp.errors import StudyError
from kdexp.records import RunFolder, fingerprint, read_json

TEMPERATURE_KEY = "distill.temperature"
WEIGHT_KEYS = ("distill.beta", "distill.alpha", "distill.weights.kl")
"""The first that is set weighs the distillation: where there is a beta, alpha weighs the labels."""
_LABELS = {"auc": "AUC", "rejection_50": "BR50", "f1": "F1"}


@dataclass(frozen=True, kw_only=True)
class ScheduledStudy:
    """A study's complete runs with schedules, and what stands beside them."""

    name: str
    folder: Path
    configurations: tuple[Configuration, ...]
    no_kd: Reference | None
    teacher: Reference | None
    counts: Mapping[str, int]
    weight_key: str
    objective: str
    also_varied: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def first(self) -> Entry:
        return next(iter(self.configurations[0].entries.values()))

    @property
    def test_pass(self) -> str:
        """What measures all its runs on test that have their checkpoint."""
        return f"python -m kdexp report study={self.name} split=test top={self.counts['complete']}"


def is_scheduled(settings: Settings) -> bool:
    """Whether this run's temperature or weight of distillation moved."""
    key = weight_key(settings)
    spans = (span(settings, TEMPERATURE_KEY), None if key is None else span(settings, key))
    return any(one is not None and one.moves for one in spans)


def weight_key(settings: Settings) -> str | None:
    """Where the weight of distillation is set; None where there is none."""
    return next((key for key in WEIGHT_KEYS if span(settings, key) is not None), None)


def span(settings: Settings, key: str) -> Span | None:
    """The schedule under a key, a bare number being a constant; None where there is none."""
    values = settings.values
    start = values.get(key, values.get(f"{key}.start"))
    if settings.is_no_kd or start is None:
        return None
    curve, end = str(values.get(f"{key}.name") or CONSTANT), values.get(f"{key}.end")
    return Span(float(start), float(start if end is None else end), curve)


def read_study(folder: Path, beside: Entry | None = None) -> ScheduledStudy:
    """`beside` is a run of the same data that is none of the study's: where it does not distil, it is the no-KD run.

    Raises StudyError where no complete run had a schedule that moves, or where runs cannot be set side by side."""
    summary, rows = read_json(folder / "study_summary.json"), read_trials(folder / "trials.csv")
    entries, problems = _entries(folder, rows)
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    name = str(summary["study_name"])
    if counts.get("pruned"):
        problems.append(f"Left out: {counts['pruned']} pruned trials, which were not trained to their end.")
    if len({entry.measured_on for entry, _ in entries}) > 1:
        raise StudyError(f"{name}: its runs were measured on different data or splits, so no table can hold them all")
    keys = [key for entry, _ in entries if (key := weight_key(entry.settings)) and _spans(entry)]
    if not any(is_scheduled(entry.settings) for entry, _ in entries):
        raise StudyError(
            f"{name}: none of its {len(entries)} complete runs has a schedule that moves ({TEMPERATURE_KEY}, or one of "
            f"{', '.join(WEIGHT_KEYS)}), so there are no schedules to analyse; `report study={name}` compares its runs"
        )
    if len(set(keys)) > 1:
        raise StudyError(
            f"{name}: its runs weigh the distillation by different keys ({', '.join(sorted(set(keys)))}), whose "
            "numbers mean different things; give the presets studies of their own"
        )
    scheduled = [(entry, number) for entry, number in entries if _spans(entry)]
    everyone = [entry for entry, _ in entries] + ([] if beside is None else [beside])
    no_kd = [entry for entry in everyone if entry.settings.is_no_kd]
    no_kd += [twin for entry in everyone if (twin := entry.without_distillation) is not None]
    n_others = sum(not _spans(entry) and not entry.settings.is_no_kd for entry, _ in entries)
    if n_others:
        problems.append(f"Left out: {n_others} complete runs that distil without a temperature and a weight.")
    teacher, teacher_problems = _teacher([entry for entry, _ in scheduled])
    return ScheduledStudy(
        name=name,
        folder=folder,
        configurations=_configurations(scheduled, keys[0]),
        no_kd=_no_kd(no_kd),
        teacher=teacher,
        counts=counts,
        weight_key=keys[0],
        objective=str(summary["objectives"][0]),
        also_varied=_also_varied([entry.settings for entry, _ in scheduled], keys[0]),
        problems=(*problems, *teacher_problems),
    )


def make_frame(study: ScheduledStudy, chosen_on: str = "val") -> Frame:
    """The frame of a study: quoted on test where every configuration was measured there, else on val.

    Raises StudyError where the split that is to choose has no value of some run.
    """
    primary, second = choose_metrics(study.first.run.record, study.configurations)
    missing = [c.name for c in study.configurations if np.isnan(c.value(chosen_on, primary))]
    if missing:
        way_out = (
            f"; `{study.test_pass} chosen_on=test` measures those with a checkpoint (hydra.sweeper.keep_checkpoints); "
            "where there are none any more, val has to choose (chosen_on=val)"
        )
        raise StudyError(
            f"{study.name}: {len(missing)} of {len(study.configurations)} configurations have no {primary.label} on "
            f"{chosen_on} ({', '.join(missing[:3])}), so they cannot be chosen by it"
            + (way_out if chosen_on == "test" else "")
        )
    everywhere = not any(np.isnan(c.value("test", primary)) for c in study.configurations)
    return Frame(
        configurations=study.configurations,
        primary=primary,
        second=second,
        split="test" if everywhere else "val",
        chosen_on=chosen_on,
    )


def choose_metrics(record: Mapping[str, Any], configurations: Sequence[Configuration]) -> tuple[Metric, Metric | None]:
    """The score, and the first other metric of the tasks: background rejection where there is one."""
    score = list(record["score"])
    reported = [f"{task['name']}/{metric}" for task in record["tasks"] for metric in task["metrics"]]
    others = [key for key in reported if score != [key]]
    second = next((key for key in others if key.endswith("/rejection_50")), others[0] if others else None)
    short = len(record["tasks"]) == 1

    def metric(key: str, said: str) -> Metric:
        values = [c.values[split][key] for c in configurations for split in c.values if key in c.values[split]]
        own = said.rpartition("/")[2]
        label = _LABELS.get(own, own) if short or "/" not in said else said
        digits = 4 if all(abs(value) <= 1 for value in values) else 2
        return Metric(key, label, digits, -1 if own in ERRORS else 1)

    primary = metric("score", score[0] if len(score) == 1 else "score")
    return primary, None if second is None else metric(second, second)


def _entries(folder: Path, rows: Sequence[Mapping[str, str]]) -> tuple[list[tuple[Entry, int]], list[str]]:
    """The complete trials that keep all constraints and have their records, with their numbers."""
    found, problems = [], []
    done = [row for row in rows if row["state"] == "complete"]
    n_broken = sum(not is_feasible(row) for row in done)
    if n_broken:
        problems.append(f"Left out: {n_broken} complete trials that break a constraint of the study.")
    for row in filter(is_feasible, done):
        number = int(row["number"])
        run = folder / "trials" / f"trial_{number:05d}"
        if RunFolder(run).record.exists():
            found.append((Entry.read(run, row.get("name") or f"trial {number}"), number))
        else:
            problems.append(f"Left out: trial {number}, whose folder holds no run.json any more.")
    return found, problems


def _spans(entry: Entry) -> tuple[Span, Span] | None:
    """Temperature and weight, of a run that has both."""
    key = weight_key(entry.settings)
    temperature = span(entry.settings, TEMPERATURE_KEY)
    weight = None if key is None else span(entry.settings, key)
    return None if temperature is None or weight is None else (temperature, weight)


def _configurations(scheduled: Sequence[tuple[Entry, int]], key: str) -> tuple[Configuration, ...]:
    groups: dict[str, dict[int, tuple[Entry, int]]] = {}
    for entry, number in scheduled:
        groups.setdefault(entry.settings.alike(), {}).setdefault(entry.seed, (entry, number))
    return tuple(_configuration(group, key) for group in groups.values())


def _configuration(group: Mapping[int, tuple[Entry, int]], key: str) -> Configuration:
    entries = {seed: entry for seed, (entry, _) in sorted(group.items())}
    first, order = next(iter(group.values()))
    spans = _spans(first)
    assert spans is not None
    reached = [_at_best(entry) for entry in entries.values()]
    return Configuration(
        name=first.name,
        order=order,
        temperature=spans[0],
        weight=spans[1],
        values={split: _means([entry.values(split) for entry in entries.values()]) for split in ("val", "test")},
        seeds=tuple(entries),
        rest={"temperature": _without_start(first, TEMPERATURE_KEY), "weight": _without_start(first, key)},
        best_epoch=_mean([epoch for epoch, _, _ in reached]),
        reached_temperature=_mean([temperature for _, temperature, _ in reached]),
        reached_weight=_mean([weight for _, _, weight in reached]),
        entries=entries,
    )


def _at_best(entry: Entry) -> tuple[float | None, float | None, float | None]:
    """The best epoch, and the temperature and the weight that it was trained with."""
    epoch = entry.part["metrics"]["val"].get("best_epoch")
    row = next((row for row in entry.run.history if row["epoch"] == epoch), {})
    return epoch, row.get("temperature"), row.get("weight/kl")


def _without_start(entry: Entry, key: str) -> str:
    ignored = (key, f"{key}.start", *SEEDS)
    return fingerprint({name: value for name, value in entry.settings.values.items() if name not in ignored})


def _means(found: Sequence[Mapping[str, Any] | None]) -> dict[str, float]:
    """The means of the metrics that all have."""
    known = [{name: value for name, value in (values or {}).items() if value is not None} for values in found]
    return {name: float(np.mean([one[name] for one in known])) for name in known[0] if all(name in o for o in known)}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _no_kd(entries: Sequence[Entry]) -> Reference | None:
    by_seed = {entry.seed: entry for entry in entries}
    if not by_seed:
        return None
    values = {split: _means([entry.values(split) for entry in by_seed.values()]) for split in ("val", "test")}
    return Reference("no-KD", values, len(by_seed))


def _teacher(entries: Sequence[Entry]) -> tuple[Reference | None, list[str]]:
    """The one teacher of all runs; where there were several, none, and a sentence."""
    teachers = {facts["fingerprint"]: facts for entry in entries if (facts := entry.run.record.get("teacher"))}
    if len(teachers) > 1:
        return None, [f"The runs had {len(teachers)} different teachers, so none is told beside them."]
    for facts in teachers.values():
        values = {split: _means([facts["metrics"].get(split)]) for split in ("val", "test")}
        return Reference("teacher", values, 1), []
    return None, []


def _also_varied(settings: Sequence[Settings], key: str) -> tuple[str, ...]:
    """Settings that differ between these runs, schedules and seeds apart."""
    names = dict.fromkeys(name for row in differing(settings) for name in row)
    return tuple(name for name in names if TEMPERATURE_KEY not in name and key not in name)
