"""The table of a study's trials in its report, from `trials.csv`; and how the report writes words and numbers."""

from __future__ import annotations

import csv
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdexp.errors import DataError

NONE = "–"
STATES = {"complete": "complete", "pruned": "pruned", "fail": "failed", "running": "running", "waiting": "waiting"}
_TEXT_COLUMNS = ("name", "reason", "error")
_ONLY_IF_USED = (*_TEXT_COLUMNS, "retry_of")
_MAX_SHOWN_ERROR = 90


def read_trials(path: Path) -> list[dict[str, str]]:
    """A mapping per trial. Raises DataError where the file is missing or torn."""
    if not path.exists():
        raise DataError(f"{path} does not exist; it is written with study_summary.json")
    with path.open(encoding="utf-8", newline="") as stream:
        try:
            rows = list(csv.DictReader(stream, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path} is torn ({error}); write the study's results again") from None
    for row in rows:
        if None in row or None in row.values() or not (row.get("number") or "").isdigit():
            raise DataError(f"{path} is torn: {list(row.values())[:3]} ... is no whole row; write the results again")
    return rows


def trials_table(rows: Sequence[Mapping[str, str]], objectives: Sequence[str], best: Sequence[int]) -> str:
    """The HTML table, with the best trials set off; columns of text that no trial uses are left out."""
    if not rows:
        return "<p>The study has no trial yet.</p>"
    columns = [name for name in rows[0] if name not in _ONLY_IF_USED or any(row[name] for row in rows)]
    head = "".join(_heading(name, objectives) for name in columns)
    body = "\n".join(_row(row, columns, int(row["number"]) in best) for row in rows)
    return (
        f"<div class='scroll'><table id='trials'><thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _heading(name: str, objectives: Sequence[str]) -> str:
    said = objectives[0] if name == "value" else name.removeprefix("params.").removeprefix("value.")
    left = " left" if name in (*_TEXT_COLUMNS, "state") else ""
    # A long key may break after its dots.
    shown = escaped("retry of" if name == "retry_of" else said).replace(".", ".<wbr>").replace("@", "@<wbr>")
    return f"<th class='name{left}'>{shown}</th>"


def _row(row: Mapping[str, str], columns: Iterable[str], is_best: bool) -> str:
    cells = "".join(_cell(name, row[name]) for name in columns)
    return f"<tr class='best'>{cells}</tr>" if is_best else f"<tr>{cells}</tr>"


def _cell(name: str, text: str) -> str:
    if name == "state":
        state = text if text in STATES else ""
        return f"<td class='left {state}'>{escaped(STATES.get(text, text))}</td>"
    if name == "error" and len(text) > _MAX_SHOWN_ERROR:
        start = escaped(text[:_MAX_SHOWN_ERROR])
        return f"<td class='text'><details><summary>{start}…</summary><pre>{escaped(text)}</pre></details></td>"
    if name in _TEXT_COLUMNS:
        return f"<td class='text'>{escaped(text)}</td>"
    shown = _rounded(text) if name.startswith(("value", "params.", "seconds")) else text
    full = f" title='{escaped(text)}'" if shown != text else ""
    return f"<td{full}>{escaped(shown)}</td>"


def _rounded(text: str) -> str:
    """A fraction with four digits that count; whole numbers and words as they are."""
    try:
        value = float(text)
    except ValueError:
        return text
    return text if text.lstrip("-").isdigit() else f"{value:.4g}"


def number(value: Any) -> str:
    """A fraction with four digits that count, anything else as it is."""
    if value is None:
        return NONE
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float | None) -> str:
    """`42 s`, `7 min`, `3.5 h`."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, hours = round(seconds / 60), seconds / 3600
    return f"{minutes} min" if minutes < 100 else f"{hours:.1f} h"


def escaped(value: Any) -> str:
    """Safe between tags and in quoted attributes."""
    return html.escape(str(value), quote=True)
