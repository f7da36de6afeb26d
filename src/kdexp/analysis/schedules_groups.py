"""The tables of the analysis of schedules that take configurations together: strategies, levels, ranges.

A mean, a spread or a maximum is over configurations, each counted once whatever its number of seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from kdexp.analysis.compared import Sampling
from kdexp.analysis.schedules_rows import STRATEGIES, Configuration, Frame, Metric
from kdexp.analysis.schedules_statistics import consistency, correlation, described, paired_difference
from kdexp.analysis.schedules_tables import FACTORS, Column, Row, Table, best_of, number_format, table

MAX_LEVELS = 12
"""More different values than this are taken together in quarters."""
WORDS = {"temperature": "T", "weight": "α"}


def strategies_table(frame: Frame) -> Table:
    """Each strategy with its difference to constant, the best mean first."""
    rows = [
        {"strategy": name, **_group_row(frame, members), "best_run": best_of(frame, members).name}
        for name in STRATEGIES
        if (members := [c for c in frame.configurations if c.strategy == name])
    ]
    constant = next((row for row in rows if row["strategy"] == STRATEGIES[0]), None)
    for row in rows:
        row["consistency"] = consistency(row[f"std/{frame.primary.key}"])
        for metric in frame.metrics:
            own, other = row[f"mean/{metric.key}"], (constant or {}).get(f"mean/{metric.key}")
            known = own is not None and other is not None and row is not constant
            row[f"difference/{metric.key}"] = own - other if known else None
            row[f"percent/{metric.key}"] = 100 * (own - other) / other if known and other else None
    columns: list[Column] = [("strategy", "strategy", "s"), *_group_columns(frame)]
    for metric in frame.metrics:
        columns.append((f"difference/{metric.key}", f"{metric.label} − constant", number_format(metric, signed=True)))
        columns.append((f"percent/{metric.key}", "in %", "+.2f"))
    columns += [("consistency", "consistency", ".2f"), ("best_run", "best run", "s")]
    note = (
        f"std: over configurations (n − 1); consistency = 1/(std of {frame.primary.label} + 0.001). Strategies cover "
        "different settings, so their spreads are not those of chance."
    )
    return table("strategies", f"Strategies, {frame.split}", columns, _by_mean(frame, rows), note)


def levels_table(frame: Frame, factor: str, level: float) -> Table:
    """Per level of a start value, every strategy together; each against the best one, paired by all other settings."""
    symbol, m = FACTORS[factor], frame.primary
    bins = levels([c.span(factor).start for c in frame.configurations])
    members = {name: [c for c in frame.configurations if inside(c.span(factor).start)] for name, inside in bins.items()}
    rows = [{"level": name, **_group_row(frame, group)} for name, group in members.items()]
    best = _by_mean(frame, rows)[0]["level"]
    for row in rows:
        if row["level"] == best:
            row["standing"] = "best"
            continue
        row |= _against(frame, members[row["level"]], members[best], factor, level)
    columns: list[Column] = [("level", symbol, "s"), *_group_columns(frame)]
    columns += [
        ("standing", "", "s"),
        ("difference", f"{m.label} − best level", number_format(m, signed=True)),
        ("low", "low", number_format(m, signed=True)),
        ("high", "high", number_format(m, signed=True)),
        ("pairs", "pairs", "d"),
    ]
    seeds = "" if len({c.seeds for c in frame.configurations}) > 1 else "other seeds or "
    note = (
        f"Best: by mean {frame.chosen_on} {m.label}. Differences pair configurations that differ in {symbol} alone; "
        f"{level:.0%} Student's interval over these pairs; tied: it holds 0. "
        f"It does not allow for {seeds}other samples."
    )
    return table(
        f"levels_{WORDS[factor]}0".replace("α", "alpha"), f"Levels of {symbol}, {frame.split}", columns, rows, note
    )


def _against(
    frame: Frame, own: Sequence[Configuration], best: Sequence[Configuration], factor: str, level: float
) -> Row:
    """A level minus the best one, over configurations with all else alike."""
    partners = {c.rest[factor]: c for c in best if factor in c.rest}
    matched = [c for c in own if c.rest.get(factor) in partners]
    others = [partners[c.rest[factor]] for c in matched]
    found = paired_difference(frame.quoted(frame.primary, matched), frame.quoted(frame.primary, others), level)
    if found["low"] is None:
        return {**found, "standing": "not paired"}
    return {**found, "standing": "tied" if found["low"] <= 0 <= found["high"] else "apart"}


def ranges_table(frame: Frame, factor: str) -> Table:
    """Per way from start to end, over the strategies in which it moves; the best mean first."""
    word, moving = WORDS[factor], [c for c in frame.configurations if c.span(factor).moves]
    starts = levels([c.span(factor).start for c in moving])
    ends = levels([c.span(factor).end for c in moving])
    groups: dict[str, list[Configuration]] = {}
    for c in moving:
        way = f"{_level_of(starts, c.span(factor).start)}→{_level_of(ends, c.span(factor).end)}"
        groups.setdefault(way, []).append(c)
    rows = [{"way": way, **_group_row(frame, group)} for way, group in groups.items()]
    columns: list[Column] = [("way", f"{word}₀→{word}₁", "s"), *_group_columns(frame)]
    name = f"ranges_{word}".replace("α", "alpha")
    return table(name, f"Schedules of {word} that move, {frame.split}", columns, _by_mean(frame, rows))


def pairs_table(frame: Frame) -> Table:
    """(T₀, α₀), the best mean first."""
    groups = _cells(frame)
    rows = [{"T0": one, "alpha0": two, **_group_row(frame, group)} for (one, two), group in groups.items()]
    columns: list[Column] = [("T0", "T₀", "s"), ("alpha0", "α₀", "s"), *_group_columns(frame)]
    return table("pairs", f"Start values together, {frame.split}", columns, _by_mean(frame, rows))


def interaction_table(frame: Frame, metric: Metric) -> Table:
    """Mean of a metric per α₀ (rows) and T₀ (columns), on the quoted split."""
    groups = _cells(frame)
    across = list(levels([c.temperature.start for c in frame.configurations]))
    rows = []
    for down in levels([c.weight.start for c in frame.configurations]):
        row: Row = {"alpha0": down}
        for name in across:
            found = described(frame.quoted(metric, groups.get((name, down), [])))
            row |= {f"T0={name}": found["mean"], f"n/T0={name}": found["n"]}
        rows.append(row)
    columns: list[Column] = [("alpha0", "α₀", "s")]
    columns += [(f"T0={name}", f"T₀ = {name}", number_format(metric)) for name in across]
    title = f"Mean {frame.split} {metric.label} by α₀ and T₀"
    return table(f"interaction_{metric.key.replace('/', '_')}", title, columns, rows)


def _cells(frame: Frame) -> dict[tuple[str, str], list[Configuration]]:
    across = levels([c.temperature.start for c in frame.configurations])
    down = levels([c.weight.start for c in frame.configurations])
    groups: dict[tuple[str, str], list[Configuration]] = {}
    for c in frame.configurations:
        key = (_level_of(across, c.temperature.start), _level_of(down, c.weight.start))
        groups.setdefault(key, []).append(c)
    return groups


def correlations_table(frame: Frame, sampling: Sampling) -> Table:
    """Pearson's r of each start value with each metric, on the quoted split."""
    rows = []
    for factor, symbol in FACTORS.items():
        start_N = np.array([c.span(factor).start for c in frame.configurations])
        for metric in frame.metrics:
            found = correlation(start_N, frame.quoted(metric), sampling)
            rows.append({"of": symbol, "with": f"{frame.split} {metric.label}", **found})
    columns: list[Column] = [("of", "", "s"), ("with", "with", "s"), ("n", "n", "d"), ("r", "r", "+.3f")]
    columns += [
        ("low", "low", "+.3f"),
        ("high", "high", "+.3f"),
        ("p", "p", ".2g"),
        ("slope", "slope per unit", "+.2g"),
    ]
    note = (
        f"{sampling.level:.0%} percentile interval over {sampling.n_resamples:,} resamples of configurations; p by "
        "Student's t; both take configurations as independent, which runs on the same seed and samples are not quite."
    )
    return table("correlations", "Start values and metrics", columns, rows, note)


def levels(values: Sequence[float]) -> dict[str, Callable[[float], bool]]:
    """The different values by their names, ascending; where there are many, four ranges of about as many runs each."""
    distinct = sorted(set(values))
    if len(distinct) <= MAX_LEVELS:
        named = zip(_names(distinct, 6), distinct, strict=True)
        return {name: (lambda other, own=value: other == own) for name, value in named}  # type: ignore[misc]
    edges = sorted({float(edge) for edge in np.quantile(values, [0, 0.25, 0.5, 0.75, 1])})
    last = edges[-1]
    return {
        f"{one}–{two}": (lambda other, a=low, b=high: a <= other < b or other == b == last)  # type: ignore[misc]
        for (one, low), (two, high) in pairwise(zip(_names(edges, 3), edges, strict=True))
    }


def _names(distinct: Sequence[float], n_digits: int) -> list[str]:
    """Different numbers in `n_digits` significant digits, or in as many more as keep all of them apart."""
    for digits in range(n_digits, 17):
        names = [f"{value:.{digits}g}" for value in distinct]
        if len(set(names)) == len(distinct):
            return names
    return [repr(value) for value in distinct]


def _level_of(found: Mapping[str, Callable[[float], bool]], value: float) -> str:
    return next(name for name, inside in found.items() if inside(value))


def _group_row(frame: Frame, members: Sequence[Configuration]) -> Row:
    row: Row = {"n": len(members), "chosen": described(frame.chosen(frame.primary, members))["mean"]}
    for metric in frame.metrics:
        found = described(frame.quoted(metric, members), metric.sign)
        row |= {f"{key}/{metric.key}": found[key] for key in ("mean", "std", "best")}
    return row


def _group_columns(frame: Frame) -> list[Column]:
    columns: list[Column] = [("n", "n", "d")]
    if frame.chosen_on != frame.split:
        label = f"{frame.chosen_on} {frame.primary.label} mean"
        columns.append(("chosen", label, number_format(frame.primary)))
    for m in frame.metrics:
        said = {"mean": "mean", "std": "std", "best": m.best_word}
        columns += [(f"{key}/{m.key}", f"{m.label} {word}", number_format(m)) for key, word in said.items()]
    return columns


def _by_mean(frame: Frame, rows: Sequence[Row]) -> list[Row]:
    """The best mean first, on the split that chooses."""
    return sorted(rows, key=lambda row: -frame.primary.sign * row["chosen"])
