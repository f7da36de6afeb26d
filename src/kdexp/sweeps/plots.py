"""A study's plots in `plots/`, drawn by Optuna's own functions: HTML by plotly that opens offline, PNG by matplotlib.

A plot that would be empty is not drawn; `plots/plots.json`, the summary and the report give the reason.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna

from kdexp.errors import StudyError
from kdexp.records import write_json, written_whole
from kdexp.sweeps.charts import Chart, charts
from kdexp.sweeps.pictures import Facts, picture
from kdexp.sweeps.results import PLOT_LIST, PLOTS
from kdexp.sweeps.summary import states_in_words, summarize
from kdexp.sweeps.view import StudyView, best_trial, quiet, take_view, utc

log = logging.getLogger(__name__)
_PLOTLY = "plotly.min.js"


@dataclass(frozen=True)
class Plot:
    """A plot on disk: its file names within `plots/`."""

    name: str
    title: str
    html: str
    png: str


@dataclass(frozen=True)
class PlotProblem:
    """A plot that was not drawn, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Plots:
    """What was drawn, and what was not."""

    folder: Path
    plots: tuple[Plot, ...]
    problems: tuple[PlotProblem, ...]

    @property
    def paths(self) -> list[Path]:
        return [self.folder / file for plot in self.plots for file in (plot.html, plot.png)]


def draw_plots(study: optuna.Study, folder: Path) -> Plots:
    """Draws every plot that has something to show, and takes away an older one that has nothing to show any more.

    Raises StudyError where plotly or scipy is not installed.
    """
    script = _plotly_script()
    view = take_view(study, folder)
    facts, target = _facts(view), folder / PLOTS
    plots: list[Plot] = []
    problems: list[PlotProblem] = []
    for chart in charts(view):
        plot = Plot(chart.name, chart.title, f"{chart.name}.html", f"{chart.name}.png")
        reason = chart.empty or _draw(chart, facts, target, plot)
        if reason is None:
            plots.append(plot)
            continue
        problems.append(PlotProblem(chart.name, reason))
        for file in (plot.html, plot.png):
            (target / file).unlink(missing_ok=True)
    if plots:
        _write_script(target / _PLOTLY, script)
    _write_list(folder, view, plots, problems)
    return Plots(target, tuple(plots), tuple(problems))


def _plotly_script() -> bytes:
    try:
        import scipy  # noqa: F401  # Optuna's contours need it
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise StudyError(
            f"the plots of a study need the package {error.name}; install it with pip install 'kdexp[plots]'"
        ) from None
    return str(get_plotlyjs()).encode()


def _write_script(path: Path, script: bytes) -> None:
    """The one script that all HTML plots of the folder share."""
    if not path.exists() or path.stat().st_size != len(script):
        with written_whole(path) as temporary:
            temporary.write_bytes(script)


def _write_list(folder: Path, view: StudyView, plots: Sequence[Plot], problems: Sequence[PlotProblem]) -> None:
    made = {
        "drawn": utc(datetime.now()),
        "n_trials": len(view.trials),
        "plots": [asdict(plot) for plot in plots],
        "problems": [asdict(problem) for problem in problems],
    }
    write_json(folder / PLOT_LIST, made)


def _draw(chart: Chart, facts: Facts, folder: Path, plot: Plot) -> str | None:
    """Writes both files; or returns why there is nothing to write."""
    try:
        with quiet():
            page, image = _page(chart, facts), picture(chart, facts)
    except Exception as error:  # a plot that Optuna cannot draw must not cost the others
        log.warning("plot %s: Optuna could not draw it", chart.name, exc_info=True)
        return f"Optuna could not draw it: {type(error).__name__}: {error}"
    if page is None or image is None:
        return "Optuna found nothing in the study that it draws here"
    for file, content in ((plot.html, page), (plot.png, image)):
        with written_whole(folder / file) as temporary:
            temporary.write_bytes(content)
    return None


def _facts(view: StudyView) -> Facts:
    summary = summarize(view, best_trial(view))
    data = summary["data"]
    goals = ", ".join(f"{name} ({direction})" for name, direction in zip(view.objectives, view.directions, strict=True))
    synthetic = data is not None and data["source"] == "synthetic"
    measured = "data unknown"
    if data is not None:
        n = (data.get("n") or {}).get("val")
        measured = f"{data['name']}, {'SYNTHETIC' if synthetic else data['source']} data"
        measured += f", val: {n:,} samples" if n is not None else ""
    states = states_in_words(summary["n_trials"])
    return Facts((f"study {view.study.study_name} · {goals}", f"{measured} · {states}"), synthetic)


def _page(chart: Chart, facts: Facts) -> bytes | None:
    """The HTML; None where plotly's figure holds no mark. Names from the study are shown as they are."""
    figure = getattr(optuna.visualization, f"plot_{chart.kind}")(chart.study, **chart.arguments)
    if not any(_has_marks(trace) for trace in figure.data):
        return None
    lines = [html.escape(line) for line in (*facts.lines, chart.note) if line]
    if facts.synthetic:
        lines[0] = f'<b style="color:#c00">SYNTHETIC DATA</b> · {lines[0]}'
    title = {"text": f"<b>{html.escape(chart.title)}</b>", "subtitle": {"text": "<br>".join(lines)}}
    figure.update_layout(title=title | {"yref": "container", "y": 0.97, "yanchor": "top"}, margin={"t": 130})
    return str(figure.to_html(include_plotlyjs="directory", config={"displaylogo": False})).encode()


def _has_marks(trace: Any) -> bool:
    """Whether a plotly trace holds a point, or a line over its dimensions."""
    dimensions = getattr(trace, "dimensions", None)
    if dimensions is not None:
        return any(dimension.values is not None and len(dimension.values) > 0 for dimension in dimensions)
    axes = [getattr(trace, axis, None) for axis in ("x", "y")]
    return all(values is not None and any(value is not None for value in values) for values in axes)
