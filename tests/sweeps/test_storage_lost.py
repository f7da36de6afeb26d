"""A PostgreSQL server that goes away in mid-study: for seconds, at the worst moments, and for good."""

from __future__ import annotations

import gc
import shutil
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import Engine, NullPool

from support import Finished
from sweeps.studies import SEARCH, assert_exact

pytestmark = pytest.mark.slow
QUICK = ("-cd", "{outside}", "hparams_search=rings", "teacher.max_epochs=1", "trainer.max_epochs=3")
N_TRIALS = 5
SECONDS_AWAY = 3.0

Slots = dict[int, dict[str, Any]]


@dataclass
class Server:
    """A PostgreSQL server that can be stopped at once, as by a power cut, and started again."""

    server: Any
    helpers: list[threading.Thread] = field(default_factory=list)

    @property
    def url(self) -> str:
        return str(self.server.get_uri()).replace("postgresql://", "postgresql+psycopg://")

    def stop(self) -> None:
        self._control("-m", "immediate", "stop")

    def start(self) -> None:
        options = f"-h '' -k {self.server.get_postmaster_info().socket_dir}"
        for attempt in range(10):
            try:
                return self._control("-o", options, "-l", str(self.server.log), "start")
            except subprocess.CalledProcessError:  # a process of the one that was stopped still holds its memory
                assert attempt < 9, self.server.log.read_text()[-2000:]
                time.sleep(1)

    def _control(self, *words: str) -> None:
        import pgserver

        pgserver.pg_ctl(
            ["-w", "-t", "120", *words], pgdata=self.server.pgdata, user=self.server.system_user, timeout=150
        )

    def be_away(self, seconds: float = SECONDS_AWAY) -> None:
        """Stops the server now, and starts it again after a while."""
        self.stop()
        thread = threading.Timer(seconds, self.start)
        thread.start()
        self.helpers.append(thread)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # Not in pytest's own folder: that is closed to other users, and the server runs as one where root runs the tests.
    folder = Path(tempfile.mkdtemp(prefix="kdexp_postgres_"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pgserver

        started = Server(pgserver.get_server(folder, cleanup_mode="stop"))
    yield started
    for thread in started.helpers:
        thread.join()
    started.server.cleanup()
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def closed_connections() -> Iterator[None]:
    """A command leaves its connections to the end of its process, which here goes on."""
    yield
    for engine in [found for found in gc.get_objects() if type(found) is Engine]:
        engine.dispose()


@pytest.fixture(autouse=True)
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdexp.sweeps.loop.draw_plots", lambda study, folder: None)


@pytest.fixture
def study(run_main: Callable[..., Finished], tmp_path: Path, server: Server) -> Callable[..., Finished]:
    """A search of the rings in this process, on the server, in a study of the test's own name."""

    def run(name: str, *words: str) -> Finished:
        given = (
            "hydra.sweeper.timeout=200",
            f"hydra.sweeper.study_name={name}",
            f"hydra.sweeper.storage='{server.url}'",
        )
        return run_main(tmp_path, *QUICK, f"hydra.sweeper.n_trials={N_TRIALS}", *given, *words)

    return run


@pytest.fixture(scope="module")
def undisturbed(run_main: Callable[..., Finished], tmp_path_factory: pytest.TempPathFactory) -> Slots:
    """The same study where nothing goes away."""
    cwd = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdexp.sweeps.loop.draw_plots", lambda study, folder: None)
        assert run_main(cwd, *QUICK, f"hydra.sweeper.n_trials={N_TRIALS}").code == 0
    return _by_slot(_loaded("rings", f"sqlite:///{cwd}/outputs/studies/rings/study.db"))


def _loaded(name: str, url: str) -> optuna.Study:
    storage = RDBStorage(url, engine_kwargs={"poolclass": NullPool})
    return optuna.load_study(study_name=name, storage=storage)


def _by_slot(study: optuna.Study) -> Slots:
    done = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    return {trial.user_attrs["slot"]: trial.params for trial in done}


def _on_call(patch: pytest.MonkeyPatch, target: str, number: int, action: Callable[[], None]) -> None:
    """Does something at the beginning of the n-th call of a function, counted from 1."""
    import pkgutil

    owner, _, name = target.rpartition(".")
    holder = pkgutil.resolve_name(owner)
    original, calls = getattr(holder, name), iter(range(1, 1_000_000))

    def called(*arguments: Any, **named: Any) -> Any:
        if next(calls) == number:
            action()
        return original(*arguments, **named)

    patch.setattr(holder, name, called)


MOMENTS = {
    "while a trial is taken, with the lock held": ("kdexp.sweeps.sweep.Sweep._draw", 3),
    "between asking and drawing": ("kdexp.sweeps.ledger.me", 4),
    "before its first heartbeat": ("optuna.storages.RDBStorage.record_heartbeat", 3),
    "while its parameters are drawn": ("kdexp.sweeps.space.draw", 8),
    "when the job begins": ("kdexp.sweeps.trial.trial_of_this_job", 3),
    "when training reports": ("kdexp.sweeps.trial.StudyTrial.report", 8),
    "when training asks whether to go on": ("kdexp.sweeps.trial.StudyTrial.should_prune", 4),
    "when the study is told": ("kdexp.sweeps.sweep.Sweep._tell", 3),
    "when checkpoints are tidied": ("kdexp.sweeps.sweep.Sweep._retain", 3),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_server_that_is_away_for_seconds_is_waited_for(study, server, undisturbed, monkeypatch, moment):
    """Nothing is lost, nothing fails, and the study is the one that an undisturbed server would have held."""
    target, number = MOMENTS[moment]
    stopped: list[str] = []
    _on_call(monkeypatch, target, number, lambda: (stopped.append(moment), server.be_away())[0])
    name = f"away_{list(MOMENTS).index(moment)}"
    started = time.monotonic()
    done = study(name)
    assert stopped, "the server was never stopped"
    assert done.code == 0, done.err
    assert time.monotonic() - started > SECONDS_AWAY
    assert "the storage is out of reach" in done.text and "Traceback" not in done.text
    found = _loaded(name, server.url)
    assert_exact(found, N_TRIALS)
    assert _by_slot(found) == undisturbed
    failed = [trial for trial in found.trials if trial.state == TrialState.FAIL]
    assert all(trial.user_attrs["reason"] == "interrupted" for trial in failed) and len(failed) <= 1


def test_a_server_that_stays_away_ends_the_command_and_the_study_goes_on_when_it_is_back(
    study, server, undisturbed, monkeypatch
):
    monkeypatch.setattr("kdexp.sweeps.storage.PATIENCE_SECONDS", 2.0)
    with pytest.MonkeyPatch.context() as patch:
        _on_call(patch, "kdexp.sweeps.trial.StudyTrial.report", 5, server.stop)
        ended = study("gone")
    assert ended.code == 2
    for word in ("reporting", "out of reach for 2 seconds", "intact", "the same command goes on"):
        assert word in ended.text
    assert ended.err.count("error: ") == 1 and "Traceback" not in ended.text
    again = study("gone")
    assert again.code == 2, "a server that is not there at the start is not waited for"
    assert "cannot be reached" in again.text and "check hydra.sweeper.storage" in again.text
    server.start()
    assert study("gone").code == 0
    found = _loaded("gone", server.url)
    assert_exact(found, N_TRIALS)
    assert _by_slot(found) == undisturbed
    failed = [trial for trial in found.trials if trial.state == TrialState.FAIL]
    assert [trial.user_attrs["reason"] for trial in failed] == ["interrupted"]


def test_workers_wait_for_a_server_that_is_away(kdexp, server):
    words = (*SEARCH, "hydra.sweeper.n_workers=2", "hydra.sweeper.n_trials=16", "trainer.max_epochs=20")
    words += ("hydra.sweeper.study_name=workers", f"hydra.sweeper.storage='{server.url}'")
    process = kdexp.start(*words, KDEXP_TRUSTED_PACKAGES="rings")
    under_way = kdexp.cwd / "outputs" / "studies" / "workers" / "trials" / "trial_00003" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not under_way.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    server.stop()
    time.sleep(2 * SECONDS_AWAY)
    assert process.poll() is None, process.communicate()
    server.start()
    said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert_exact(_loaded("workers", server.url), 16)
    logs = [path.read_text() for path in (kdexp.cwd / "outputs" / "studies" / "workers" / "workers").glob("*.log")]
    assert len(logs) == 2 and all("out of reach" in text for text in logs)
