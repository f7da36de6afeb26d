"""The published trial table of the HOSER study, recomputed: against Optuna's own classes, and beside the report."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from rich.console import Console

from kdexp.analysis.replay import (
    LAMBDA,
    TEMPERATURE,
    WINDOW,
    chance_of_one_below,
    figures,
    halving,
    median_rule,
    random_points,
    read_table,
    render,
    rungs,
)
from kdexp.errors import DataError
from support import ROOT

TABLE = ROOT / "docs" / "hoser_trials.csv"
PAGE = ROOT / "docs" / "reading_the_hoser_study.md"


@pytest.fixture(scope="module")
def trials():
    return read_table(TABLE)


@pytest.fixture(scope="module")
def values(trials) -> list[float]:
    return [trial.at_rung for trial in trials if trial.reached_rung]


def pruned_by(pruner: BasePruner, values: list[float], step: int) -> list[bool]:
    """What Optuna does to trials that report one value each, in turn; those that it keeps run to their end."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    pruned = []
    for value in values:
        trial = study.ask()
        trial.report(value, step)
        pruned.append(trial.should_prune())
        if pruned[-1]:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, value)
    return pruned


def test_successive_halving_gives_every_printed_outcome(trials, values) -> None:
    assert halving(values, 3) == [trial.state == "PRUNED" for trial in trials if trial.reached_rung]


@pytest.mark.parametrize(
    ("rule", "pruner"),
    [
        (lambda values: halving(values, 3), HyperbandPruner(min_resource=5, max_resource=8, reduction_factor=3)),
        (lambda values: halving(values, 2), HyperbandPruner(min_resource=5, max_resource=8, reduction_factor=2)),
        (median_rule, MedianPruner(n_startup_trials=0)),
        # Its usual five trials before the first judgement change nothing here.
        (median_rule, MedianPruner()),
    ],
    ids=["halving", "halving by two", "median", "median after five"],
)
def test_the_rules_are_those_of_optuna(
    values: list[float], rule: Callable[[list[float]], list[bool]], pruner: BasePruner
) -> None:
    assert rule(values) == pruned_by(pruner, values, step=5)


def test_a_median_rule_would_have_kept_trials_that_were_pruned(trials, values) -> None:
    reached = [trial.number for trial in trials if trial.reached_rung]
    kept = {number for number, prunes in zip(reached, median_rule(values), strict=True) if not prunes}
    assert kept & {trial.number for trial in trials if trial.state == "PRUNED"} == {2, 4}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [((5, 8, 3), [[5]]), ((1, 9, 3), [[1, 3], [3], []]), ((4, 8, 2), [[4], []])],
)
def test_a_bracket_looks_at_powers_of_the_factor(settings: tuple[int, int, int], expected: list[list[int]]) -> None:
    assert rungs(*settings) == expected


@pytest.mark.parametrize("seed", [42, 43])
def test_the_draws_are_those_of_optunas_random_sampler(seed: int) -> None:
    study = optuna.create_study(sampler=RandomSampler(seed))
    space = {
        "lambda": FloatDistribution(*LAMBDA, log=True),
        "temperature": FloatDistribution(*TEMPERATURE),
        "window": IntDistribution(*WINDOW),
    }
    drawn = [tuple(study.ask(space).params.values()) for _ in range(200)]
    np.testing.assert_allclose(random_points(seed, 200), drawn, rtol=1e-12)


def test_the_printed_parameters_are_random_draws_of_seed_43_and_not_of_42(trials) -> None:
    printed = [trial.point for trial in trials if trial.point]
    assert len(printed) == 11
    assert [point.printed() for point in random_points(43, 11)] == printed
    assert all(one != other for one, other in zip(random_points(42, 11), printed, strict=True))


def test_the_chance_of_a_small_weight_is_what_draws_give() -> None:
    assert chance_of_one_below(0.1, 1) == 1
    assert chance_of_one_below(0.01, 1) == pytest.approx(0.5)
    points = [random_points(seed, 12) for seed in range(2000)]
    share = sum(min(point.weight for point in twelve) < 0.002 for twelve in points) / len(points)
    assert chance_of_one_below(0.002, 12) == pytest.approx(share, abs=0.025)


# What the study's report and a first reading of it claim, against what the table gives.
CLAIMS = {
    "printed outcomes that halving gives": "11 of 11",
    "printed outcomes that a median rule gives": "9 of 11; not trials 2, 4",
    "median of the complete trials at the rung; of these, below it": "0.571984; trials 0, 1",
    "PRUNED by the table; by the report's totals": "7; 6",
    "printed parameters equal to random draws of seed 43": "33 of 33",
    "P(λ < 0.002 within 12 random draws)": "86%",
    "sum of the printed durations": "60.8 h",
    "mean complete trial": "5.85 h",
    "mean complete trial that distilled": "6.95 h",
    "mean pruned trial; in epochs of those": "5.01 h; 5.8",
    "epochs saved by pruning": "12 of 88, 13.6%",
    "r² of accuracy at the rung and at the end, 5 trials": "0.776",
    "rank correlation with accuracy at the rung, 10 trials": "λ -0.36, τ +0.71, w -0.30",
}


@pytest.mark.parametrize("name", CLAIMS)
def test_the_table_gives_these_figures(trials, name: str) -> None:
    assert dict(figures(trials))[name] == CLAIMS[name]


def test_the_page_shows_what_the_command_prints(trials) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    render(trials, console)
    printed = [line.rstrip() for line in console.export_text().splitlines()]
    assert "\n".join(printed) in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("0.571940", "high", 1), "row 2: ValueError"),
        (lambda text: text.replace("accuracy_at_rung", "accuracy", 1), "row 1: KeyError('accuracy_at_rung')"),
        (lambda text: text.splitlines()[0] + "\n", "needs a complete trial"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_by_file_and_row(tmp_path, change, said: str) -> None:
    path = tmp_path / "trials.csv"
    path.write_text(change(TABLE.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(DataError) as refused:
        read_table(path)
    assert str(path) in str(refused.value) and said in str(refused.value)


def test_the_command_says_which_file_is_missing_and_ends_with_2(tmp_path, kdexp) -> None:
    command = [sys.executable, "-m", "kdexp.analysis.replay", str(tmp_path / "none.csv")]
    done = subprocess.run(command, env=kdexp.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "none.csv does not exist" in done.stderr
