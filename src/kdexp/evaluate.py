"""The verb `evaluate`: a finished run's best checkpoint on one split; and the same for many runs in one pass."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from kdexp.building import build_model, device_of, open_dataset
from kdexp.check import check_config
from kdexp.config import TrainConfig
from kdexp.contracts import Dataset
from kdexp.display import Display
from kdexp.errors import DataError
from kdexp.measuring import measure
from kdexp.records import RunFolder, fingerprint, read_json, write_json
from kdexp.saved import load_saved
from kdexp.training.features import FeatureStore
from kdexp.training.fit import load_checkpoint, model_state

log = logging.getLogger(__name__)

Opened = dict[str, Dataset]
"""Data sets that were read already, by what their configurations say."""


def evaluate_run(cfg: Mapping[str, Any]) -> float:
    """Metrics with intervals, printed and kept in `evaluations/<split>/`; returns the score.

    Raises DataError where the run is unfinished or its data have changed since.
    """
    with Display() as display:
        result, record = _evaluated(Path(cfg["run"]), cfg["split"], cfg, display, {})
    _show(result, record)
    return result["metrics"]["score"]


def evaluate_all(folders: Sequence[Path], split: str, cfg: Mapping[str, Any]) -> None:
    """The same for many finished runs, with each data set read once and nothing printed.

    `cfg` holds `eval_batch_size` and `interval`. Raises DataError at the first run that cannot be evaluated.
    """
    opened: Opened = {}
    with Display() as display:
        stage = display.stage(f"{split} pass", len(folders))
        for folder in folders:
            _evaluated(folder, split, cfg, display, opened)
            stage.advance()


def _evaluated(
    path: Path, split: Any, cfg: Mapping[str, Any], display: Display, opened: Opened
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was measured, as it is kept, and the run's record."""
    folder = RunFolder(path)
    saved = load_saved(folder.path)
    if not folder.record.exists():
        raise DataError(f"{folder.path} is not finished (no run.json); continue it with `train resume={folder.path}`")
    record = read_json(folder.record)
    OmegaConf.update(saved, "choices", {})
    trained = check_config(saved, TrainConfig)
    dataset = _dataset(trained, display, opened)
    if dataset.fingerprint != record["data"]["fingerprint"]:
        raise DataError(
            f"the data under {trained['dataset'].get('root')} are not those of {folder.path}: fingerprint "
            f"{dataset.fingerprint}, the run was trained on {record['data']['fingerprint']}"
        )
    device = device_of(trained["trainer"])
    model = build_model(trained["student"], dataset, trained["seed"], "student")
    model.load_state_dict(model_state(load_checkpoint(folder.best_checkpoint)))
    kept = RunFolder(folder.path / "evaluations" / split)
    root = Path(trained["paths"]["output_root"]) / "features"
    metrics, intervals = measure(
        model, dataset, (split,), kept, view="student", batch_size=cfg["eval_batch_size"], device=device,
        interval=cfg["interval"],
        features=FeatureStore(root, deterministic=dataset.deterministic, device=device, stage=display.stage),
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
    return result, record


def _dataset(trained: Mapping[str, Any], display: Display, opened: Opened) -> Dataset:
    key = fingerprint(trained["dataset"], trained["data"]["seed"])
    if key not in opened:
        opened[key] = open_dataset(trained["dataset"], trained["data"]["seed"], display.report)
    return opened[key]


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
