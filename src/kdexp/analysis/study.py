"""A study's folder found by its name, and its complete trials in order, from `study_summary.json` and `trials.csv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdexp.errors import StudyError

Row = Mapping[str, str]


def find_study(output_root: Path, name: str) -> Path:
    """The folder of a study with results. Raises StudyError where there is none, naming those that are there."""
    studies = output_root / "studies"
    folder = studies / name
    if not folder.is_dir():
        there = ", ".join(sorted(path.parent.name for path in studies.glob("*/study_summary.json"))) or "none"
        raise StudyError(f"study={name}: there is no {folder}; there are studies: {there}")
    if not (folder / "study_summary.json").exists():
        raise StudyError(f"{folder} holds no study_summary.json: the study's own command writes it, give it again")
    return folder.resolve()


def ranked(rows: Sequence[Row], summary: Mapping[str, Any]) -> list[Row]:
    """The complete trials that keep all constraints, the best first; of several objectives, by the first."""
    done = [row for row in rows if row["state"] == "complete" and is_feasible(row)]
    sign = -1 if summary["directions"][0] == "maximize" else 1
    column = value_column(summary)
    return sorted(done, key=lambda row: (sign * float(row[column]), int(row["number"])))


def value_column(summary: Mapping[str, Any]) -> str:
    """Where the table holds the first objective."""
    several = len(summary["objectives"]) > 1
    return f"value.{summary['objectives'][0]}" if several else "value"


def is_feasible(row: Row) -> bool:
    """Whether a trial keeps the study's constraints; the table holds by how much each is broken."""
    return not any(cell and float(cell) > 0 for name, cell in row.items() if name.startswith("constraint."))
