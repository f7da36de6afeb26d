"""The figure of a tagger: how much background is rejected at each signal efficiency."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdexp.analysis.drawing import MODEL_COLOURS, RED, page, tidy
from kdexp.analysis.run import Run, provenance, sample_counts
from kdexp.contracts import TaskSpec
from kdexp.predictions import task_arrays
from kdexp.ranking import REJECTIONS, background_number, roc


def has_rejection(task: TaskSpec) -> bool:
    return bool(set(REJECTIONS) & set(task.metrics))


def rejection_curves(run: Run, task: TaskSpec, split: str) -> Figure:
    """1/FPR against TPR of every model of the run whose predictions are there, with the student's intervals."""
    found = run.predictions_of_models(split)
    student = found["student"]
    background = task_arrays(student, task)[1] == 0
    at_most = background_number(student.counts, background)
    facts = [
        *provenance(run.record),
        sample_counts(run.record, split),
        f"{background.sum():,} of them background: no rejection above {at_most:,.0f} can be told",
        "bars: the student's intervals",
        *(["samples weighted"] if student.weights is not None else []),
    ]
    figure = page(7.4, 5.2, f"Background rejection: {task.name}", facts, synthetic=run.is_synthetic)
    axes = figure.add_subplot()
    for name, predictions in found.items():
        score, target = task_arrays(predictions, task)
        tpr, fpr = (values[0] for values in roc(score, target == 1, predictions.counts[None]))
        shown = fpr > 0
        axes.plot(
            tpr[shown], 1 / np.maximum(fpr[shown], 1 / at_most), color=MODEL_COLOURS[name], linewidth=1.6, label=name
        )
    _bars(axes, run, task, split)
    axes.set(yscale="log", xlim=(0, 1), ylim=(1, 1.3 * at_most), xlabel="signal efficiency (TPR)")
    axes.set_ylabel("background rejection (1 / FPR)")
    axes.axhline(at_most, color=RED, linewidth=0.9, linestyle=":")
    axes.legend(fontsize=9, frameon=False)
    tidy(axes)
    return figure


def _bars(axes: Axes, run: Run, task: TaskSpec, split: str) -> None:
    for name, (efficiency, interpolate) in REJECTIONS.items():
        interval = ((run.record.get("intervals") or {}).get(split) or {}).get(f"{task.name}/{name}")
        if interval and not interpolate:
            axes.vlines(
                efficiency, interval["low"], interval["high"], color=MODEL_COLOURS["student"], linewidth=3, alpha=0.5
            )
