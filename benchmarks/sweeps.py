"""What a sweep gains and costs: workers against a batch barrier, a trial's overhead, what a process keeps of trials.

All of it through the command line, in processes of their own, on the system in `benchmarks/naps`.
"""

from __future__ import annotations

import heapq
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna

from benchmarks.timing import Costs, Figure, Plan, interleaved
from kdexp.records import read_lines

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "benchmarks" / "conf"
STUDY = "naps"
SPACE = (
    "distill.weights.kl=tag(log,interval(0.01,10))",
    "distill.temperature=interval(1,5)",
    "optimizer.weight_decay=tag(log,interval(1e-4,0.1))",
)
_TIMEOUT_SECONDS = 1800


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the sweeps are. `n_before` trials are not counted where a process's trials are looked at one by one."""

    n_workers: int = 4
    n_batches: int = 6
    median_seconds: float = 2.0
    spread: float = 0.6
    """Standard deviation of the logarithm of a trial's duration."""
    n_before: int = 10
    n_trials: int = 30
    n_logged: int = 100


SMALL = Size(n_workers=2, n_batches=2, median_seconds=0.2, n_before=1, n_trials=2, n_logged=2)


def durations(size: Size, seed: int) -> list[float]:
    """Seconds that the trials of one study sleep, log-normal."""
    drawn = np.random.default_rng(seed).lognormal(
        np.log(size.median_seconds), size.spread, size.n_workers * size.n_batches
    )
    return [round(float(seconds), 3) for seconds in drawn]


def worker_figures(plan: Plan, size: Size) -> list[Figure]:
    """The same trials in batches, each waiting for its slowest, and by workers that wait for nobody.

    Both are one sweep of the same workers; in batches, a trial waits, its set-up done, until all of the batch before
    have left their record. A round has durations of its own.
    """

    def study(with_barrier: bool) -> Callable[[], Costs]:
        rounds = count()

        def run() -> Costs:
            with TemporaryDirectory() as folder:
                return _worker_study(Path(folder), size, durations(size, next(rounds)), with_barrier)

        return run

    rounds = interleaved({"batches": study(with_barrier=True), "free": study(with_barrier=False)}, plan)
    names = {
        "trials": "from the first trial's start to the last one's end",
        "command": "the whole command, start-up and report included",
        "ideal": "the sleep alone, on workers without overhead (computed)",
    }
    return [
        *(rounds.ratio(f"batches / free: {name}", "batches", "free", part) for part, name in names.items()),
        *(rounds.amount(f"{variant}, trials, seconds", variant, "trials", digits=1) for variant in ("batches", "free")),
    ]


def _worker_study(root: Path, size: Size, seconds: list[float], with_barrier: bool) -> Costs:
    barrier = (f"dataset.barrier={root / 'studies' / STUDY / 'trials'}", f"dataset.batch={size.n_workers}")
    started = time.monotonic()
    _kdexp(
        root,
        "hydra/sweeper/sampler=grid",
        f"hydra.sweeper.n_workers={size.n_workers}",
        f"hydra.sweeper.n_trials={len(seconds)}",
        f"student.seconds=choice({','.join(map(str, seconds))})",
        "trainer.max_epochs=1",
        *(barrier if with_barrier else ()),
    )
    command = time.monotonic() - started
    trials = optuna.load_study(study_name=STUDY, storage=f"sqlite:///{root}/studies/{STUDY}/study.db").trials
    asleep = [trial.params["student.seconds"] for trial in sorted(trials, key=lambda one: one.user_attrs["slot"])]
    if sorted(asleep) != sorted(seconds) or not all(trial.state.is_finished() for trial in trials):
        raise RuntimeError(f"the study did not run each of its {len(seconds)} trials once")
    begun = min(trial.datetime_start for trial in trials if trial.datetime_start)
    ended = max(trial.datetime_complete for trial in trials if trial.datetime_complete)
    ideal = (in_batches if with_barrier else one_by_one)(asleep, size.n_workers)
    return {"command": command, "trials": (ended - begun).total_seconds(), "ideal": ideal}


def in_batches(seconds: Sequence[float], n_workers: int) -> float:
    """How long trials take whose batches wait for their slowest."""
    return sum(max(seconds[start : start + n_workers]) for start in range(0, len(seconds), n_workers))


def one_by_one(seconds: Sequence[float], n_workers: int) -> float:
    """How long trials take that are handed to whoever is free."""
    free_at = [0.0] * n_workers
    for one in seconds:
        heapq.heapreplace(free_at, free_at[0] + one)
    return max(free_at)


def trial_figures(plan: Plan, size: Size) -> list[Figure]:
    """A trial in the sweep's own process against the same training called in a loop."""
    n = size.n_before + size.n_trials + 1

    def swept(root: Path, meter: Path) -> None:
        _kdexp(root, *SPACE, f"dataset.meter={meter}", f"hydra.sweeper.n_trials={n}")

    def direct(root: Path, meter: Path) -> None:
        words = [f"hydra.searchpath=[file://{CONF}]", f"hparams_search={STUDY}", f"dataset.meter={meter}"]
        _python(root, "-m", "benchmarks.direct", str(n), *words, f"paths.output_root={root}")

    def metered(run: Callable[[Path, Path], None]) -> Callable[[], Costs]:
        def measure() -> Costs:
            with _readings(run, n) as readings:
                return _per_trial(readings[size.n_before :])

        return measure

    rounds = interleaved({"sweep": metered(swept), "direct": metered(direct)}, plan)
    return [
        rounds.ratio("trial through the sweep / the same training called directly", "sweep", "direct", "processor"),
        rounds.difference(
            "the sweep's part of a trial, ms of processor time", "sweep", "direct", "processor", digits=0
        ),
        rounds.difference("the sweep's part of a trial, ms by the clock", "sweep", "direct", "clock", digits=0),
        rounds.amount("a trial through the sweep, ms of processor time", "sweep", "processor", digits=0),
        rounds.amount("the same training called directly, ms of processor time", "direct", "processor", digits=0),
    ]


def _per_trial(readings: Sequence[dict[str, float]]) -> Costs:
    """Milliseconds from one trial's start to the next one's, on average."""
    n = len(readings) - 1
    parts = {"processor": "process_seconds", "clock": "seconds"}
    return {part: 1000 * (readings[-1][key] - readings[0][key]) / n for part, key in parts.items()}


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What a process held at two points of its life. `target` bounds what it may have added."""

    name: str
    before: float
    after: float
    target: float | None = None


def wandb_growth(size: Size) -> list[Growth]:
    """What the process of a sweep that logs every trial to W&B, offline, holds after its first trials and later."""
    n = size.n_before + size.n_logged + 1

    def run(root: Path, meter: Path) -> None:
        words = ("logger=wandb", "logger.mode=offline", f"dataset.meter={meter}", f"hydra.sweeper.n_trials={n}")
        _kdexp(root, *SPACE, *words)

    with _readings(run, n) as readings:
        before, after = readings[size.n_before], readings[-1]
    wanted = (
        ("memory_mb", "resident memory, MB", 20.0),
        ("children_mb", "resident memory of its helper (wandb-core), MB", None),
        ("descriptors", "open file descriptors", 0.0),
        ("threads", "threads", 0.0),
    )
    return [Growth(name=name, before=before[key], after=after[key], target=target) for key, name, target in wanted]


@contextmanager
def _readings(run: Callable[[Path, Path], None], n: int) -> Iterator[list[dict[str, Any]]]:
    """What the process had used at the start of each of its `n` trials."""
    with TemporaryDirectory() as folder:
        meter = Path(folder) / "meter.jsonl"
        run(Path(folder), meter)
        readings = read_lines(meter)
        if len(readings) != n:
            raise RuntimeError(f"{n} trials were to run, {len(readings)} did")
        yield readings


def _kdexp(root: Path, *words: str) -> None:
    """A search of its own in this folder."""
    own = ("-cd", str(CONF), f"hparams_search={STUDY}", f"paths.output_root={root}")
    _python(root, "-m", "kdexp", "train", *own, *words)


def _python(root: Path, *words: str) -> None:
    """Runs this Python from the checkout, where `benchmarks` is found. Raises RuntimeError with what it said last."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("KDEXP_", "WANDB_"))}
    ours = {"KDEXP_TRUSTED_PACKAGES": "benchmarks.naps", "OMP_NUM_THREADS": "1"}
    said = root / "said.log"
    with said.open("wb") as stream:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            env=kept | ours,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_SECONDS,
        )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(words)} ended with {done.returncode}: {said.read_text(errors='replace')[-2000:]}"
        )
