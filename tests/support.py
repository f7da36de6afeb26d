"""The command as a user types it, for tests: in a process of its own, and on the system that lives outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ROOT / "tests" / "e2e" / "outside"
"""A small system of a user's own: its package `rings` and its configs."""


@dataclass
class Finished:
    """What a command left: its exit code and what it said."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return " ".join((self.out + self.err).split())


@dataclass
class CommandLine:
    """`python -m kdexp` in a working directory of its own."""

    cwd: Path

    def environment(self, **extra: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KDEXP_", "WANDB_"))}
        path = os.pathsep.join([str(ROOT / "src"), str(OUTSIDE)])
        return kept | {"PYTHONPATH": path, "COLUMNS": "160", "OMP_NUM_THREADS": "1"} | extra

    def start(self, *words: str, **extra: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "kdexp", *words],
            cwd=self.cwd,
            env=self.environment(**extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *words: str, **extra: str) -> Finished:
        process = self.start(*words, **extra)
        out, err = process.communicate(timeout=300)
        return Finished(process.returncode, out, err)

    def rings(self, *words: str, **extra: str) -> Finished:
        """The same on the small system outside the package, trusted and small."""
        return self(*rings_words(*words), KDEXP_TRUSTED_PACKAGES="rings", **extra)

    def stop_when(self, ready: Callable[[], bool], how: signal.Signals, *words: str) -> Finished:
        """Starts a command on the small system and sends it a signal as soon as `ready` holds."""
        process = self.start(*rings_words(*words), KDEXP_TRUSTED_PACKAGES="rings")
        deadline = time.monotonic() + 120
        while not ready() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert process.poll() is None, f"it ended before it could be stopped: {process.communicate()}"
        process.send_signal(how)
        out, err = process.communicate(timeout=120)
        return Finished(process.returncode, out, err)


def rings_words(*words: str) -> list[str]:
    verb, *rest = words
    return [verb, "-cd", str(OUTSIDE / "conf"), "dataset=rings", *rest]
