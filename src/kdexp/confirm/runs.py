"""Trains what a confirmation needs: any number of processes, each taking the next run that no other has."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event

from filelock import FileLock, Timeout

from kdexp.confirm.plan import Job
from kdexp.errors import RunFailed
from kdexp.experiment import Command, run
from kdexp.records import read_json
from kdexp.sweeps.leader import bound_to_leader

log = logging.getLogger(__name__)
_POLL_SECONDS = 0.5


def is_done(job: Job) -> bool:
    """Whether the run has its record; it is written last."""
    return job.folder.record.exists()


def work(jobs: Sequence[Job]) -> None:
    """Trains every run that is not there, continuing those that were cut off; returns when all are there.

    A run that breaks does not hold up the others. Raises RunFailed with all that broke, or where the work was stopped
    (Ctrl-C, SIGTERM, a leader that is gone).
    """
    broken: dict[str, str] = {}
    with bound_to_leader(), _stoppable() as stopped:
        while open_jobs := [job for job in jobs if not is_done(job) and str(job.folder.path) not in broken]:
            if not any([_try(job, broken, stopped) for job in open_jobs]):
                time.sleep(_POLL_SECONDS)
    if broken:
        raise RunFailed("; ".join(broken.values()))


@contextmanager
def _stoppable() -> Iterator[Event]:
    """Tells a stop from a run that breaks: both end training with RunFailed."""
    stopped = Event()

    def stop(number: int, frame: object) -> None:
        stopped.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    except KeyboardInterrupt:
        raise RunFailed("stopped; the same command goes on") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _try(job: Job, broken: dict[str, str], stopped: Event) -> bool:
    """Whether the run could be taken."""
    with _taken(job) as is_ours:
        if not is_ours or is_done(job):
            return is_ours
        try:
            _train(job)
        except RunFailed as error:
            if stopped.is_set():
                raise
            broken[str(job.folder.path)] = f"{job.arm}, seed {job.seed}: {error}"
            log.warning("%s, seed %d broke: %s", job.arm, job.seed, error)
    return True


def _train(job: Job) -> None:
    is_begun = job.folder.config.exists()
    config = job.config | {"resume": str(job.folder.path) if is_begun else None}
    run(config, Command(folder=job.folder.path, words=("confirm", f"arm={job.arm}", f"seed={job.seed}")))
    score = read_json(job.folder.record)["metrics"]["test"]["score"]
    log.info("%s, seed %d: test score %.4f", job.arm, job.seed, score)


@contextmanager
def _taken(job: Job) -> Iterator[bool]:
    """Holds the run for this process, where no other does."""
    job.folder.path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(job.folder.path.with_suffix(job.folder.path.suffix + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    with lock:
        yield True
