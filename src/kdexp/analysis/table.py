"""The closing table of a run: teacher, student and no-KD student, and what each number was measured on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from kdexp.analysis.run import Record, provenance, sample_counts, split_values

_WIDE = 110
_NONE = "–"


def render(record: Record, console: Console) -> None:
    """Prints the table as wide as the console allows; below 110 columns an interval stands under its number."""
    console.print(closing_table(record, wide=console.width >= _WIDE))


def closing_table(record: Record, *, wide: bool) -> RenderableType:
    """The table with its heading and its notes."""
    rows = _rows(record)
    splits = [split for split in ("val", "test") if any(split_values(part, split) for _, part, _ in rows)]
    # A trial of a sweep computes no test metrics; then the tasks are shown on val.
    task_split = splits[-1]
    metrics = task_metrics(record)
    table = Table(box=None, padding=(0, 2 if wide else 1), pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for split in splits:
        table.add_column(Text(f"{split} score"), justify="right", no_wrap=True)
    for task, metric in metrics:
        heading = f"{task}\n{task_split} {metric}".replace("_", " ")  # so that it breaks between words
        table.add_column(Text(heading), justify="right", overflow="fold")
    for heading in ("para-\nmeters", "size\nMB", "ms per\nsample"):
        table.add_column(heading.replace("-\n", "") if wide else heading, justify="right", no_wrap=True)
    for name, part, model in rows:
        scores = [_score(part, split, wide=wide) for split in splits]
        values = split_values(part, task_split)
        greatest = {name: one.get("at_most") for name, one in _intervals(part, task_split).items()}
        names = [f"{task}/{metric}" for task, metric in metrics]
        shown = [number(values.get(name), greatest.get(name) or float("inf")) for name in names]
        table.add_row(Text(name, style="bold" if name == "student" else ""), *scores, *shown, *_sizes(model))
    return Group(_heading(record), Text(), table, Text(), _notes(record, splits))


def _rows(record: Record) -> list[tuple[str, Record, Mapping[str, Any]]]:
    """(name, metrics and intervals, sizes) of each model that the run has; both students are of one size."""
    models = record["models"]
    named = (("teacher", record.get("teacher"), "teacher"), ("student", record, "student"))
    rows = [(name, part, models.get(size) or {}) for name, part, size in named if part]
    if record.get("no_kd"):
        rows.append(("no-KD", record["no_kd"], models.get("student") or {}))
    by_split = record.get("trivial_rules") or {}
    for name in by_split.get("test", {}):
        rows.append((name, {"metrics": {split: rules[name] for split, rules in by_split.items()}}, {}))
    return rows


def task_metrics(record: Record) -> list[tuple[str, str]]:
    """For each task its macro F1, its accuracy where there is a choice, or its first metric; nothing that the score
    itself already is."""
    shown = []
    for task in record["tasks"]:
        metric = next((m for m in ("f1", "acc_decisions") if m in task["metrics"]), task["metrics"][0])
        if list(record["score"]) != [f"{task['name']}/{metric}"]:
            shown.append((task["name"], metric))
    return shown


def _score(part: Record, split: str, *, wide: bool) -> Text:
    """`0.783 [0.731–0.829]`, in two lines where the table is narrow."""
    text = Text(number(split_values(part, split).get("score")), style="bold")
    interval = _intervals(part, split).get("score")
    if interval:
        low_high = f"{interval['low']:.3f}–{interval['high']:.3f}"
        text.append(f" [{low_high}]" if wide else f"\n{low_high}", style="dim not bold")
    return text


def _intervals(part: Record, split: str) -> Mapping[str, Any]:
    return (part.get("intervals") or {}).get(split) or {}


def _sizes(model: Mapping[str, Any]) -> list[str]:
    parameters, size = model.get("parameters"), model.get("bytes")
    return [
        _NONE if parameters is None else counted(parameters),
        _NONE if size is None else f"{size / 1e6:,.{0 if size >= 1e8 else 1}f}" if size >= 1e5 else f"{size / 1e6:.3f}",
        _NONE if model.get("latency_ms_per_sample") is None else f"{model['latency_ms_per_sample']:.3g}",
    ]


def counted(number: int) -> str:
    """`312 k`, `197.1 M`."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            value = number / unit
            return f"{value:.0f} {name}" if value >= 100 and name == "k" else f"{value:.1f} {name}"
    return str(number)


def number(value: float | None, at_most: float = float("inf")) -> str:
    """`0.783`, `29.2`; `≥ 1,127` where the samples can show no greater value."""
    if value is None:
        return _NONE
    if value >= at_most * (1 - 1e-9):
        return f"≥ {at_most:,.0f}"
    decimals = next((n for n, bound in ((3, 1.0005), (2, 10), (1, 1000)) if abs(value) < bound), 0)
    return f"{value:,.{decimals}f}"


def _heading(record: Record) -> Text:
    text = Text()
    if record["data"]["source"] == "synthetic":
        text.append(" SYNTHETIC DATA ", style="bold white on red")
        text.append(" generated stand-in, says nothing about the real data\n", style="red")
    text.append(" · ".join(provenance(record)), style="bold")
    return text


def _notes(record: Record, splits: list[str]) -> Text:
    lines = ["; ".join(sample_counts(record, split) for split in splits) + ".", *(record["data"].get("notes") or ())]
    interval = _any_interval(record)
    if interval:
        lines.append(
            f"Beside a score: {interval['level']:.0%} percentile interval, {interval['n_resamples']:,} resamples of "
            f"whole {record['data']['cluster']}s; one training run each, no spread over seeds."
        )
    best = record["metrics"]["val"]["best_epoch"]
    lines.append(
        f"Score: {_score_words(record)}. A student is taken at its best epoch on val (here {best}), which flatters its "
        "val score."
    )
    lines += _latency_note(record)
    rules = list((record.get("trivial_rules") or {}).get("test", {}))
    if rules:
        lines.append(f"Without a model: {', '.join(rules)}; `data action=inspect` has them at more places.")
    if record.get("no_kd"):
        lines.append(
            "One seed: no claim that one student is better than the other; that takes pairs of runs on several seeds."
        )
    return Text("\n".join(lines), style="dim")


def _latency_note(record: Record) -> list[str]:
    """How the time per sample was measured; a teacher from the store brings the time it was measured with."""
    sizes = {
        name: model["latency_batch_size"]
        for name, model in record["models"].items()
        if model.get("latency_batch_size") is not None
    }
    if not sizes:
        return []
    batches = " and ".join(f"{size} ({name})" for name, size in sizes.items())
    reused = "; the teacher's when it was trained" if (record.get("teacher") or {}).get("reused") else ""
    return [f"ms per sample: one forward pass without loading data, in batches of {batches}{reused}."]


def _score_words(record: Record) -> str:
    parts = list(record["score"])
    return f"mean of {' and '.join(parts)}" if len(parts) > 1 else parts[0]


def _any_interval(record: Record) -> Mapping[str, Any] | None:
    """An interval of this run's score; level and number of resamples are the same for all."""
    for found in (record.get("intervals") or {}).values():
        if found and "score" in found:
            return dict(found["score"])
    return None
