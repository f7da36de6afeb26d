"""Winners and recommendations of the analysis of schedules, each with its support and its verdict.

Winners are chosen on one split and told on test where they were measured there. A recommendation that needs several
seeds says *not shown* where there are none, and what would show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdexp.analysis.compared import Sampling
from kdexp.analysis.paired import MAX_SEEDS, holm
from kdexp.analysis.schedules_rows import CONSTANT, STRATEGIES, Configuration, Frame, Metric, Reference
from kdexp.analysis.schedules_statistics import consistency, scaled, spread_difference
from kdexp.analysis.schedules_tables import Column, Table, best_of, differences, number_format, table
from kdexp.analysis.schedules_verdicts import (
    NOT_SHOWN,
    OF_CONFIGURATIONS,
    OF_SAMPLES,
    OF_SEEDS,
    Evidence,
    confirm_command,
    fewest_seeds,
    sampling_error,
    seeds_to_show,
    told_on,
    weigh,
    weigh_spreads,
    word,
)


@dataclass(frozen=True)
class Case:
    """One recommendation in the making: a configuration, and what it is set against."""

    scenario: str
    chosen: Configuration
    metric: Metric
    other: Configuration | None
    against: str
    evidence: Evidence | None
    facts: str


def winners(frame: Frame) -> dict[str, Configuration]:
    """The best by each metric, and the best balanced one where there are two."""
    found = {f"best {metric.label}": ranked[0] for metric in frame.metrics if (ranked := frame.ranked(metric))}
    balance = balanced(frame)
    if frame.second is not None and np.isfinite(balance).any():
        known = [c for c, value in zip(frame.configurations, balance, strict=True) if np.isfinite(value)]
        score = dict(zip([c.order for c in frame.configurations], balance, strict=True))
        place = {c.order: rank for rank, c in enumerate(frame.ranked(frame.primary))}
        found["best balanced"] = min(known, key=lambda c: (-score[c.order], place[c.order]))
    return found


def balanced(frame: Frame) -> np.ndarray:
    """Mean of both metrics scaled to [0, 1] over the configurations, on the split that chooses; NaN without both."""
    if frame.second is None:
        return np.full(len(frame.configurations), np.nan)
    values = [metric.sign * frame.chosen(metric) for metric in frame.metrics]
    values = [np.where(np.isfinite(one), one, np.nan) for one in values]
    if any(np.isnan(one).all() for one in values):
        return np.full(len(frame.configurations), np.nan)
    return np.asarray(np.mean([scaled(one) for one in values], axis=0))


def winners_table(frame: Frame, no_kd: Reference | None) -> Table:
    """Each winner with its settings, both metrics and the difference to no-KD, on test where it was measured there."""
    rows = []
    for what, c in winners(frame).items():
        split = told_on(frame.primary, c)
        row: dict[str, Any] = {
            "winner": what,
            "name": c.name,
            "strategy": c.strategy,
            "settings": c.settings,
            "on": split,
        }
        row["chosen"] = c.value(frame.chosen_on, frame.primary)
        row |= {m.key: v if np.isfinite(v := c.value(split, m)) else None for m in frame.metrics}
        rows.append(row | differences(frame, c, no_kd, split))
    m = frame.primary
    columns: list[Column] = [("winner", "", "s"), ("name", "configuration", "s"), ("settings", "settings", "s")]
    columns += [("chosen", f"{frame.chosen_on} {m.label}", number_format(m)), ("on", "told on", "s")]
    columns += [(one.key, one.label, number_format(one)) for one in frame.metrics]
    if no_kd is not None:
        for one in frame.metrics:
            columns.append((f"difference/{one.key}", f"{one.label} − no-KD", number_format(one, signed=True)))
            columns.append((f"percent/{one.key}", "in %", "+.2f"))
    n = len(frame.configurations)
    note = f"Each is the best of {n} on {frame.chosen_on}, where its value therefore flatters."
    return table("winners", "Winners", columns, rows, note)


def recommend(frame: Frame, sampling: Sampling, study: str, objective: str) -> list[dict[str, Any]]:
    """The recommendations as plain values, in the order of the scenarios."""
    cases = _cases(frame, sampling)
    tested = [case for case in cases if case.evidence is not None and case.evidence.p is not None]
    adjusted = dict(zip([case.scenario for case in tested], holm([_p(case) for case in tested]), strict=True))
    n_compared = max(1, sum(case.evidence is not None for case in cases))
    made = []
    for case in cases:
        facts = _recommendation(case, adjusted.get(case.scenario), n_compared, frame, sampling)
        n_seeds = (facts["seeds_to_show"] or {}).get("seeds")
        made.append(facts | {"command": _command(case, frame, n_seeds, study, objective)})
    return made


def trade_off(frame: Frame) -> dict[str, Any] | None:
    """What the best by the second metric costs in the first; None where they are one, or one is missing."""
    found = winners(frame)
    if frame.second is None or f"best {frame.second.label}" not in found:
        return None
    first, other = (found[f"best {metric.label}"] for metric in frame.metrics)
    split = told_on(frame.second, first, other)
    changes = [other.value(split, metric) - first.value(split, metric) for metric in frame.metrics]
    if first is other or not np.isfinite(changes).all():
        return None
    shown = " and ".join(
        f"{change:{number_format(metric, signed=True)}} {metric.label}"
        for change, metric in zip(changes, frame.metrics, strict=True)
    )
    return {
        "first": first.name,
        "second": other.name,
        "split": split,
        "changes": {metric.key: change for metric, change in zip(frame.metrics, changes, strict=True)},
        "sentence": f"{other.name} instead of {first.name}: {shown} on {split}.",
    }


def _cases(frame: Frame, sampling: Sampling) -> list[Case]:
    cases = []
    for metric in frame.metrics:
        ranked = frame.ranked(metric)
        if ranked:
            other = ranked[1] if len(ranked) > 1 else None
            evidence = None if other is None else weigh(ranked[0], other, metric, sampling)
            facts = f"the best of {len(ranked)} by {frame.chosen_on} {metric.label}"
            cases.append(Case(f"highest {metric.label}", ranked[0], metric, other, "the next", evidence, facts))
    return [*cases, *_without_schedule(frame, sampling), *_most_consistent(frame, sampling)]


def _without_schedule(frame: Frame, sampling: Sampling) -> list[Case]:
    """The best constant configuration, against the best of those whose T or α moves."""
    ranked, metric = frame.ranked(frame.primary), frame.primary
    constant = [c for c in ranked if c.strategy == CONSTANT]
    moving = [c for c in ranked if c.strategy != CONSTANT]
    if not constant or not moving:
        return []
    best, rank = constant[0], ranked.index(constant[0]) + 1
    distance = ranked[0].value(frame.chosen_on, metric) - best.value(frame.chosen_on, metric)
    facts = f"rank {rank} of {len(ranked)} by {frame.chosen_on} {metric.label}"
    if rank > 1:
        facts += f", {abs(distance):{number_format(metric)}} behind the best there"
    evidence = weigh(best, moving[0], metric, sampling)
    return [Case("no schedule", best, metric, moving[0], "the best with a schedule", evidence, facts)]


def _most_consistent(frame: Frame, sampling: Sampling) -> list[Case]:
    """The strategy whose configurations scatter least on the split that chooses, against the next one there, with its
    best run; spreads are quoted."""
    metric = frame.primary
    groups = {name: [c for c in frame.configurations if c.strategy == name] for name in STRATEGIES}
    groups = {name: members for name, members in groups.items() if len(members) > 1}
    if len(groups) < 2:
        return []
    scatter = {name: float(frame.chosen(metric, members).std(ddof=1)) for name, members in groups.items()}
    first, second = sorted(groups, key=lambda name: scatter[name])[:2]
    values = [frame.quoted(metric, groups[name]) for name in (first, second)]
    found = spread_difference(values[0], values[1], sampling)
    evidence = weigh_spreads(groups[first], groups[second], frame, found, sampling.level)
    stds = [float(one.std(ddof=1)) for one in values]
    facts = (
        f"the best of {first}, whose {len(groups[first])} configurations scatter least on {frame.chosen_on} "
        f"({frame.split} std {stds[0]:.2g}, consistency {consistency(stds[0]):.1f}; {second}: std {stds[1]:.2g})"
    )
    chosen = best_of(frame, groups[first])
    return [Case("most consistent strategy", chosen, metric, None, second, evidence, facts)]


def _p(case: Case) -> float:
    assert case.evidence is not None and case.evidence.p is not None
    return case.evidence.p


def _recommendation(
    case: Case, p_holm: float | None, n_compared: int, frame: Frame, sampling: Sampling
) -> dict[str, Any]:
    verdict = NOT_SHOWN if case.evidence is None else word(case.evidence, p_holm, n_compared)
    needed = None if case.evidence is None else seeds_to_show(case.evidence, frame, n_compared)
    split = told_on(case.metric, case.chosen)
    error = sampling_error(case.chosen, case.metric, sampling)
    facts: dict[str, Any] = {
        "scenario": case.scenario,
        "name": case.chosen.name,
        "strategy": case.chosen.strategy,
        "settings": case.chosen.settings,
        "split": split,
        "values": {m.key: v for m in frame.metrics if np.isfinite(v := case.chosen.value(split, m))},
        "sampling_error": error,
        "facts": case.facts,
        "n_compared": len(frame.configurations),
        "seeds": list(case.chosen.seeds),
        "against": case.other.name if case.other is not None else case.against,
        "evidence": None if case.evidence is None else asdict(case.evidence),
        "p_holm": p_holm,
        "verdict": verdict,
        "seeds_to_show": needed,
    }
    shown = [f"{case.chosen.name} ({case.chosen.settings}): {_values(case, frame, split, error)}; {case.facts}."]
    shown += _compared(case, p_holm, verdict) + _to_show(case, verdict, needed, n_compared)
    return facts | {"sentence": " ".join(shown)}


def _values(case: Case, frame: Frame, split: str, error: Mapping[str, Any] | None) -> str:
    said = []
    for metric in frame.metrics:
        value = case.chosen.value(split, metric)
        if not np.isfinite(value):
            continue
        text = f"{split} {metric.label} {value:{number_format(metric)}}"
        if metric is case.metric and error is not None:
            low, high = (f"{error[key]:{number_format(metric)}}" for key in ("low", "high"))
            text += f" [{low}, {high}]"
        said.append(text)
    return ", ".join(said)


def _compared(case: Case, p_holm: float | None, verdict: str) -> list[str]:
    """The difference to the alternative with what its interval allows for, and the verdict."""
    found = case.evidence
    if found is None:
        return [f"There is nothing measured to set it against: {verdict}."]
    signed = number_format(case.metric, signed=True)
    said = f"{found.metric} minus that of {case.against}"
    said += f", {case.other.name}" if case.other is not None else ""
    said += f": {found.difference:{signed}}"
    if found.low is not None and found.high is not None:
        clusters = f"{found.n_clusters} {next(iter(case.chosen.entries.values())).data['cluster']}s"
        allowing = {
            OF_SAMPLES: f"paired over {clusters} of {found.split}, not over seeds",
            OF_SEEDS: f"over {found.n_seeds} paired seeds and {clusters} of {found.split}",
            OF_CONFIGURATIONS: f"over resampled configurations on {found.split}, not over seeds",
        }.get(found.interval_of or "", f"over {found.n_seeds} seeds on {found.split}")
        said += f" [{found.low:{signed}}, {found.high:{signed}}] ({allowing})"
    else:
        said += f" on {found.split}, without predictions and so without an interval"
    said += "" if p_holm is None else f", p {p_holm:.3g} after Holm"
    return [f"{said}: {verdict}."]


def _to_show(case: Case, verdict: str, needed: Mapping[str, Any] | None, n_compared: int) -> list[str]:
    if verdict != NOT_SHOWN or case.evidence is None:
        return []
    if case.evidence.difference == 0:
        return ["No number of seeds shows a difference of 0."]
    fewest = fewest_seeds(n_compared)
    said = f"It would take {fewest} paired seeds or more"
    if needed is not None:
        said += f"; {needed['seeds']:,} would find a true difference of this size in 80 % of cases, supposing "
        said += f"{needed['supposing']} ({needed['spread']:.2g})"
        said += f", more than the {MAX_SEEDS} that one confirmation takes" if needed["seeds"] > MAX_SEEDS else ""
    return [f"{said}."]


def _command(case: Case, frame: Frame, n_seeds: int | None, study: str, objective: str) -> str:
    """What trains this configuration and its alternative on fresh seeds; the study's own best is there by itself."""
    metric, best = frame.primary, None
    if objective == "val/score":
        best = min(frame.configurations, key=lambda c: (-metric.sign * c.value("val", metric), c.order))
    folders: dict[str, Path] = {}
    for name, c in (("chosen", case.chosen), ("other", case.other)):
        if c is not None and c is not best and c.entries:
            folders[name] = next(iter(c.entries.values())).folder
    return confirm_command(study, folders, n_seeds)
