"""A study through the command itself: bad input, several objectives, constraints, a stranger's file, a failing point.

Most commands run in this process; what needs processes of its own or a terminal starts them.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import pty
import re
import select
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import FrozenTrial, TrialState

from support import CommandLine, Finished
from sweeps.studies import SEARCH, assert_exact, load

RINGS = ("-cd", "{outside}", "hparams_search=rings", "teacher.max_epochs=1", "trainer.max_epochs=3")
QUICK = (*RINGS, "interval.n_resamples=100", "hydra/sweeper/pruner=nop")
TWO_GOALS = ("objective=[val/score,student/latency_ms_per_sample]", "hydra.sweeper.direction=[maximize,minimize]")
# One parameter that decides how large the student is, and nothing else that is drawn.
WIDTHS = ("distill.weights.kl=1", "distill.temperature=2", "student.width=choice(4,8,16)")
PARAMETERS = {4: 47, 8: 123, 16: 371}
"""Weights and biases by width w: 2w + w, w² + w, 3w + 3."""

Run = Callable[..., Finished]


@pytest.fixture
def study(run_main: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A search of the rings, in this process and without plots."""
    monkeypatch.setattr("kdexp.sweeps.loop.draw_plots", lambda study, folder: None)
    return lambda *words: run_main(tmp_path, *QUICK, *words)


def folder_of(cwd: Path) -> Path:
    return cwd / "outputs" / "studies" / "rings"


def summary_of(cwd: Path) -> dict[str, Any]:
    return dict(json.loads((folder_of(cwd) / "study_summary.json").read_text()))


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_refused(ended: Finished, words: Sequence[str], n_sentences: int = 1) -> None:
    assert ended.code == 2, ended.text
    assert "Traceback" not in ended.text
    assert ended.err.count("error: ") == n_sentences, ended.err
    for word in words:
        assert word in ended.text, ended.text


# Bad input


BAD = {
    "unknown parameter": (
        ["++hydra.sweeper.params={student.wdith: 'choice(4,8)'}"],
        ["hydra.sweeper.params.student.wdith", "Did you mean: 'width'?"],
    ),
    "unknown parameter, typed": (["student.wdith=choice(4,8)"], ["student.wdith", "Did you mean: 'width'?"]),
    "log scale from 0": (
        ["++hydra.sweeper.params={distill.temperature: 'tag(log, interval(0, 5))'}"],
        ["hydra.sweeper.params.distill.temperature", "a log scale begins above 0", "interval(0.0, 5.0)"],
    ),
    "server on a closed port": (
        ["hydra.sweeper.storage='postgresql+psycopg://u:hunter2@127.0.0.1:1/none'"],
        ["cannot be reached", "Connection refused", "check hydra.sweeper.storage"],
    ),
    "missing driver": (
        ["hydra.sweeper.storage='postgresql+no_such_driver://u:hunter2@127.0.0.1:1/none'"],
        ["no_such_driver", "check hydra.sweeper.storage"],
    ),
    "a database without a lock": (
        ["hydra.sweeper.storage='mysql+pymysql://u:hunter2@127.0.0.1:1/none'"],
        ["hydra.sweeper.storage: mysql", "use sqlite or postgresql"],
    ),
    "no URL": (["hydra.sweeper.storage=journal.log"], ["hydra.sweeper.storage: 'journal.log'", "sqlite:///study.db"]),
    "in memory": (
        ["hydra.sweeper.storage='sqlite:///:memory:'", "hydra.sweeper.n_workers=2"],
        ["hydra.sweeper.storage", "in memory", "name a file or a server"],
    ),
    "no such direction": (["hydra.sweeper.direction=up"], ["hydra.sweeper.direction", "maximize or minimize", "'up'"]),
    "too few directions": (["objective=[val/score,student/bytes]"], ["1 directions for 2 objectives"]),
    "no such objective": (["objective=val/scroe"], ["objective", "'val/scroe'", "did you mean 'val/score'?"]),
    "no such size": (["objective=student/weight"], ["objective", "'student/weight'", "student/bytes"]),
    "pruner with two objectives": (
        [*TWO_GOALS, "hydra/sweeper/pruner=median"],
        ["hydra/sweeper/pruner", "several objectives", "hydra/sweeper/pruner=nop"],
    ),
    "CMA-ES with two objectives": (
        [*TWO_GOALS, "hydra/sweeper/sampler=cmaes"],
        ["hydra.sweeper.sampler", "one objective only", "nsgaii"],
    ),
    "constraint for a sampler that heeds none": (
        ["hydra.sweeper.constraints={student/parameters: {max: 100}}", "hydra/sweeper/sampler=cmaes"],
        ["hydra.sweeper.constraints", "CmaEsSampler", "use tpe, gp, nsgaii or nsgaiii"],
    ),
}


@pytest.mark.parametrize("mistake", BAD)
def test_bad_input_is_named_with_the_way_out_and_leaves_nothing(study, tmp_path, mistake):
    given, words = BAD[mistake]
    ended = study(*given)
    assert_refused(ended, words)
    assert "hunter2" not in ended.text
    assert files_in(tmp_path) == []


def test_every_bad_choice_is_named_before_the_first_trial(study, tmp_path):
    ended = study("++hydra.sweeper.params={student.width: 'choice(4,eight,-1)', distill.temperature: 'interval(-1,2)'}")
    assert_refused(ended, ["must be an integer, got 'eight'", "got -1", "distill.temperature"], n_sentences=3)
    assert files_in(tmp_path) == []


def test_a_driver_that_is_not_installed_is_named(monkeypatch):
    from kdexp.errors import StudyError
    from kdexp.sweeps.storage import open_storage

    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StudyError) as caught:
        open_storage("postgresql+psycopg://u:hunter2@127.0.0.1:1/none", 30)
    for word in ("hydra.sweeper.storage", "driver psycopg", "pip install 'kdexp[postgres]'"):
        assert word in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_metric_that_the_data_set_does_not_have_is_named_by_the_trial_that_failed(study, tmp_path):
    ended = study("objective=val/ring/f2", "hydra.sweeper.n_trials=2", "hydra.sweeper.max_consecutive_failures=1")
    assert_refused(ended, ["val/ring/f2", "val/ring/f1", "the study stops"])
    (trial,) = load(tmp_path).trials
    assert trial.state == TrialState.FAIL and "there is no val/ring/f2" in trial.user_attrs["error"]


@pytest.mark.parametrize(
    ("version", "way_out"), [("v2.6.0.a", "optuna storage upgrade --storage"), ("v9.0.0.a", "pip install -U optuna")]
)
def test_a_study_file_of_another_optuna_is_refused_and_left_as_it_is(study, tmp_path, version, way_out):
    folder_of(tmp_path).mkdir(parents=True)
    path = folder_of(tmp_path) / "study.db"
    optuna.create_study(study_name="rings", storage=f"sqlite:///{path}", direction="maximize")
    with sqlite3.connect(path) as connection:
        connection.execute("update alembic_version set version_num = ?", [version])
        connection.execute("update version_info set library_version = '2.10.1'")
    connection.close()
    before = _dump(path)
    assert_refused(study(), [str(path), "another version of Optuna", way_out, "hydra.sweeper.study_name="])
    assert _dump(path) == before
    assert not (folder_of(tmp_path) / "trials").exists()


def test_a_file_where_a_folder_should_be_is_named(study, tmp_path):
    (tmp_path / "outputs").write_text("a file")
    assert_refused(study(), ["study.db cannot be written", "Not a directory"])
    assert files_in(tmp_path) == ["outputs"]


def test_a_study_folder_that_may_only_be_read_is_named(study, tmp_path):
    folder_of(tmp_path).mkdir(parents=True)
    with _read_only(tmp_path / "outputs" / "studies"):
        ended = study()
        assert files_in(tmp_path) == []
    assert_refused(ended, ["study.db cannot be written", "Read-only file system"])


class _read_only:
    """A file system over a folder that may only be read: root passes over permission bits."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        if shutil.which("mount") is None or os.geteuid() != 0:
            pytest.skip("only root can mount a read-only file system")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", self.path], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no read-only file system could be mounted: {done.stderr.strip()}")

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", self.path], check=True)


def _dump(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


# A stranger's study


class Trap:
    """Loading it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def _set_trap(path: Path, trial_number: int, marker: Path) -> None:
    state = pickle.dumps(Trap(marker)).hex()
    with sqlite3.connect(path) as connection:
        connection.execute(
            "delete from trial_system_attributes where key like 'cma:%' and trial_id = ?", [trial_number + 1]
        )
        connection.executemany(
            "insert into trial_system_attributes (trial_id, key, value_json) values (?, ?, ?)",
            [
                (trial_number + 1, "cma:optimizer:0", json.dumps(state)),
                (trial_number + 1, "cma:generation", "0"),
            ],
        )
    connection.close()


def test_a_study_that_kdexp_did_not_make_is_refused_before_its_state_is_loaded(study, tmp_path):
    folder_of(tmp_path).mkdir(parents=True)
    path, marker = folder_of(tmp_path) / "study.db", tmp_path / "harmed"
    strange = optuna.create_study(study_name="rings", storage=f"sqlite:///{path}", direction="maximize")
    strange.optimize(lambda trial: trial.suggest_float("distill.temperature", 1, 5), n_trials=1)
    _set_trap(path, 0, marker)
    ended = study("hydra/sweeper/sampler=cmaes", "hydra.sweeper.n_trials=2")
    assert_refused(ended, ["'rings'", "was not made by kdexp", "hydra.sweeper.study_name="])
    assert not marker.exists()
    assert len(load(tmp_path).trials) == 1


def test_a_study_that_says_it_is_ours_runs_no_code_either(study, tmp_path):
    """Its attributes can be copied; so of the state of CMA-ES nothing is loaded but numbers, arrays and CMA-ES."""
    words = ("hydra/sweeper/sampler=cmaes", "distill.temperature=interval(1,5)", "student.width=8")
    assert study(*words, "hydra.sweeper.n_trials=1").code == 0
    path, marker = folder_of(tmp_path) / "study.db", tmp_path / "harmed"
    _set_trap(path, 0, marker)
    ended = study(*words, "hydra.sweeper.n_trials=2")
    assert_refused(ended, ["the state of CMA-ES in trial 0", "touch", "hydra.sweeper.study_name="])
    assert not marker.exists()
    assert [trial.state for trial in load(tmp_path).trials][:1] == [TrialState.COMPLETE]
    # The trap is a real one.
    pickle.loads(pickle.dumps(Trap(marker)))
    assert marker.exists()


def test_a_study_whose_making_was_cut_off_is_made_to_the_end(study, tmp_path):
    folder_of(tmp_path).mkdir(parents=True)
    url = f"sqlite:///{folder_of(tmp_path) / 'study.db'}"
    optuna.create_study(study_name="rings", storage=url, direction="maximize")
    assert study("hydra.sweeper.n_trials=1").code == 0
    assert_exact(load(tmp_path), 1)


# Several objectives


def _dominates(one: FrozenTrial, other: FrozenTrial) -> bool:
    """At least as high a score and as low a latency, and better in one of them."""
    (score, latency), (other_score, other_latency) = one.values, other.values
    return score >= other_score and latency <= other_latency and one.values != other.values


@pytest.mark.parametrize("sampler", ["nsgaii", "tpe"])
def test_several_objectives_leave_the_pareto_set(study, tmp_path, sampler):
    settings = {"nsgaii": "hydra.sweeper.sampler.population_size=4", "tpe": "hydra.sweeper.sampler.n_startup_trials=4"}
    words = (*TWO_GOALS, f"hydra/sweeper/sampler={sampler}", settings[sampler], "hydra.sweeper.n_trials=8")
    done = study(*words)
    assert done.code == 0, done.err
    found = load(tmp_path)
    assert_exact(found, 8)
    assert f"{sampler}sampler" in {name.lower() for name in summary_of(tmp_path)["drawn_by"]["by_sampler"]}
    front = {t.number for t in found.trials if not any(_dominates(other, t) for other in found.trials)}
    summary = summary_of(tmp_path)
    assert {trial["number"] for trial in summary["pareto_set"]} == front
    assert summary["best_trial"] is None and "the winner again" not in done.text
    assert not (folder_of(tmp_path) / "best_config.yaml").exists()
    kept = {int(path.parts[-3].removeprefix("trial_")) for path in tmp_path.rglob("studies/*/trials/*/*/best.ckpt")}
    assert kept == front
    report = (folder_of(tmp_path) / "report.html").read_text()
    assert "Pareto set" in report and "student/latency_ms_per_sample (minimize)" in report


@pytest.mark.slow
def test_the_plots_of_several_objectives_are_drawn_or_say_why_not(run_main, tmp_path):
    done = run_main(tmp_path, *QUICK, *TWO_GOALS, "hydra/sweeper/sampler=nsgaii", "hydra.sweeper.n_trials=4")
    assert done.code == 0, done.err
    plots = json.loads((folder_of(tmp_path) / "plots" / "plots.json").read_text())
    assert "pareto_front" in {plot["name"] for plot in plots["plots"]}
    assert all(problem["reason"] and "could not draw" not in problem["reason"] for problem in plots["problems"])
    assert "Pareto front" in (folder_of(tmp_path) / "report.html").read_text()


# Constraints


def test_the_best_trial_keeps_the_constraints(study, tmp_path):
    words = (*WIDTHS, "hydra/sweeper/sampler=tpe", "hydra.sweeper.n_trials=6")
    words += ("hydra.sweeper.constraints={student/parameters: {max: 200}, val/score: {min: 0}}",)
    done = study(*words)
    assert done.code == 0, done.err
    found = load(tmp_path)
    assert_exact(found, 6)
    for trial in found.trials:
        size = PARAMETERS[trial.params["student.width"]]
        assert trial.constraints == {"student/parameters <= 200": size - 200, "val/score >= 0": -trial.value}
    small = [trial for trial in found.trials if trial.params["student.width"] != 16]
    assert 0 < len(small) < 6, "the study shows nothing where all trials keep the limit, or none"
    best = max(small, key=lambda trial: trial.value)
    summary = summary_of(tmp_path)
    assert summary["best_trial"]["number"] == best.number
    assert summary["best_trial"]["constraints"] == best.constraints
    assert summary["constraints"] == ["student/parameters <= 200", "val/score >= 0"]
    assert f"{6 - len(small)} of 6 complete trials break a constraint" in done.text
    kept = [path.parts[-3] for path in folder_of(tmp_path).glob("trials/*/checkpoints/best.ckpt")]
    assert kept == [f"trial_{best.number:05d}"]
    # Another limit under the old name is another study.
    other = study(*words[:-1], "hydra.sweeper.constraints={student/parameters: {max: 100}}")
    assert_refused(other, ["constraints: was student/parameters <= 200", "is now student/parameters <= 100"])


def test_a_study_that_no_trial_could_keep_has_no_winner(study, tmp_path):
    done = study(
        *WIDTHS,
        "hydra/sweeper/sampler=tpe",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.constraints={student/parameters: {max: 1}}",
    )
    assert done.code == 0, done.err
    assert "no complete trial keeps the study's constraints" in done.text
    assert "the winner again" not in done.text
    assert summary_of(tmp_path)["best_trial"] is None


def test_a_constraint_on_what_no_trial_measures_is_named(study, tmp_path):
    ended = study(
        "hydra/sweeper/sampler=tpe",
        "hydra.sweeper.constraints={val/ring/f2: {max: 1}}",
        "hydra.sweeper.max_consecutive_failures=1",
    )
    assert_refused(ended, ["hydra.sweeper.constraints", "val/ring/f2", "val/ring/f1"])
    assert [trial.state for trial in load(tmp_path).trials] == [TrialState.FAIL]


@pytest.mark.parametrize(
    ("sampler", "setting"),
    [
        ("tpe", "n_startup_trials=2"),
        ("gp", "n_startup_trials=2"),
        ("nsgaii", "population_size=2"),
        ("nsgaiii", "population_size=2"),
    ],
)
def test_the_samplers_that_heed_constraints_take_them(study, tmp_path, sampler, setting):
    done = study(
        f"hydra/sweeper/sampler={sampler}",
        f"hydra.sweeper.sampler.{setting}",
        "hydra.sweeper.n_trials=4",
        "hydra.sweeper.constraints={student/parameters: {max: 200}}",
        "trainer.max_epochs=1",
    )
    assert done.code == 0, done.err
    assert_exact(load(tmp_path), 4)
    assert f"{sampler}sampler" in {name.lower() for name in summary_of(tmp_path)["drawn_by"]["by_sampler"]}


# Failing trials


@pytest.fixture
def broken_width(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Students of width 8 cannot be built, until the patch is undone."""
    from rings.models import RingNet

    build = RingNet.__init__

    @functools.wraps(build)
    def fails(self: Any, **settings: Any) -> None:
        if settings.get("width") == 8:
            raise RuntimeError("no memory for eight")
        build(self, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RingNet, "__init__", fails)
        yield patch


@pytest.mark.parametrize("sampler", ["grid", "brute_force"])
def test_a_combination_that_always_fails_is_tried_once_and_the_others_are_run(study, tmp_path, broken_width, sampler):
    words = (*WIDTHS, f"hydra/sweeper/sampler={sampler}")
    done = study(*words)
    assert done.code == 0, done.err
    assert "1 of 3 combinations failed" in done.text
    states = {(t.params["student.width"], t.state) for t in load(tmp_path).trials}
    assert states == {(4, TrialState.COMPLETE), (8, TrialState.FAIL), (16, TrialState.COMPLETE)}
    # The same command tries it once more; it goes on where the fault is mended.
    assert study(*words).code == 0
    assert len(load(tmp_path).trials) == 4
    broken_width.undo()
    done = study(*words)
    assert done.code == 0 and "combinations failed" not in done.text
    found = load(tmp_path)
    assert_exact(found, 3)
    assert sorted(t.params["student.width"] for t in found.trials if t.state == TrialState.COMPLETE) == [4, 8, 16]


def test_failures_in_a_row_are_counted_anew_when_the_command_is_given_again(study, tmp_path, broken_width):
    words = ("student.width=choice(8)", "hydra.sweeper.n_trials=2", "hydra.sweeper.max_consecutive_failures=2")
    ended = study(*words)
    assert_refused(ended, ["2 trials in a row failed", "no memory for eight", "give the same command again"])
    assert len(load(tmp_path).trials) == 2
    broken_width.undo()
    assert study(*words).code == 0
    assert_exact(load(tmp_path), 2)


# Time, and two at once


def test_a_time_limit_starts_no_new_trial_and_the_study_goes_on_later(study, tmp_path):
    ended = study("hydra.sweeper.timeout=0.5")
    assert ended.code == 0, ended.err
    states = [trial.state for trial in load(tmp_path).trials]
    assert len(states) < 6 and set(states) <= {TrialState.COMPLETE}
    assert study().code == 0
    assert_exact(load(tmp_path), 6)


@pytest.mark.slow
def test_two_commands_on_one_study_hold_its_budget_together(kdexp):
    words = (*SEARCH, "hydra.sweeper.n_trials=10", "trainer.max_epochs=20")
    both = [kdexp.start(*words, KDEXP_TRUSTED_PACKAGES="rings") for _ in range(2)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    study = load(kdexp.cwd)
    assert_exact(study, 10)
    owners = {trial.user_attrs["owner"] for trial in study.trials}
    assert len(owners) == 2, "the two shared no work, so they were not at it at once"


# Interrupted is uninterrupted


EQUAL = {
    "random": (),
    "qmc": (),
    "tpe": ("hydra.sweeper.sampler.n_startup_trials=3", "hydra.sweeper.sampler.constant_liar=true"),
    "grid": ("distill.weights.kl=choice(0.1,1)", "distill.temperature=choice(1,2)"),
    "cmaes": ("hydra.sweeper.sampler.popsize=3", "student.width=8"),
}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", EQUAL)
def test_a_study_killed_and_given_again_is_the_study_never_killed(kdexp, tmp_path_factory, sampler):
    """One worker and a seeded sampler: every slot has the same parameters and the same value, whatever was killed.
    With several workers that holds for none whose draws depend on the trials before."""
    words = (*SEARCH, f"hydra/sweeper/sampler={sampler}", *EQUAL[sampler], "hydra.sweeper.n_trials=8")
    words += ("trainer.max_epochs=20", "interval.n_resamples=100")
    whole = CommandLine(tmp_path_factory.mktemp("whole"))
    assert whole(*words, KDEXP_TRUSTED_PACKAGES="rings").code == 0
    for wanted in (2, 5):
        process = kdexp.start(*words, KDEXP_TRUSTED_PACKAGES="rings")
        under_way = folder_of(kdexp.cwd) / "trials" / f"trial_{wanted:05d}" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not under_way.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert kdexp(*words, KDEXP_TRUSTED_PACKAGES="rings").code == 0
    study = load(kdexp.cwd)
    assert_exact(study, 8)
    assert len(study.trials) == 10, "two trials were cut off"
    assert _by_slot(study) == _by_slot(load(whole.cwd))


def _by_slot(study: optuna.Study) -> dict[int, tuple[dict[str, Any], list[float]]]:
    done = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    return {trial.user_attrs["slot"]: (trial.params, trial.values) for trial in done}


# What is shown


def test_a_terminal_shows_a_table_that_lives_and_is_gone_at_the_end(kdexp):
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "kdexp", *SEARCH, "hydra.sweeper.n_trials=3"],
        cwd=kdexp.cwd,
        env=kdexp.environment(KDEXP_TRUSTED_PACKAGES="rings", TERM="xterm-256color"),
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    shown = _read_until_closed(leader, process)
    assert process.wait(timeout=60) == 0, shown
    for word in ("rings: 0 of 3 trials", "running", "pruned", "failed", "best", "left", "(trial "):
        assert word in shown
    assert "Traceback" not in shown
    # The cursor was hidden while the table lived, and is back.
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") >= 1
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    rest = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown[shown.rindex("\x1b[?25h") :])
    assert "rings: 3 of 3 trials finished" in rest and "the winner again" in rest


def _read_until_closed(leader: int, process: subprocess.Popen[bytes]) -> str:
    seen = b""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        ready, _, _ = select.select([leader], [], [], 0.2)
        if not ready:
            if process.poll() is not None:
                break
            continue
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(leader)
    return seen.decode(errors="replace")


@pytest.mark.parametrize("name", ["plain", "a b, c", "x=1 [2] {3}", "it's (here)", 'say "so"', "ünï~&;$HOME"])
def test_the_winners_command_survives_shell_and_hydra_whatever_the_folder_is_called(
    run_main, tmp_path, monkeypatch, name
):
    monkeypatch.setattr("kdexp.sweeps.loop.draw_plots", lambda study, folder: None)
    cwd = tmp_path / name
    cwd.mkdir()
    done = run_main(cwd, *QUICK, "hydra.sweeper.n_trials=1")
    assert done.code == 0, done.err
    assert_exact(load_anywhere(cwd), 1)
    command = summary_of(cwd)["best_trial"]["command"]
    printf = subprocess.run(["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True)
    words = printf.stdout.splitlines()
    assert words == shlex.split(command)
    assert words[:4] == ["python", "-m", "kdexp", "train"] and len(words) == 5
    override = OverridesParser.create().parse_override(words[4])
    assert override.key_or_group == "from_run" and not override.is_sweep_override()
    assert str(override.value()) == str(folder_of(cwd) / "trials" / "trial_00000")


def load_anywhere(cwd: Path) -> optuna.Study:
    """As `load`, where the path is no plain URL."""
    from kdexp.sweeps.storage import open_storage

    storage = open_storage(f"sqlite:///{folder_of(cwd) / 'study.db'}", 30)
    return optuna.load_study(study_name="rings", storage=storage)
