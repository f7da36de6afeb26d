"""python -m benchmarks [all | startup | teacher | loop] [--rounds N] [--smoke]"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.timing import SMOKE, Plan, Ratio

WHICH = ("startup", "teacher", "loop")
_WIDTH = 120


def main(words: Sequence[str] | None = None) -> None:
    asked = _arguments(words)
    which = WHICH if asked.which == "all" else (asked.which,)
    plan = SMOKE if asked.smoke else Plan(n_rounds=asked.rounds)
    console = Console(width=_WIDTH)
    console.print(f"ratios of processor time, interleaved; n = {plan.n_rounds} rounds; one thread")
    if "startup" in which:
        from benchmarks.startup import startup_ratios

        console.print(_table("start-up: a process each, user and system time", startup_ratios(plan)))
    if {"teacher", "loop"} & set(which):
        _training(which, plan, asked.smoke, console)


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


def _table(title: str, ratios: Sequence[Ratio]) -> Table:
    table = Table(title=title, title_justify="left", width=_WIDTH)
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
    parser.add_argument("--smoke", action="store_true", help="one small round on generated data: that it runs")
    return parser.parse_args(words)


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be positive, got {number}")
    return number


if __name__ == "__main__":
    main()
