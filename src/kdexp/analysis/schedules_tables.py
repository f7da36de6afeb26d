"""The tables of the analysis of schedules that look at configurations one by one: all, the best, the best quarter.

A table is plain values. Its columns say how a cell is written (a format specification), its rows hold full precision.
Every table is a function of the frame: configurations, two metrics, two splits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from kdexp.analysis.schedules_rows import STRATEGIES, Configuration, Frame, Metric, Reference
from kdexp.analysis.schedules_statistics import described

Table = dict[str, Any]
"""`name`, `title`, `columns` (key, heading, format) and `rows`; `notes` are sentences below it."""
Row = dict[str, Any]
Column = tuple[str, str, str]

TOP = 30
FACTORS = {"temperature": "T₀", "weight": "α₀"}


def table(name: str, title: str, columns: Sequence[Column], rows: Iterable[Row], *notes: str) -> Table:
    return {
        "name": name,
        "title": title,
        "columns": [list(column) for column in columns],
        "rows": list(rows),
        "notes": list(notes),
    }


def number_format(metric: Metric, signed: bool = False) -> str:
    return f"{'+' if signed else ''}.{metric.digits}f"


def runs_table(frame: Frame, no_kd: Reference | None) -> Table:
    """Every configuration in the study's order."""
    columns: list[Column] = [("name", "", "s"), ("strategy", "strategy", "s")]
    columns += [(key, key.replace("_", " "), "g") for key in ("T0", "T1", "alpha0", "alpha1")]
    columns += [("T_curve", "T curve", "s"), ("alpha_curve", "α curve", "s"), ("seeds", "seeds", "s")]
    columns += [(f"{s}/{m.key}", f"{s} {m.label}", number_format(m)) for s in ("val", "test") for m in frame.metrics]
    columns += _difference_columns(frame, no_kd)
    columns += [
        ("best_epoch", "best epoch", "g"),
        ("reached_T", "T reached", ".3g"),
        ("reached_alpha", "α reached", ".3g"),
    ]
    return table("runs", "All configurations", columns, [_run_row(frame, c, no_kd) for c in frame.configurations])


def top_table(frame: Frame, no_kd: Reference | None) -> Table:
    """The best by the split that chooses."""
    ranked = frame.ranked(frame.primary)[:TOP]
    columns: list[Column] = [("rank", "", "d"), ("name", "", "s"), ("settings", "settings", "s")]
    columns += _chosen_columns(frame) + _quoted_columns(frame) + _difference_columns(frame, no_kd)
    rows = [{"rank": rank, **_run_row(frame, c, no_kd)} for rank, c in enumerate(ranked, 1)]
    title = f"The best {len(ranked)} of {len(frame.configurations)} by {frame.chosen_on} {frame.primary.label}"
    return table("top", title, columns, rows)


def _run_row(frame: Frame, c: Configuration, no_kd: Reference | None) -> Row:
    row: Row = {"name": c.name, "strategy": c.strategy, "settings": c.settings}
    row |= {"T0": c.temperature.start, "T1": c.temperature.end, "T_curve": c.temperature.curve}
    row |= {"alpha0": c.weight.start, "alpha1": c.weight.end, "alpha_curve": c.weight.curve}
    row["seeds"] = " ".join(map(str, c.seeds))
    for split in ("val", "test"):
        row |= {f"{split}/{metric.key}": _plain(c.value(split, metric)) for metric in frame.metrics}
    row |= differences(frame, c, no_kd)
    return row | {
        "best_epoch": c.best_epoch,
        "reached_T": c.reached_temperature,
        "reached_alpha": c.reached_weight,
    }


def differences(frame: Frame, c: Configuration, no_kd: Reference | None, split: str | None = None) -> Row:
    """Each metric minus that of no-KD on the same split, absolute and in percent; None where either is missing."""
    found: Row = {}
    for metric in frame.metrics:
        where = split or frame.split
        value, other = c.value(where, metric), (no_kd.values if no_kd else {}).get(where, {}).get(metric.key)
        known = np.isfinite(value) and other is not None
        found[f"difference/{metric.key}"] = value - other if known and other is not None else None
        found[f"percent/{metric.key}"] = 100 * (value - other) / other if known and other else None
    return found


def _difference_columns(frame: Frame, no_kd: Reference | None) -> list[Column]:
    if no_kd is None:
        return []
    return [
        column
        for m in frame.metrics
        for column in (
            (f"difference/{m.key}", f"{m.label} − no-KD", number_format(m, signed=True)),
            (f"percent/{m.key}", "in %", "+.2f"),
        )
    ]


def _chosen_columns(frame: Frame) -> list[Column]:
    """Of the primary metric on the split that chooses, where it is not the quoted one."""
    if frame.chosen_on == frame.split:
        return []
    m = frame.primary
    return [(f"{frame.chosen_on}/{m.key}", f"{frame.chosen_on} {m.label}", number_format(m))]


def _quoted_columns(frame: Frame) -> list[Column]:
    return [(f"{frame.split}/{m.key}", f"{frame.split} {m.label}", number_format(m)) for m in frame.metrics]


def best_of(frame: Frame, members: Sequence[Configuration]) -> Configuration:
    """The best of some by the split that chooses."""
    orders = {c.order for c in members}
    return next(c for c in frame.ranked(frame.primary) if c.order in orders)


def distribution_table(frame: Frame) -> Table:
    """Mean, spread and range of both metrics over all configurations, on the quoted split."""
    rows = []
    for metric in frame.metrics:
        values = frame.quoted(metric)
        found = described(values)
        known = values[np.isfinite(values)]
        row: Row = {
            "metric": f"{frame.split} {metric.label}",
            "n": found["n"],
            "mean": found["mean"],
            "std": found["std"],
        }
        row["variance"] = None if found["std"] is None else found["std"] ** 2
        row |= {"min": float(known.min()) if len(known) else None, "max": found["best"]}
        rows.append(row)
    columns: list[Column] = [("metric", "", "s"), ("n", "n", "d")]
    columns += [(key, key, ".4g") for key in ("mean", "std", "variance", "min", "max")]
    return table("distribution", "Distribution over configurations", columns, rows)


def quartile_table(frame: Frame) -> Table:
    """What the best quarter has in common, beside the same of all."""
    best = frame.ranked(frame.primary)[: len(frame.configurations) // 4]
    everyone = list(frame.configurations)
    if not best:
        return table("quartile", "The best quarter", [], [])
    middle = {factor: _upper_half([c.span(factor).start for c in everyone]) for factor in FACTORS}
    wanted: list[tuple[str, str, Callable[[Configuration], float]]] = [
        (f"mean {symbol}", "mean", lambda c, f=factor: c.span(f).start)  # type: ignore[misc]
        for factor, symbol in FACTORS.items()
    ]
    wanted += [
        (f"{symbol} ≥ {middle[factor]:g}", "share", lambda c, f=factor: c.span(f).start >= middle[f])  # type: ignore[misc]
        for factor, symbol in FACTORS.items()
    ]
    wanted += [(name, "share", lambda c, s=name: c.strategy == s) for name in STRATEGIES]  # type: ignore[misc]
    rows = []
    for what, kind, of in wanted:
        own, overall = (float(np.mean([of(c) for c in group])) for group in (best, everyone))
        rows.append({"what": what, "kind": kind, "quarter": own, "all": overall})
    title = f"The best quarter ({len(best)} of {len(everyone)} by {frame.chosen_on} {frame.primary.label}) and all"
    columns: list[Column] = [
        ("what", "", "s"),
        ("kind", "", "s"),
        ("quarter", "best quarter", ".3g"),
        ("all", "all", ".3g"),
    ]
    return table("quartile", title, columns, rows)


def counts_table(frame: Frame) -> Table:
    """How many configurations each strategy has."""
    n = len(frame.configurations)
    found = {name: sum(c.strategy == name for c in frame.configurations) for name in STRATEGIES}
    rows = [{"strategy": name, "n": count, "share": count / n} for name, count in found.items()]
    columns: list[Column] = [("strategy", "strategy", "s"), ("n", "n", "d"), ("share", "share", ".1%")]
    return table("counts", "Configurations by strategy", columns, rows)


def _upper_half(values: Sequence[float]) -> float:
    """The value from which the upper half of the different values begins: 0.7 of 0.3, 0.5, 0.7, 0.9."""
    distinct = sorted(set(values))
    return distinct[len(distinct) // 2]


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
