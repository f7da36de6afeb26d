"""Bad input to a study's command, a stranger's study file, and what the command shows.

Most commands run in this process; the terminal needs one of its own.
"""

from __future__ import annotations

import json
import os
import pickle
import pty
import re
import select
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import TrialState

from kdexp.errors import StudyError
from kdexp.sweeps.storage import open_storage
from sweeps.quick import QUICK, TWO_GOALS, assert_refused, folder_of, summary_of
from sweeps.studies import SEARCH, assert_exact, load


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


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
def test_bad_input_is_named_with_the_way_out_and_leaves_nothing(quick_study, tmp_path, mistake):
    given, words = BAD[mistake]
    ended = quick_study(*given)
    assert_refused(ended, words)
    assert "hunter2" not in ended.text
    assert files_in(tmp_path) == []


def test_every_bad_choice_is_named_before_the_first_trial(quick_study, tmp_path):
    ended = quick_study(
        "++hydra.sweeper.params={student.width: 'choice(4,eight,-1)', distill.temperature: 'interval(-1,2)'}"
    )
    assert_refused(ended, ["must be an integer, got 'eight'", "got -1", "distill.temperature"], n_sentences=3)
    assert files_in(tmp_path) == []


def test_a_driver_that_is_not_installed_is_named(monkeypatch):

    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StudyError) as caught:
        open_storage("postgresql+psycopg://u:hunter2@127.0.0.1:1/none", 30)
    for word in ("hydra.sweeper.storage", "driver psycopg", "pip install 'kdexp[postgres]'"):
        assert word in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_metric_that_the_data_set_does_not_have_is_named_by_the_trial_that_failed(quick_study, tmp_path):
    ended = quick_study("objective=val/ring/f2", "hydra.sweeper.n_trials=2", "hydra.sweeper.max_consecutive_failures=1")
    assert_refused(ended, ["val/ring/f2", "val/ring/f1", "the study stops"])
    (trial,) = load(tmp_path).trials
    assert trial.state == TrialState.FAIL and "there is no val/ring/f2" in trial.user_attrs["error"]


@pytest.mark.parametrize(
    ("version", "way_out"), [("v2.6.0.a", "optuna storage upgrade --storage"), ("v9.0.0.a", "pip install -U optuna")]
)
def test_a_study_file_of_another_optuna_is_refused_and_left_as_it_is(quick_study, tmp_path, version, way_out):
    folder_of(tmp_path).mkdir(parents=True)
    path = folder_of(tmp_path) / "study.db"
    optuna.create_study(study_name="rings", storage=f"sqlite:///{path}", direction="maximize")
    with sqlite3.connect(path) as connection:
        connection.execute("update alembic_version set version_num = ?", [version])
        connection.execute("update version_info set library_version = '2.10.1'")
    connection.close()
    before = _dump(path)
    assert_refused(quick_study(), [str(path), "another version of Optuna", way_out, "hydra.sweeper.study_name="])
    assert _dump(path) == before
    assert not (folder_of(tmp_path) / "trials").exists()


def test_a_file_where_a_folder_should_be_is_named(quick_study, tmp_path):
    (tmp_path / "outputs").write_text("a file")
    assert_refused(quick_study(), ["study.db cannot be written", "Not a directory"])
    assert files_in(tmp_path) == ["outputs"]


def test_a_study_folder_that_may_only_be_read_is_named(quick_study, tmp_path):
    folder_of(tmp_path).mkdir(parents=True)
    with _read_only(tmp_path / "outputs" / "studies"):
        ended = quick_study()
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


def test_a_study_that_kdexp_did_not_make_is_refused_before_its_state_is_loaded(quick_study, tmp_path):
    folder_of(tmp_path).mkdir(parents=True)
    path, marker = folder_of(tmp_path) / "study.db", tmp_path / "harmed"
    strange = optuna.create_study(study_name="rings", storage=f"sqlite:///{path}", direction="maximize")
    strange.optimize(lambda trial: trial.suggest_float("distill.temperature", 1, 5), n_trials=1)
    _set_trap(path, 0, marker)
    ended = quick_study("hydra/sweeper/sampler=cmaes", "hydra.sweeper.n_trials=2")
    assert_refused(ended, ["'rings'", "was not made by kdexp", "hydra.sweeper.study_name="])
    assert not marker.exists()
    assert len(load(tmp_path).trials) == 1


def test_a_study_that_says_it_is_ours_runs_no_code_either(quick_study, tmp_path):
    """Its attributes can be copied; so of the state of CMA-ES nothing is loaded but numbers, arrays and CMA-ES."""
    words = ("hydra/sweeper/sampler=cmaes", "distill.temperature=interval(1,5)", "student.width=8")
    assert quick_study(*words, "hydra.sweeper.n_trials=1").code == 0
    path, marker = folder_of(tmp_path) / "study.db", tmp_path / "harmed"
    _set_trap(path, 0, marker)
    ended = quick_study(*words, "hydra.sweeper.n_trials=2")
    assert_refused(ended, ["the state of CMA-ES in trial 0", "touch", "hydra.sweeper.study_name="])
    assert not marker.exists()
    assert [trial.state for trial in load(tmp_path).trials][:1] == [TrialState.COMPLETE]
    # The trap is a real one.
    pickle.loads(pickle.dumps(Trap(marker)))
    assert marker.exists()


def test_a_study_whose_making_was_cut_off_is_made_to_the_end(quick_study, tmp_path):
    folder_of(tmp_path).mkdir(parents=True)
    url = f"sqlite:///{folder_of(tmp_path) / 'study.db'}"
    optuna.create_study(study_name="rings", storage=url, direction="maximize")
    assert quick_study("hydra.sweeper.n_trials=1").code == 0
    assert_exact(load(tmp_path), 1)


# What is shown


def test_a_terminal_shows_a_table_that_lives_and_is_gone_at_the_end(kdexp):
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "kdexp", *SEARCH, "hydra.sweeper.n_trials=4", "trainer.max_epochs=40"],
        cwd=kdexp.cwd,
        env=kdexp.environment(KDEXP_TRUSTED_PACKAGES="rings", TERM="xterm-256color"),
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    shown = _read_until_closed(leader, process)
    assert process.wait(timeout=60) == 0, shown
    # A frame a second, so not every count is seen.
    assert len(re.findall(r"rings: \d of 4 trials", shown)) >= 2
    for word in ("running", "pruned", "failed", "best", "left", "(trial "):
        assert word in shown
    assert "Traceback" not in shown
    # The cursor was hidden while the table lived, and is back.
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") >= 1
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    rest = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown[shown.rindex("\x1b[?25h") :])
    assert "rings: 4 of 4 trials finished" in rest and "the winner again" in rest


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

    storage = open_storage(f"sqlite:///{folder_of(cwd) / 'study.db'}", 30)
    return optuna.load_study(study_name="rings", storage=storage)
