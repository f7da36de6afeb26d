"""One finished run, read back from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdexp.contracts import TaskSpec
from kdexp.errors import DataError
from kdexp.predictions import Predictions
from kdexp.records import RunFolder, read_json, read_lines

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A run's record, its epochs, and its predictions on demand."""

    folder: RunFolder
    record: Record
    history: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Raises DataError where the folder holds no finished run."""
        files = RunFolder(folder)
        if not files.record.exists():
            raise DataError(f"{folder} is not a finished run: it holds no run.json; continue it with resume={folder}")
        return cls(files, read_json(files.record), read_lines(files.metrics))

    @property
    def tasks(self) -> tuple[TaskSpec, ...]:
        return tuple(
            TaskSpec(name=t["name"], kind=t["kind"], classes=tuple(t["classes"]), metrics=tuple(t["metrics"]))
            for t in self.record["tasks"]
        )

    @property
    def is_synthetic(self) -> bool:
        return bool(self.record["data"]["source"] == "synthetic")

    @property
    def evaluated_split(self) -> str:
        """`test` where the run computed it; a sweep's trial and a pruned run did not, there it is `val`."""
        return "test" if self.record["metrics"].get("test") else "val"

    def predictions(self, split: str) -> Predictions:
        return Predictions.load(self.folder.predictions(split))

    def predictions_of_models(self, split: str) -> dict[str, Predictions]:
        """The student's, and where they are there the teacher's (in its store, which may have gone) and the no-KD
        student's."""
        folders = {
            "teacher": (self.record.get("teacher") or {}).get("folder"),
            "student": self.folder.path,
            "no-KD": self.folder.path / "no_kd",
        }
        files = {name: RunFolder(Path(folder)).predictions(split) for name, folder in folders.items() if folder}
        found = {name: Predictions.load(file) for name, file in files.items() if file.exists() or name == "student"}
        return found


def split_values(part: Record | None, split: str) -> Record:
    """The metrics of a student, a no-KD student or a teacher on a split; of a trained run's val, the best epoch's.

    Empty where the part or the split was not measured.
    """
    values = ((part or {}).get("metrics") or {}).get(split) or {}
    return values.get("best", values)


def sample_counts(record: Record, split: str) -> str:
    """`val: 197 samples of 67 cases`."""
    data = record["data"]
    return f"{split}: {data['n'][split]:,} samples of {data['n_clusters'][split]:,} {data['cluster']}s"


def provenance(record: Record) -> list[str]:
    """Where the numbers come from: data set and source, seed, configuration."""
    data = record["data"]
    source = "SYNTHETIC data" if data["source"] == "synthetic" else f"{data['source']} data"
    return [f"{data['name']}, {source}", f"seed {record['seed']}", f"config {str(record['config_hash'])[:12]}"]
