"""The teacher stage: a teacher is trained once per distinct configuration and kept in a store shared by all runs.

A store folder is `<output_root>/teachers/<key>/`. Its key holds the teacher's configuration, the data fingerprint, the
seeds and the model class's `version`. `teacher.json` is written last: where it is, the teacher is complete.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from kdexp.contracts import TaskSpec
from kdexp.errors import CacheError, ConfigError
from kdexp.records import RunFolder, read_json, write_json, written_whole
from kdexp.training.fit import load_checkpoint

log = logging.getLogger(__name__)

MakeTeacher = Callable[[RunFolder], tuple[Mapping[str, Tensor], dict[str, Any]]]


@dataclass(frozen=True)
class TeacherStore:
    """One teacher's folder."""

    path: Path

    @property
    def manifest(self) -> Path:
        return self.path / "teacher.json"

    @property
    def weights(self) -> Path:
        return self.path / "model.pt"

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.path)

    def lock(self) -> FileLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path.with_suffix(".lock"))


def obtain_teacher(store: TeacherStore, make: MakeTeacher, *, is_main: bool) -> tuple[dict[str, Any], bool]:
    """The teacher's manifest, and whether it was there before.

    Only one process makes it; others wait for that one. `make` works in the folder and returns the weights and what
    the manifest shall hold; a training cut off by a kill goes on from the folder's last checkpoint.
    """
    if not is_main:  # a helper process of a distributed run takes part in the training, the main process keeps it
        if not store.manifest.exists():
            make(store.run)
        return _wait_for(store), True
    with _one_process(store):
        if store.manifest.exists():
            return read_json(store.manifest), True
        state, manifest = make(store.run)
        keep_weights(store, state, manifest)
        shutil.rmtree(store.run.last_checkpoint.parent, ignore_errors=True)
        return read_json(store.manifest), False


@contextmanager
def _one_process(store: TeacherStore) -> Iterator[None]:
    lock = store.lock()
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting: another process trains the same teacher in %s", store.path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def keep_weights(store: TeacherStore, state: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> None:
    """Writes the weights, then the manifest with their fingerprint."""
    with written_whole(store.weights) as temporary:
        torch.save({"state_dict": dict(state), "tasks": manifest["tasks"]}, temporary)
    write_json(store.manifest, {**manifest, "fingerprint": weights_fingerprint(state)})


def load_weights(model: nn.Module, path: Path, tasks: Sequence[TaskSpec], key: str) -> str:
    """Loads weights kept by `keep_weights` (or a plain state dict) into a model; returns their fingerprint.

    Raises CacheError where the file is torn, holds code, or was made for other labels.
    """
    content = load_checkpoint(path)
    made_for = content.get("tasks")
    state = content.get("state_dict", content)
    if made_for is not None:
        wanted = [describe_task(task) for task in tasks]
        theirs = {task["name"]: list(task["classes"]) for task in made_for}
        for task in wanted:
            if theirs.get(task["name"]) != list(task["classes"]):
                raise CacheError(
                    f"{key}: {path} was made for other labels: {task['name']} there is {theirs.get(task['name'])}, "
                    f"here {list(task['classes'])}; use a teacher of this data set"
                )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise CacheError(f"{key}: {path} does not fit the configured model: {lines[0]}") from None
    return weights_fingerprint(state)


def weights_fingerprint(state: Mapping[str, Tensor]) -> str:
    """A hash of all weights, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def answered(
    model: nn.Module, tasks: tuple[TaskSpec, ...], score: tuple[str, ...]
) -> tuple[tuple[TaskSpec, ...], tuple[str, ...]]:
    """The tasks that a model gives (those that its class names in `answers`, or all), and what of the score they make.

    Raises ConfigError where `answers` names no task, or the score needs only tasks that the model does not give.
    """
    names = getattr(model, "answers", None)
    if names is None:
        return tasks, score
    there = [task.name for task in tasks]
    unknown = [name for name in names if name not in there]
    given = tuple(task for task in tasks if task.name in names)
    part = tuple(name for name in score if name.rpartition("/")[0] in names)
    if unknown or not given:
        raise ConfigError(f"{type(model).__name__} answers {', '.join(names) or 'nothing'}; tasks: {', '.join(there)}")
    if not part:
        raise ConfigError(
            f"{type(model).__name__} answers {', '.join(names)}, and the score reads {', '.join(score)}, so it cannot "
            "be measured"
        )
    return given, part


def describe_task(task: TaskSpec) -> dict[str, Any]:
    """A task as plain values, the way records hold it."""
    return {"name": task.name, "kind": task.kind, "classes": list(task.classes), "metrics": list(task.metrics)}


def _wait_for(store: TeacherStore) -> dict[str, Any]:
    deadline = time.monotonic() + 600
    while not store.manifest.exists():
        if time.monotonic() > deadline:
            raise CacheError(f"{store.manifest} did not appear within ten minutes; look at the main process")
        time.sleep(0.1)
    return dict(read_json(store.manifest))
