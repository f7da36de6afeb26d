"""Processes that work on one study side by side, and the table that shows how it stands."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from optuna.trial import TrialState
from rich.console import Console
from rich.live import Live
from rich.table import Table

from kdexp.sweeps import ledger
from kdexp.sweeps.leader import run_workers
from kdexp.sweeps.results import Results
from kdexp.sweeps.storage import STORAGE_ERRORS
from kdexp.sweeps.sweep import Sweep

log = logging.getLogger(__name__)


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
    """Starts the workers and waits for the budget. Raises StudyError where they give up."""
    with stoppable(sweep), watched(sweep):
        run_workers("train", sweep.plan.folder / "workers", sweep.plan.n_workers, lambda: sweep.interrupted)


@contextmanager
def watched(sweep: Sweep) -> Iterator[None]:
    """Shows the table while the block runs, where there is a terminal."""
    console = Console()
    started = time.monotonic()
    if not console.is_terminal:
        log.info("study %s in %s", sweep.plan.study_name, sweep.plan.folder)
        yield
        return
    last = Table()

    def table() -> Table:
        nonlocal last
        with suppress(*STORAGE_ERRORS):  # those that work say that it is out of reach
            last = table_of(sweep, started)
        return last

    with Live(get_renderable=table, console=console, refresh_per_second=1, transient=True):
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
    ranked = sweep.ranked() if len(sweep.plan.directions) == 1 else []
    best = f"{ranked[0].value:.4f} (trial {ranked[0].number})" if ranked else "–"
    done = [trial.duration for trial in trials if trial.state == TrialState.COMPLETE]
    took = [duration.total_seconds() for duration in done if duration is not None]
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
    if sweep.n_left_out:
        log.warning(
            "%d of %d combinations failed and have no other in their place; the same command runs them once more",
            sweep.n_left_out,
            sweep.plan.n_trials,
        )
    for sentence in [*results.warnings, *results.problems]:
        log.warning("%s", sentence)
    if results.has_winner:
        log.info("the winner again: %s", results.winner_command())
    log.info("study folder: %s", sweep.plan.folder)
