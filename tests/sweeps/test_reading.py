"""A study is opened to be looked at: it must be there, and it stays as it is."""

from __future__ import annotations

import sqlite3
import tempfile
import warnings
from collections.abc import Iterator

import pytest
from optuna.exceptions import StorageInternalError
from optuna.study import StudyDirection

from kdexp.errors import StudyError
from kdexp.sweeps.reading import open_for_reading
from kdexp.sweeps.storage import open_storage
from made_study import new_study


def test_a_study_that_a_sweep_made_is_read_and_cannot_be_written(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path / 'toy' / 'study.db'}", 30)  # in write-ahead mode
    number = storage.create_new_study([StudyDirection.MAXIMIZE], "toy")
    storage.create_new_trial(number)
    seen = open_for_reading("toy", tmp_path)
    # What is added meanwhile is seen.
    storage.create_new_trial(number)
    assert seen.get_study_id_from_name("toy") == number
    assert len(seen.get_all_trials(number)) == 2
    with pytest.raises(StorageInternalError) as refused:
        seen.set_study_user_attr(number, "x", 1)
    assert "readonly database" in str(refused.value.__cause__)


def test_a_storage_elsewhere_is_named_by_its_address(tmp_path):
    url = f"sqlite:///{tmp_path / 'far {away} 100%' / 'study.db'}"
    open_storage(url, 30).create_new_study([StudyDirection.MAXIMIZE], "toy")
    assert open_for_reading("toy", tmp_path / "none", url).get_study_id_from_name("toy") == 1
    with pytest.raises(StudyError, match=r"study=toi: .*study\.db does not hold it; there are: toy"):
        open_for_reading("toi", tmp_path / "none", url)


def test_a_study_that_is_not_there_is_not_made_and_the_others_are_named(tmp_path):
    with pytest.raises(StudyError, match="there is no study yet"):
        open_for_reading("smoke", tmp_path)
    for name in ("one", "two"):
        new_study(tmp_path / name, name=name)
    with pytest.raises(StudyError, match=r"study=smoke: .*there are: one, two; for a server give storage=URL"):
        open_for_reading("smoke", tmp_path)
    with pytest.raises(StudyError, match="there is no file"):
        open_for_reading("smoke", tmp_path, f"sqlite:///{tmp_path / 'smoke.db'}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("outputs/study.db", "is no database URL, such as sqlite:///study.db"),
        ("postgresql+psycopg://ada:hunter2@127.0.0.1:1/none", r"\*\*\*@127.0.0.1:1/none cannot be read as an Optuna"),
        ("oracle://127.0.0.1/none", "cannot be read as an Optuna storage"),
    ],
)
def test_an_address_that_leads_nowhere_is_a_sentence(tmp_path, url, said):
    with pytest.raises(StudyError, match=said) as refused:
        open_for_reading("toy", tmp_path, url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to be taken for one " * 50])
def test_a_file_without_studies_is_a_sentence_and_stays_as_it_is(tmp_path, content):
    (tmp_path / "toy").mkdir()
    path = tmp_path / "toy" / "study.db"
    path.write_bytes(content)
    with pytest.raises(StudyError, match=r"study\.db cannot be read as an Optuna storage: "):
        open_for_reading("toy", tmp_path)
    assert path.read_bytes() == content


def test_a_storage_of_another_optuna_is_a_sentence(tmp_path):
    new_study(tmp_path / "toy")
    with sqlite3.connect(tmp_path / "toy" / "study.db") as connection:
        connection.execute("update alembic_version set version_num = 'v0.9.0.a'")
    connection.close()
    with pytest.raises(StudyError, match="is of another version of Optuna"):
        open_for_reading("toy", tmp_path)


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a PostgreSQL server, in a folder that its own user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pgserver

            started = pgserver.get_server(folder, cleanup_mode="stop")
        yield started.get_uri().replace("postgresql://", "postgresql+psycopg://")
        started.cleanup()


@pytest.mark.slow
def test_a_study_on_a_server_is_read_and_cannot_be_written(tmp_path, server):
    with pytest.raises(StudyError, match="cannot be read as an Optuna storage"):
        open_for_reading("toy", tmp_path, server)
    storage = open_storage(server, 30)
    storage.create_new_study([StudyDirection.MAXIMIZE], "toy")
    storage.engine.dispose()
    seen = open_for_reading("toy", tmp_path, server)
    with pytest.raises(StorageInternalError) as refused:
        seen.set_study_user_attr(seen.get_study_id_from_name("toy"), "x", 1)
    assert "read-only transaction" in str(refused.value.__cause__)
