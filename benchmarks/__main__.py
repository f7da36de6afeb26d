"""python -m benchmarks [startup|teacher|loop|fused|trajectories|jets|workers|trial|wandb]... [--rounds N] [--smoke]"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from benchmarks.timing import SMOKE, Figure, Plan

if TYPE_CHECKING:
    from benchmarks.sweeps import Growth

TRAINING, SWEEPS = ("teacher", "loop"), ("workers", "trial", "wandb")
WHICH = ("startup", *TRAINING, "fused", "trajectories", "jets", *SWEEPS)
N_ROUNDS, N_ROUNDS_OF_WORKERS = 7, 3
_WIDTH = 120


def main(words: Sequence[str] | None = None) -> None:
    asked = _arguments(words)
    which = WHICH if "all" in asked.which else asked.which
    plan = SMOKE if asked.smoke else Plan(n_rounds=asked.rounds or N_ROUNDS)
    console = Console(width=_WIDTH)
    console.print(
        f"ratios of processor time where nothing else is said, interleaved; n = {plan.n_rounds} rounds; one thread"
    )
    if "startup" in which:
        from benchmarks.startup import startup_ratios

        console.print(_table("start-up: a process each, user and system time", startup_ratios(plan)))
    if set(TRAINING) & set(which):
        _training(which, plan, asked.smoke, console)
    if "fused" in which:
        from benchmarks.fused import SIZES, TEMPERATURE, fused_ratios

        title = (
            f"fused: CE + KL of random logits and its gradient, CPU, float32, batch {SIZES[0].batch}, T {TEMPERATURE:g}"
        )
        console.print(_table(title, fused_ratios(plan, asked.smoke)))
    if "trajectories" in which:
        from benchmarks.trajectories import trajectory_tables

        for title, figures in trajectory_tables(plan, asked.smoke):
            console.print(_table(title, figures))
    if "jets" in which:
        from benchmarks.jets import jet_tables

        for title, figures in jet_tables(plan, asked.smoke):
            console.print(_table(title, figures))
    if set(SWEEPS) & set(which):
        rounds_of_workers = plan.n_rounds if asked.smoke or asked.rounds else N_ROUNDS_OF_WORKERS
        _sweeps(which, plan, rounds_of_workers, asked.smoke, console)


def _training(which: Sequence[str], plan: Plan, small: bool, console: Console) -> None:
    import torch

    from benchmarks.training import loop_ratios, teacher_ratios
    from benchmarks.workload import opened

    torch.set_num_threads(1)
    with opened(small) as work:
        console.print(f"data: {work.describe()}; student and teacher of conf/, CPU, float32")
        if "teacher" in which:
            title = "teacher: epochs of fit, each with its validation and checkpoint; CE + KL against CE"
            console.print(_table(f"{title}; {plan.n_epochs} a round", teacher_ratios(work, plan)))
        if "loop" in which:
            title = (
                "loop: CE + KL with cached outputs, same batches and optimiser (AdamW, fused), final weights equal to "
                "the bit. fit: with its set-up, checkpoints and metrics on disk. By hand: loss and validation"
            )
            console.print(_table(f"{title}; {plan.n_epochs} epochs a round", loop_ratios(work, plan)))


def _sweeps(which: Sequence[str], plan: Plan, rounds_of_workers: int, small: bool, console: Console) -> None:
    from benchmarks.sweeps import SMALL, Size, trial_figures, wandb_growth, worker_figures

    size, plan = SMALL if small else Size(), replace(plan, warm_up=False)
    console.print("sweeps: SYNTHETIC points and a linear student (benchmarks/naps), CPU, SQLite, no figures")
    if "workers" in which:
        title = (
            f"workers: by the clock, {rounds_of_workers} rounds; {size.n_workers} workers, "
            f"{size.n_workers * size.n_batches} trials that sleep (log-normal, median {size.median_seconds:g} s, sigma "
            f"{size.spread:g}, drawn anew each round)"
        )
        console.print(_table(title, worker_figures(replace(plan, n_rounds=rounds_of_workers), size)))
    if "trial" in which:
        title = f"trial: {size.n_trials} trials after {size.n_before}, one process, 5 epochs of a step, TPE, no logger"
        console.print(_table(title, trial_figures(plan, size)))
    if "wandb" in which:
        _growth(size.n_before, size.n_logged, wandb_growth(size), console)


def _growth(n_before: int, n_more: int, grown: Sequence[Growth], console: Console) -> None:
    title = f"wandb: offline, the process of one sweep after {n_before} trials and after {n_more} more; one run"
    table = Table(title=title, title_justify="left", width=_WIDTH)
    table.add_column("held", ratio=1)
    for name in ("before", "after", "growth", "target"):
        table.add_column(name, justify="right")
    for one in grown:
        target = "" if one.target is None else f"<= {one.target:.0f}"
        table.add_row(one.name, f"{one.before:.1f}", f"{one.after:.1f}", f"{one.after - one.before:.1f}", target)
    console.print(table)


def _table(title: str, figures: Sequence[Figure]) -> Table:
    table = Table(title=title, title_justify="left", width=_WIDTH)
    table.add_column("figure", ratio=1)
    for name in ("median", "least", "greatest", "target"):
        table.add_column(name, justify="right")
    for one in figures:
        numbers = (one.median, min(one.per_round), max(one.per_round))
        values = [f"{value:.{one.digits}f}" for value in numbers]
        table.add_row(one.name, *values, "" if one.target is None else f"<= {one.target:.2f}")
    return table


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measurements; most are ratios.")
    parser.add_argument("which", nargs="*", choices=("all", *WHICH), default="all", help="what to measure (all)")
    rounds = f"how often each figure is measured ({N_ROUNDS}; workers {N_ROUNDS_OF_WORKERS}; wandb always once)"
    parser.add_argument("--rounds", type=_positive, help=rounds)
    parser.add_argument("--smoke", action="store_true", help="one small round on generated data: that it runs")
    return parser.parse_args(words)


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be positive, got {number}")
    return number


if __name__ == "__main__":
    main()
