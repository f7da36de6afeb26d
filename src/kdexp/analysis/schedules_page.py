"""The analysis of schedules for people: a text for the terminal and `summary.txt`, a section of HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdexp.analysis.trials_table import NONE, escaped
from kdexp.records import read_json

Analysis = Mapping[str, Any]

SCHEMA = 2
FOLDER, SUMMARY, ANALYSIS = "schedules", "summary.txt", "schedules.json"
FIGURES = {
    "interaction": "Means by α₀ and T₀",
    "levels": "Configurations by start value",
    "strategies": "Configurations by strategy",
}

_TITLE = "Schedules of temperature and α"
_WIDTH = 170
_FILES_ONLY = ("runs", "pairs")
"""Long tables that are told by their CSV alone."""


def render(analysis: Analysis, console: Console, *, with_tables: bool = True) -> None:
    """Prints the sentences, and the tables where they are asked for, as wide as the console allows."""
    console.print(Text(f"{_TITLE}: {analysis['study']} · {analysis['written']}", style="bold"))
    for heading, sentences in _paragraphs(analysis):
        if heading:
            console.print(Text(f"\n{heading}", style="bold"))
        for sentence in sentences:
            console.print(Text(sentence), soft_wrap=_is_command(sentence))  # a command stays whole
    for one in shown_tables(analysis) if with_tables else ():
        console.print(Text(f"\n{one['title']}", style="bold"))
        console.print(_rich(one))
        for note in one["notes"]:
            console.print(Text(note, style="dim"))
    console.print(Text(f"\nFiles: {', '.join(files(analysis))}", style="dim"))


def summary_text(analysis: Analysis) -> str:
    """The same as plain text."""
    stream = io.StringIO()
    render(analysis, Console(file=stream, width=_WIDTH, color_system=None, force_terminal=False, legacy_windows=False))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def schedules_section(folder: Path) -> str:
    """The section of a study's report, where schedules were analysed; another version's is passed over with a word."""
    path = folder / FOLDER / ANALYSIS
    if not path.exists():
        return ""
    found = read_json(path)
    if found.get("schema") != SCHEMA:
        return f"<div class='warn'>{escaped(path)} was written by another version of kdexp; report again.</div>"
    return section(found, path.parent)


def section(analysis: Analysis, home: Path) -> str:
    """HTML for a study's report, with the figures that lie in `home`."""
    parts = [f"<h2>{escaped(_TITLE)}</h2>"]
    if analysis["data"]["source"] == "synthetic":
        said = "generated stand-in, says nothing about the real data"
        parts.append(f"<div class='synthetic' role='alert'><strong>SYNTHETIC DATA</strong> {said}</div>")
    for heading, sentences in _paragraphs(analysis):
        parts.append(f"<h3>{escaped(heading)}</h3>" if heading else "")
        parts.append(_listed(sentences, quiet=not heading))
    parts += [_embedded(home / f"{name}.svg", escaped(title)) for name, title in FIGURES.items()]
    parts += [_html(one) for one in shown_tables(analysis)]
    parts.append(f"<p class='quiet'>Files in schedules/: {escaped(', '.join(files(analysis)))}</p>")
    return "\n".join(part for part in parts if part)


def _embedded(path: Path, title: str) -> str:
    """The figure inside a page; empty where the file is missing. `title` is escaped already."""
    if not path.is_file():
        return ""
    image = base64.b64encode(path.read_bytes()).decode("ascii")
    source = f"data:image/svg+xml;base64,{image}"
    return f"<figure><img alt='{title}' src='{source}'><figcaption>{title}</figcaption></figure>"


def _listed(sentences: Sequence[str], *, quiet: bool) -> str:
    if all(_is_command(one) for one in sentences):
        return "\n".join(f"<pre class='command'>{escaped(one)}</pre>" for one in sentences)
    kind = " class='quiet'" if quiet else ""
    return f"<ul{kind}>" + "".join(f"<li>{escaped(one)}</li>" for one in sentences) + "</ul>"


def _is_command(sentence: str) -> bool:
    return sentence.startswith("python ")


def shown_tables(analysis: Analysis) -> list[Mapping[str, Any]]:
    return [one for one in analysis["tables"] if one["name"] not in _FILES_ONLY]


def files(analysis: Analysis) -> list[str]:
    return [
        "summary.txt",
        *(f"{one['name']}.csv" for one in analysis["tables"]),
        "recommendations.csv",
        "schedules.json",
    ]


def cell(value: Any, shape: str) -> str:
    """A value by its format specification; a dash where there is none."""
    if value is None or value == "":
        return NONE
    return str(value) if shape == "s" else format(value, shape)


def _paragraphs(analysis: Analysis) -> Iterator[tuple[str, list[str]]]:
    yield "", analysis["head"]
    if analysis["cautions"]:
        yield "How far to trust it", analysis["cautions"]
    yield "Ranges", analysis["ranges"]
    if analysis["effects"]:
        yield "Effects", analysis["effects"]
    yield "Recommendations", [f"{_capital(one['scenario'])}: {one['sentence']}" for one in analysis["recommendations"]]
    commands = [one["command"] for one in analysis["recommendations"] if one["verdict"] == "not shown"]
    if commands:
        yield "What trains them on fresh seeds, each against no distillation", list(dict.fromkeys(commands))
    if analysis["trade_off"]:
        yield "Trade-off", [analysis["trade_off"]]
    if analysis["confirmation"]:
        yield "Confirmed on fresh seeds", [f"{one}." for one in analysis["confirmation"]]
    if analysis["time"]:
        yield "Time", analysis["time"]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cells(one: Mapping[str, Any]) -> list[list[str]]:
    return [[cell(row.get(key), shape) for key, _, shape in one["columns"]] for row in one["rows"]]


def _rich(one: Mapping[str, Any]) -> Table:
    made = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
    for _, heading, shape in one["columns"]:
        made.add_column(Text(heading), justify="left" if shape == "s" else "right", no_wrap=shape == "s")
    for cells in _cells(one):
        made.add_row(*map(Text, cells))
    return made


def _html(one: Mapping[str, Any]) -> str:
    left = [" class='left'" if shape == "s" else "" for _, _, shape in one["columns"]]
    head = "".join(
        f"<th{kind}>{escaped(heading)}</th>" for (_, heading, _), kind in zip(one["columns"], left, strict=True)
    )
    body = "".join(f"<tr>{_html_cells(cells, left)}</tr>" for cells in _cells(one))
    notes = "".join(f"<p class='quiet'>{escaped(note)}</p>" for note in one["notes"])
    table = f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    return f"<h3>{escaped(one['title'])}</h3>\n{table}{notes}"


def _html_cells(cells: Sequence[str], left: Sequence[str]) -> str:
    return "".join(f"<td{kind}>{escaped(text)}</td>" for text, kind in zip(cells, left, strict=True))
