"""Which process leads and which ones work for it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kdexp.errors import StudyError

log = logging.getLogger(__name__)
WORKER = "KDEXP_WORKER"
"""`<number>:<process number of the leader>`, set for a worker."""
_LOOK_SECONDS = 0.5


def is_worker() -> bool:
    """Whether this process was started by one that leads."""
    return WORKER in os.environ


def stop_if_orphaned() -> None:
    """Stops a worker whose leader is gone: who kills the command means all of it."""
    leader = os.environ.get(WORKER, "").partition(":")[2]
    if leader and os.getppid() != int(leader):
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def bound_to_leader() -> Iterator[None]:
    """Looks every second, while the block runs, whether the leader is still there."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(1.0):
            stop_if_orphaned()

    thread = threading.Thread(target=look, daemon=True, name="bound_to_leader")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=5)


def run_workers(verb: str, folder: Path, n_workers: int, is_stopped: Callable[[], bool]) -> None:
    """Starts workers, each this very command in a process of its own, replaces one that is killed, and waits for all.

    Their words go to `folder`. Raises StudyError where one gives up; whatever ends the wait ends the workers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    running: dict[int, subprocess.Popen[bytes]] = {}
    try:
        for number in range(n_workers):
            running[number] = _start(number, verb, folder, n_workers)
        while running and not is_stopped():
            time.sleep(_LOOK_SECONDS)
            for number, process in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[number]
                if code < 0 and not is_stopped():
                    log.warning("worker %d was killed (signal %d); another takes its place", number, -code)
                    running[number] = _start(number, verb, folder, n_workers)
                elif code > 0:
                    log_file = folder / f"worker_{number}.log"
                    raise StudyError(f"worker {number} gave up: {_last_words(log_file)}; see {log_file}")
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _start(number: int, verb: str, folder: Path, n_workers: int) -> subprocess.Popen[bytes]:
    """A worker gets its share of the cores."""
    share = max(1, (os.cpu_count() or 1) // n_workers)
    with (folder / f"worker_{number}.log").open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "kdexp", verb, *sys.argv[1:]],
            env={"OMP_NUM_THREADS": str(share)} | os.environ | {WORKER: f"{number}:{os.getpid()}"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _last_words(log_file: Path) -> str:
    lines = [line.strip() for line in log_file.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1]
