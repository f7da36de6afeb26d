"""The report of a study: one HTML file that opens offline and asks for nothing, made from the files of its folder.

Reads `study_summary.json`, `trials.csv`, `best_config.yaml` and `plots/`; needs neither torch nor Optuna. Whatever
comes from the study is escaped, and the page's own policy forbids scripts and requests.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from kdexp.analysis.comparison import COMPARISON_SCHEMA
from kdexp.analysis.comparison_table import comparison_section
from kdexp.analysis.schedules_page import schedules_section
from kdexp.analysis.trials_table import NONE, STATES, duration, escaped, number, read_trials, trials_table
from kdexp.analysis.verdict_table import verdict_section
from kdexp.errors import DataError
from kdexp.records import read_json, written_whole

REPORT = "report.html"
COMPARISON = "comparison/comparison.json"
_SCHEMA = 1
_PAGE = Path(__file__).with_name("report_page.html")

Summary = Mapping[str, Any]


def write_study_report(folder: Path) -> Path:
    """Writes `folder/report.html` whole and returns its path.

    Raises DataError where the folder holds no study's summary or table, or they are broken.
    """
    if not (folder / "study_summary.json").exists():
        raise DataError(f"{folder} is not a study folder with results: it holds no study_summary.json")
    summary = read_json(folder / "study_summary.json")
    if not isinstance(summary, dict) or summary.get("schema") != _SCHEMA:
        raise DataError(f"{folder / 'study_summary.json'} was written by another version of kdexp; write it again")
    plots, problems = _plots(folder)
    parts = [
        _head(summary),
        _notices(summary, problems),
        _tiles(summary),
        _winner(folder, summary),
        _confirmation(folder),
        _comparison(folder),
        schedules_section(folder),
        _what_was_run(summary),
        f"<h2>Trials</h2>\n{_table(folder, summary)}",
        plots,
        _foot(summary),
    ]
    return write_page(folder / REPORT, f"Study {summary['study_name']}", parts)


def write_page(path: Path, title: str, parts: Sequence[str]) -> Path:
    """Writes a page of these sections, HTML each, whole and returns its path."""
    page = Template(_PAGE.read_text(encoding="utf-8")).substitute(
        title=escaped(title), body="\n".join(part for part in parts if part)
    )
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


# The top: what this is, and how far to trust it


def _head(summary: Summary) -> str:
    return f"<h1>Study {escaped(summary['study_name'])}</h1>\n<p class='quiet'>{escaped(_measured_on(summary))}</p>"


def _measured_on(summary: Summary) -> str:
    data = summary["data"]
    goals = ", ".join(
        f"{name} ({direction})" for name, direction in zip(summary["objectives"], summary["directions"], strict=True)
    )
    if data is None:
        return f"Objective: {goals}. The data that the trials ran on is not known."
    counts, groups = data.get("n") or {}, data.get("n_clusters") or {}
    sizes = [
        f"{split} {counts[split]:,} samples" + (f" of {groups[split]:,} {data['cluster']}s" if split in groups else "")
        for split in ("train", "val")
        if split in counts
    ]
    measured = ", ".join([f"Data: {data['name']}, {_source(data)}", *sizes])
    return " ".join([f"Objective: {goals}. {measured}.", *(data.get("notes") or ())])


def _source(data: Mapping[str, Any]) -> str:
    return "SYNTHETIC" if data["source"] == "synthetic" else str(data["source"])


def _notices(summary: Summary, problems: Sequence[str]) -> str:
    lines = []
    others = list(summary["warnings"])
    if (summary["data"] or {}).get("source") == "synthetic" or any(text.startswith("SYNTHETIC") for text in others):
        others = [text for text in others if not text.startswith("SYNTHETIC")]
        lines.append(
            "<div class='synthetic' role='alert'><strong>SYNTHETIC DATA</strong> The trials ran on a generated "
            "stand-in. No number on this page says anything about the real data.</div>"
        )
    lines += [f"<div class='warn'>Warning: {escaped(text)}</div>" for text in others]
    own = [text for text in summary["problems"] if not text.startswith("plot ")]
    lines += [f"<div class='bad'>Problem: {escaped(text)}</div>" for text in (*own, *problems)]
    return "\n".join(lines)


def _tiles(summary: Summary) -> str:
    counts, epochs, best = summary["n_trials"], summary["epochs"], summary["best_trial"]
    tiles = []
    if best is not None:
        tiles += [(number(value), f"best {name}, trial {best['number']}") for name, value in best["values"].items()]
    if summary["pareto_set"]:
        tiles.append((str(len(summary["pareto_set"])), "trials on the Pareto front"))
    budget = "" if summary.get("budget") is None else f" of {summary['budget']}"
    tiles.append((f"{counts['complete'] + counts['pruned']}{budget}", f"finished trials; {_states(counts)}"))
    if summary["share_pruned"] is not None:
        tiles.append((f"{summary['share_pruned']:.0%}", "of the finished trials pruned"))
    if epochs["share_saved"] is not None:
        said = f"of epochs saved by pruning ({epochs['run']:,} of {epochs['without_pruning']:,} run)"
        tiles.append((f"{epochs['share_saved']:.0%}", said))
    wall = summary["durations_seconds"]["from_first_start_to_last_end"]
    if wall is not None:
        tiles.append((duration(wall), "from first start to last end"))
    shown = (f"<div class='tile'><b>{escaped(big)}</b><span>{escaped(small)}</span></div>" for big, small in tiles)
    return f"<div class='tiles'>{''.join(shown)}</div>"


def _states(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[state]} {word}" for state, word in STATES.items() if counts[state]) or "no trial yet"


# The winner


def _winner(folder: Path, summary: Summary) -> str:
    best, front = summary["best_trial"], summary["pareto_set"]
    if front:
        trials = "\n".join(_of_pareto_set(trial) for trial in front)
        said = "No trial beats one of these in an objective without losing to it in another."
        return f"<h2>Pareto set</h2>\n<p>{said}</p>\n{trials}"
    if best is None:
        return ""
    path, config = folder / "best_config.yaml", ""
    if path.exists():
        text = escaped(path.read_text(encoding="utf-8"))
        config = f"<details><summary>Its whole configuration (best_config.yaml)</summary><pre>{text}</pre></details>"
    caution = (
        "<p class='quiet'>The best of many trials on the split that chose it: its value flatters. A claim that it is "
        "better takes fresh seeds and a comparison in pairs.</p>"
    )
    return f"<h2>Best trial</h2>\n<p>{_title(best)}</p>{_particulars(best)}{caution}{config}"


def _confirmation(folder: Path) -> str:
    """What `confirm` found, where it was run."""
    path = folder / "confirm" / "verdict.json"
    if not path.exists():
        return ""
    picture = path.with_name("forest.svg")
    image = base64.b64encode(picture.read_bytes()).decode("ascii") if picture.is_file() else None
    figure = f"<figure><img alt='Forest plot' src='data:image/svg+xml;base64,{image}'></figure>" if image else ""
    return verdict_section(read_json(path), figure)


def _comparison(folder: Path) -> str:
    """What `report` found, where it was asked; another version's comparison is passed over with a word."""
    path = folder / COMPARISON
    if not path.exists():
        return ""
    found = read_json(path)
    if found.get("schema") != COMPARISON_SCHEMA:
        return f"<div class='warn'>{escaped(path)} was written by another version of kdexp; compare again.</div>"
    about = f"<p class='quiet'>Compared {escaped(found['written'])}.</p>"
    return f"{comparison_section(found['tables'])}\n{about}\n<pre class='command'>{escaped(found['command'])}</pre>"


def _of_pareto_set(trial: Mapping[str, Any]) -> str:
    return f"<details><summary>{_title(trial)}</summary>{_particulars(trial)}</details>"


def _title(trial: Mapping[str, Any]) -> str:
    values = ", ".join(f"{name} = {number(value)}" for name, value in trial["values"].items())
    name = f", {trial['name']}" if trial["name"] else ""
    return f"<b>Trial {trial['number']}{escaped(name)}</b>: {escaped(values)}"


def _particulars(trial: Mapping[str, Any]) -> str:
    """Parameters, seed, epochs, and the command that trains it again."""
    rows = [(key, number(value)) for key, value in trial["params"].items()]
    rows += [("seed", number(trial["seed"])), ("epochs", number(trial["epochs"]))]
    command = f"<pre class='command'>{escaped(trial['command'])}</pre>" if trial["command"] else ""
    return _list(rows) + command


def _what_was_run(summary: Summary) -> str:
    data, durations = summary["data"], summary["durations_seconds"]
    rows = [
        ("data", f"{data['name']}, {_source(data)}, fingerprint {data['fingerprint']}" if data else "not known"),
        ("sampler", _target(summary["sampler"])),
        ("pruner", _target(summary["pruner"])),
        ("drawn by", _counted(summary["drawn_by"]["by_sampler"])),
        ("failures", _counted(summary["failures"])),
        ("first start", durations["first_start"] or NONE),
        ("last end", durations["last_end"] or NONE),
        ("median complete trial", duration(durations["median_of_complete_trials"])),
    ]
    space = summary["space"] if isinstance(summary["space"], Mapping) else {}
    fixed = [f"{key}={value}" for key, value in (space.get("fixed") or {}).items()]
    words = list(dict.fromkeys([*summary["base_overrides"], *fixed]))
    items = "".join(f"<li><code>{escaped(word)}</code></li>" for word in words)
    searched = [(name, _range(name, one, space)) for name, one in (space.get("parameters") or {}).items()]
    return (
        f"<h2>What was run</h2>\n{_list(rows)}"
        + (f"<h3>Search space</h3>\n{_list(searched)}" if searched else "")
        + (f"<h3>Given on the command line or fixed for all trials</h3>\n<ul>{items}</ul>" if items else "")
    )


def _range(name: str, distribution: Mapping[str, Any], space: Mapping[str, Any]) -> str:
    """`0.0001 to 0.1, log scale`; `one of a, b; only with mode = fast`."""
    given = distribution["attributes"]
    if "choices" in given:
        said = f"one of {', '.join(number(choice) for choice in given['choices'])}"
    else:
        said = f"{number(given['low'])} to {number(given['high'])}"
        said += ", whole" if distribution["name"] == "IntDistribution" else ""
        said += ", log scale" if given["log"] else ""
        said += f", in steps of {number(given['step'])}" if given["step"] not in (None, 1) else ""
    conditions = (space.get("active_when") or {}).get(name) or {}
    needs = [f"{other} = {' or '.join(map(number, allowed))}" for other, allowed in conditions.items()]
    return said + (f"; only with {' and '.join(needs)}" if needs else "")


def _target(value: Any) -> str:
    """A class by its last name, with its settings where they are known."""
    if value is None:
        return NONE
    if not isinstance(value, Mapping):
        return str(value).rpartition(".")[2]
    settings = ", ".join(f"{key}={inner}" for key, inner in value.items() if key != "_target_")
    return _target(value.get("_target_")) + (f" ({settings})" if settings else "")


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {n:,}" for name, n in counts.items()) or NONE


def _table(folder: Path, summary: Summary) -> str:
    best = [trial["number"] for trial in (summary["best_trial"], *summary["pareto_set"]) if trial]
    return trials_table(read_trials(folder / "trials.csv"), summary["objectives"], best)


# The plots


def _plots(folder: Path) -> tuple[str, list[str]]:
    """The section with all plots inside the page, and what is wrong with them."""
    path = folder / "plots" / "plots.json"
    if not path.exists():
        return "", ["no plots were drawn"]
    listed = read_json(path)
    figures, problems = [], []
    for plot in listed["plots"]:
        picture = path.parent / Path(plot["png"]).name
        if picture.is_file():
            figures.append(_figure(plot, picture))
        else:
            problems.append(f"plot {plot['name']}: {picture.name} is missing from plots/")
    rows = "".join(f"<li>{escaped(one['name'])}: {escaped(one['reason'])}</li>" for one in listed["problems"])
    missing = f"<div class='warn'>Not drawn, since they would be empty:<ul>{rows}</ul></div>" if rows else ""
    note = f"<p class='quiet'>Drawn by Optuna from {listed['n_trials']:,} trials, {escaped(listed['drawn'])}.</p>"
    return f"<h2>Plots</h2>\n{note}{missing}\n" + "\n".join(figures), problems


def _figure(plot: Mapping[str, str], picture: Path) -> str:
    image = base64.b64encode(picture.read_bytes()).decode("ascii")
    title, page = escaped(plot["title"]), escaped(f"plots/{plot['html']}")
    return (
        f"<figure><img alt='{title}' src='data:image/png;base64,{image}'>"
        f"<figcaption>{title} · <a href='{page}'>interactive</a>, beside this file</figcaption></figure>"
    )


def _foot(summary: Summary) -> str:
    return f"<p class='quiet'>Results written {escaped(summary['written'])}. The study itself is study.db.</p>"


def _list(rows: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(text)}</dd>" for name, text in rows) + "</dl>"
