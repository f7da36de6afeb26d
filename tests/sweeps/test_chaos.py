"""kill -9 at random moments, on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from sweeps.studies import SEARCH, assert_exact, load


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request) -> Iterator[str | None]:
    """The study's storage: None is the default, SQLite in its folder."""
    if request.param == "sqlite":
        yield None
        return
    # Not in pytest's own folder: that is closed to other users, and the server runs as one where root runs the tests.
    folder = Path(tempfile.mkdtemp(prefix="kdexp_postgres_"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pgserver

        server = pgserver.get_server(folder, cleanup_mode="stop")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()
    shutil.rmtree(folder)


def n_trials(cwd: Path, url: str | None) -> int:
    """How many trials there are; a plain count, since Optuna would make the tables while the leader makes them."""
    path = cwd / "outputs" / "studies" / "rings" / "study.db"
    if url is None and not path.exists():
        return 0
    engine = create_engine(url or f"sqlite:///file:{path}?mode=ro&uri=true", poolclass=NullPool)
    try:
        with engine.connect() as connection:
            return int(connection.execute(text("select count(*) from trials")).scalar_one())
    except DBAPIError:  # the tables are not there yet
        return 0


@pytest.mark.slow
def test_chaos_two_workers_killed_at_twenty_random_moments(kdexp, url):
    """kill -9 to the leader, a worker or both, at twenty moments of a study of forty trials."""
    draw = random.Random(0)
    words = (*SEARCH, "hydra.sweeper.n_trials=40", "hydra.sweeper.n_workers=2", "hydra.sweeper.max_retries=50")
    words += ("trainer.max_epochs=30",)  # a trial takes a second or two, so that kills meet it at work
    words += (f"hydra.sweeper.storage='{url}'",) if url else ()
    kills = 0
    while kills < 20:
        process = kdexp.start(*words, KDEXP_TRUSTED_PACKAGES="rings")
        n_before = n_trials(kdexp.cwd, url)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if n_trials(kdexp.cwd, url) > n_before:
                break
            time.sleep(0.2)
        while kills < 20 and process.poll() is None:
            time.sleep(draw.uniform(0.2, 1.5))
            victims = _children(process.pid)
            target = draw.choice(["leader", "worker", "both"])
            if target != "leader" and victims:
                _kill(draw.choice(victims))
            kills += 1
            if target != "worker":
                process.kill()
        code = process.poll()
        process.kill()
        said = process.communicate()
        assert code in (None, -9) or kills == 20, f"it ended by itself after {kills} kills, exit code {code}: {said}"
        for child in _leftovers(str(kdexp.cwd)):
            _kill(child)
    done = kdexp(*words, KDEXP_TRUSTED_PACKAGES="rings")
    assert done.code == 0, done.err
    assert_exact(load(kdexp.cwd, url), 40)


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(word) for word in listed.split()]


def _leftovers(cwd: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if str((path / "cwd").readlink()) == cwd and b"kdexp" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
