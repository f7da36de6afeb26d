"""What a run leaves behind: where each file lies, and JSON written whole or not at all. Standard library only."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdexp.errors import DataError

RECORD_SCHEMA = 1
REDACTED = "***"
_SECRET_WORDS = {"token", "key", "apikey", "password", "passwd", "secret", "secrets", "credential", "credentials"}
_URL_QUERY = re.compile(r"([?&][^=&\s]*(?:password|passwd|token|secret|key)[^=&\s]*=)[^&\s]+", re.IGNORECASE)
_URL_USERINFO = re.compile(r"(?<=://)[^/\s@]+(?=@)")


@dataclass(frozen=True)
class RunFolder:
    """The files of one run. `record` is written last: where it says `done`, everything else is there."""

    path: Path

    @property
    def record(self) -> Path:
        return self.path / "run.json"

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def best_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def last_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    def predictions(self, split: str) -> Path:
        return self.path / "predictions" / f"{split}.npz"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to; renamed into place when the block ends well, removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all; numbers that JSON cannot hold (NaN, infinity) become null."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Raises DataError where the file is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not whole JSON ({error}); restore it, or remove it and run again") from None


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Adds one JSON line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(_finite(value), ensure_ascii=False) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a JSON-lines file; a last line torn by a kill is passed over, any other is a DataError."""
    if not path.exists():
        return []
    *whole, torn = path.read_bytes().split(b"\n")
    try:
        rows = [json.loads(line) for line in whole if line]
    except ValueError as error:
        raise DataError(
            f"{path} holds a line that is not JSON ({error}); restore it, or remove it and run again"
        ) from None
    if torn:
        with suppress(ValueError):
            rows.append(json.loads(torn))
    return rows


def keep_lines(path: Path, keep: Sequence[Mapping[str, Any]]) -> None:
    """Rewrites a JSON-lines file so that it holds exactly these rows."""
    with written_whole(path) as temporary:
        temporary.write_text("".join(json.dumps(_finite(row), ensure_ascii=False) + "\n" for row in keep), "utf-8")


def fingerprint(*values: Any) -> str:
    """A hash of plain values, 16 hexadecimal digits, independent of the order of keys."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def redact(value: Any, key: str = "") -> Any:
    """The same tree without secrets: values under keys such as `api_key` or `password`, and user names in URLs."""
    words = set(re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower()))
    if words & _SECRET_WORDS and value not in (None, "") and not isinstance(value, bool):
        return REDACTED
    if isinstance(value, Mapping):
        return {name: redact(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(inner) for inner in value]
    if isinstance(value, str):
        value = _URL_QUERY.sub(rf"\1{REDACTED}", value)
        return _URL_USERINFO.sub(REDACTED, value)
    return value


def redact_argument(argument: str) -> str:
    """The same for one `key=value` word of a command line."""
    key, separator, value = argument.partition("=")
    return f"{key}{separator}{redact(value, key)}" if separator else argument


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
