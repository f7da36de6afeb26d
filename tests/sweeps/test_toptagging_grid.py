"""The 132 runs of the top-tagging study: which they are, that each moves as its name says, and that they run."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict

from contracts.plugins import outside_trusted
from kdexp.building import build_objective
from kdexp.contracts import Progress
from kdexp.distill.objective import Objective
from kdexp.distill.schedules import at
from kdexp.sweeps.enqueue import Queued, queued_trials
from kdexp.sweeps.space import Space
from kdexp.sweeps.vetting import job_check, vet_queue
from support import Finished
from sweeps.helpers import swept

GRID = "hparams_search=toptagging_grid"
STARTS_T, ENDS_T = (3.0, 5.0, 7.0, 10.0), (1.0, 2.0)
STARTS_A, ENDS_A = (0.3, 0.5, 0.7, 0.9), (0.1, 0.3)
NAME = re.compile(r"(\w+)_T([\d.]+?)(?:to([\d.]+))?_A([\d.]+?)(?:to([\d.]+))?")


@pytest.fixture(scope="module", autouse=True)
def trusted() -> Iterator[None]:
    with outside_trusted():
        yield


@cache
def listed(search: str = "toptagging_grid") -> list[Queued]:
    with swept(f"hparams_search={search}") as (config, context):
        space = Space.from_config(config.hydra.sweeper, config, context, [], with_vetting=False)
        return queued_trials(config.hydra.sweeper.enqueue, space, Path())


def by_the_rules() -> set[str]:
    """The names, from levels and the rule that a schedule goes down."""
    names = set()
    for start_t, end_t, start_a, end_a in itertools.product(STARTS_T, (None, *ENDS_T), STARTS_A, (None, *ENDS_A)):
        if (end_t is None or end_t < start_t) and (end_a is None or end_a < start_a):
            strategy = ("baseline", "tempanneal", "alphasched", "combined")[
                (end_t is not None) + 2 * (end_a is not None)
            ]
            moved = ["" if end is None else f"to{end:.1f}" for end in (end_t, end_a)]
            names.add(f"{strategy}_T{start_t:.1f}{moved[0]}_A{start_a:.1f}{moved[1]}")
    return names


def read(name: str) -> tuple[str, float, float | None, float, float | None]:
    found = NAME.fullmatch(name)
    assert found is not None, name
    strategy, *numbers = found.groups()
    start_t, end_t, start_a, end_a = (None if number is None else float(number) for number in numbers)
    assert start_t is not None and start_a is not None
    return strategy, start_t, end_t, start_a, end_a


def test_the_grid_is_the_132_runs_of_the_rules() -> None:
    names = [trial.name for trial in listed()]
    assert len(names) == 132
    assert set(names) == by_the_rules()
    assert list(Counter(read(name)[0] for name in names).items()) == [
        ("baseline", 16),
        ("tempanneal", 32),
        ("alphasched", 28),
        ("combined", 56),
    ]


def test_the_margins_of_the_grid_are_those_of_the_study() -> None:
    runs = [read(trial.name)[1:] for trial in listed()]
    assert set(Counter(run[0] for run in runs).values()) == {33}
    assert Counter(run[2] for run in runs) == {0.3: 24, 0.5: 36, 0.7: 36, 0.9: 36}
    pairs_t = Counter(run[:2] for run in runs if run[1] is not None)
    assert len(pairs_t) == 8 and set(pairs_t.values()) == {11}
    pairs_a = Counter(run[2:] for run in runs if run[3] is not None)
    assert len(pairs_a) == 7 and set(pairs_a.values()) == {12}


def test_every_run_is_set_as_its_name_says() -> None:
    for trial in listed():
        strategy, start_t, end_t, start_a, end_a = read(trial.name)
        wanted: dict[str, Any] = {
            "schedule@distill.temperature": "linear" if strategy in ("tempanneal", "combined") else "constant",
            "schedule@distill.alpha": "linear" if strategy in ("alphasched", "combined") else "constant",
            "distill.temperature.start": start_t,
            "distill.temperature.end": end_t,
            "distill.alpha.start": start_a,
            "distill.alpha.end": end_a,
        }
        assert trial.params == {key: value for key, value in wanted.items() if value is not None}, trial.name


def composed(name: str) -> DictConfig:
    """The configuration of this run's job, as a sweep composes it."""
    with swept(GRID) as (config, context):
        space = Space.from_config(config.hydra.sweeper, config, context, [GRID], with_vetting=False)
        (params,) = (trial.params for trial in listed() if trial.name == name)
        job = context.config_loader.load_sweep_config(config, space.overrides(params))
    with open_dict(job):
        job.pop("hydra")
    return job


def objective_of(name: str) -> Objective:
    node = OmegaConf.to_container(composed(name).distill, resolve=True)
    assert isinstance(node, dict)
    return build_objective(node)


@pytest.mark.parametrize("epochs", [1, 2, 50])
@pytest.mark.parametrize(
    "name",
    [
        "baseline_T7.0_A0.5",
        "tempanneal_T3.0to1.0_A0.9",
        "alphasched_T3.0_A0.9to0.1",
        "combined_T10.0to1.0_A0.9to0.3",
        "combined_T5.0to2.0_A0.5to0.3",
    ],
)
def test_temperature_and_alpha_are_the_studys_at_every_epoch(name: str, epochs: int) -> None:
    """v₀ + (v₁ − v₀)·e/(E − 1), with E the planned epochs; one epoch has the start alone."""
    objective = objective_of(name)
    _, start_t, end_t, start_a, end_a = read(name)
    assert objective.temperature is not None and objective.scale_tau2
    for epoch in range(epochs):
        passed = epoch / (epochs - 1) if epochs > 1 else 0.0
        progress = Progress(epoch=passed, step=0.123)
        temperature = start_t + ((end_t or start_t) - start_t) * passed
        alpha = start_a + ((end_a or start_a) - start_a) * passed
        assert at(objective.temperature, progress) == pytest.approx(temperature, abs=1e-12)
        assert at(objective.weights["kl"], progress) == pytest.approx(alpha, abs=1e-12)
        assert at(objective.weights["ce"], progress) == pytest.approx(1 - alpha, abs=1e-12)


def test_the_runs_differ_in_their_schedules_alone() -> None:
    one, other = (composed(name) for name in ("baseline_T7.0_A0.5", "combined_T10.0to1.0_A0.9to0.3"))
    for job in (one, other):
        del job.distill.temperature, job.distill.alpha, job.choices
    assert one == other
    assert one.seed == 42 and one.teacher.seed == 42  # the sweep gives the seed of all runs, the teacher keeps its own


def test_the_rate_warms_up_for_three_epochs_as_published() -> None:
    from kdexp.distill.schedules import make_schedule

    node = OmegaConf.to_container(composed("baseline_T7.0_A0.5").optimizer.lr)
    rate = make_schedule(node, "optimizer.lr")  # type: ignore[arg-type]
    factors = [rate(epoch / 49) / 5e-4 for epoch in range(50)]
    assert factors[:4] == pytest.approx([1 / 3, 2 / 3, 1, 1], rel=2e-3)
    assert factors[4] < 1 and factors == factors[:4] + sorted(factors[4:], reverse=True)
    assert factors[-1] == pytest.approx(1.1e-3, rel=0.1)


def test_every_listed_run_is_vetted_and_one_that_goes_nowhere_is_named() -> None:
    with swept(GRID) as (config, context):
        space = Space.from_config(config.hydra.sweeper, config, context, [GRID], with_vetting=False)
        check = job_check(context, config)
        assert vet_queue(space, {trial.name: trial.params for trial in listed()}, check) == []
        flat = dict(listed()[-1].params) | {"distill.alpha.start": 0.3, "distill.alpha.end": 0.3}
        (problem,) = vet_queue(space, {"combined_T10.0to2.0_A0.3to0.3": flat}, check)
    assert problem.startswith(
        "hydra.sweeper.enqueue.combined_T10.0to2.0_A0.3to0.3: distill.alpha.end equals start (0.3), which is a constant"
    )


def test_the_second_round_is_thirty_constant_runs() -> None:
    runs = listed("toptagging_grid_r2")
    assert len({trial.name for trial in runs}) == 30
    for trial in runs:
        temperature, alpha = trial.params["distill.temperature.start"], trial.params["distill.alpha.start"]
        assert trial.name == f"r2_baseline_T{temperature:.1f}_A{alpha:.2f}" and len(trial.params) == 2


Main = Callable[..., Finished]


def test_check_prints_the_names_and_nothing_else(run_main: Main, tmp_path: Path) -> None:
    said = run_main(tmp_path, "check", GRID, "list_trials=true")
    assert said.code == 0 and set(said.out.splitlines()) == by_the_rules() and len(said.out.splitlines()) == 132
    cut = run_main(tmp_path, "check", GRID, "list_trials=true", "hydra.sweeper.n_trials=2")
    assert cut.out == "baseline_T3.0_A0.3\nbaseline_T3.0_A0.5\n"
    plain = run_main(tmp_path, "check", GRID)
    assert plain.code == 0 and "baseline" not in plain.text


@pytest.mark.parametrize("words", [("hparams_search=medpix_tpe",), ()])
def test_a_search_without_named_trials_says_so(run_main: Main, tmp_path: Path, words: tuple[str, ...]) -> None:
    said = run_main(tmp_path, "check", *words, "list_trials=true")
    assert said.code == 2 and said.out == ""
    assert "list_trials: no trial of this search is named beforehand" in said.err
    wrong = run_main(tmp_path, "check", *words, "list_trials=yep")
    assert wrong.code == 2 and "list_trials: must be true or false, got 'yep'" in wrong.err


@pytest.mark.slow
def test_a_grid_that_was_cut_short_goes_on_with_the_rest_of_its_list(
    run_main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdexp.sweeps.loop.draw_plots", lambda study, folder: None)
    smoke = ("hparams_search=toptagging_grid_smoke", "trainer.max_epochs=1")
    for n_trials in (2, 3):
        done = run_main(tmp_path, *smoke, f"hydra.sweeper.n_trials={n_trials}")
        assert done.code == 0, done.text
    folder = tmp_path / "outputs" / "studies" / "toptagging_grid_smoke"
    with (folder / "trials.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = ["baseline_T3.0_A0.3", "baseline_T3.0_A0.5", "baseline_T3.0_A0.7"]
    assert [(row["name"], row["slot"], row["seed"], row["state"]) for row in rows] == [
        (name, str(slot), "1000", "complete") for slot, name in enumerate(names)
    ]
    records = [json.loads((folder / "trials" / f"trial_{n:05d}" / "run.json").read_text()) for n in range(3)]
    assert [record["name"] for record in records] == names
    assert len({record["teacher"]["fingerprint"] for record in records}) == 1
    assert json.loads((folder / "study_summary.json").read_text())["best_trial"]["name"] in names
