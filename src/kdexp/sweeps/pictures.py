"""One plot as a PNG: drawn by Optuna's matplotlib functions without a screen, made readable, with its head above it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import optuna
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogFormatter
from PIL import Image

from kdexp.sweeps.charts import Chart

_DPI = 110
_MAX_LEGEND_ENTRIES = 16
_PANELS = ("contour", "slice")


@dataclass(frozen=True)
class Facts:
    """What stands above every plot: what its numbers were measured on."""

    lines: tuple[str, ...]
    synthetic: bool


def picture(chart: Chart, facts: Facts) -> bytes | None:
    """The PNG, the chart's rows below each other; None where Optuna drew no mark in any of them."""
    rows, n_marks = [], 0
    for number, further in enumerate(chart.rows):
        with _matplotlib(chart):
            figure = _drawn(chart, {**chart.arguments, **further})
            n_marks += sum(_n_marks(axes) for axes in _panels(figure))
            _tidy(figure, chart.kind)
            if number == 0:
                _head(figure, chart.title, [*facts.lines, *([chart.note] if chart.note else [])], facts.synthetic)
            rows.append(_rendered(figure))
    return _stacked(rows) if n_marks else None


def _drawn(chart: Chart, arguments: Mapping[str, Any]) -> Figure:
    function = getattr(optuna.visualization.matplotlib, f"plot_{chart.kind}")
    axes = np.ravel(function(chart.study, **arguments))[0]
    assert isinstance(axes.figure, Figure)
    return axes.figure


@contextmanager
def _matplotlib(chart: Chart) -> Iterator[None]:
    """Afterwards style, backend and open figures are as they were before. A dollar sign in a name starts no formula."""
    backend, opened = matplotlib.get_backend(), set(pyplot.get_fignums())
    pyplot.switch_backend("agg")
    settings: Any = {"figure.figsize": chart.inches, "text.parse_math": False, "text.usetex": False}
    settings["figure.constrained_layout.use"] = chart.kind in _PANELS
    try:
        with matplotlib.rc_context(settings):
            yield
    finally:
        for number in set(pyplot.get_fignums()) - opened:
            pyplot.close(number)
        pyplot.switch_backend(backend)


def _panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def _n_marks(axes: Axes) -> int:
    """How many finite points, line segments, bars and areas an axes shows."""
    n = sum(int(np.isfinite(np.asarray(line.get_xydata(), dtype=float)).all(1).sum()) for line in axes.lines)
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    n += sum(bar.get_width() != 0 and bar.get_height() != 0 for bar in bars)
    for collection in axes.collections:
        if isinstance(collection, PathCollection):
            points: np.ndarray = np.ma.filled(np.ma.asarray(collection.get_offsets(), dtype=float), np.nan)
            n += int(np.isfinite(points).all(1).sum())
        elif isinstance(collection, LineCollection):
            n += len(collection.get_segments())
        else:
            n += sum(len(np.asarray(path.vertices)) > 0 for path in collection.get_paths())
    return n


def _tidy(figure: Figure, kind: str) -> None:
    """Takes out Optuna's own titles, repeated labels, formulas on log axes, and a legend longer than its plot."""
    if figure.get_suptitle():
        figure.suptitle("")
    for axes in figure.axes:
        for side in ("left", "center", "right"):
            axes.set_title("", loc=side)
        legend = axes.get_legend()
        if legend is not None and not 0 < len(legend.get_texts()) <= _MAX_LEGEND_ENTRIES:
            legend.remove()
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                axis.set_major_formatter(LogFormatter())
                axis.set_minor_formatter(LogFormatter())
    if kind == "contour":
        for axes in _panels(figure):
            axes.label_outer()
            axes.tick_params(labelsize=8)
            axes.xaxis.label.set_fontsize(9)
            axes.yaxis.label.set_fontsize(9)


def _head(figure: Figure, title: str, lines: Sequence[str], synthetic: bool) -> None:
    """Title and facts above all that is drawn."""
    width, height = figure.get_size_inches()
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    left, top = box.x0 / width, (box.y1 + 0.12) / height
    style: dict[str, Any] = {"va": "bottom", "ha": "left", "parse_math": False}
    figure.text(left, top, "\n".join(lines), size=9, color="#6b6b6b", linespacing=1.4, **style)
    top += (0.06 + 0.175 * len(lines)) / height
    figure.text(left, top, title, size=13, weight="bold", color="#222222", **style)
    if synthetic:
        badge = {"facecolor": "#D55E00", "edgecolor": "none", "boxstyle": "square,pad=0.3"}
        left, top = left + 0.06 / width, top + 0.36 / height
        figure.text(left, top, "SYNTHETIC DATA", size=13, weight="bold", color="white", bbox=badge, **style)


def _rendered(figure: Figure) -> Image.Image:
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=_DPI, bbox_inches="tight", pad_inches=0.15, facecolor="white")
    return Image.open(written).convert("RGB")


def _stacked(rows: Sequence[Image.Image]) -> bytes:
    page = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        page.paste(row, (0, top))
        top += row.height
    written = io.BytesIO()
    page.save(written, format="png")
    return written.getvalue()
