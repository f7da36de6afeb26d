"""What a set of jets holds: counts per split and file, constituents at each step of the trigger, oddities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdexp.contracts import SPLITS, SplitName
from kdexp.systems.toptagging.notes import oddities
from kdexp.systems.toptagging.store import JetTable, Portion, Views

_LABELS = ("background", "top")


def inspect_jets(
    portions: Sequence[Portion], table: JetTable, views: Views, rows: Mapping[SplitName, np.ndarray]
) -> dict[str, Any]:
    """Plain values for `data action=inspect`; `warnings` are sentences about what biases a result."""
    return {
        "files": {portion.file.path.name: _file(portion, table, k) for k, portion in enumerate(portions)},
        "splits": {split: _counts(table, rows[split]) for split in SPLITS},
        "jet_pt_gev": {name: _quantiles(table, label) for label, name in enumerate(_LABELS)},
        "constituents_per_jet": {name: round(n / len(table), 2) for name, n in views.constituents.items()},
        "weights": _weights(table),
        "mapped_from_disk": views.is_mapped,
        "warnings": _warnings(portions, table),
    }


def _file(portion: Portion, table: JetTable, number: int) -> dict[str, Any]:
    taken = table.file == number
    return {
        "layout": portion.file.layout,
        "units": portion.file.units,
        "jets_in_file": portion.file.n_jets,
        "jets_taken": portion.n_jets,
        "top": int(table.labels[taken].sum()),
        "weights": portion.file.weights or "ones",
        "sorted_jets": table.n_sorted[number],
    }


def _counts(table: JetTable, rows: np.ndarray) -> dict[str, Any]:
    n_top = int(table.labels[rows].sum())
    return {
        "jets": len(rows),
        "events": len(np.unique(table.unit[rows])),
        "top": n_top,
        "background": len(rows) - n_top,
    }


def _quantiles(table: JetTable, label: int) -> dict[str, float]:
    pt = table.jet_pt[table.labels == label]
    return {f"{percent} %": round(float(np.percentile(pt, percent)), 1) for percent in (5, 50, 95)}


def _weights(table: JetTable) -> dict[str, float]:
    found = {
        "least": table.weights.min(),
        "mean": table.weights.mean(dtype=np.float64),
        "greatest": table.weights.max(),
    }
    return {name: round(float(value), 4) for name, value in found.items()}


def _warnings(portions: Sequence[Portion], table: JetTable) -> list[str]:
    found = oddities(portions, table)
    found += [
        f"{portion.file.path.name}: made by {portion.file.generator}" for portion in portions if portion.file.generator
    ]
    for number, n in enumerate(table.n_sorted):
        if n:
            name = portions[number].file.path.name
            found.append(f"{name}: the constituents of {n:,} jets were not by falling pT and were sorted")
    return found
