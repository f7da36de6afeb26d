"""The forest plot of a confirmation: each seed's difference, and each contender's interval, around no difference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kdexp.analysis.drawing import BLUE, GREEN, GREY, RED, page, plain, save, tidy
from kdexp.records import written_whole

_COLOURS = {"better": GREEN, "worse": RED, "equivalent": BLUE}


def draw_forest(verdict: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes `forest.svg` and `forest.png` and returns their paths."""
    figure = forest(verdict)
    svg = folder / "forest.svg"
    with written_whole(svg) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    return [svg, save(figure, folder / "forest.png")]


def forest(verdict: Mapping[str, Any]) -> Figure:
    """A row per contender: a dot per seed, the mean as a diamond, the interval as a bar; the margin is shaded."""
    contenders, data = verdict["contenders"], verdict["data"]
    facts = [
        f"test, {data['n']:,} samples of {data['n_clusters']:,} {data['cluster']}s",
        f"{len(verdict['seeds'])} seeds",
        f"bar: {verdict['level']:.0%} interval for other seeds and {data['cluster']}s",
        f"band: differences up to {verdict['margin']:g}",
    ]
    figure = page(
        8.5,
        1.2 + 0.75 * len(contenders),
        f"Score minus that of {verdict['baseline']['name']}: {verdict['study']}",
        facts,
        synthetic=data["source"] == "synthetic",
    )
    axes = figure.add_subplot()
    axes.axvspan(-verdict["margin"], verdict["margin"], color="#eeeeee", zorder=0)
    axes.axvline(0.0, color=GREY, linewidth=1)
    for place, contender in enumerate(contenders):
        score = contender["difference"]["score"]
        colour = _COLOURS.get(contender["verdict"], GREY)
        axes.plot([score["low"], score["high"]], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot([score["mean"]], [place], marker="D", markersize=8, color=colour)
        heights = [place + 0.22] * len(score["per_seed"])
        axes.plot(score["per_seed"], heights, linestyle="none", marker="o", markersize=4, color=colour, alpha=0.55)
    axes.set_yticks(range(len(contenders)), [plain(f"{c['name']}\n{c['verdict']}") for c in contenders])
    axes.set_ylim(len(contenders) - 0.4, -0.6)
    axes.set_xlabel("difference of the test score, in favour of the contender to the right", fontsize=9)
    tidy(axes)
    return figure
