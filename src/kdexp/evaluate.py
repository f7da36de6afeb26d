"""The verb `evaluate`: a finished run's best checkpoint on one split."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from kdexp.building import build_model, device_of, open_dataset
from kdexp.check import check_config
from kdexp.config import TrainConfig
from kdexp.display import Display
from kdexp.errors import DataError
from kdexp.measuring import measure
from kdexp.records import RunFolder, read_json, write_json
from kdexp.saved import load_saved
from kdexp.training.fit import load_checkpoint, model_state

log = logging.getLogger(__name__)


def evaluate_run(cfg: Mapping[str, Any]) -> float:
    """Metrics with intervals, printed and kept in `evaluations/<split>/`; returns the score.

    Raises DataError where the run is unfinished or its data have changed since.
    """
    folder = RunFolder(Path(cfg["run"]))
    saved = load_saved(folder.path)
    if not folder.record.exists():
        raise DataError(f"{folder.path} is not finished (no run.json); continue it with `train resume={folder.path}`")
    record = read_json(folder.record)
    OmegaConf.update(saved, "choices", {})
    trained = check_config(saved, TrainConfig)
    with Display() as display:
        dataset = open_dataset(trained["dataset"], trained["data"]["seed"], display.report)
    if dataset.fingerprint != record["data"]["fingerprint"]:
        raise DataError(
            f"the data under {trained['dataset'].get('root')} are not those of {folder.path}: fingerprint "
            f"{dataset.fingerprint}, the run was trained on {record['data']['fingerprint']}"
        )
    device = device_of(trained["trainer"])
    model = build_model(trained["student"], dataset, trained["seed"], "student")
    model.load_state_dict(model_state(load_checkpoint(folder.best_checkpoint)))
    split = cfg["split"]
    kept = RunFolder(folder.path / "evaluations" / split)
    metrics, intervals = measure(
        model, dataset, (split,), kept, view="student", batch_size=cfg["eval_batch_size"], device=device,
        interval=cfg["interval"],
    )  # fmt: skip
    result = {
        "run": str(folder.path),
        "checkpoint": "best",
        "split": split,
        "data": {**record["data"], "n": len(dataset.split(split))},
        "seed": record["seed"],
        "metrics": metrics[split],
        "intervals": intervals[split],
    }
    write_json(kept.path / "evaluation.json", result)
    _show(result, record)
    return metrics[split]["score"]


def _show(result: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    data, level = result["data"], next(iter(result["intervals"].values()))["level"]
    source = "SYNTHETIC" if data["source"] == "synthetic" else data["source"]
    table = Table(title=f"{data['name']} · {result['split']} · n = {data['n']}", caption_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column(f"{level:.0%} interval", justify="right")
    for name, value in result["metrics"].items():
        found = result["intervals"].get(name)
        table.add_row(name, f"{value:.3f}", f"{found['low']:.3f} to {found['high']:.3f}" if found else "")
    n_clusters = next(iter(result["intervals"].values()))["n_clusters"]
    table.caption = (
        f"{source} data, best checkpoint, seed {record['seed']}; intervals resample {n_clusters} {data['cluster']}s"
    )
    Console().print(table)
