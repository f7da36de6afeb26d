"""Metrics in bins of a covariate: which samples a bin holds, what its row says, and what is left blank."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_run import SCORE, TASKS, N, make_run
from rich.console import Console

from kdexp.analysis.binned import draw_bins, render_bins
from kdexp.analysis.run import Run
from kdexp.analysis.table import number
from kdexp.bootstrap import cluster_bootstrap, metrics


def with_covariate(tmp_path: Path, value_N: np.ndarray) -> Run:
    run = Run.read(make_run(tmp_path / "run"))
    replace(run.predictions("test"), covariates={"age [a]": value_N}).save(run.folder.predictions("test"))
    return run


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_bin_s_numbers_are_those_of_its_samples(tmp_path: Path) -> None:
    value_N = np.random.default_rng(0).uniform(20, 90, N["test"])
    run = with_covariate(tmp_path, value_N)
    drawn = draw_bins(run, "test")
    assert [path.name for path in drawn] == ["by_age.png", "by_age.csv"]
    rows = [row for row in rows_of(drawn[1]) if row["model"] == "student" and row["metric"] == SCORE[0]]
    assert len(rows) == 5 and sum(int(row["n"]) for row in rows) == N["test"]
    assert (float(rows[0]["low"]), float(rows[-1]["high"])) == (value_N.min(), value_N.max())
    third = rows[2]
    inside = (value_N >= float(third["low"])) & (value_N < float(third["high"]))
    assert inside.sum() == int(third["n"]) == 40
    chosen = run.predictions("test").at(inside)
    assert float(third["value"]) == metrics(chosen, TASKS, SCORE)[SCORE[0]]
    made = cluster_bootstrap(chosen, TASKS, SCORE, n_resamples=200, seed=0)[SCORE[0]]
    assert (float(third["interval_low"]), float(third["interval_high"])) == (made.low, made.high)


def test_the_table_fits_the_terminal_and_says_what_it_shows(tmp_path: Path) -> None:
    run = with_covariate(tmp_path, np.arange(N["test"]) * 10.0)
    text = io.StringIO()
    render_bins(draw_bins(run, "test")[1], Console(file=text, width=80))
    lines = text.getvalue().splitlines()
    assert lines[0].rstrip() == f"test {SCORE[0]} by age [a]"
    assert lines[2].startswith("0 to 398") and max(map(len, lines)) <= 80
    value = next(row for row in rows_of(run.folder.figures / "by_age.csv") if row["model"] == "student")["value"]
    assert f"{float(value):.3f}" in lines[2]


def test_a_bin_without_the_samples_of_a_metric_is_blank_and_says_how_many_it_had(tmp_path: Path) -> None:
    run = with_covariate(tmp_path, np.arange(N["test"]) * 1.0)
    file = run.folder.predictions("test")
    saved = run.predictions("test")
    one = np.where(np.arange(N["test"]) < 40, "case-0", saved.cluster)
    replace(saved, cluster=one).save(file)
    rows = [row for row in rows_of(draw_bins(run, "test")[1]) if row["model"] == "student"]
    assert {row["value"] for row in rows if row["low"] == "0.0"} == {""}
    assert all(row["value"] for row in rows if row["low"] != "0.0") and {row["n"] for row in rows} == {"40"}


def test_a_bin_without_weight_is_blank_and_one_number_everywhere_is_no_bin(tmp_path: Path) -> None:
    run = with_covariate(tmp_path, np.arange(N["test"]) * 1.0)
    saved = run.predictions("test")
    weights = np.where(np.arange(N["test"]) < 40, 0.0, 1.0)
    replace(saved, weights=weights).save(run.folder.predictions("test"))
    rows = [row for row in rows_of(draw_bins(run, "test")[1]) if row["model"] == "student"]
    assert {row["value"] for row in rows if row["low"] == "0.0"} == {""} and all(row["value"] for row in rows[-3:])
    replace(saved, covariates={"age [a]": np.ones(N["test"])}).save(run.folder.predictions("test"))
    assert draw_bins(run, "test") == []


def test_without_covariates_nothing_is_drawn(tmp_path: Path) -> None:
    assert draw_bins(Run.read(make_run(tmp_path / "run")), "test") == []


@pytest.mark.parametrize(
    ("value", "at_most", "said"),
    [
        (0.78349, 1e9, "0.783"),
        (29.22, 1e9, "29.2"),
        (1127.13, 1127.13, "≥ 1,127"),
        (1500, 1e9, "1,500"),
        (None, 1, "–"),
    ],
)
def test_a_number_that_the_samples_cannot_exceed_says_at_least(value: float | None, at_most: float, said: str) -> None:
    assert number(value, at_most) == said
