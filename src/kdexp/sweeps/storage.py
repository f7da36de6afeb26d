"""Where a study lives: SQLite in write-ahead mode beside the trials, or any server that SQLAlchemy reaches.

One lock a study makes "count, then ask" a single step for all workers, so a budget is exact in every race: a file
lock beside a SQLite file, an advisory lock on PostgreSQL. Both go with their process, whatever ends it.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeVar

import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from kdexp.errors import StudyError
from kdexp.records import redact

log = logging.getLogger(__name__)
T = TypeVar("T")
PATIENCE_SECONDS = 120.0
"""How long a worker waits for a storage that went away in mid-study."""
STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError, sqlite3.Error)
"""What a storage raises that is out of reach."""
GRACE_BEATS = 4
"""A worker is taken for dead after this many missed heartbeats."""


class StorageLost(StudyError):
    """A storage stayed out of reach in mid-study: not the fault of the trial that ran."""


def open_storage(url: str, heartbeat_seconds: int, *, in_mid_study: bool = False) -> RDBStorage:
    """Opens (or makes) the storage. Raises StudyError where it cannot be reached or is of another Optuna.

    `in_mid_study` waits for one that was there before. Making a new SQLite schema is not safe for several processes at
    once, so it happens under the lock.
    """
    parsed = _parsed(url)
    options: dict[str, Any] = {"pool_pre_ping": True}
    lock: AbstractContextManager[Any] = nullcontext()
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "")
        options = {"creator": lambda: _connect(path)}
        _refuse_unwritable(path)
        lock = _file_lock(path)

    def opened() -> RDBStorage:
        with lock, warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*heartbeat_interval.*experimental", category=ExperimentalWarning
            )
            return RDBStorage(
                url.replace("{", "{{").replace("}", "}}"),  # Optuna takes a URL for a template
                engine_kwargs=options,
                heartbeat_interval=heartbeat_seconds,
                grace_period=GRACE_BEATS * heartbeat_seconds,
            )

    try:
        return patiently("opening the study", opened) if in_mid_study else opened()
    except RuntimeError as error:
        raise StudyError(_another_version(url, str(error))) from None
    except ImportError as error:
        driver = getattr(error.__cause__, "name", None) or "of its kind"
        raise StudyError(
            f"hydra.sweeper.storage: {redact(url)} needs the driver {driver}, which is not installed; write "
            "postgresql+psycopg://... and pip install 'kdexp[postgres]'"
        ) from None
    except STORAGE_ERRORS as error:
        raise StudyError(
            f"the storage {redact(url)} cannot be reached: {reason_of(error)}; check hydra.sweeper.storage"
        ) from None


@contextmanager
def study_lock(storage: RDBStorage, url: str, study_name: str) -> Iterator[None]:
    """One worker at a time, over all hosts that share the storage."""
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        with _file_lock(Path(parsed.database or "")):
            yield
        return
    number = int.from_bytes(hashlib.sha256(study_name.encode()).digest()[:7], "big")
    with storage.engine.connect() as connection:
        connection.execute(text("select pg_advisory_lock(:number)"), {"number": number})
        try:
            yield
        finally:
            connection.execute(text("select pg_advisory_unlock(:number)"), {"number": number})


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
    connection.execute("pragma journal_mode=wal")
    connection.execute("pragma synchronous=normal")
    return connection


def _refuse_unwritable(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent):  # of a name of its own: workers try it at the same moment
            pass
        if path.exists():
            with path.open("r+b"):
                pass
    except OSError as error:
        raise StudyError(
            f"{path} cannot be written ({error.strerror}); a study needs a folder that it may change"
        ) from None


def _file_lock(path: Path) -> FileLock:
    return FileLock(path.with_name(f"{path.name}.lock"))


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StudyError(
            f"hydra.sweeper.storage: {redact(url)!r} is no database URL, such as sqlite:///study.db"
        ) from None
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise StudyError(f"hydra.sweeper.storage: {backend} has no lock that kdexp knows; use sqlite or postgresql")
    return parsed


def _another_version(url: str, said: str) -> str:
    way_out = f"optuna storage upgrade --storage {redact(url)}" if "upgrade" in said else "pip install -U optuna"
    return (
        f"hydra.sweeper.storage: {redact(url)} was made by another version of Optuna; bring it up to this one "
        f"({way_out}; keep a copy), or give the study another name, hydra.sweeper.study_name=..."
    )


def reason_of(error: BaseException) -> str:
    """The database's own words, in one line."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    return str(getattr(cause, "orig", None) or cause).splitlines()[0]


def patiently(what: str, call: Callable[[], T], patience_seconds: float | None = None) -> T:
    """Does something with the storage, again and again while it is out of reach; StorageLost where it stays so."""
    patience_seconds = PATIENCE_SECONDS if patience_seconds is None else patience_seconds
    deadline, pause = time.monotonic() + patience_seconds, 0.5
    while True:
        try:
            return call()
        except STORAGE_ERRORS as error:
            reason = reason_of(error)
            if time.monotonic() > deadline:
                raise StorageLost(
                    f"{what}: the storage is out of reach for {patience_seconds:g} seconds ({reason}); the study is "
                    "intact up to here, and the same command goes on with it"
                ) from error
            log.warning("%s: the storage is out of reach (%s); trying again", what, reason)
            time.sleep(pause)
            pause = min(2 * pause, 10.0)


def quiet_optuna() -> None:
    """Optuna's own log lines repeat what the table shows."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
