"""Finished runs as a comparison takes them: where their predictions are, and their scores on shared draws of clusters.

Shape suffixes: R draws of clusters, G clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdexp.analysis.run import Run
from kdexp.analysis.settings import Settings
from kdexp.analysis.verdict import refuse_other_samples
from kdexp.bootstrap import cluster_draws, metrics_on_draws
from kdexp.errors import DataError
from kdexp.predictions import Predictions
from kdexp.records import RunFolder, read_json

EVALUATION = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One trained student. `part` holds its metrics and intervals, `home` its predictions: of the student that
    `with_no_kd` trained, both lie inside another run. `shown` is what a table tells of its settings."""

    name: str
    run: Run
    home: RunFolder
    part: Mapping[str, Any]
    settings: Settings
    seconds: float | None
    shown: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, name: str) -> Entry:
        """Raises DataError where the folder holds no finished run."""
        run, settings = Run.read(folder), Settings.read(folder)
        seconds = run.record["durations_seconds"].get("student")
        return cls(name=name, run=run, home=run.folder, part=run.record, settings=settings, seconds=seconds)

    @property
    def without_distillation(self) -> Entry | None:
        """The student that `with_no_kd` trained beside it."""
        part = self.run.record.get("no_kd")
        if not part:
            return None
        return replace(
            self,
            name=f"{self.name} no-KD",
            home=RunFolder(self.run.folder.path / part["folder"]),
            part=part,
            settings=self.settings.without_distillation(),
            seconds=self.run.record["durations_seconds"].get("no_kd"),
        )

    @property
    def folder(self) -> Path:
        return self.home.path

    @property
    def seed(self) -> int:
        return int(self.run.record["seed"])

    @property
    def has_checkpoint(self) -> bool:
        """Whether `evaluate` can still measure it; it takes run folders, not what lies inside them."""
        return self.home == self.run.folder and self.home.best_checkpoint.exists()

    @property
    def data(self) -> Mapping[str, Any]:
        return dict(self.run.record["data"])

    @property
    def measured_on(self) -> tuple[str, ...]:
        """What has to be the same for two runs to be compared: data, splits and score."""
        data = self.data
        return (str(data["name"]), str(data["source"]), str(data["fingerprint"]), *self.run.record["score"])

    def values(self, split: str) -> Mapping[str, float] | None:
        """Metrics on a split, of val those of the best epoch; None where it was not measured."""
        measured = self.part["metrics"].get(split) or (self._evaluation(split) or {}).get("metrics")
        return None if measured is None else measured.get("best", measured)

    def intervals(self, split: str) -> Mapping[str, Any]:
        found = (self.part.get("intervals") or {}).get(split)
        return found or (self._evaluation(split) or {}).get("intervals") or {}

    def predictions_file(self, split: str) -> Path | None:
        """Where the run, or a later evaluation, left its predictions; None where neither did."""
        own = self.home.predictions(split)
        if own.exists():
            return own
        later = RunFolder(self._evaluated(split).parent).predictions(split)
        return later if later.exists() and self._evaluation(split) is not None else None

    def _evaluated(self, split: str) -> Path:
        return self.home.path / "evaluations" / split / EVALUATION

    def _evaluation(self, split: str) -> Mapping[str, Any] | None:
        path = self._evaluated(split)
        return dict(read_json(path)) if path.exists() else None


@dataclass(frozen=True)
class Sampling:
    """How intervals are drawn: clusters with replacement, the same draws for all runs."""

    n_resamples: int
    level: float
    seed: int


@dataclass(frozen=True)
class Measured:
    """A metric of one run on one split: as it is, and (R,) on the draws."""

    point: float
    drawn_R: np.ndarray


def measure_all(
    entries: Sequence[Entry], split: str, metric: str, sampling: Sampling
) -> tuple[dict[str, Measured], int, int]:
    """The metric by entry name, for entries that have their predictions, on the same draws; and how many samples and
    clusters the split has.

    Raises DataError where files are broken, hold different samples, or all samples belong to one cluster.
    """
    files = {entry.name: entry.predictions_file(split) for entry in entries}
    loaded = {name: Predictions.load(path) for name, path in files.items() if path is not None}
    if not loaded:
        return {}, 0, 0
    first = next(iter(loaded.values()))
    for predictions in loaded.values():
        refuse_other_samples(first, predictions)
    n_clusters = len(np.unique(first.cluster))
    if n_clusters < 2:
        raise DataError(f"{first.origin}: all samples belong to one cluster; an interval needs two or more")
    # The first row counts every cluster once, so that the value itself follows the same rules as its draws.
    counts_RG = np.concatenate(
        [np.ones((1, n_clusters)), cluster_draws(n_clusters, sampling.n_resamples, sampling.seed)]
    )
    measured = {}
    for entry in entries:
        if entry.name in loaded:
            values = _on_draws(entry.run, loaded[entry.name], metric, counts_RG)
            measured[entry.name] = Measured(float(values[0]), values[1:])
    return measured, len(first), n_clusters


def _on_draws(run: Run, predictions: Predictions, metric: str, counts_RG: np.ndarray) -> np.ndarray:
    score = run.record["score"]
    if metric != "score":
        return metrics_on_draws(predictions, run.tasks, score, counts_RG)[metric]
    needed = [replace(t, metrics=tuple(m for m in t.metrics if f"{t.name}/{m}" in score)) for t in run.tasks]
    return metrics_on_draws(predictions, [task for task in needed if task.metrics], score, counts_RG)["score"]


def difference(one: Measured, other: Measured, level: float) -> dict[str, Any]:
    """One run minus another, with the percentile interval of the paired draws on which both are defined.

    `told_apart`: the interval leaves out 0. It speaks of these two trained students on other clusters, not of seeds.
    """
    drawn_R = one.drawn_R - other.drawn_R
    drawn_R = drawn_R[~np.isnan(drawn_R)]
    if len(drawn_R) == 0:
        return {"value": one.point - other.point, "low": None, "high": None, "told_apart": False}
    low, high = (float(bound) for bound in np.quantile(drawn_R, [(1 - level) / 2, (1 + level) / 2]))
    return {"value": one.point - other.point, "low": low, "high": high, "told_apart": low > 0 or high < 0}
