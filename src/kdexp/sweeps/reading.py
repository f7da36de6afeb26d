"""A study opened only to be looked at: nothing is made, and nothing can be written."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage
from sqlalchemy import NullPool
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from kdexp.errors import StudyError
from kdexp.records import redact
from kdexp.sweeps.storage import STORAGE_ERRORS, reason_of


def open_for_reading(study_name: str, studies: Path, url: str | None = None) -> RDBStorage:
    """The storage that holds the study: `study.db` in its folder under `studies`, or the one that `url` names.

    Raises StudyError where it is not there, naming the studies that are.
    """
    if url is None:
        path = (studies / study_name / "study.db").resolve()
        if not path.is_file():
            found = sorted(file.parent.name for file in studies.glob("*/study.db"))
            raise StudyError(f"study={study_name}: there is no {path}; {_others(found)}; for a server give storage=URL")
        url = f"sqlite:///{path}"
    storage = _opened(url)
    names = [study.study_name for study in storage.get_all_studies()]
    if study_name not in names:
        raise StudyError(f"study={study_name}: {redact(url)} does not hold it; {_others(names)}")
    return storage


def _opened(url: str) -> RDBStorage:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StudyError(f"storage={redact(url)} is no database URL, such as sqlite:///study.db") from None
    options: dict[str, Any] = {"poolclass": NullPool}
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "").resolve()
        if not path.is_file():
            raise StudyError(f"storage={redact(url)}: there is no file {path}")
        options["creator"] = lambda: _connected(path)
    elif parsed.get_backend_name() == "postgresql":
        options["execution_options"] = {"postgresql_readonly": True}
    try:
        # Optuna takes a URL for a template.
        template = url.replace("{", "{{").replace("}", "}}")
        return RDBStorage(template, engine_kwargs=options, skip_table_creation=True)
    except RuntimeError as error:
        raise StudyError(f"{redact(url)} is of another version of Optuna: {str(error).splitlines()[0]}") from None
    except (*STORAGE_ERRORS, ImportError) as error:
        raise StudyError(f"{redact(url)} cannot be read as an Optuna storage: {reason_of(error)}") from None


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=60, check_same_thread=False)


def _others(names: list[str]) -> str:
    return f"there are: {', '.join(names)}" if names else "there is no study yet"
