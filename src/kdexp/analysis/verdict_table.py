"""The verdict of a confirmation for people: a table on the terminal, a section of the study's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdexp.analysis.trials_table import NONE, escaped

Verdict = Mapping[str, Any]


def render_verdict(verdict: Verdict, console: Console) -> None:
    """Prints what was compared, the sentences, and what they depend on."""
    console.print(Text(heading(verdict), style="bold"))
    console.print(_table(_HEADINGS, _compared(verdict)))
    if selected := _selected(verdict):
        console.print(Text("\nThe value by which the search chose, and the mean over fresh seeds:", style="bold"))
        console.print(_table(_SELECTION, selected))
    console.print()
    for contender in verdict["contenders"]:
        console.print(Text(f"{contender['sentence']}."), soft_wrap=True)
    for note in notes(verdict):
        console.print(Text(note, style="dim"), soft_wrap=True)


def heading(verdict: Verdict) -> str:
    data = verdict["data"]
    source = "SYNTHETIC data" if data["source"] == "synthetic" else f"{data['source']} data"
    seeds = verdict["seeds"]
    return (
        f"{verdict['study']}: {data['name']}, {source} · {verdict['split']}: {data['n']:,} samples of "
        f"{data['n_clusters']:,} {data['cluster']}s · {len(seeds)} seeds ({_range(seeds)})"
    )


def notes(verdict: Verdict) -> list[str]:
    """What the sentences rest on, a line each."""
    level, first = verdict["level"], verdict["contenders"][0]
    planning = first["planning"]
    needed = ", ".join(
        f"{one['difference']:.3f} ({name}): {one['seeds']}" for name, one in planning["seeds_needed"].items()
    )
    lines = [
        f"In brackets: {level:.0%} interval for other seeds and other {verdict['data']['cluster']}s. p: exact "
        "sign-flip test over seeds, Holm over contenders; better and worse need p < .05 and an interval without 0.",
        f"Score: {_score_words(verdict)}. Equivalent: within {verdict['margin']:g} of each other. "
        f"{verdict['condition'].capitalize()}.",
        f"{first['name']}: seeds that find a true difference of this size in 80 % of cases: {needed}. "
        + _left_by_clusters(planning["half_width_of_clusters_alone"], verdict["data"]["cluster"]),
    ]
    others = [one["name"] for one in verdict["contenders"][1:] if one["trial"] is not None]
    if others and verdict["no_kd"] == "plain":
        lines.append(
            f"no-KD is {first['name']} without distillation. {', '.join(others)}: other settings differ as well, so "
            "what parts these from no-KD need not be distillation."
        )
    if verdict["overrides"] and _selected(verdict):
        lines.append(f"The search chose by runs without {', '.join(verdict['overrides'])}: its values are others.")
    return [*lines, *(f"Warning: {sentence}" for sentence in verdict["warnings"])]


def _left_by_clusters(half_width: float, cluster: str) -> str:
    """What more seeds would not take away; an estimate of 0 means that it drowned in what the seeds scatter."""
    if half_width == 0:
        return f"What the {cluster}s of this test set add is too small beside the seeds' scatter to be estimated here."
    return f"However many seeds, this test set leaves ±{half_width:.3f}."


def verdict_section(verdict: Verdict, forest: str) -> str:
    """HTML for the study's report; `forest` is the figure's element, or empty."""
    sentences = "".join(f"<li>{escaped(contender['sentence'])}.</li>" for contender in verdict["contenders"])
    small = "".join(f"<li>{escaped(note)}</li>" for note in notes(verdict))
    selected = _selected(verdict)
    chosen = f"<h3>The value by which the search chose</h3>\n{_html_table(_SELECTION, selected)}" if selected else ""
    return (
        f"<h2>Confirmation</h2>\n<p class='quiet'>{escaped(heading(verdict))}</p>\n<ul>{sentences}</ul>\n"
        f"{_html_table(_HEADINGS, _compared(verdict))}\n{forest}\n{chosen}\n"
        f"<ul class='quiet'>{small}</ul>\n<pre class='command'>{escaped(verdict['command'])}</pre>"
    )


_HEADINGS = ("", "test", "difference", "interval", "p", "effect", "verdict")
_SELECTION = ("", "search val", "fresh val", "fresh test", "lost on val", "lost to test")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
    for name in headings:
        table.add_column(name, justify="left" if name in ("", "verdict") else "right", no_wrap=name != "verdict")
    for cells in rows:
        table.add_row(*map(Text, cells))
    return table


def _compared(verdict: Verdict) -> list[list[str]]:
    base = verdict["baseline"]
    rows = [[base["name"], f"{base['mean_test']['score']:.3f}", *[NONE] * 5]]
    for contender in verdict["contenders"]:
        score = contender["difference"]["score"]
        effect = score["effect_size"]
        rows.append(
            [
                contender["name"],
                f"{contender['mean_test']['score']:.3f}",
                f"{score['mean']:+.3f}",
                f"[{score['low']:+.3f}, {score['high']:+.3f}]",
                f"{contender['p_holm']:.3g}",
                NONE if effect is None else f"{effect:+.2f}",
                contender["verdict"],
            ]
        )
    return rows


def _selected(verdict: Verdict) -> list[list[str]]:
    """What became of the values by which the search chose, for contenders that it found."""
    chosen = [(contender["name"], contender["selection"]) for contender in verdict["contenders"]]
    keys = ("search_val", "fresh_val", "fresh_test", "shrinkage_on_val", "shrinkage_to_test")
    return [[name, *(f"{facts[key]:.3f}" for key in keys)] for name, facts in chosen if facts is not None]


def _html_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th class='name'>{escaped(name)}</th>" for name in headings)
    body = "".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in cells) + "</tr>" for cells in rows)
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _range(seeds: list[int]) -> str:
    is_run = seeds == list(range(seeds[0], seeds[0] + len(seeds)))
    return f"{seeds[0]} to {seeds[-1]}" if is_run and len(seeds) > 2 else ", ".join(map(str, seeds))


def _score_words(verdict: Verdict) -> str:
    parts = verdict["score"]
    return f"mean of {' and '.join(parts)}" if len(parts) > 1 else parts[0]
