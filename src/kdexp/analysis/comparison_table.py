"""A comparison of runs for people: tables on the terminal, CSV files, a section of HTML."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdexp.analysis.table import counted
from kdexp.analysis.trials_table import NONE, duration, escaped, number
from kdexp.records import written_whole

Comparison = Mapping[str, Any]
"""One table of `analysis.comparison.compare_runs`."""
Rows = list[list[str]]

_WIDE = 150
_MOST_SETTINGS = 3  # that a terminal's table has room for
_NUMBERS = ("seed", "seeds", "para-\nmeters", "time", "p", "pairs")
_SYNTHETIC = "generated stand-in, says nothing about the real data"


def render_comparison(tables: Sequence[Comparison], console: Console, *, groups_only: bool = False) -> None:
    """Prints each table with its sentences; on a narrow terminal in two parts."""
    for table in tables:
        if table["data"]["source"] == "synthetic":
            console.print(Text(" SYNTHETIC DATA ", style="bold white on red"), Text(_SYNTHETIC, style="red"))
        console.print(Text(heading(table), style="bold"))
        if not groups_only or not table["groups"]:
            for head, rows in _fitting(table, console.width):
                console.print(_rich(head, rows))
        if table["groups"]:
            console.print(Text("\nRuns alike but for their seeds: mean (spread over seeds)", style="bold"))
            console.print(_rich(*group_cells(table, " " if console.width >= _WIDE else "\n")))
        console.print()
        if len(table["settings"]) > _MOST_SETTINGS and not groups_only:
            console.print(f"The runs differ in {len(table['settings'])} settings, which runs.csv and the report list.")
        told_apart = [] if groups_only and table["groups"] else [table["told_apart"]]
        for sentence in [*told_apart, *table["sentences"], *notes(table)]:
            console.print(Text(sentence), soft_wrap=True)


def _fitting(table: Comparison, width: int) -> list[tuple[list[str], Rows]]:
    """In one table where it is wide enough; many settings, which would leave no room, are left to the files."""
    shown = table if len(table["settings"]) <= _MOST_SETTINGS else {**table, "settings": []}
    return [run_cells(shown)] if width >= _WIDE else [score_cells(shown, "\n"), difference_cells(shown)]


def heading(table: Comparison) -> str:
    """`medpix, real data · 30 runs · test: 200 samples of 69 cases`."""
    data = table["data"]
    source = "SYNTHETIC data" if data["source"] == "synthetic" else f"{data['source']} data"
    n_shown = len(table["rows"])
    runs = f"{table['n_runs']} runs" + (f", the best {n_shown} shown" if n_shown < table["n_runs"] else "")
    where = f"{table['split']}: {data['n_compared']:,} samples of {data['n_clusters_compared']:,} {data['cluster']}s"
    return f"{data['name']}, {source} · {runs} · {where}"


def notes(table: Comparison) -> list[str]:
    """What every number rests on."""
    data, metric = table["data"], table["metric"]
    score = f"mean of {' and '.join(table['score'])}" if len(table["score"]) > 1 else table["score"][0]
    lines = [
        f"With a run's number: {table['level']:.0%} percentile interval over {data['cluster']}s "
        f"({table['n_resamples']:,} resamples). "
        + (f"Score: {score}. " if metric == "score" else "")
        + "Rows are ordered by val, on which each run also took its best epoch: val values flatter."
    ]
    if any(row["test"] for row in table["rows"]):
        lines.append("Test took no part in the order; who picks a row by its test value has selected on test.")
    return lines


def score_cells(table: Comparison, between: str = " ") -> tuple[list[str], Rows]:
    """The headings and the rows of runs, what each is and what it scored; `between` a number and its interval."""
    splits = ["val", "test"] if any(row["test"] for row in table["rows"]) else ["val"]
    head = [
        "",
        *(_broken(key) for key in table["settings"]),
        "seed",
        *(f"{name}\n{table['metric']}" for name in splits),
    ]
    head += [*(f"{splits[-1]}\n{name}".replace("/", "\n") for name in table["task_metrics"]), "para-\nmeters", "time"]
    rows = []
    for row in table["rows"]:
        values = row["metrics"][splits[-1]] or {}
        cells = [row["name"], *(number(row["settings"].get(key)) for key in table["settings"]), str(row["seed"])]
        cells += [_interval(row[name], between) for name in splits]
        cells += [_three(values.get(name)) for name in table["task_metrics"]]
        cells += [NONE if row["parameters"] is None else counted(row["parameters"]), duration(row["seconds"])]
        rows.append(cells)
    return head, rows


def difference_cells(table: Comparison) -> tuple[list[str], Rows]:
    """The headings and the rows of runs, how each differs from its reference and from the best."""
    kinds = {"difference": "reference", "difference_to_best": "best"}
    if table["reference"]["kind"] == "best":  # they are one
        del kinds["difference"]
    head = ["", *(f"{table['split']} minus\n{name}" for name in kinds.values())]
    return head, [[row["name"], *(_signed(row[key]) for key in kinds)] for row in table["rows"]]


def run_cells(table: Comparison) -> tuple[list[str], Rows]:
    """Both in one."""
    (head, rows), (more, differences) = score_cells(table), difference_cells(table)
    return [*head, *more[1:]], [[*cells, *others[1:]] for cells, others in zip(rows, differences, strict=True)]


def group_cells(table: Comparison, between: str = " ") -> tuple[list[str], Rows]:
    """The headings and the rows of groups, named by their settings where these differ."""
    names = [_broken(key) for key in table["settings"]] or [""]
    scores = [f"{split}\n{table['metric']}" for split in ("val", "test")]
    head = [*names, "seeds", *scores, f"{table['split']} minus\nreference", "p", "pairs"]
    rows = []
    for group in table["groups"]:
        found = group["difference"]
        named = [number(group["settings"].get(key)) for key in table["settings"]] or [group["name"]]
        cells = [*named, str(len(group["seeds"])), _mean(group["val"], between), _mean(group["test"], between)]
        cells.append(_signed(found and {**found, "value": found["mean"]}, between))
        cells += [NONE if found is None else f"{group['p_holm']:.3g}", str(group["n_pairs"]) if found else NONE]
        rows.append(cells)
    return head, rows


def write_tables(tables: Sequence[Comparison], folder: Path) -> None:
    """`runs.csv` and, where there are groups, `groups.csv`: numbers in full precision, an absent value empty."""
    _write_csv(folder / "runs.csv", [_run_facts(table, row) for table in tables for row in table["rows"]])
    groups = [_group_facts(table, group) for table in tables for group in table["groups"]]
    if groups:
        _write_csv(folder / "groups.csv", groups)
    else:
        (folder / "groups.csv").unlink(missing_ok=True)


def comparison_section(tables: Sequence[Comparison]) -> str:
    """HTML for a page or a study's report."""
    return "\n".join(_section(table) for table in tables)


def _section(table: Comparison) -> str:
    banner = ""
    if table["data"]["source"] == "synthetic":
        banner = f"<div class='synthetic' role='alert'><strong>SYNTHETIC DATA</strong> {_SYNTHETIC}</div>\n"
    groups = f"<h3>Runs alike but for their seeds</h3>\n{_html(*group_cells(table))}" if table["groups"] else ""
    said = "".join(f"<li>{escaped(sentence)}</li>" for sentence in [table["told_apart"], *table["sentences"]])
    small = "".join(f"<li>{escaped(note)}</li>" for note in notes(table))
    return (
        f"<h2>Runs side by side</h2>\n{banner}<p class='quiet'>{escaped(heading(table))}</p>\n<ul>{said}</ul>\n"
        f"{_html(*run_cells(table))}\n{groups}\n<ul class='quiet'>{small}</ul>"
    )


def _run_facts(table: Comparison, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `runs.csv`, by column."""
    facts = {key: row[key] for key in ("name", "seed", "source", "no_kd")}
    facts |= {"fingerprint": table["data"]["fingerprint"], **row["settings"]}
    for split in ("val", "test"):
        facts |= {f"{split}/{name}": value for name, value in (row["metrics"][split] or {}).items()}
        facts |= _bounds(f"{split}/{table['metric']}", row[split])
    facts |= {"parameters": row["parameters"], "seconds": row["seconds"], "split": table["split"]}
    facts |= {"reference": row["reference"]}
    for key in ("difference", "difference_to_best"):
        facts[key] = (row[key] or {}).get("value")
        facts |= _bounds(key, row[key])
    facts["told_apart_from_best"] = (row["difference_to_best"] or {}).get("told_apart")
    return {**facts, "folder": row["folder"]}


def _group_facts(table: Comparison, group: Mapping[str, Any]) -> dict[str, Any]:
    found = group["difference"] or {}
    facts = {"name": group["name"], "no_kd": group["no_kd"], "fingerprint": table["data"]["fingerprint"]}
    facts |= {**group["settings"], "n_seeds": len(group["seeds"]), "seeds": " ".join(map(str, group["seeds"]))}
    for split in ("val", "test"):
        facts |= {f"{split}/{table['metric']}.{key}": group[split][key] for key in ("n", "mean", "spread")}
    facts |= {"split": table["split"], "reference": group["reference"], "n_pairs": group["n_pairs"]}
    facts |= {"difference": found.get("mean"), **_bounds("difference", found)}
    return {**facts, "p": found.get("p"), "p_holm": group["p_holm"]}


def _bounds(key: str, found: Mapping[str, Any] | None) -> dict[str, Any]:
    return {f"{key}.{side}": (found or {}).get(side) for side in ("low", "high")}


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(columns)
        table.writerows([["" if row.get(name) is None else row[name] for name in columns] for row in rows])


def _rich(head: Sequence[str], rows: Rows) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
    for place, name in enumerate(head):
        is_text = place == 0 or (name not in _NUMBERS and not name.startswith(("val", "test")))
        table.add_column(Text(name), justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for cells in rows:
        table.add_row(*map(Text, cells))
    return table


def _html(head: Sequence[str], rows: Rows) -> str:
    top = "".join(f"<th class='name'>{escaped(_whole(name)).replace('.', '.<wbr>')}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in cells) + "</tr>" for cells in rows)
    return f"<div class='scroll'><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _broken(key: str) -> str:
    """A long key in lines, after its dots."""
    return key.replace(".", ".\n")


def _whole(heading: str) -> str:
    """A heading in one line again; a page breaks it where it has to."""
    return heading.replace(".\n", ".").replace("-\n", "").replace("\n", " ")


def _interval(found: Mapping[str, Any] | None, between: str) -> str:
    if found is None:
        return NONE
    bounds = "" if found["low"] is None else f"{between}{found['low']:.3f}–{found['high']:.3f}"
    return f"{found['value']:.3f}{bounds}"


def _signed(found: Mapping[str, Any] | None, between: str = " ") -> str:
    if found is None:
        return NONE
    bounds = "" if found["low"] is None else f"{between}[{found['low']:+.3f}, {found['high']:+.3f}]"
    return f"{found['value']:+.3f}{bounds}"


def _mean(found: Mapping[str, Any], between: str) -> str:
    if found["mean"] is None:
        return NONE
    return f"{found['mean']:.3f}" + ("" if found["spread"] is None else f"{between}({found['spread']:.3f})")


def _three(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"
