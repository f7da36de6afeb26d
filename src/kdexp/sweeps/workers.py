"""Processes that work on one study side by side, and the table that shows how it stands."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna.trial import TrialState
from rich.console import Console
from rich.live import Live
from rich.table import Table

from kdexp.errors import StudyError
from kdexp.sweeps import ledger
from kdexp.sweeps.leader import WORKER
from kdexp.sweeps.results import Results
from kdexp.sweeps.sweep import Sweep

log = logging.getLogger(__name__)
_LOOK_SECONDS = 0.5


@contextmanager
def stoppable(sweep: Sweep) -> Iterator[None]:
    """SIGTERM and Ctrl-C give the running trial back and end the work."""

    def stop(number: int, frame: object) -> None:
        sweep.interrupted = True
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except KeyboardInterrupt:
        sweep.interrupted = True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def lead(sweep: Sweep) -> None:
    """Starts the workers, replaces one that dies, and waits for the budget. Raises StudyError where they give up."""
    plan = sweep.plan
    folder = plan.folder / "workers"
    folder.mkdir(parents=True, exist_ok=True)
    running: dict[int, subprocess.Popen[bytes]] = {}
    with stoppable(sweep), watched(sweep):
        try:
            for number in range(plan.n_workers):
                running[number] = _start(number, sweep)
            while running and not sweep.interrupted:
                time.sleep(_LOOK_SECONDS)
                for number, process in list(running.items()):
                    code = process.poll()
                    if code is None:
                        continue
                    del running[number]
                    if code < 0 and not sweep.interrupted:
                        log.warning("worker %d was killed (signal %d); another takes its place", number, -code)
                        running[number] = _start(number, sweep)
                    elif code > 0:
                        log_file = folder / f"worker_{number}.log"
                        raise StudyError(f"worker {number} gave up: {_last_words(log_file)}; see {log_file}")
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()


def _last_words(log_file: Path) -> str:
    lines = [line.strip() for line in log_file.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1]


def _start(number: int, sweep: Sweep) -> subprocess.Popen[bytes]:
    """A worker is the same command in a process of its own, with its share of the cores."""
    folder = sweep.plan.folder / "workers"
    share = max(1, (os.cpu_count() or 1) // sweep.plan.n_workers)
    with (folder / f"worker_{number}.log").open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "kdexp", "train", *sys.argv[1:]],
            env={"OMP_NUM_THREADS": str(share)} | os.environ | {WORKER: f"{number}:{os.getpid()}"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@contextmanager
def watched(sweep: Sweep) -> Iterator[None]:
    """Shows the table while the block runs, where there is a terminal."""
    console = Console()
    started = time.monotonic()
    if not console.is_terminal:
        log.info("study %s in %s", sweep.plan.study_name, sweep.plan.folder)
        yield
        return
    with Live(get_renderable=lambda: table_of(sweep, started), console=console, refresh_per_second=1, transient=True):
        yield


def table_of(sweep: Sweep, started: float) -> Table:
    """Where the study stands: budget, running trials with their owners, the best so far, time left."""
    trials = sweep.study.get_trials(deepcopy=False)
    now = ledger.standing(trials)
    table = Table(
        title=f"{sweep.plan.study_name}: {now.finished} of {sweep.plan.n_trials} trials", title_justify="left"
    )
    for name in ("running", "pruned", "failed", "best", "left"):
        table.add_column(name, justify="right")
    done = [t for t in trials if t.state == TrialState.COMPLETE]
    best = "–"
    if done and len(sweep.plan.directions) == 1:
        sign = -1 if sweep.plan.directions[0] == "maximize" else 1
        top = min(done, key=lambda t: sign * float(t.value or 0.0))
        best = f"{top.value:.4f} (trial {top.number})"
    took = [t.duration.total_seconds() for t in done if t.duration is not None]
    open_trials = sweep.plan.n_trials - now.finished
    seconds = open_trials * sum(took) / len(took) / sweep.plan.n_workers if took else None
    left = f"about {seconds / 60:.0f} min" if seconds is not None else "–"
    table.add_row(str(now.running), str(now.pruned), str(now.failed), best, left)
    return table


def report(sweep: Sweep, results: Results) -> None:
    """What the study came to, in words."""
    now = ledger.standing(sweep.study.get_trials(deepcopy=False))
    log.info(
        "%s: %d of %d trials finished, %d of them pruned, %d failed",
        sweep.plan.study_name,
        now.finished,
        sweep.plan.n_trials,
        now.pruned,
        now.failed,
    )
    for sentence in [*results.warnings, *results.problems]:
        log.warning("%s", sentence)
    if now.finished and len(sweep.plan.directions) == 1:
        log.info("the winner again: %s", results.winner_command())
    log.info("study folder: %s", sweep.plan.folder)
