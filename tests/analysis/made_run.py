"""A run folder with everything that a run leaves, made up from a seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kdexp.bootstrap import cluster_bootstrap, metrics
from kdexp.contracts import TaskSpec
from kdexp.predictions import Predictions
from kdexp.records import RunFolder, append_line, write_json

MODALITY = TaskSpec(name="modality", kind="multiclass", classes=("CT", "MR"), metrics=("acc", "f1", "auc"))
LOCATION = TaskSpec(
    name="location",
    kind="multiclass",
    classes=("Abdomen", "Head", "Reproductive and Urinary System", "Spine and Muscles", "Thorax"),
    metrics=("acc", "f1", "auc"),
)
TASKS = (MODALITY, LOCATION)
SCORE = ("modality/f1", "location/f1")
N = {"train": 1653, "val": 197, "test": 200}
N_CLUSTERS = {"train": 535, "val": 67, "test": 69}


def made_predictions(split: str, quality: float, seed: int) -> Predictions:
    """Logits that are right more often the higher `quality`; two or three images a case."""
    generator = np.random.default_rng(seed)
    n = N[split]
    cluster = np.char.add("case-", np.sort(np.arange(n) % N_CLUSTERS[split]).astype(str))
    logits, targets = {}, {}
    for task in TASKS:
        n_classes = len(task.classes)
        targets[task.name] = generator.choice(
            n_classes, n, p=np.arange(n_classes, 0, -1) / np.arange(n_classes + 1).sum()
        )
        noise = generator.normal(size=(n, n_classes))
        logits[task.name] = (2 * (np.eye(n_classes)[targets[task.name]] * quality + noise)).astype(np.float32)
    return Predictions(index=np.arange(n), cluster=cluster, logits=logits, targets=targets)


def measured(quality: float, seed: int, splits=("val", "test"), folder: RunFolder | None = None) -> tuple[dict, dict]:
    found, intervals = {}, {}
    for number, split in enumerate(splits):
        predictions = made_predictions(split, quality, seed + number)
        if folder:
            predictions.save(folder.predictions(split))
        found[split] = metrics(predictions, TASKS, SCORE)
        made = cluster_bootstrap(predictions, TASKS, SCORE, n_resamples=200, seed=0)
        intervals[split] = {name: interval.as_dict() for name, interval in made.items()}
    return found, intervals


def trained(found: dict, best_epoch: int) -> dict[str, Any]:
    """The metrics of a trained student: val at the best and the last epoch."""
    val = {"best": found["val"], "last": {"score": found["val"]["score"] - 0.02}, "best_epoch": best_epoch}
    return {"val": val, "test": found.get("test")}


def make_run(
    path: Path,
    *,
    source: str = "real",
    with_no_kd: bool = True,
    with_teacher: bool = True,
    with_test: bool = True,
    n_epochs: int = 10,
) -> Path:
    """Writes the folder and returns it."""
    folder = RunFolder(path)
    found, intervals = measured(1.6, 1, ("val", "test") if with_test else ("val",), folder)
    best = max(1, n_epochs - 3)
    record: dict[str, Any] = {
        "status": "done",
        "data": {
            "name": "medpix",
            "source": source,
            "fingerprint": "0123456789abcdef",
            "n": N,
            "n_clusters": N_CLUSTERS,
            "cluster": "case",
        },
        "tasks": [{**vars(task), "classes": list(task.classes), "metrics": list(task.metrics)} for task in TASKS],
        "score": list(SCORE),
        "seed": 42,
        "metrics": trained(found, best),
        "intervals": intervals,
        "teacher": None,
        "no_kd": None,
        "models": {"student": model(312_407, 1_249_628, 0.84)},
        "config_hash": "9f8e7d6c5b4a3210",
    }
    if with_teacher:
        teacher, teacher_intervals = measured(2.6, 11)
        record["teacher"] = {
            "folder": "outputs/teachers/ab",
            "reused": True,
            "metrics": teacher,
            "intervals": teacher_intervals,
        }
        record["models"]["teacher"] = model(197_066_000, 788_264_000, 12.3456)
    if with_no_kd:
        plain, plain_intervals = measured(1.5, 21)
        record["no_kd"] = {"folder": "no_kd", "metrics": trained(plain, 6), "intervals": plain_intervals}
    write_history(folder, record, best, n_epochs, with_teacher)
    write_json(folder.record, record)
    return path


def model(parameters: int, size: int, latency: float) -> dict[str, Any]:
    return {"parameters": parameters, "bytes": size, "latency_ms_per_sample": latency, "latency_batch_size": 32}


def write_history(folder: RunFolder, record: dict, best: int, n_epochs: int, with_teacher: bool) -> None:
    top = record["metrics"]["val"]["best"]
    for epoch in range(1, n_epochs + 1):
        progress = epoch / best if epoch <= best else 1 - 0.03 * (epoch - best)
        row: dict[str, Any] = {"epoch": epoch, "train/loss": 90 / epoch + 8, "train/ce": 1.6 / epoch**0.7, "lr": 3e-4}
        if with_teacher:
            row |= {
                "train/kl": 2.4 / epoch**0.5,
                "train/feature_mse": 0.8 / epoch,
                "weight/ce": 1.0,
                "weight/kl": 0.5 + 0.05 * epoch,
                "weight/feature_mse": 100.0,
                "temperature": 6 - 0.4 * (epoch - 1),
            }
        row |= {f"val/{name}": top[name] * (0.55 + 0.45 * progress) for name in ("score", *SCORE)}
        append_line(folder.metrics, {**row, "seconds": 1.5})


def change_record(path: Path, **changes: Any) -> None:
    record = json.loads((path / "run.json").read_text())
    write_json(path / "run.json", {**record, **changes})
