"""Where a study's time went, from its trials' records and `trials.csv`: stages summed over trials, and wall-clock.

A trial's time counts from its start to its end on its worker. One that was cut off (Ctrl-C, kill, power cut) counts
nowhere: of a killed one only the start is sure, since its end is written down when the study goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from kdexp.analysis.schedules_tables import Table, table
from kdexp.analysis.trials_table import duration, read_trials
from kdexp.records import RunFolder, read_json

STAGES = {
    "data": "data",
    "teacher": "teacher",
    "teacher_outputs": "teacher outputs",
    "student": "training students",
    "evaluation": "evaluation",
    "no_kd": "no-KD students",
}
"""What a record's `durations_seconds` holds, in the order of a run."""
REST, NO_RECORD = "set-up, features, records", "trials without a record"
PAUSE = 60.0
"""From so many seconds on, a time in which no trial ran is told."""
_ENDED = ("complete", "pruned", "fail")
_CUT_OFF = "interrupted"

_NOTE = (
    "Seconds of the workers, summed over trials. A teacher and its outputs are made by the first trial that needs "
    "them; others read them, or wait for that trial, which counts here. What a live teacher takes is part of training."
)


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What one ended trial took: `seconds` in all from `start` (a time in seconds, known to the second), None where
    the table does not tell, and by stage as it recorded; None where it left no record."""

    seconds: float | None
    start: float | None
    stages: Mapping[str, float] | None


def study_time(folder: Path) -> tuple[list[str], Table]:
    """Sentences, and a table of stages whose rows are empty where nothing is known."""
    rows = [row for row in read_trials(folder / "trials.csv") if row["state"] in _ENDED]
    cut = [replace(_spent(folder, row), seconds=0.0) for row in rows if row.get("reason") == _CUT_OFF]
    spent = [_spent(folder, row) for row in rows if row.get("reason") != _CUT_OFF]
    stages = stages_table(spent)
    wall = read_json(folder / "study_summary.json")["durations_seconds"]["from_first_start_to_last_end"]
    return [*_split(stages), *_wall_clock(wall, spent, cut)], stages


def stages_table(spent: Sequence[Spent]) -> Table:
    """A row per stage that took any time."""
    names = dict.fromkeys([*STAGES, *(name for one in spent for name in one.stages or ())])
    found = {STAGES.get(name, name): [(one.stages or {}).get(name) for one in spent] for name in names}
    found[REST] = [None if one.seconds is None or one.stages is None else _rest(one) for one in spent]
    found[NO_RECORD] = [one.seconds if one.stages is None else None for one in spent]
    known = {name: taken for name, values in found.items() if (taken := [v for v in values if v is not None])}
    total = sum(sum(values) for values in known.values())
    rows = [
        {
            "stage": name,
            "trials": len(values),
            "seconds": sum(values),
            "share": sum(values) / total,
            "most": max(values),
        }
        for name, values in known.items()
        if total > 0
    ]
    columns = [("stage", "", "s"), ("trials", "trials", "d"), ("seconds", "seconds", ",.1f"), ("share", "share", ".1%")]
    return table("time", "Where the time went", [*columns, ("most", "most in one trial", ",.1f")], rows, _NOTE)


def at_once(spent: Sequence[Spent]) -> int:
    """How many trials certainly ran at the same time at the busiest moment; starts are known to the second."""
    spans = [(start + 1, start + seconds) for start, seconds in _times(spent) if seconds > 1]
    steps = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    running = [0]
    for _, step in steps:
        running.append(running[-1] + step)
    return max(running)


def pauses(spent: Sequence[Spent]) -> list[float]:
    """The seconds between one trial's end and the next start in which none ran, where they are many."""
    found, until = [], float("inf")
    for start, seconds in sorted(_times(spent)):
        if start - until > PAUSE:
            found.append(start - until)
        until = start + seconds if until == float("inf") else max(until, start + seconds)
    return found


def _spent(folder: Path, row: Mapping[str, str]) -> Spent:
    record = RunFolder(folder / "trials" / f"trial_{int(row['number']):05d}").record
    seconds, started = row.get("seconds"), row.get("started")
    return Spent(
        seconds=float(seconds) if seconds else None,
        start=datetime.fromisoformat(started).timestamp() if started else None,
        stages=read_json(record)["durations_seconds"] if record.exists() else None,
    )


def _rest(one: Spent) -> float:
    assert one.seconds is not None and one.stages is not None
    return one.seconds - sum(one.stages.values())


def _times(spent: Sequence[Spent]) -> list[tuple[float, float]]:
    return [(one.start, one.seconds) for one in spent if one.start is not None and one.seconds is not None]


def _split(stages: Table) -> list[str]:
    """`Of 3.5 h that trials took on the workers: training students 81 %, …`, the longest first."""
    rows: list[dict[str, Any]] = sorted(stages["rows"], key=lambda row: -row["seconds"])
    said = [f"{row['stage']} {row['share']:.0%}" for row in rows if row["share"] >= 0.005]
    total = duration(sum(row["seconds"] for row in rows))
    return [f"Of {total} that trials took on the workers: {', '.join(said)}."] if rows else []


def _wall_clock(wall: float | None, spent: Sequence[Spent], cut: Sequence[Spent]) -> list[str]:
    lines, gaps, most = [], pauses([*spent, *cut]), at_once(spent)
    if wall is not None:
        said = f"Wall-clock from the first trial's start to the last one's end: {duration(wall)}"
        said += f", with at least {most} of them at once at times" if most > 1 else ""
        if gaps:
            found = f"{len(gaps)}" + (f", the longest {duration(max(gaps))}" if len(gaps) > 1 else "")
            said += f"; in {duration(sum(gaps))} of it none ran to an end (pauses of more than a minute: {found})"
        lines.append(f"{said}. A pause (kill and resume) lengthens the wall-clock and no row of the table.")
    if cut:
        lines.append(
            f"Trials cut off (Ctrl-C, kill, power cut): {len(cut)}; what they took is in no row of the table, and in "
            "the wall-clock as a pause is."
        )
    return lines
