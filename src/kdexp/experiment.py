"""One run: data, teacher, student, test, record."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from kdexp import provenance
from kdexp.building import build_objective, device_of, open_dataset
from kdexp.config import STUDENT_FACTS
from kdexp.connecting import connect
from kdexp.contracts import SPLITS, Dataset, Trial
from kdexp.display import Display
from kdexp.distill.objective import Objective, none
from kdexp.errors import ConfigError, RunFailed
from kdexp.folders import claimed
from kdexp.records import RECORD_SCHEMA, RunFolder, read_json, write_json
from kdexp.stages import Bench, Config, Record, prepare_teacher, signal_source, train_student
from kdexp.training.teacher import describe_task

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Command:
    """What was typed, the folder to work in, and the name of a run that a search named beforehand."""

    folder: Path
    words: tuple[str, ...] = ()
    name: str | None = None


def run(cfg: Config, command: Command, trial: Trial | None = None) -> Record | None:
    """Trains and tests as configured and returns the record; None in the helper processes of a distributed run.

    A folder that holds a record is left as it is. Raises KdexpError for bad input, RunFailed for a run that broke.
    """
    folder = RunFolder(command.folder)
    is_main = int(getattr(rank_zero_only, "rank", 0) or 0) == 0
    if cfg["resume"] and folder.record.exists():
        log.info("%s is finished already; nothing was run", folder.path)
        return dict(read_json(folder.record))
    objective = build_objective(cfg["distill"])
    with Display(visible=is_main and trial is None) as display:
        opening = time.perf_counter()
        dataset = open_dataset(cfg["dataset"], cfg["data"]["seed"], display.report)
        opened = time.perf_counter() - opening
        _check_objective(cfg["objective"], dataset)
        bench = Bench(cfg=cfg, dataset=dataset, display=display, device=device_of(cfg["trainer"]), is_main=is_main)
        if not is_main:
            _train_all(bench, folder, objective, trial)
            return None
        with claimed(folder, cfg):
            log.info("run folder: %s", folder.path)
            started = datetime.now(UTC)
            with _way_back(folder):
                facts = _train_all(bench, folder, objective, trial)
            assert facts is not None
            facts["durations_seconds"] = {"data": opened, **facts["durations_seconds"]}
            record = _record(bench, command, started, facts)
            write_json(folder.record, record)
            return record


def _check_objective(names: str | list[str], dataset: Dataset) -> None:
    """Raises ConfigError for a name that no run on this data can measure, before anything is trained. A metric that
    turns out to be undefined (AUC of one class) is found when it is looked up."""
    metrics = [f"val/{task.name}/{metric}" for task in dataset.tasks for metric in task.metrics]
    _refuse_unknown(names, [*metrics, "val/score", *(f"student/{name}" for name in STUDENT_FACTS)])


def _refuse_unknown(names: str | list[str], there: Collection[str]) -> None:
    unknown = [name for name in ([names] if isinstance(names, str) else names) if name not in there]
    if unknown:
        raise ConfigError(f"objective: there is no {', '.join(unknown)}; there are: {', '.join(there)}")


def _objective(names: str | list[str], facts: Record) -> dict[str, Any]:
    """What the run returns, by name. Raises ConfigError for a name that it does not have."""
    there = {f"val/{name}": value for name, value in facts["metrics"]["val"]["best"].items()}
    there |= {f"student/{name}": float(value) for name, value in facts["models"]["student"].items()}
    _refuse_unknown(names, there)
    return {"name": names, "value": there[names] if isinstance(names, str) else [there[name] for name in names]}


@contextmanager
def _way_back(folder: RunFolder) -> Iterator[None]:
    """Adds to whatever ends a run early how to go on from its last good checkpoint."""
    try:
        yield
    except (RunFailed, KeyboardInterrupt) as error:
        reason = str(error) or "interrupted"
        kept = folder.last_checkpoint
        last = f"the last good checkpoint is {kept}" if kept.exists() else "the student has no checkpoint yet"
        raise RunFailed(f"{reason}; {last}; go on with: python -m kdexp train resume={folder.path}") from error


def _train_all(bench: Bench, folder: RunFolder, objective: Objective, trial: Trial | None) -> Record | None:
    """Teacher, teacher outputs, student, and on request the student without distillation."""
    cfg, durations = bench.cfg, {}
    teacher_facts, source = None, None
    if objective.needs_teacher:
        started = time.perf_counter()
        teacher, teacher_facts = prepare_teacher(bench, objective)
        durations["teacher"] = time.perf_counter() - started
        started = time.perf_counter()
        source, cached = signal_source(bench, teacher, teacher_facts, objective)
        durations["teacher_outputs"] = time.perf_counter() - started
        teacher_facts |= cached
    else:
        connect(objective, cfg, bench.dataset, None, is_main=bench.is_main)
    student = train_student(bench, folder, objective, source, trial)
    no_kd = None
    if cfg["with_no_kd"]:
        no_kd = train_student(bench, RunFolder(folder.path / "no_kd"), none(), None, None, name="no-KD")
    if student is None:
        return None
    durations |= student.pop("durations_seconds")
    if no_kd is not None:
        durations["no_kd"] = sum(no_kd.pop("durations_seconds").values())
        no_kd["folder"] = "no_kd"
    rules = getattr(bench.dataset, "trivial_rules", None)
    if rules is not None and trial is None:
        student["trivial_rules"] = {split: rules(split) for split in ("val", "test")}
    models = {"student": student.pop("model")}
    if teacher_facts is not None:
        models["teacher"] = teacher_facts.pop("model")
    return {**student, "teacher": teacher_facts, "no_kd": no_kd, "durations_seconds": durations, "models": models}


def _record(bench: Bench, command: Command, started: datetime, facts: Record) -> Record:
    cfg, dataset = bench.cfg, bench.dataset
    finished = datetime.now(UTC)
    return {
        "schema": RECORD_SCHEMA,
        "status": facts.pop("status"),
        "verb": "train",
        "name": command.name,
        "command": provenance.command_line(command.words),
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
        "data": {
            "name": dataset.name,
            "source": dataset.source,
            "fingerprint": dataset.fingerprint,
            "n": {split: len(dataset.split(split)) for split in SPLITS},
            "n_clusters": {split: len(set(dataset.split(split).clusters.tolist())) for split in SPLITS},
            "cluster": dataset.cluster,
            "notes": getattr(dataset, "notes", list)(),
        },
        "tasks": [describe_task(task) for task in dataset.tasks],
        "score": list(dataset.score),
        "seed": cfg["seed"],
        "objective": _objective(cfg["objective"], facts),
        **facts,
        "versions": provenance.versions(),
        "git": provenance.git_state(),
        "config_hash": provenance.config_hash(cfg),
    }
