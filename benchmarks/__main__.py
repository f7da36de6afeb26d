"""python -m benchmarks [all | startup | teacher | loop] [--rounds N] [--smoke]"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.timing import Ratio

WHICH = ("startup", "teacher", "loop")


def main(words: Sequence[str] | None = None) -> None:
    asked = _arguments(words)
    which = WHICH if asked.which == "all" else (asked.which,)
    n_rounds = 1 if asked.smoke else asked.rounds
    console = Console(width=120)
    console.print(
        f"processor time; the median of {n_rounds} interleaved rounds, and the least and greatest; one thread"
    )
    if "startup" in which:
        from benchmarks.startup import startup_ratios

        console.print(_table("start-up: child processes, user and system time", startup_ratios(n_rounds)))
    if {"teacher", "loop"} & set(which):
        _training(which, n_rounds, asked.smoke, console)


def _training(which: Sequence[str], n_rounds: int, smoke: bool, console: Console) -> None:
    import torch

    from benchmarks.training import loop_ratios, teacher_ratios
    from benchmarks.workload import opened

    torch.set_num_threads(1)
    with opened(small=smoke) as work:
        console.print(f"data: {work.describe()}; student and teacher of conf/, CPU, float32")
        n_epochs = 1 if smoke else 3
        if "teacher" in which:
            title = f"teacher: {n_epochs} epoch(s) of fit a round, with validation and checkpoint; CE + KL against CE"
            console.print(_table(title, teacher_ratios(work, n_rounds, n_epochs)))
        if "loop" in which:
            title = (
                f"loop: {n_epochs} epoch(s) a round, CE + KL with cached outputs, same batches, AdamW (fused), final "
                "weights equal to the bit. fit: from call to return, with checkpoints and metrics on disk. By hand: "
                "loss and validation, none of these"
            )
            console.print(_table(title, loop_ratios(work, n_rounds, n_epochs)))


def _table(title: str, ratios: Sequence[Ratio]) -> Table:
    table = Table(title=title, title_justify="left", width=120)
    table.add_column("ratio", ratio=1)
    for name in ("median", "least", "greatest", "target"):
        table.add_column(name, justify="right")
    for ratio in ratios:
        values = [f"{value:.3f}" for value in (ratio.median, min(ratio.per_round), max(ratio.per_round))]
        table.add_row(ratio.name, *values, "" if ratio.target is None else f"<= {ratio.target:.2f}")
    return table


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ratios of processor time.")
    parser.add_argument("which", nargs="?", choices=("all", *WHICH), default="all", help="what to measure (all)")
    parser.add_argument("--rounds", type=_positive, default=7, help="how often each ratio is measured (7)")
    parser.add_argument("--smoke", action="store_true", help="one tiny round: that it runs, not how fast")
    return parser.parse_args(words)


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be positive, got {number}")
    return number


if __name__ == "__main__":
    main()
