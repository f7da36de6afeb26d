"""A study's jobs under Hydra's launchers: they prune, report and end as in the command's own process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from filelock import FileLock
from optuna.trial import TrialState

from kdexp.errors import ConfigError
from kdexp.records import RunFolder, read_json, read_lines
from kdexp.sweeps.launching import make_launcher
from kdexp.sweeps.plan import make_plan
from sweeps.helpers import swept
from sweeps.studies import SEARCH, assert_exact, load, search

# A score is never 2, so each trial is pruned at its first epoch, except where that is its last.
FOUR_TRIALS = (
    "hydra/sweeper/sampler=grid",
    "hydra/sweeper/pruner=threshold",
    "hydra.sweeper.pruner.lower=2",
    "hydra.sweeper.n_trials=4",
    "distill.weights.kl=1",
    "distill.temperature=2",
    "student.width=choice(4,8)",
    "trainer.max_epochs=choice(1,3)",
)


@pytest.fixture
def ray_environment() -> Iterator[dict[str, str]]:
    """Ray's own files in a folder with a short path (it holds sockets), and no token in the home folder."""
    folder = tempfile.mkdtemp(prefix="ray")
    yield {
        "RAY_TMPDIR": folder,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": uuid4().hex,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "words"),
    [
        ("joblib", ()),
        ("joblib", ("hydra.launcher.backend=multiprocessing",)),
        ("submitit_local", ("hydra.sweeper.n_workers=2",)),
        ("ray", ("+hydra.launcher.ray.init.include_dashboard=false",)),
    ],
    ids=["joblib", "multiprocessing", "submitit_local-2", "ray"],
)
def test_a_study_prunes_under_a_launcher(kdexp, ray_environment, launcher, words):
    _needs(launcher)
    done = search(kdexp, *FOUR_TRIALS, f"hydra/launcher={launcher}", *words, **ray_environment)
    assert done.code == 0, done.text
    study = load(kdexp.cwd)
    assert_exact(study, 4)
    assert len(study.trials) == 4
    folder = kdexp.cwd / "outputs" / "studies" / "rings"
    for trial in study.trials:
        is_short = trial.params["trainer.max_epochs"] == 1
        assert trial.state == (TrialState.COMPLETE if is_short else TrialState.PRUNED)
        assert list(trial.intermediate_values) == [1]
        assert trial.value == trial.intermediate_values[1]
        record = read_json(folder / "trials" / f"trial_{trial.number:05d}" / "run.json")
        assert record["status"] == ("done" if is_short else "pruned")
        assert record["objective"]["value"] == trial.value and record["seed"] == trial.user_attrs["seed"]
        # The command that was given, not the words of a launcher's process.
        assert f"hydra/launcher={launcher}" in record["command"]
    # A launcher's own files lie with the study.
    assert [path.name for path in kdexp.cwd.iterdir()] == ["outputs"]
    assert {path.name for path in (kdexp.cwd / "outputs").iterdir()} == {"studies", "teachers"}
    assert (folder / ".submitit").exists() == (launcher == "submitit_local")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_kill_9_of_the_command_ends_its_job_and_the_same_command_goes_on(kdexp, launcher):
    _needs(launcher)
    words = (f"hydra/launcher={launcher}", "hydra/sweeper/pruner=nop", "hydra.sweeper.n_trials=2")
    process = kdexp.start(*SEARCH, *words, "trainer.max_epochs=100000", KDEXP_TRUSTED_PACKAGES="rings")
    with _ended_at_last(process, kdexp.cwd):
        folder = _first_trial_at_work(kdexp.cwd, process)
        process.kill()
        with FileLock(folder.path / ".lock", timeout=60):  # a run holds it to its end
            rows = read_lines(folder.metrics)
    done = search(kdexp, *words, "trainer.max_epochs=2")
    assert done.code == 0, done.text
    study = load(kdexp.cwd)
    assert_exact(study, 2)
    first, *others = study.trials
    assert (first.state, first.user_attrs["reason"]) == (TrialState.FAIL, "interrupted")
    assert [trial.number for trial in others if trial.user_attrs.get("retry_of") == first.number] == [1]
    assert read_lines(folder.metrics) == rows, "nobody writes where the cut-off trial was"


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_stopped_command_gives_the_trial_of_its_launcher_back(kdexp, launcher, how):
    _needs(launcher)
    process = kdexp.start(*SEARCH, f"hydra/launcher={launcher}", "hydra/sweeper/pruner=nop",
                          "trainer.max_epochs=100000", KDEXP_TRUSTED_PACKAGES="rings")  # fmt: skip
    with _ended_at_last(process, kdexp.cwd):
        folder = _first_trial_at_work(kdexp.cwd, process)
        process.send_signal(how)
        _, err = process.communicate(timeout=120)
        with FileLock(folder.path / ".lock", timeout=60):
            (trial,) = load(kdexp.cwd).trials
    assert (trial.state, trial.user_attrs["reason"]) == (TrialState.FAIL, "interrupted")
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "job"), [("joblib", "popen_loky"), ("submitit_local", "submitit.core._submit")])
def test_a_job_that_is_killed_is_a_failed_trial_and_the_study_goes_on(kdexp, launcher, job):
    _needs(launcher)
    process = kdexp.start(*SEARCH, f"hydra/launcher={launcher}", "hydra/sweeper/pruner=nop", "hydra.sweeper.n_trials=1",
                          "trainer.max_epochs=300", KDEXP_TRUSTED_PACKAGES="rings")  # fmt: skip
    with _ended_at_last(process, kdexp.cwd):
        _first_trial_at_work(kdexp.cwd, process)
        _kill(kdexp.cwd, job)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    study = load(kdexp.cwd)
    assert_exact(study, 1)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert "the launcher has no answer" in study.trials[0].user_attrs["error"]


@pytest.mark.slow
def test_a_job_that_fails_elsewhere_brings_its_sentence_back(kdexp):
    _needs("submitit_local")
    words = ("hydra/launcher=submitit_local", "optimizer.lr=1e30", "hydra.sweeper.max_consecutive_failures=1")
    ended = search(kdexp, *words)
    assert ended.code == 2
    (trial,) = load(kdexp.cwd).trials
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["error"].startswith("RunFailed: the loss is no number")


@pytest.mark.slow
def test_relative_paths_hold_where_jobs_change_directory(kdexp):
    done = search(kdexp, *FOUR_TRIALS, "hydra.job.chdir=true")
    assert done.code == 0, done.text
    assert_exact(load(kdexp.cwd), 4)
    assert len(list(kdexp.cwd.glob("outputs/teachers/*/teacher.json"))) == 1


def test_a_number_of_jobs_is_refused_since_a_study_has_workers():
    with pytest.raises(ConfigError, match=r"hydra.launcher.n_jobs: .* 4 has no effect; .*hydra.sweeper.n_workers"):
        _launcher("joblib", "hydra.launcher.n_jobs=4")


def test_joblib_gets_one_process_that_works_and_all_cores_for_it(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    options = _launcher("joblib").joblib
    assert (options["n_jobs"], options["inner_max_num_threads"]) == (2, os.cpu_count())
    assert _launcher("joblib", "hydra.launcher.inner_max_num_threads=3").joblib["inner_max_num_threads"] == 3
    assert _launcher("joblib", "hydra.launcher.backend=multiprocessing").joblib["inner_max_num_threads"] is None
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert _launcher("joblib").joblib["inner_max_num_threads"] is None, "the variable says it to joblib"


def test_ray_repeats_nothing_and_tells_its_cluster_where_the_data_are(monkeypatch):
    monkeypatch.setenv("KDEXP_DATA", "/data")
    monkeypatch.setenv("KDEXP_WORKER", "1:2")
    remote = _launcher("ray", "+hydra.launcher.ray.remote.num_gpus=1").ray_cfg.remote
    assert remote["max_retries"] == 0 and remote["num_gpus"] == 1
    told = remote["runtime_env"]["env_vars"]
    assert told["KDEXP_DATA"] == "/data" and "KDEXP_WORKER" not in told


def test_a_launcher_that_is_not_there_says_what_brings_it(run_main, tmp_path):
    done = run_main(tmp_path, "hparams_search=smoke", "hydra/launcher=jobs")
    assert done.code == 2
    assert "hydra/launcher=jobs: there is no such hydra/launcher; there are: basic" in done.text
    assert "pip install 'kdexp[launchers]'" in done.text


def test_what_a_launcher_leaves_lies_with_the_study():
    launcher = _launcher("submitit_local")
    assert launcher.params["submitit_folder"] == str(Path.cwd() / "outputs" / "studies" / "smoke" / ".submitit" / "%j")


def _launcher(name: str, *words: str) -> Any:
    """The launcher of a study, not started."""
    _needs(name)
    with swept("hparams_search=smoke", f"hydra/launcher={name}", *words) as (config, context):
        return make_launcher(make_plan(config.hydra.sweeper, config), config, context, lambda _: None)


def _needs(launcher: str) -> None:
    package = launcher.partition("_")[0]
    pytest.importorskip(f"hydra_plugins.hydra_{package}_launcher", reason="install the extras launchers and ray")


def _first_trial_at_work(cwd: Path, process: subprocess.Popen[str]) -> RunFolder:
    """Waits until it has finished some epochs."""
    folder = RunFolder(cwd / "outputs" / "studies" / "rings" / "trials" / "trial_00000")
    deadline = time.monotonic() + 120
    while len(read_lines(folder.metrics)) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, f"it ended too early: {process.communicate()}"
    return folder


@contextmanager
def _ended_at_last(process: subprocess.Popen[str], cwd: Path) -> Iterator[None]:
    """Leaves nothing running, whatever the test found; joblib's idle processes outlive a killed command by minutes."""
    try:
        yield
    finally:
        process.kill()
        _kill(cwd)
        process.communicate()


def _kill(cwd: Path, word: str = "") -> None:
    """Kills the processes in this working directory that have the word on their command line."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (path / "cwd").readlink() == cwd and word.encode() in (path / "cmdline").read_bytes():
                os.kill(int(path.name), signal.SIGKILL)
