"""A run claims its folder: one run per folder, one process per run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml
from filelock import FileLock, Timeout

from kdexp.errors import ConfigError, KdexpError
from kdexp.records import RunFolder, redact, written_whole


@contextmanager
def claimed(folder: RunFolder, cfg: Mapping[str, Any]) -> Iterator[None]:
    """Holds the folder for this process and writes `config.yaml` into it.

    Raises ConfigError where another process works in it, or where it holds a run that this one does not resume.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"{folder.path}: another process runs in this folder; wait for it or choose another"
        ) from None
    with lock:
        if cfg["resume"]:
            yield
        elif folder.config.exists():
            raise ConfigError(
                f"{folder.path} holds a run already; continue it with resume={folder.path}, or choose another folder"
            )
        else:
            write_config(folder, cfg)
            with _nothing_left_of_bad_input(folder):
                yield


@contextmanager
def _nothing_left_of_bad_input(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except KdexpError:
        if {file.name for file in folder.path.iterdir()} <= {folder.config.name, ".lock"}:  # nothing was trained
            for file in folder.path.iterdir():
                file.unlink()
        raise


def write_config(folder: RunFolder, cfg: Mapping[str, Any]) -> None:
    """The configuration, resolved and without secrets; `from_run` and `resume` read it."""
    # A trial's configuration is a run's: taken up again, it must not start its search.
    ours = {key: name for key, name in cfg["choices"].items() if not key.startswith("hydra/")}
    choices = {key: None if key == "hparams_search" else name for key, name in ours.items()}
    kept = {**cfg, "choices": choices, "resume": None, "from_run": None}
    with written_whole(folder.config) as temporary:
        temporary.write_text(yaml.safe_dump(redact(kept), sort_keys=False, allow_unicode=True), encoding="utf-8")
