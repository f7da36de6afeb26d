"""python -m kdexp.analysis.replay TABLE: what the published trial table of the HOSER study says when it is recomputed.

The study (`hoser_tuning_20251003_162916`) reports twelve trials of at most eight epochs, by CMA-ES and Hyperband(5, 8,
3). Its table, `docs/hoser_trials.csv`, is enough to replay the pruner and to draw the parameters anew;
`docs/reading_the_hoser_study.md` sets what comes out beside what the report says.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import correlation, mean, median
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from kdexp.errors import DataError

MIN_EPOCHS, MAX_EPOCHS, FACTOR = 5, 8, 3
"""Hyperband's settings. The study reported epochs from 0."""
LAMBDA, TEMPERATURE, WINDOW = (0.001, 0.1), (1.0, 5.0), (2, 8)
"""The space: λ on a logarithmic scale, τ on a linear one, w a whole number."""
SEEDS = (42, 43)
"""The sampler's seed as the report prints it, and that of the study's configuration."""
NEAR_BEST = 0.002
"""Where the report sees the best λ: below this."""
N_MOVES = round(89_912 * 27.6)
"""Moves that an accuracy counts: those of the validation trips, of 28.6 roads on average."""
_WIDTH = 100


class Point(NamedTuple):
    """A trial's parameters λ, τ and w; a printed λ has six decimals, a printed τ three."""

    weight: float
    temperature: float
    window: int

    def printed(self) -> Point:
        return Point(round(self.weight, 6), round(self.temperature, 3), self.window)


@dataclass(frozen=True, kw_only=True)
class PublishedTrial:
    """One row: the accuracy when the pruner looked and after the last epoch, NaN where there is none; no point where
    the trial did not distil."""

    number: int
    state: str
    state_in_counts: str
    minutes: float
    at_rung: float
    final: float
    point: Point | None

    @property
    def reached_rung(self) -> bool:
        return not math.isnan(self.at_rung)

    @property
    def is_complete(self) -> bool:
        return self.reached_rung and not math.isnan(self.final)


Trials = Sequence[PublishedTrial]


def read_table(path: Path) -> list[PublishedTrial]:
    """All rows, in the order in which the trials ran. Raises DataError naming file and row."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; the study's table is docs/hoser_trials.csv")
    trials = []
    with path.open(encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=1):
            try:
                trials.append(_trial(row))
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{path}, row {number}: {error!r}; write it like docs/hoser_trials.csv") from None
    distilled = [trial.is_complete for trial in trials if trial.point]
    if sum(distilled) < 2 or all(distilled) or not any(trial.is_complete for trial in trials if not trial.point):
        raise DataError(f"{path} needs a complete trial that did not distil, two that did, and one that was stopped")
    return trials


def _trial(row: Mapping[str, str]) -> PublishedTrial:
    has_point = bool(row["lambda"])
    return PublishedTrial(
        number=int(row["trial"]),
        state=row["state"],
        state_in_counts=row["state_in_counts"],
        minutes=float(row["minutes"]),
        at_rung=float(row["accuracy_at_rung"] or "nan"),
        final=float(row["final_accuracy"] or "nan"),
        point=Point(float(row["lambda"]), float(row["temperature"]), int(row["window"])) if has_point else None,
    )


def rungs(min_epochs: int, max_epochs: int, factor: int) -> list[list[int]]:
    """For each bracket of Optuna's Hyperband, the steps at which it looks at a trial of `max_epochs` epochs, whose
    steps are counted from 0."""
    n_brackets = math.floor(math.log(max_epochs / min_epochs, factor)) + 1
    steps = [[min_epochs * factor ** (bracket + rung) for rung in range(max_epochs)] for bracket in range(n_brackets)]
    return [[step for step in bracket if step < max_epochs] for bracket in steps]


def halving(values: Sequence[float], factor: int) -> list[bool]:
    """Whether successive halving prunes each trial, by its value at a rung: all but the best max(1, n // factor) of the
    n trials that have come there so far."""
    so_far = [sorted(values[:n], reverse=True) for n in range(1, len(values) + 1)]
    return [value < seen[max(1, len(seen) // factor) - 1] for value, seen in zip(values, so_far, strict=True)]


def median_rule(values: Sequence[float]) -> list[bool]:
    """Whether a median rule prunes each trial: below the median of those that it has let run to the end so far."""
    kept: list[float] = []
    pruned = []
    for value in values:
        pruned.append(bool(kept) and value < median(kept))
        kept += [] if pruned[-1] else [value]
    return pruned


def random_points(seed: int, n: int) -> list[Point]:
    """The first points that Optuna's RandomSampler draws in this space: λ, τ and w in turn, each uniform between its
    bounds, from NumPy's legacy generator. The bounds of λ are taken as logarithms, those of w widened by one half."""
    random = np.random.RandomState(seed)
    points = []
    for _ in range(n):
        weight = math.exp(random.uniform(math.log(LAMBDA[0]), math.log(LAMBDA[1])))
        temperature = random.uniform(*TEMPERATURE)
        window = math.floor(random.uniform(WINDOW[0] - 0.5, WINDOW[1] + 0.5) + 0.5)
        points.append(Point(weight, temperature, min(window, WINDOW[1])))
    return points


def chance_of_one_below(limit: float, n_draws: int) -> float:
    """The probability that one or more of so many random λ lie below `limit`."""
    share = math.log(limit / LAMBDA[0]) / math.log(LAMBDA[1] / LAMBDA[0])
    return 1 - (1 - share) ** n_draws


def rank_correlations(trials: Trials) -> dict[str, float]:
    """Spearman's, of each parameter with the accuracy at the rung; ties share their mean rank."""
    there = [(trial.point, trial.at_rung) for trial in trials if trial.point and trial.reached_rung]
    accuracy = _ranks([value for _, value in there])
    columns = zip(*(point for point, _ in there), strict=True)
    return {name: correlation(_ranks(column), accuracy) for name, column in zip("λτw", columns, strict=True)}


def _ranks(values: Sequence[float]) -> list[float]:
    return [sum(other < one for other in values) + (values.count(one) + 1) / 2 for one in values]


def render(trials: Trials, console: Console) -> None:
    """Prints every trial with what the rules and the draws make of it, then the figures."""
    console.print(_table(("trial", "printed", "at the rung", "halving", "median", "λ, τ, w", "drawn"), _rows(trials)))
    console.print()
    console.print(_table(("figure", "recomputed"), figures(trials)))


def _rows(trials: Trials) -> Iterator[tuple[str, ...]]:
    reached = [trial for trial in trials if trial.reached_rung]
    values = [trial.at_rung for trial in reached]
    rules = zip(reached, halving(values, FACTOR), median_rule(values), strict=True)
    said = {trial.number: ["prunes" if rule else "keeps" for rule in both] for trial, *both in rules}
    draws = iter(random_points(SEEDS[1], len(trials)))
    for trial in trials:
        drawn = next(draws) if trial.point else None
        at_rung = f"{trial.at_rung:.6f}" if trial.reached_rung else ""
        outcomes = said.get(trial.number, ["", ""])
        yield str(trial.number), trial.state, at_rung, *outcomes, _shown(trial.point), _shown(drawn)


def figures(trials: Trials) -> Iterator[tuple[str, str]]:
    """What the table gives, in words and numbers."""
    yield from _pruning(trials)
    yield from _drawing([trial.point for trial in trials if trial.point])
    yield from _costs(trials)
    yield from _accuracies(trials)


def _pruning(trials: Trials) -> Iterator[tuple[str, str]]:
    brackets = rungs(MIN_EPOCHS, MAX_EPOCHS, FACTOR)
    looked = "; ".join(", ".join(f"step {step}, epoch {step + 1}" for step in bracket) for bracket in brackets)
    yield f"rungs of Hyperband{(MIN_EPOCHS, MAX_EPOCHS, FACTOR)}, brackets: {len(brackets)}", looked
    reached = [trial for trial in trials if trial.reached_rung]
    values = [trial.at_rung for trial in reached]
    for name, rule in (("halving", halving(values, FACTOR)), ("a median rule", median_rule(values))):
        others = [t.number for t, prunes in zip(reached, rule, strict=True) if prunes != (t.state == "PRUNED")]
        same = f"{len(reached) - len(others)} of {len(reached)}"
        yield f"printed outcomes that {name} gives", f"{same}; not {_numbers(others)}" if others else same
    middle = median(trial.at_rung for trial in trials if trial.is_complete)
    below = [trial.number for trial in trials if trial.is_complete and trial.at_rung < middle]
    yield "median of the complete trials at the rung; of these, below it", f"{middle:.6f}; {_numbers(below)}"
    counts = [[trial.state for trial in trials], [trial.state_in_counts for trial in trials]]
    yield "PRUNED by the table; by the report's totals", "; ".join(str(states.count("PRUNED")) for states in counts)


def _drawing(printed: Sequence[Point]) -> Iterator[tuple[str, str]]:
    n = len(printed)
    for seed in SEEDS:
        drawn = [point.printed() for point in random_points(seed, n)]
        equal = sum(one == other for pair in zip(drawn, printed, strict=True) for one, other in zip(*pair, strict=True))
        yield f"printed parameters equal to random draws of seed {seed}", f"{equal} of {3 * n}"
    for draws in (n, n + 1):
        yield f"P(λ < {NEAR_BEST} within {draws} random draws)", f"{chance_of_one_below(NEAR_BEST, draws):.0%}"


def _costs(trials: Trials) -> Iterator[tuple[str, str]]:
    """What pruning saved, of the trials that came to the rung: a pruned one was spared the rest of the epochs, and the
    time by which those that distilled to the end took longer."""
    complete = [trial for trial in trials if trial.is_complete]
    pruned = [trial for trial in trials if trial.reached_rung and not trial.is_complete]
    total, short = sum(trial.minutes for trial in trials), mean(trial.minutes for trial in pruned)
    full = mean(trial.minutes for trial in complete if trial.point)
    yield "sum of the printed durations", f"{total / 60:.1f} h"
    yield "mean complete trial", f"{mean(trial.minutes for trial in complete) / 60:.2f} h"
    yield "mean complete trial that distilled", f"{full / 60:.2f} h"
    yield "mean pruned trial; in epochs of those", f"{short / 60:.2f} h; {short / full * MAX_EPOCHS:.1f}"
    ((rung,),) = rungs(MIN_EPOCHS, MAX_EPOCHS, FACTOR)
    n_all = (len(complete) + len(pruned)) * MAX_EPOCHS
    n_spared = len(pruned) * (MAX_EPOCHS - rung - 1)
    yield "epochs saved by pruning", f"{n_spared} of {n_all}, {n_spared / n_all:.1%}"
    spared = len(pruned) * (full - short)
    yield "hours saved by pruning", f"{spared / 60:.1f} of {(total + spared) / 60:.1f}, {spared / (total + spared):.1%}"


def _accuracies(trials: Trials) -> Iterator[tuple[str, str]]:
    complete = [trial for trial in trials if trial.is_complete]
    both = correlation([trial.at_rung for trial in complete], [trial.final for trial in complete])
    yield f"r² of accuracy at the rung and at the end, {len(complete)} trials", f"{both**2:.3f}"
    ranked = ", ".join(f"{name} {value:+.2f}" for name, value in rank_correlations(trials).items())
    n_ranked = sum(trial.reached_rung and trial.point is not None for trial in trials)
    yield f"rank correlation with accuracy at the rung, {n_ranked} trials", ranked
    values = [trial.at_rung for trial in trials if trial.reached_rung]
    yield f"accuracy at the rung, best less worst of {len(values)} trials", f"{max(values) - min(values):.6f}"
    error = math.sqrt(mean(values) * (1 - mean(values)) / N_MOVES)
    yield f"standard error of one accuracy, were {N_MOVES / 1e6:.2f} M moves independent", f"{error:.6f}"
    best = max(trial.final for trial in complete if trial.point)
    without = max(trial.final for trial in complete if not trial.point)
    yield "best trial less the one that did not distil", f"{best - without:+.6f}"


def _numbers(trials: Sequence[int]) -> str:
    return "trials " + ", ".join(map(str, trials)) if trials else "none"


def _shown(point: Point | None) -> str:
    return "" if point is None else f"{point.weight:.6f} {point.temperature:.3f} {point.window}"


def _table(headings: Sequence[str], rows: Iterator[tuple[str, ...]]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*row)
    return table


def main(words: Sequence[str] | None = None) -> None:
    """Prints the replay of one table; exit code 2 where it cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m kdexp.analysis.replay", description="The HOSER study, recomputed.")
    parser.add_argument("table", type=Path, help="the trials, in the form of docs/hoser_trials.csv")
    asked = parser.parse_args(words)
    try:
        trials = read_table(asked.table)
    except DataError as error:
        parser.error(str(error))
    render(trials, Console(width=_WIDTH))


if __name__ == "__main__":
    main()
