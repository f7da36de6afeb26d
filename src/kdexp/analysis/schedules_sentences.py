"""The sentences of the analysis of schedules: what was run, how far to trust it, ranges and effects.

Each is filled from computed values or left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdexp.analysis.compared import Sampling
from kdexp.analysis.schedules_advice import winners
from kdexp.analysis.schedules_reading import ScheduledStudy
from kdexp.analysis.schedules_rows import Frame, Metric, Reference
from kdexp.analysis.schedules_tables import Table, number_format
from kdexp.analysis.schedules_verdicts import sampling_error


def head(study: ScheduledStudy, frame: Frame) -> list[str]:
    """What was run: counts, data and what its settings make of it, seeds, metrics."""
    data, n = study.first.data, len(frame.configurations)
    states = ", ".join(f"{count} {state}" for state, count in study.counts.items())
    seeds = sorted({seed for c in frame.configurations for seed in c.seeds})
    per = sorted({len(c.seeds) for c in frame.configurations})
    each = f"{per[0]}" if len(per) == 1 else f"{per[0]} to {per[-1]}"
    source = "SYNTHETIC" if data["source"] == "synthetic" else data["source"]
    options = {group: name for group, name in study.first.settings.choices.items() if group.startswith("dataset/")}
    chosen = ", ".join(f"{group}={name}" for group, name in options.items())
    return [
        f"Trials: {states}. Configurations with T and α: {n}; seeds per configuration: {each} "
        f"({'seed' if len(seeds) == 1 else f'{len(seeds)} different,'} {_few(seeds)}"
        + ("" if per[-1] == 1 else "; each number is the mean over a configuration's seeds")
        + ").",
        f"Data: {data['name']}, {source}, fingerprint {data['fingerprint']}.",
        *([f"Data options: {chosen}."] if chosen else []),
        *data.get("notes", ()),
        f"Numbers are of {frame.split} ({data['n'][frame.split]:,} samples of "
        f"{data['n_clusters'][frame.split]:,} {data['cluster']}s); α is {study.weight_key}.",
    ]


def _few(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds)) if len(seeds) <= 4 else f"{seeds[0]} to {seeds[-1]}"


def cautions(study: ScheduledStudy, frame: Frame) -> list[str]:
    """What limits all that follows."""
    lines = list(study.problems)
    if frame.chosen_on == "test":
        lines.append(
            "SELECTED ON TEST, as asked: what is called best was chosen on the numbers quoted, which flatter it."
        )
    elif frame.split == "val":
        n = len(frame.configurations)
        n_test = sum(np.isfinite(c.value("test", frame.primary)) for c in frame.configurations)
        lines.append(
            f"{n_test} of {n} configurations were measured on test, so tables quote val, the split that also chooses, "
            "and best values flatter; winners are told on test where they were measured there. "
            f"`{study.test_pass}` measures those with a checkpoint "
            "(hydra.sweeper.keep_checkpoints)."
        )
    if max(len(c.seeds) for c in frame.configurations) == 1:
        own = len({c.seeds for c in frame.configurations}) > 1
        lines.append(
            "One seed per configuration"
            + (", each its own" if own else "")
            + ": no difference between two configurations is shown to hold for other seeds."
        )
    for metric in frame.metrics:
        missing = int((~np.isfinite(frame.quoted(metric))).sum())
        if missing:
            said = f"{missing} configurations have no finite {metric.label} on {frame.split} and are left out of it."
            lines.append(said)
    if study.also_varied:
        lines.append(f"Other settings differ too, and tables average over them: {', '.join(study.also_varied)}.")
    moving = [c for c in frame.configurations if c.temperature.moves or c.weight.moves]
    known = [c for c in moving if c.reached_weight is not None]
    early = sum(not c.ended() for c in known)
    if early:
        lines.append(
            f"In {early} of {len(known)} configurations with a schedule the best epoch came before the schedule's end, "
            "so T₁ or α₁ was not reached by the weights that were measured (see T reached, α reached)."
        )
    return lines


def references(study: ScheduledStudy, frame: Frame) -> list[str]:
    """Teacher and no-KD, and how much of what separates them the winner wins back."""
    lines, m = [], frame.primary
    for reference in (study.teacher, study.no_kd):
        values = (reference.values if reference else {}).get(frame.split, {})
        said = [f"{one.label} {values[one.key]:{number_format(one)}}" for one in frame.metrics if one.key in values]
        if reference is not None and said:
            seeds = "" if reference.n_seeds == 1 else f" (mean of {reference.n_seeds} seeds)"
            lines.append(f"{reference.name}{seeds}: {', '.join(said)} on {frame.split}.")
    if study.no_kd is None:
        lines.append(
            "No run without distillation is part of this study, so nothing is said of what distillation adds; "
            f"`python -m kdexp confirm study={study.name}` trains them, reference=RUN sets one beside the study here."
        )
    best = frame.ranked(m)[0]
    top, low = (_value(reference, frame.split, m) for reference in (study.teacher, study.no_kd))
    if top is not None and low is not None and m.sign * (top - low) > 0:
        gained = best.value(frame.split, m) - low
        signed = number_format(m, signed=True)
        lines.append(
            f"From no-KD to the teacher it is {top - low:{signed}} {m.label} on {frame.split}, to the configuration "
            f"chosen, {best.name}, {gained:{signed}}: {gained / (top - low):.0%} of the way."
        )
    return lines


def _value(reference: Reference | None, split: str, metric: Metric) -> float | None:
    return None if reference is None else reference.values.get(split, {}).get(metric.key)


def ranges(study: ScheduledStudy, frame: Frame) -> list[str]:
    lines = []
    for metric in frame.metrics:
        values = frame.quoted(metric)
        values = values[np.isfinite(values)]
        if len(values) == 0:
            continue
        shape, signed = number_format(metric), number_format(metric, signed=True)
        said = f"{frame.split} {metric.label}: {values.min():{shape}} to {values.max():{shape}}"
        other = _value(study.no_kd, frame.split, metric)
        if other is not None:
            said += f", from no-KD {values.min() - other:{signed}} to {values.max() - other:{signed}}"
        lines.append(f"{said}.")
    return lines


def effects(frame: Frame, tables: Mapping[str, Table]) -> list[str]:
    """What start values and strategies go with, in a sentence each."""
    one_seed = max(len(c.seeds) for c in frame.configurations) == 1
    tail = ". One seed: not shown for others." if one_seed else "."
    lines = []
    for row in tables["correlations"]["rows"]:
        if row["r"] is not None:
            lines.append(
                f"{row['of']} with {row['with']}: r {row['r']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] over "
                f"{row['n']} configurations, p {row['p']:.2g}, {row['slope']:+.2g} per unit{tail}"
            )
    lines += [
        f"Best level of {symbol} by {frame.chosen_on}: {said}{tail}"
        for name, symbol in (("levels_T0", "T₀"), ("levels_alpha0", "α₀"))
        if (said := _best_level(frame, tables[name]["rows"]))
    ]
    rows = tables["strategies"]["rows"]
    if len(rows) > 1:
        key, shape = f"mean/{frame.primary.key}", number_format(frame.primary)
        means = ", ".join(f"{row['strategy']} {row[key]:{shape}} ({row['n']})" for row in rows)
        lines.append(
            f"Mean {frame.split} {frame.primary.label} by strategy, in the order of {frame.chosen_on}: {means}{tail}"
        )
    return lines


def _best_level(frame: Frame, rows: Sequence[Mapping[str, Any]]) -> str:
    """The best level, and how it stands to the others on the quoted split; empty where none could be paired."""
    places: dict[str, list[str]] = {"ahead of": [], "behind": [], "tied with": [], "too few pairs with": []}
    for row in rows:
        if row["standing"] == "apart":
            ahead = frame.primary.sign * row["difference"] < 0
            places["ahead of" if ahead else "behind"].append(row["level"])
        elif row["standing"] != "best":
            places["tied with" if row["standing"] == "tied" else "too few pairs with"].append(row["level"])
    ends = {"ahead of": " (interval without 0)", "behind": " (interval without 0)", "tied with": " (interval with 0)"}
    if not any(places[word] for word in ends):
        return ""
    said = [f"{word} {', '.join(there)}{ends.get(word, '')}" for word, there in places.items() if there]
    best = next(row["level"] for row in rows if row["standing"] == "best")
    return f"{best}. On {frame.split}, paired by all other settings: {'; '.join(said)}"


def noise(frame: Frame, sampling: Sampling) -> list[str]:
    """How far one run's number moves with the samples alone, beside how far configurations scatter."""
    best = winners(frame)[f"best {frame.primary.label}"]
    found = sampling_error(best, frame.primary, sampling)
    values = frame.quoted(frame.primary)
    if found is None or len(values) < 2:
        return []
    half = (found["high"] - found["low"]) / 2
    return [
        f"One configuration's {found['split']} {frame.primary.label} carries ±{half:.2g} from the {found['n']:,} "
        f"samples alone ({sampling.level:.0%}; {best.name}); over all configurations the std is "
        f"{values.std(ddof=1):.2g} on {frame.split}."
    ]
