"""Metrics in bins of a covariate, a number known of each sample (a jet's momentum): a figure, and a table beside it.

Bins hold equally many samples of the split, so that each says equally much. Shape suffix: N samples.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdexp.analysis.drawing import MODEL_COLOURS, page, save, tidy
from kdexp.analysis.run import Run, provenance, sample_counts
from kdexp.analysis.table import number
from kdexp.bootstrap import cluster_bootstrap, metrics
from kdexp.errors import DataError
from kdexp.predictions import Predictions
from kdexp.records import written_whole

_BINS = 5

Row = Mapping[str, Any]
"""One metric of one model in one bin: `low` and `high` (edges, the upper one outside but in the last bin), `n`,
`n_clusters`, `model`, `metric`, `value`, `interval_low`, `interval_high`, `at_most` (as in `Interval`); the last four
None where it is undefined."""


def draw_bins(run: Run, split: str) -> list[Path]:
    """For each covariate of the split `figures/by_<covariate>.png` and a `.csv` beside it; returns the paths."""
    models = run.predictions_of_models(split)
    drawn = []
    for covariate, value_N in models["student"].covariates.items():
        rows = list(_rows(run, models, split, value_N))
        if not rows:  # the same number everywhere
            continue
        stem = "by_" + re.sub(r"\W+", "_", covariate.partition("[")[0]).strip("_")
        drawn.append(save(_figure(run, split, covariate, rows), run.folder.figures / f"{stem}.png"))
        drawn.append(_write(rows, covariate, split, run.folder.figures / f"{stem}.csv"))
    return drawn


def render_bins(path: Path, console: Console) -> None:
    """Prints a table that `draw_bins` wrote: the score's metrics and the first other one, a row per bin."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    models, names = (list(dict.fromkeys(row[key] for row in rows)) for key in ("model", "metric"))
    for name in names[:2]:
        table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold", title_justify="left")
        table.title = Text(f"{rows[0]['split']} {name} by {rows[0]['covariate']}")
        for heading in ("", "n", *models):
            table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
        of_metric = [row for row in rows if row["metric"] == name]
        for low in dict.fromkeys(row["low"] for row in of_metric):
            cells = [row for row in of_metric if row["low"] == low]
            edges = f"{float(low):,.0f} to {float(cells[0]['high']):,.0f}"
            table.add_row(edges, cells[0]["n"], *map(_cell, cells))
        console.print(table)


def _rows(run: Run, models: Mapping[str, Predictions], split: str, value_N: np.ndarray) -> Iterator[Row]:
    score = list(run.record["score"])
    first = [f"{task.name}/{metric}" for task in run.tasks for metric in task.metrics]
    shown = [*score, *(name for name in first if name not in score)]
    edges = np.unique(np.quantile(value_N, np.linspace(0, 1, _BINS + 1)))
    bin_N = np.clip(np.searchsorted(edges, value_N, side="right") - 1, 0, len(edges) - 2)
    options = _interval_options(run.record, split)
    for place in range(len(edges) - 1):
        for model, predictions in models.items():
            inside_N = bin_N == place
            values, intervals = _measured(predictions, inside_N, run, score, options)
            for name in shown:
                interval = intervals.get(name)
                yield {
                    "low": float(edges[place]),
                    "high": float(edges[place + 1]),
                    "n": int(inside_N.sum()),
                    "n_clusters": len(set(predictions.cluster[inside_N].tolist())),
                    "model": model,
                    "metric": name,
                    "value": values.get(name),
                    "interval_low": interval and interval.low,
                    "interval_high": interval and interval.high,
                    "at_most": interval and interval.at_most,
                }


def _measured(
    predictions: Predictions, inside_N: np.ndarray, run: Run, score: Sequence[str], options: Mapping[str, Any]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Nothing where a bin has one label, one cluster or no weight; the table shows that as a dash."""
    try:
        inside = predictions.at(inside_N)
        return metrics(inside, run.tasks, score), cluster_bootstrap(inside, run.tasks, score, **options)
    except DataError:
        return {}, {}


def _interval_options(record: Mapping[str, Any], split: str) -> dict[str, Any]:
    """How the record's own intervals were made."""
    made = record["intervals"][split]["score"]
    return {"n_resamples": made["n_resamples"], "level": made["level"], "seed": made["seed"]}


def _figure(run: Run, split: str, covariate: str, rows: Sequence[Row]) -> Figure:
    shown = list(dict.fromkeys(row["metric"] for row in rows))[:2]
    level = _interval_options(run.record, split)["level"]
    facts = [
        *provenance(run.record),
        sample_counts(run.record, split),
        f"bins of equally many samples; bars: {level:.0%} intervals over {run.record['data']['cluster']}s",
    ]
    figure = page(5.2 * len(shown), 3.8, f"Metrics by {covariate}", facts, synthetic=run.is_synthetic)
    models = list(dict.fromkeys(row["model"] for row in rows))
    for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for place, model in enumerate(models):
            points = [r for r in rows if r["metric"] == name and r["model"] == model and r["value"] is not None]
            middle = np.array([(r["low"] + r["high"]) / 2 for r in points])
            shift = (place - (len(models) - 1) / 2) * 0.06 * np.array([r["high"] - r["low"] for r in points])
            value, low, high = (
                np.array([r[key] for r in points]) for key in ("value", "interval_low", "interval_high")
            )
            bars = [np.maximum(value - low, 0), np.maximum(high - value, 0)]
            axes.errorbar(
                middle + shift, value, yerr=bars, color=MODEL_COLOURS[model], label=model, marker="o", markersize=4,
                linewidth=1.2, elinewidth=1, capsize=2,
            )  # fmt: skip
        axes.set(xlabel=covariate, ylabel=f"{split} {name}")
        axes.legend(fontsize=9, frameon=False)
        tidy(axes)
    return figure


def _write(rows: Sequence[Row], covariate: str, split: str, path: Path) -> Path:
    table = [{"split": split, "covariate": covariate, **row} for row in rows]
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return path


def _cell(row: Mapping[str, str]) -> Text:
    """`0.921 0.896–0.946`."""
    if not row["value"]:
        return Text("–")
    text = Text(number(float(row["value"]), float(row["at_most"] or "inf")), style="bold")
    low, high = (number(float(row[key])) for key in ("interval_low", "interval_high"))
    return text.append(f" {low}–{high}", style="dim not bold")
