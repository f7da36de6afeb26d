"""Figures of the analysis of schedules, from its plain values: α₀ × T₀, levels of start values, strategies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdexp.analysis.drawing import BLUE, COLOURS, GREY, ORANGE, page, plain, tidy
from kdexp.analysis.schedules_page import FIGURES
from kdexp.analysis.schedules_rows import STRATEGIES
from kdexp.records import written_whole

Analysis = Mapping[str, Any]


def draw(analysis: Analysis, home: Path) -> list[Path]:
    """Writes an SVG per figure and returns their paths."""
    made = {"interaction": interaction(analysis), "levels": levels(analysis), "strategies": strategies(analysis)}
    paths = []
    for name, figure in made.items():
        path = home / f"{name}.svg"
        with written_whole(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
        paths.append(path)
    return paths


def interaction(analysis: Analysis) -> Figure:
    """A heat table per metric: rows α₀, columns T₀, the mean and the number of configurations in each cell."""
    tables = [one for one in analysis["tables"] if one["name"].startswith("interaction_")]
    figure = _page(analysis, "interaction", 4.6 * len(tables), 3.6)
    for place, (one, metric) in enumerate(zip(tables, analysis["metrics"], strict=True), 1):
        keys = [key for key, _, _ in one["columns"][1:]]
        values = np.array([[_number(row[key]) for key in keys] for row in one["rows"]])
        if np.isnan(values).all():
            continue
        axes = figure.add_subplot(1, len(tables), place)
        axes.imshow(metric["sign"] * values, cmap="Blues", aspect="auto")
        middle = (np.nanmin(metric["sign"] * values) + np.nanmax(metric["sign"] * values)) / 2
        for down, row in enumerate(one["rows"]):
            for across, key in enumerate(keys):
                if row[key] is not None:
                    dark = metric["sign"] * row[key] > middle
                    text = f"{row[key]:.{metric['digits']}f}\nn = {row['n/' + key]}"
                    axes.text(
                        across, down, text, ha="center", va="center", size=8, color="white" if dark else "#222222"
                    )
        axes.set_xticks(range(len(keys)), [key.removeprefix("T0=") for key in keys])
        axes.set_yticks(range(len(one["rows"])), [row["alpha0"] for row in one["rows"]])
        axes.set_xlabel("T₀", fontsize=9)
        axes.set_ylabel("α₀", fontsize=9)
        axes.set_title(plain(one["title"]), fontsize=9)
        axes.tick_params(labelsize=9)
    return figure


def levels(analysis: Analysis) -> Figure:
    """Every configuration as a dot by T₀ and by α₀, and the mean of each start value."""
    metric, split = analysis["metrics"][0], analysis["split"]
    rows = _runs(analysis)
    figure = _page(analysis, "levels", 9.2, 3.4)
    for place, (key, symbol) in enumerate((("T0", "T₀"), ("alpha0", "α₀")), 1):
        axes = figure.add_subplot(1, 2, place)
        _dots(axes, [row[key] for row in rows], [row[f"{split}/{metric['key']}"] for row in rows])
        axes.set_xlabel(f"{symbol} (line: mean)", fontsize=9)
        axes.set_ylabel(plain(f"{split} {metric['label']}"), fontsize=9)
        tidy(axes)
    return figure


def strategies(analysis: Analysis) -> Figure:
    """Every configuration as a dot by strategy, with mean and one std (n - 1) to either side."""
    metric, split = analysis["metrics"][0], analysis["split"]
    rows = _runs(analysis)
    there = [name for name in STRATEGIES if any(row["strategy"] == name for row in rows)]
    figure = _page(analysis, "strategies", 8.4, 1.2 + 0.55 * len(there))
    axes = figure.add_subplot()
    for place, name in enumerate(there):
        values = np.array([row[f"{split}/{metric['key']}"] for row in rows if row["strategy"] == name])
        heights = place + 0.22 * np.linspace(-1, 1, len(values)) if len(values) > 1 else np.array([place])
        axes.plot(values, heights, linestyle="none", marker="o", markersize=4, alpha=0.6, color=COLOURS[place])
        if len(values) > 1:
            spread = values.std(ddof=1)
            axes.plot([values.mean() - spread, values.mean() + spread], [place, place], color="#222222", linewidth=2)
        axes.plot([values.mean()], [place], marker="D", markersize=7, color="#222222")
    axes.set_yticks(range(len(there)), there)
    axes.set_ylim(len(there) - 0.5, -0.5)
    axes.set_xlabel(plain(f"{split} {metric['label']}; diamond: mean, bar: one std over configurations"), fontsize=9)
    tidy(axes)
    return figure


def _dots(axes: Axes, starts: Sequence[float], values: Sequence[float]) -> None:
    axes.plot(starts, values, linestyle="none", marker="o", markersize=4, alpha=0.5, color=BLUE)
    distinct = sorted(set(starts))
    if 2 * len(distinct) > len(starts):  # drawn at random: a mean of one dot says nothing
        return
    means = [np.mean([v for s, v in zip(starts, values, strict=True) if s == one]) for one in distinct]
    axes.plot(distinct, means, marker="D", markersize=6, color=ORANGE, linewidth=1.5, markeredgecolor=GREY)


def _runs(analysis: Analysis) -> list[Mapping[str, Any]]:
    return list(next(one for one in analysis["tables"] if one["name"] == "runs")["rows"])


def _page(analysis: Analysis, name: str, width: float, height: float) -> Figure:
    data = analysis["data"]
    facts = [f"{analysis['study']}: {data['name']}", f"{len(_runs(analysis))} configurations", *analysis["head"][2:3]]
    return page(width, height, FIGURES[name], facts, synthetic=data["source"] == "synthetic")


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
