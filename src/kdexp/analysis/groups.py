"""Runs alike but for their seeds, as groups: means, spreads, and differences in pairs of seeds.

Shape suffixes: S seeds, R draws of clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdexp.analysis.compared import Entry, Measured
from kdexp.analysis.paired import ALPHA, MAX_SEEDS, compare, holm, least_p, seeds_for_a_verdict


@dataclass(frozen=True)
class Group:
    """Runs alike but for their seeds; of two with the same seed, the newer."""

    key: str
    by_seed: Mapping[int, Entry]

    @property
    def first(self) -> Entry:
        return next(iter(self.by_seed.values()))

    @property
    def name(self) -> str:
        said = ", ".join(f"{key}={value}" for key, value in self.first.shown.items() if value is not None)
        return said or ("no-KD" if self.first.settings.is_no_kd else self.first.name)

    def mean(self, metric: str, split: str) -> float | None:
        values = self.values(metric, split)
        return float(np.mean(values)) if values else None

    def values(self, metric: str, split: str) -> list[float]:
        """Of the members that were measured there."""
        found = [(entry.values(split) or {}).get(metric) for entry in self.by_seed.values()]
        return [value for value in found if value is not None]


def grouped(entries: Sequence[Entry]) -> list[Group]:
    """All entries in groups, in the order of their first members."""
    members: dict[str, dict[int, Entry]] = {}
    for entry in entries:
        by_seed = members.setdefault(entry.settings.alike(), {})
        known = by_seed.get(entry.seed)
        if known is None or entry.run.record["finished"] > known.run.record["finished"]:
            by_seed[entry.seed] = entry
    return [Group(key, dict(sorted(by_seed.items()))) for key, by_seed in members.items()]


def no_kd_partners(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    """For each group with distillation, the one without that is alike otherwise, or the only one that there is."""
    plain = [group for group in groups if group.first.settings.is_no_kd]
    partners = []
    for group in groups:
        if group in plain:
            continue
        own = group.first.settings.alike(but_for_distillation=True)
        alike = [one for one in plain if one.first.settings.alike(but_for_distillation=True) == own]
        candidates = alike or plain
        if len(candidates) == 1:
            partners.append((group, candidates[0]))
    return partners


def compare_groups(
    groups: Sequence[Group],
    references: Mapping[str, Group | None],
    measured: Mapping[str, Measured],
    n_clusters: int,
    metric: str,
    level: float,
) -> list[dict[str, Any]]:
    """Means, spreads, and paired differences to each group's reference (by its key); empty where no group has two
    seeds."""
    if all(len(group.by_seed) < 2 for group in groups):
        return []
    facts: list[dict[str, Any]] = []
    for group in groups:
        own = {"name": group.name, "settings": dict(group.first.shown), "no_kd": group.first.settings.is_no_kd}
        own |= {"seeds": list(group.by_seed), "runs": [entry.name for entry in group.by_seed.values()]}
        for split in ("val", "test"):
            values = group.values(metric, split)
            own[split] = {
                "n": len(values),
                "mean": float(np.mean(values)) if values else None,
                "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            }
        other = references.get(group.key)
        own |= {
            "reference": None if other is None else other.name,
            **_paired(group, other, measured, n_clusters, level),
        }
        facts.append(own)
    adjusted = iter(holm([one["difference"]["p"] for one in facts if one["difference"]]))
    for one in facts:
        one["p_holm"] = next(adjusted) if one["difference"] else None
    return facts


def _paired(
    group: Group, other: Group | None, measured: Mapping[str, Measured], n_clusters: int, level: float
) -> dict[str, Any]:
    """The difference over the seeds that both have."""
    shared = [] if other is None else [seed for seed in group.by_seed if seed in other.by_seed]
    pairs = [(group.by_seed[seed].name, other.by_seed[seed].name) for seed in shared] if other is not None else []
    known = [(one, two) for one, two in pairs if one in measured and two in measured][:MAX_SEEDS]
    if len(known) < 2:
        return {"n_pairs": len(known), "difference": None}
    point_S = np.array([measured[one].point - measured[two].point for one, two in known])
    drawn_SR = np.stack([measured[one].drawn_R - measured[two].drawn_R for one, two in known])
    found = compare(point_S, drawn_SR, n_clusters, level)
    return {"n_pairs": len(known), "difference": found.as_dict()}


def what_groups_show(groups: Sequence[Mapping[str, Any]], cluster: str) -> list[str]:
    """What the groups' differences can and cannot show, from how many seeds there are."""
    compared = [group for group in groups if group["difference"]]
    if not compared:
        return ["No two groups share two seeds, so none are compared in pairs."] if len(groups) > 1 else []
    n_pairs = min(group["n_pairs"] for group in compared)
    what = f"{n_pairs} paired seeds and {counted_noun(len(compared), 'comparison')}"
    least = least_p(n_pairs, len(compared))
    if least >= ALPHA:
        return [
            f"{what} give no p below {least:.3g}, so no group can be called better or worse here; "
            f"{seeds_for_a_verdict(len(compared))} seeds could. The groups' intervals allow for other seeds and other "
            f"{cluster}s."
        ]
    sure = [
        group
        for group in compared
        if group["p_holm"] < ALPHA and (group["difference"]["low"] > 0 or group["difference"]["high"] < 0)
    ]
    named = f": {'; '.join(group['name'] for group in sure)}" if sure else ""
    return [
        f"{len(sure)} of {counted_noun(len(compared), 'group')} can be told apart from the reference (interval for "
        f"other seeds and {cluster}s without 0, and p < {ALPHA} over seeds after Holm){named}."
    ]


def counted_noun(n: int, noun: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{n} {noun}" + ("" if n == 1 else "s")
