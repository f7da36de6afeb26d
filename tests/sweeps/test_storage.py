"""Storages that cannot be had say why, and one that goes away is waited for."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError

from kdexp.errors import StudyError
from kdexp.sweeps import storage
from kdexp.sweeps.storage import open_storage, patiently, study_lock


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def test_sqlite_is_in_write_ahead_mode_and_opens_with_plain_optuna(tmp_path):
    storage = open_storage(url(tmp_path / "study.db"), 30)
    study = optuna.create_study(storage=storage, study_name="one")
    study.enqueue_trial({"x": 1})
    with sqlite3.connect(tmp_path / "study.db") as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    connection.close()
    assert len(optuna.load_study(study_name="one", storage=url(tmp_path / "study.db")).trials) == 1


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("postgresql+psycopg://nobody:hunter2@127.0.0.1:1/none", ["cannot be reached", "hydra.sweeper.storage"]),
        ("no address", ["no database URL"]),
        ("sqlite:////proc/study.db", ["cannot be written"]),
    ],
)
def test_a_storage_that_cannot_be_had_is_named_without_its_password(address, words):
    with pytest.raises(StudyError) as caught:
        open_storage(address, 30)
    for word in words:
        assert word in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "study.db").write_text("not a database, but long enough to be taken for one" * 50)
    with pytest.raises(StudyError, match=r"study\.db"):
        open_storage(url(tmp_path / "study.db"), 30)


def test_the_lock_lets_one_in_at_a_time(tmp_path):
    storage = open_storage(url(tmp_path / "study.db"), 30)
    with study_lock(storage, url(tmp_path / "study.db"), "one"):
        assert (tmp_path / "study.db.lock").exists()


def test_a_storage_that_comes_back_is_waited_for(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    answers = iter([StorageInternalError("away"), sqlite3.OperationalError("locked"), 7])

    def call() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently("reading", call) == 7


def test_a_storage_that_stays_away_ends_with_a_sentence():
    def call() -> None:
        raise StorageInternalError("gone for good")

    with pytest.raises(StudyError, match=r"reading: the storage is out of reach.*the same command goes on"):
        patiently("reading", call, patience_seconds=0)


def test_workers_may_try_the_folder_at_the_same_moment(tmp_path):
    """They once shared the name of a file to try with: one removed it under the other."""
    with ThreadPoolExecutor(8) as pool:
        tried = [pool.submit(storage._refuse_unwritable, tmp_path / "study.db") for _ in range(2000)]
    assert [one.exception() for one in tried] == [None] * len(tried)
    assert list(tmp_path.iterdir()) == []
