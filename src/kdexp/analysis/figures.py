"""The figures of one run: learning curves, confusion matrices, reliability. Reads the run's folder, without torch."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import ScaledTranslation

from kdexp.analysis.binned import draw_bins
from kdexp.analysis.calibration import confidence_and_hits, reliability
from kdexp.analysis.drawing import BLACK, BLUE, COLOURS, GREEN, GREY, ORANGE, PURPLE, RED, SKY, page, plain, save, tidy
from kdexp.analysis.roc import has_rejection, rejection_curves
from kdexp.analysis.run import Run, provenance, sample_counts, split_values
from kdexp.contracts import NUMBERS, TaskSpec
from kdexp.errors import DataError
from kdexp.predictions import Predictions, class_labels

_MAX_ANNOTATED_CLASSES = 30
_CELL_INCHES = 0.72  # four lines of a label


def draw_run(folder: Path) -> list[Path]:
    """Draws a run's figures into `<folder>/figures/` and returns their paths.

    `learning_curves.png`; for each task with classes `confusion_<task>.png`; where background rejection is a metric,
    `roc_<task>.png`; for each task with probabilities `reliability_<task>.png`; for each covariate of the samples
    `by_<covariate>.png` and its table `by_<covariate>.csv`; all but the first on test, or on val where the run computed
    no test. Raises DataError where the folder is no finished run or a figure would be empty.
    """
    run = Run.read(folder)
    drawn = [save(learning_curves(run), run.folder.figures / "learning_curves.png")]
    split = run.evaluated_split
    predictions = run.predictions(split)
    for task in run.tasks:
        if task.kind in ("multiclass", "binary"):
            figure = confusion(run, predictions, task, split)
            drawn.append(save(figure, run.folder.figures / f"confusion_{task.name}.png"))
        if has_rejection(task):
            drawn.append(save(rejection_curves(run, task, split), run.folder.figures / f"roc_{task.name}.png"))
        if task.kind not in NUMBERS:
            figure = reliability_diagram(run, predictions, task, split)
            drawn.append(save(figure, run.folder.figures / f"reliability_{task.name}.png"))
    return drawn + draw_bins(run, split)


def learning_curves(run: Run) -> Figure:
    """Validation score, loss parts, temperature and weights over epochs; a panel with nothing to show is left out."""
    if not run.history:
        raise DataError(f"{run.folder.metrics} holds no epoch, so there is no learning curve to draw")
    lower = [panel for prefix, panel in _LOWER_PANELS.items() if _names(run, prefix)]
    facts = [
        *provenance(run.record),
        sample_counts(run.record, "train"),
        sample_counts(run.record, "val"),
        "one run, no spread over seeds shown",
    ]
    figure = page(11, 6.8 if lower else 4.2, "Learning curves", facts, synthetic=run.is_synthetic)
    grid = figure.add_gridspec(2 if lower else 1, 2, height_ratios=[3, 2] if lower else [1])
    for column, panel in enumerate((_score_panel, _loss_panel)):
        panel(figure.add_subplot(grid[0, column]), run)
    for column, panel in enumerate(lower):
        panel(figure.add_subplot(grid[1, column] if len(lower) == 2 else grid[1, :]), run)
    return figure


def confusion(run: Run, predictions: Predictions, task: TaskSpec, split: str) -> Figure:
    """Counts and the share of each true class, classes in the task's order whether or not they occur."""
    truth, predicted = class_labels(predictions, task)
    names = task.classes or tuple(str(number) for number in range(2))
    counts = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(counts, (truth, predicted), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    n = len(names)
    side = min(max(3.4, _CELL_INCHES * n), 20.0)
    size = 9 * min(1.0, side / (_CELL_INCHES * n))
    longest = max(len(line) for name in names for line in _wrapped(name))
    width, height = side + 1.6 + 0.08 * longest, side + 0.5 + 0.06 * longest
    facts = [
        *provenance(run.record),
        sample_counts(run.record, split),
        f"accuracy {(truth == predicted).mean():.1%}",
        "cell: count, share of the row",
    ]
    figure = page(width, height, f"Confusion: {task.name}", facts, synthetic=run.is_synthetic)
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    rows = counts.sum(1)
    turned: dict[str, Any] = {"rotation": 40, "ha": "right"} if longest > 8 else {}
    axes.set_xticks(range(n), [plain("\n".join(_wrapped(name))) for name in names], size=size, **turned)
    labels = [plain("\n".join([*_wrapped(name), f"n = {rows[number]:,}"])) for number, name in enumerate(names)]
    axes.set_yticks(range(n), labels, size=size)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    if n <= _MAX_ANNOTATED_CLASSES:
        _annotate_cells(axes, counts, share)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02, format=PercentFormatter(1))
    bar.set_label("share of the true class", size=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    return figure


def reliability_diagram(run: Run, predictions: Predictions, task: TaskSpec, split: str) -> Figure:
    """Confidence against accuracy in ten bins, with how many predictions each bin holds."""
    confidence, hit = confidence_and_hits(predictions, task)
    if len(confidence) == 0:
        raise DataError(f"{predictions.origin}: no position of {task.name} counts, so its reliability is empty")
    table = reliability(confidence, hit)
    what = "positions" if task.kind == "candidates" else "samples"
    facts = [
        *provenance(run.record),
        sample_counts(run.record, split),
        f"{table.n:,} {what} in 10 bins",
        f"mean confidence {confidence.mean():.3f}, accuracy {hit.mean():.3f}",
    ]
    title = f"Reliability: {task.name}, ECE {table.ece:.3f} (n = {table.n:,})"
    figure = page(6.4, 6.2, title, facts, synthetic=run.is_synthetic)
    grid = figure.add_gridspec(2, 1, height_ratios=[4, 1])
    upper = figure.add_subplot(grid[0])
    lower = figure.add_subplot(grid[1], sharex=upper)
    filled = table.n_B > 0
    centre, bin_width = (table.edges[:-1] + table.edges[1:]) / 2, table.edges[1] - table.edges[0]
    upper.bar(centre[filled], table.accuracy_B[filled], bin_width * 0.92, color=SKY, label="accuracy in the bin")
    upper.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1.2, label="confidence = accuracy")
    upper.vlines(table.confidence_B[filled], table.confidence_B[filled], table.accuracy_B[filled], color=RED, lw=1.6)
    upper.plot(
        table.confidence_B[filled], table.confidence_B[filled], "o", color=RED, markersize=5, label="mean confidence"
    )
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    upper.legend(loc="upper left", fontsize=9, frameon=False)
    lower.bar(centre, table.n_B, bin_width * 0.92, color=BLUE)
    for x, count in zip(centre[filled], table.n_B[filled], strict=True):
        lower.annotate(f"{count:,}", (x, count), (0, 2), textcoords="offset points", ha="center", size=8, color=GREY)
    lower.set(xlabel="confidence of the prediction", ylabel="count", ylim=(0, table.n_B.max() * 1.25))
    upper.tick_params(labelbottom=False)
    tidy(upper)
    tidy(lower)
    return figure


def _annotate_cells(axes: Axes, counts: np.ndarray, share: np.ndarray) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if share[row, column] > 0.55 else BLACK
            text = f"{count:,}\n{share[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", size=9, color=colour, linespacing=1.4)


def _wrapped(name: str) -> list[str]:
    return textwrap.wrap(name, 18) or [name]


def _series(run: Run, name: str) -> tuple[list[int], list[float]]:
    """Epochs and values, without the epochs at which there is none."""
    pairs = [(row["epoch"], row[name]) for row in run.history if row.get(name) is not None]
    return [epoch for epoch, _ in pairs], [value for _, value in pairs]


def _names(run: Run, prefix: str) -> list[str]:
    """The history's names with this prefix, in order of appearance, that hold a number."""
    names = dict.fromkeys(name for row in run.history for name, value in row.items() if value is not None)
    return [name for name in names if name.startswith(prefix)]


def _line(axes: Axes, run: Run, name: str, **style: Any) -> None:
    epochs, values = _series(run, name)
    settings: dict[str, Any] = {"marker": "o" if len(epochs) <= 40 else "", "markersize": 3.5, "linewidth": 1.8}
    axes.plot(epochs, values, **(settings | style))


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", size=10.5, color=BLACK)
    axes.set_xlabel("epoch", size=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    low, high = axes.dataLim.intervalx
    margin = max(0.5, 0.03 * (high - low)) if high - low < 40 else 0.01 * (high - low)
    axes.set_xlim(low - margin, high + margin)
    tidy(axes)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        # Below the label of the axis, whatever the panel's height.
        below = axes.transAxes + ScaledTranslation(-6 / 72, -26 / 72, axes.figure.dpi_scale_trans)
        axes.legend(
            fontsize=8.5, frameon=False, ncols=2 if len(handles) > 3 else 3, loc="upper left",
            bbox_to_anchor=(0, 0), bbox_transform=below, columnspacing=1.4, handlelength=2.2,
        )  # fmt: skip


def _score_panel(axes: Axes, run: Run) -> None:
    parts = list(run.record["score"])
    epochs, values = _series(run, "val/score")
    if not epochs:
        raise DataError(f"{run.folder.metrics} holds no val/score, so there is no learning curve to draw")
    if len(parts) > 1:
        for colour, part in zip((SKY, ORANGE, PURPLE, GREEN), parts, strict=False):
            _line(axes, run, f"val/{part}", color=colour, linewidth=1.1, markersize=2.5, label=f"val {part}")
    _line(axes, run, "val/score", color=BLUE, linewidth=2.4, label="val score")
    best = run.record["metrics"]["val"]["best_epoch"]
    value = dict(zip(epochs, values, strict=True)).get(best)
    if value is None:
        raise DataError(f"{run.folder.metrics} holds no val/score for epoch {best}, which the record calls the best")
    axes.plot(
        [best],
        [value],
        "*",
        color=BLUE,
        markersize=15,
        markeredgecolor="white",
        label=f"best: {value:.3f}, epoch {best}",
    )
    references = (("teacher", "teacher", BLACK, "--"), ("no-KD student, best epoch", "no_kd", RED, ":"))
    for label, key, colour, style in references:
        score = split_values(run.record.get(key), "val").get("score")
        if score is not None:
            axes.axhline(score, color=colour, linestyle=style, linewidth=1.6, label=f"{label}: {score:.3f}")
    what = "mean of " + ", ".join(parts) if len(parts) > 1 else parts[0]
    _finish(axes, plain(f"validation score ({what})"))


def _loss_panel(axes: Axes, run: Run) -> None:
    names = _names(run, "train/")
    if not names:
        raise DataError(f"{run.folder.metrics} holds no loss (train/...), so there is no learning curve to draw")
    parts = [name for name in names if name != "train/loss"]
    if "train/loss" in names:
        _line(axes, run, "train/loss", color=BLACK, linewidth=2.2, label="total, weighted")
    for number, name in enumerate(parts):
        _line(axes, run, name, color=COLOURS[number % len(COLOURS)], label=name.removeprefix("train/"))
    if "val/loss" in _names(run, "val/"):
        _line(axes, run, "val/loss", color=GREY, linestyle="--", label="val total")
    values = [value for name in names for value in _series(run, name)[1]]
    logarithmic = _spans_decades(values)
    if logarithmic:
        axes.set_yscale("log")
    _finish(axes, "training loss and its parts before weighting" + (", log scale" if logarithmic else ""))


def _spans_decades(values: Iterable[float]) -> bool:
    """Whether a linear axis would flatten something: all positive, and more than 50-fold apart."""
    values = list(values)
    return min(values) > 0 and math.log(max(values) / min(values)) > math.log(50)


def _temperature_panel(axes: Axes, run: Run) -> None:
    _line(axes, run, "temperature", color=RED)
    _show_zero(axes)
    _finish(axes, "temperature T")


def _weights_panel(axes: Axes, run: Run) -> None:
    names = _names(run, "weight/")
    for number, name in enumerate(names):
        # Equal weights lie on each other: later lines are thinner and dashed, so that the earlier show through.
        style = {"linewidth": 3.6 if number == 0 else 1.6, "linestyle": "-" if number == 0 else (number, (4, 3))}
        _line(axes, run, name, color=COLOURS[number % len(COLOURS)], label=name.removeprefix("weight/"), **style)
    logarithmic = _spans_decades(value for name in names for value in _series(run, name)[1])
    if logarithmic:
        axes.set_yscale("log")
    else:
        _show_zero(axes)
    _finish(axes, "weights of the loss parts" + (", log scale" if logarithmic else ""))


def _show_zero(axes: Axes) -> None:
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0), high * 1.05)


_LOWER_PANELS = {"temperature": _temperature_panel, "weight/": _weights_panel}
