"""The figure of a tagger: how much background is rejected at each signal efficiency."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdexp.analysis.drawing import BLUE, GREY, ORANGE, RED, page, tidy
from kdexp.analysis.run import Run, provenance, sample_counts
from kdexp.contracts import TaskSpec
from kdexp.predictions import Predictions, task_arrays
from kdexp.records import RunFolder
from kdexp.rejection import REJECTIONS, roc

_COLOURS = {"teacher": GREY, "student": BLUE, "no-KD": ORANGE}


def has_rejection(task: TaskSpec) -> bool:
    return bool(set(REJECTIONS) & set(task.metrics))


def rejection_curves(run: Run, task: TaskSpec, split: str) -> Figure:
    """1/FPR against TPR of every model of the run whose predictions are there, with the student's intervals."""
    found = _predictions(run, split)
    n_background = int((task_arrays(found["student"], task)[1] == 0).sum())
    facts = [
        *provenance(run.record),
        sample_counts(run.record, split),
        f"{n_background:,} of them background: no rejection above that number can be told",
        "bars: the student's intervals",
    ]
    figure = page(7.4, 5.2, f"Background rejection: {task.name}", facts, synthetic=run.is_synthetic)
    axes = figure.add_subplot()
    for name, predictions in found.items():
        score, target = task_arrays(predictions, task)
        tpr, fpr = (values[0] for values in roc(score, target == 1, np.ones((1, len(score)))))
        shown = fpr > 0
        axes.plot(tpr[shown], 1 / fpr[shown], color=_COLOURS[name], linewidth=1.6, label=name)
    _bars(axes, run, task, split)
    axes.set(yscale="log", xlim=(0, 1), ylim=(1, 1.3 * n_background), xlabel="signal efficiency (TPR)")
    axes.set_ylabel("background rejection (1 / FPR)")
    axes.axhline(n_background, color=RED, linewidth=0.9, linestyle=":")
    axes.legend(fontsize=9, frameon=False)
    tidy(axes)
    return figure


def _bars(axes: Axes, run: Run, task: TaskSpec, split: str) -> None:
    for name, (efficiency, interpolate) in REJECTIONS.items():
        interval = ((run.record.get("intervals") or {}).get(split) or {}).get(f"{task.name}/{name}")
        if interval and not interpolate:
            axes.vlines(
                efficiency, interval["low"], interval["high"], color=_COLOURS["student"], linewidth=3, alpha=0.5
            )


def _predictions(run: Run, split: str) -> dict[str, Predictions]:
    """By model; a teacher's are in its store, which may have gone."""
    folders = {"teacher": (run.record.get("teacher") or {}).get("folder"), "no-KD": run.folder.path / "no_kd"}
    found = {"student": run.predictions(split)}
    for name, folder in folders.items():
        if folder is not None and (file := RunFolder(Path(folder)).predictions(split)).exists():
            found[name] = Predictions.load(file)
    return found
