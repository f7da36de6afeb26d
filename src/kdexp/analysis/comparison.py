"""Finished runs compared: a row for each, a group for those that differ in their seeds alone, and how many can be told
apart. Reads records and predictions only; what it returns are plain values.

A row's interval speaks of one trained student on other clusters (cases, trips, events); a group's speaks of other seeds
as well. Rows are ordered by validation, whatever split the differences are taken on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kdexp.analysis.compared import Entry, Measured, Sampling, difference, measure_all
from kdexp.analysis.groups import Group, compare_groups, counted_noun, grouped, no_kd_partners, what_groups_show
from kdexp.analysis.table import task_metrics
from kdexp.errors import DataError

COMPARISON_SCHEMA = 1
GIVEN, NO_KD, BEST = "given", "no-KD", "best"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of the runs.

    `split`: where differences are taken; None: test where every run has its predictions, else val. `metric`: `score`
    or `task/metric`. `order` names what the entries are ordered by where they come in order; None: by their validation
    metric. `top`: how many rows there shall be at most.
    """

    sampling: Sampling
    split: str | None = None
    metric: str = "score"
    smaller_is_better: bool = False
    reference: Entry | None = None
    order: str | None = None
    top: int | None = None

    @property
    def sign(self) -> int:
        return -1 if self.smaller_is_better else 1


@dataclass(frozen=True)
class _Reference:
    """What rows and groups are compared with: one entry, or each row's own partner, first that `beside` it."""

    kind: str
    sentence: str
    of_group: Mapping[str, Group | None]
    entry: Entry | None = None
    beside: Mapping[str, Entry] = field(default_factory=dict)

    def of(self, entry: Entry, key: str) -> Entry | None:
        if self.entry is not None:
            return None if entry.name == self.entry.name else self.entry
        group = self.of_group.get(key)
        return self.beside.get(entry.name) or (None if group is None else group.by_seed.get(entry.seed))


@dataclass
class _Table:
    """One table in the making: entries on the same data, the best first."""

    entries: Sequence[Entry]
    question: Question
    groups: Sequence[Group]
    split: str
    beside: Mapping[str, Entry] = field(default_factory=dict)
    measured: Mapping[str, Measured] = field(default_factory=dict)
    n: int = 0
    n_clusters: int = 0


def separate(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The entries by what they were measured on: only within a part can they be compared."""
    parts: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        parts.setdefault(entry.measured_on, []).append(entry)
    return list(parts.values())


def compare_runs(entries: Sequence[Entry], question: Question) -> dict[str, Any]:
    """One table as plain values, of entries that were measured on the same data.

    Raises DataError where the reference was not, where predictions are broken, or where none are there.
    """
    refuse_other_data(entries, question.reference)
    ordered = entries if question.order else _by_validation(entries, question)
    groups = grouped(ordered)
    wanted = with_predictions(ordered, question)
    split = question.split or _everywhere(wanted)
    table = _Table(ordered, question, groups, split, _beside(ordered))
    measured = [*wanted, *(table.beside[entry.name] for entry in wanted if entry.name in table.beside)]
    table.measured, table.n, table.n_clusters = measure_all(measured, split, question.metric, question.sampling)
    if not table.measured:
        raise DataError(_without_predictions([wanted[0]], split))
    reference = _reference(table)
    rows = _rows(table, reference)
    sampling = question.sampling
    compared = compare_groups(
        groups, reference.of_group, table.measured, table.n_clusters, question.metric, sampling.level
    )
    compared.sort(key=lambda one: -question.sign * (one["val"]["mean"] or 0.0))
    return {
        "schema": COMPARISON_SCHEMA,
        "split": split,
        "metric": question.metric,
        "score": list(ordered[0].run.record["score"]),
        "data": {**ordered[0].data, "n_compared": table.n, "n_clusters_compared": table.n_clusters},
        "level": sampling.level,
        "n_resamples": sampling.n_resamples,
        "resample_seed": sampling.seed,
        "settings": list(ordered[0].shown),
        "task_metrics": ["/".join(one) for one in task_metrics(ordered[0].run.record)],
        "reference": {"kind": reference.kind, "sentence": reference.sentence},
        "n_runs": len(ordered),
        "rows": rows,
        "groups": compared,
        "told_apart": _told_apart(table, rows),
        "sentences": [
            reference.sentence,
            *what_groups_show(compared, ordered[0].data["cluster"]),
            *_lacking(table, wanted),
            *_twice(ordered, groups),
        ],
    }


def with_predictions(entries: Sequence[Entry], question: Question) -> list[Entry]:
    """Those whose predictions are asked for: the rows, the reference, and the members of groups of several seeds."""
    in_groups = {e.name for group in grouped(entries) if len(group.by_seed) > 1 for e in group.by_seed.values()}
    shown = {entry.name for entry in entries[: question.top]}
    asked = {question.reference.name} if question.reference else set()
    return [entry for entry in entries if entry.name in in_groups | shown | asked]


def _beside(entries: Sequence[Entry]) -> dict[str, Entry]:
    """By run, the student that `with_no_kd` trained beside it, where that is no entry itself."""
    names = {entry.name for entry in entries}
    found = {entry.name: entry.without_distillation for entry in entries}
    return {name: replace(one, shown={}) for name, one in found.items() if one is not None and one.name not in names}


def _by_validation(entries: Sequence[Entry], question: Question) -> list[Entry]:
    return sorted(entries, key=lambda entry: -question.sign * _validation(entry, question.metric))


def _validation(entry: Entry, metric: str) -> float:
    values = entry.values("val") or {}
    if metric not in values:
        raise DataError(f"{entry.folder}: its record has no {metric} on val; there are: {', '.join(values) or 'none'}")
    return float(values[metric])


def _everywhere(entries: Sequence[Entry]) -> str:
    return "test" if all(entry.predictions_file("test") is not None for entry in entries) else "val"


def refuse_other_data(entries: Sequence[Entry], reference: Entry | None) -> None:
    """Raises DataError, naming both folders, where two runs were not measured on the same data."""
    first = reference or entries[0]
    for entry in entries:
        if entry.measured_on != first.measured_on:
            raise DataError(
                f"{entry.folder} was trained on other data or splits ({', '.join(entry.measured_on[:3])}) than "
                f"{first.folder} ({', '.join(first.measured_on[:3])}); only runs on the same data can be compared in "
                "pairs; leave one of them out"
            )


# What is compared with what


def _reference(table: _Table) -> _Reference:
    given, metric, split = table.question.reference, table.question.metric, table.split
    if given is not None:
        given_group = next(group for group in table.groups if group.key == given.settings.alike())
        others = {group.key: given_group for group in table.groups if group is not given_group}
        return _Reference(GIVEN, f"Differences on {split} are to {given.name}, as asked.", others, given)
    beside = {name: one for name, one in table.beside.items() if one.predictions_file(split) is not None}
    own = [(group, {s: beside[e.name] for s, e in group.by_seed.items() if e.name in beside}) for group in table.groups]
    partners = [*no_kd_partners(table.groups), *((group, Group(group.key, one)) for group, one in own if one)]
    if any(set(group.by_seed) & set(partner.by_seed) for group, partner in partners):
        said = f"Differences on {split} are to the no-KD run with the same seed."
        return _Reference(NO_KD, said, {group.key: partner for group, partner in partners}, beside=beside)
    best = table.entries[0]
    several = [group for group in table.groups if len(group.by_seed) > 1]
    top = max(several, key=lambda group: table.question.sign * (group.mean(metric, "val") or 0.0), default=None)
    said = f"Differences on {split} are to {best.name}, the best by {_order(table)}"
    said += f"; those of groups to {top.name}, the best mean on val" if top is not None else ""
    why = "the no-KD students beside the runs have no predictions there" + (", but on val" if split == "test" else "")
    said += f": {why if table.beside else 'no run has a no-KD partner with its seed here'}."
    return _Reference(BEST, said, {group.key: top for group in table.groups if group is not top}, best)


# Rows


def _rows(table: _Table, reference: _Reference) -> list[dict[str, Any]]:
    group_of = {entry.name: group.key for group in table.groups for entry in group.by_seed.values()}
    best = table.entries[0]
    shown = list(table.entries[: table.question.top])
    if reference.entry is not None and reference.entry.name not in {entry.name for entry in shown}:
        shown.append(reference.entry)
    rows = []
    for entry in shown:
        other = reference.of(entry, group_of.get(entry.name, ""))
        rows.append(
            _facts(entry, table.question.metric)
            | {
                "reference": None if other is None else other.name,
                "difference": _difference(table, entry, other),
                "difference_to_best": None if entry is best else _difference(table, entry, best),
            }
        )
    return rows


def _facts(entry: Entry, metric: str) -> dict[str, Any]:
    by_split = {split: entry.values(split) for split in ("val", "test")}
    return {
        "name": entry.name,
        "folder": str(entry.folder),
        "seed": entry.seed,
        "source": entry.data["source"],
        "no_kd": entry.settings.is_no_kd,
        "settings": dict(entry.shown),
        **{split: _with_interval(entry, split, values, metric) for split, values in by_split.items()},
        "metrics": by_split,
        "parameters": entry.run.record["models"]["student"].get("parameters"),
        "seconds": entry.seconds,
    }


def _with_interval(
    entry: Entry, split: str, values: Mapping[str, float] | None, metric: str
) -> dict[str, float | None] | None:
    if values is None or metric not in values:
        return None
    found = entry.intervals(split).get(metric) or {}
    return {"value": values[metric], "low": found.get("low"), "high": found.get("high")}


def _difference(table: _Table, entry: Entry, other: Entry | None) -> dict[str, Any] | None:
    if other is None or entry.name not in table.measured or other.name not in table.measured:
        return None
    return difference(table.measured[entry.name], table.measured[other.name], table.question.sampling.level)


def _told_apart(table: _Table, rows: Sequence[Mapping[str, Any]]) -> str:
    best, split, cluster = rows[0]["name"], table.split, table.entries[0].data["cluster"]
    if len(rows) == 1:
        return "There is one run, so there is nothing to tell it apart from."
    found = [row["difference_to_best"] for row in rows[1:] if row["difference_to_best"] is not None]
    if not found:
        return f"Nothing can be told apart from {best}, the best by {_order(table)}: no predictions on {split}."
    apart = [one["value"] for one in found if one["told_apart"]]
    lower, n_alike = sum(value < 0 for value in apart), len(found) - len(apart)
    which = f" ({lower} lower, {len(apart) - lower} higher)" if apart else ""
    return (
        f"{len(apart)} of {counted_noun(len(found), 'other run')} can be told apart on {split} from {best}, the best "
        f"by {_order(table)}{which}, and {n_alike} cannot: {table.question.sampling.level:.0%} intervals of paired "
        f"differences over {table.n_clusters} {cluster}s, one by one; each is one training run, so seeds have no part "
        "in them."
    )


def _order(table: _Table) -> str:
    return table.question.order or f"val/{table.question.metric}"


# What is missing


def _lacking(table: _Table, wanted: Sequence[Entry]) -> list[str]:
    missing = [entry for entry in wanted if entry.name not in table.measured]
    return [_without_predictions(missing, table.split)] if missing else []


def _without_predictions(entries: Sequence[Entry], split: str) -> str:
    """Who has no predictions, and how to get them."""
    folders = ", ".join(str(entry.folder) for entry in entries)
    gone = [entry for entry in entries if not entry.has_checkpoint]
    if not gone:
        return f"No predictions on {split}: {folders}; `kdexp evaluate run=RUN_DIR split={split}` writes them."
    return (
        f"No predictions on {split}: {folders}; without checkpoints they cannot be made any more "
        "(hydra.sweeper.keep_checkpoints=N keeps those of a study's best N trials)."
    )


def _twice(entries: Sequence[Entry], groups: Sequence[Group]) -> list[str]:
    counted = {entry.name for group in groups for entry in group.by_seed.values()}
    left = [entry.name for entry in entries if entry.name not in counted]
    said = f"Runs with the configuration and the seed of a newer one, left out of its group: {', '.join(left)}."
    return [said] if left else []
