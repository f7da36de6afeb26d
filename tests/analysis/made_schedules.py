"""Studies with schedules, made up: a grid of configurations as plain values, and study folders with predictions."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kdexp.analysis.schedules_rows import CONSTANT, Configuration, Frame, Metric, Span
from kdexp.bootstrap import metrics
from kdexp.contracts import TaskSpec
from kdexp.predictions import Predictions
from kdexp.records import RunFolder, append_line, write_json

AUC = Metric("score", "AUC")
BR50 = Metric("jet/rejection_50", "BR50", 2)
TEMPERATURES, ENDS = (3.0, 5.0, 7.0, 10.0), (1.0, 2.0)
ALPHAS, ALPHA_ENDS = (0.3, 0.5, 0.7, 0.9), (0.1, 0.3)
TASK = TaskSpec(name="jet", kind="binary", classes=("background", "signal"), metrics=("auc", "acc"))
SCORE = ["jet/auc"]
MIX = "kdexp.distill.objective.mix"
EPOCHS = 4


def name_of(temperature: Span, weight: Span) -> str:
    """`combined_T10.0to1.0_A0.9to0.3`, as the published study names its runs."""
    word = ("baseline", "tempanneal", "alphasched", "combined")[temperature.moves + 2 * weight.moves]
    parts = [
        f"{letter}{span.start:.1f}" + (f"to{span.end:.1f}" if span.moves else "")
        for letter, span in (("T", temperature), ("A", weight))
    ]
    return "_".join([word, *parts])


def grid() -> list[tuple[Span, Span]]:
    """All 132 settings: constant, annealed temperature, scheduled alpha, both."""

    def ways(starts: Sequence[float], ends: Sequence[float]) -> list[Span]:
        constant = [Span(start, start) for start in starts]
        return constant + [Span(start, end, "linear") for start in starts for end in ends if start > end]

    temperatures, weights = ways(TEMPERATURES, ENDS), ways(ALPHAS, ALPHA_ENDS)
    pairs = [(temperature, weight) for temperature in temperatures for weight in weights]
    return sorted(pairs, key=lambda pair: pair[0].moves + 2 * pair[1].moves)


def configuration(
    order: int,
    temperature: Span,
    weight: Span,
    val: Mapping[str, float],
    test: Mapping[str, float] | None = None,
    **more: Any,
) -> Configuration:
    rest = {"temperature": f"{temperature.end if temperature.moves else ''} {temperature.curve} {weight}"}
    rest["weight"] = f"{weight.end if weight.moves else ''} {weight.curve} {temperature}"
    return Configuration(
        name=name_of(temperature, weight), order=order, temperature=temperature, weight=weight,
        values={"val": val, "test": test or {}}, rest=rest, **more,
    )  # fmt: skip


def made_grid(seed: int = 0) -> list[Configuration]:
    """132 configurations whose metrics rise a little with T₀ and more with α₀, with noise; val and test apart."""
    generator = np.random.default_rng(seed)
    found = []
    for order, (temperature, weight) in enumerate(grid()):
        auc = 0.81 + 0.0003 * temperature.start + 0.012 * weight.start + generator.normal(0, 0.003)
        rejection = 7.5 + 0.05 * temperature.start + 1.2 * weight.start + generator.normal(0, 0.3)
        val = {"score": auc + generator.normal(0, 0.002), BR50.key: rejection + generator.normal(0, 0.2)}
        found.append(configuration(order, temperature, weight, val, {"score": auc, BR50.key: rejection}))
    return found


def frame(configurations: Sequence[Configuration], **changes: Any) -> Frame:
    given = {"primary": AUC, "second": BR50, "split": "test", **changes}
    return Frame(configurations=tuple(configurations), **given)


# Study folders


def course(span: Span) -> dict[str, Any]:
    """A schedule as a saved configuration holds it."""
    base = {"name": span.curve, "start": span.start, "per": "epoch"}
    return base if span.curve == CONSTANT else {**base, "end": span.end, "hold": 0.0}


def distillation(temperature: Span, weight: Span) -> dict[str, Any]:
    return {"_target_": MIX, "temperature": course(temperature), "alpha": course(weight), "weights": None}


NO_KD = {"_target_": "kdexp.distill.objective.none", "temperature": None, "weights": None}


def make_study(folder: Path, trials: Sequence[dict[str, Any]], *, source: str = "real") -> Path:
    """A study's folder: a row and a run folder for each trial, given as `write_trial` takes it.

    A trial's `state` other than `complete` leaves no record. Where they are given, `started` (ISO time), `seconds` and
    `reason` stand in the table.
    """
    times = [(datetime.fromisoformat(t["started"]).timestamp(), t["seconds"]) for t in trials if "started" in t]
    wall = max(start + taken for start, taken in times) - min(times)[0] if times else None
    summary = {"schema": 1, "study_name": "jets", "objectives": ["val/score"], "directions": ["maximize"]}
    write_json(folder / "study_summary.json", {**summary, "durations_seconds": {"from_first_start_to_last_end": wall}})
    with (folder / "trials.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["number", "state", "value", "seed", "started", "seconds", "name", "reason"])
        for number, trial in enumerate(trials):
            state = trial.get("state", "complete")
            row = [number, state, "0.5" if state == "complete" else "", trial.get("seed", 1000)]
            table.writerow([*row, *(trial.get(key, "") for key in ("started", "seconds", "name", "reason"))])
            if state == "complete":
                known = {key: value for key, value in trial.items() if key not in ("started", "seconds", "reason")}
                write_trial(folder / "trials" / f"trial_{number:05d}", source=source, **known)
    return folder


def write_trial(
    path: Path,
    *,
    distill: Mapping[str, Any],
    seed: int = 1000,
    quality: float = 1.0,
    with_test: bool = True,
    teacher: str = "aaaa",
    best_epoch: int = EPOCHS,
    source: str = "real",
    more: Mapping[str, Any] | None = None,
    name: str = "",
    state: str = "complete",
    durations: Mapping[str, float] | None = None,
) -> None:
    """A finished trial with predictions on val and, as a test pass leaves them, on test."""
    run = RunFolder(path)
    path.mkdir(parents=True)
    run.config.write_text(yaml.safe_dump({"seed": seed, "distill": dict(distill), **(more or {})}), encoding="utf-8")
    found = {split: _measured(path, split, quality, seed) for split in ("val", "test")}
    if not with_test:
        (path / "evaluations/test/evaluation.json").unlink()
    for epoch in range(1, EPOCHS + 1):
        append_line(run.metrics, _epoch(distill, epoch, found["val"]["score"]))
    distils = distill["_target_"] == MIX
    taught = {split: {"score": 0.95, "jet/acc": 0.9} for split in ("val", "test")}
    n = {"train": 100, "val": 60, "test": 60}
    write_json(
        run.record,
        {
            "status": "done",
            "finished": "2026-01-10T00:00:00+00:00",
            "data": {
                "name": "jets", "source": source, "fingerprint": "f00d", "cluster": "event", "n": n, "n_clusters": n,
            },
            "tasks": [{**vars(TASK), "classes": list(TASK.classes), "metrics": list(TASK.metrics)}],
            "score": SCORE,
            "seed": seed,
            "metrics": {"val": {"best": found["val"], "last": found["val"], "best_epoch": best_epoch}, "test": None},
            "intervals": {},
            "durations_seconds": dict(durations or {"student": 1.0}),
            "models": {"student": {"parameters": 10}},
            "teacher": {"fingerprint": teacher, "metrics": taught}
            if distils
            else None,
            "no_kd": None,
        },
    )  # fmt: skip


def _epoch(distill: Mapping[str, Any], epoch: int, score: float) -> dict[str, Any]:
    progress = (epoch - 1) / (EPOCHS - 1)
    row: dict[str, Any] = {"epoch": epoch, "val/score": score}
    for key, logged in (("temperature", "temperature"), ("alpha", "weight/kl")):
        given = distill.get(key)
        if given:
            end = given.get("end", given["start"])
            row[logged] = given["start"] + (end - given["start"]) * progress
    return row


def _measured(path: Path, split: str, quality: float, seed: int) -> dict[str, float]:
    """Saves predictions that are right more often the higher `quality`; the samples are the same for all runs, a part
    of the noise is the run's own."""
    common = np.random.default_rng(5 if split == "val" else 6)
    own = np.random.default_rng([seed, round(quality * 1000), 0 if split == "val" else 1])
    target = np.arange(60) % 2
    logits = quality * (2 * target - 1) + common.normal(size=60) + 0.3 * own.normal(size=60)
    cluster = np.char.add("event-", np.arange(60).astype(str))
    made = Predictions(index=np.arange(60), cluster=cluster, logits={"jet": logits}, targets={"jet": target})
    found = metrics(made, (TASK,), SCORE)
    home = path if split == "val" else path / "evaluations" / split
    made.save(RunFolder(home).predictions(split))
    if split != "val":
        write_json(home / "evaluation.json", {"metrics": found, "intervals": {}})
    return found


def grid_trials(seeds: Sequence[int] = (1000,), **more: Any) -> list[dict[str, Any]]:
    """T₀ 3 and 7, T₁ 1, α₀ 0.5 and 0.9, α₁ 0.1: four of each strategy, on each seed."""
    temperatures = [Span(3, 3), Span(7, 7), Span(3, 1, "linear"), Span(7, 1, "linear")]
    weights = [Span(0.5, 0.5), Span(0.9, 0.9), Span(0.5, 0.1, "linear"), Span(0.9, 0.1, "linear")]
    return [
        {
            "distill": distillation(temperature, weight),
            "name": name_of(temperature, weight) if len(seeds) == 1 else "",
            "seed": seed,
            "quality": 0.5
            + 0.02 * temperature.start
            + 0.3 * weight.start
            + 0.1 * weight.moves
            + 0.04 * temperature.moves,
            **more,
        }
        for temperature in temperatures
        for weight in weights
        for seed in seeds
    ]
