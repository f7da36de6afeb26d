"""Fetches a file over HTTP: resumes where it stopped, appears whole, and stays the same once its hash is noted."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from kdexp.contracts import ProgressReport
from kdexp.errors import DataError
from kdexp.records import written_whole

_CHUNK_BYTES = 1 << 20
_CHUNK_UNIT = "fetch"


def download(url: str, target: Path, *, timeout_seconds: float = 30.0, progress: ProgressReport | None = None) -> Path:
    """Fetches `url` to `target` as `fetch_file` does.

    The SHA-256 is written to `target`.sha256 at the first fetch; whatever comes later must have it. A `target` that is
    there is checked and not fetched again. Raises DataError where the transfer breaks off, the server refuses, or the
    content is not what was noted.
    """
    if target.exists():
        _verify(target, target, url)
        return target

    def accept(part: Path) -> None:
        _verify(part, target, url)

    return fetch_file(url, target, accept=accept, timeout_seconds=timeout_seconds, progress=progress)


def fetch_file(
    url: str,
    target: Path,
    *,
    accept: Callable[[Path], None],
    settings: str = "dataset.fetch.urls",
    timeout_seconds: float = 30.0,
    progress: ProgressReport | None = None,
) -> Path:
    """Fetches `url` to `target` through `target`.part, which a later call goes on with; a `target` that is there is
    left as it is.

    `accept` sees the whole part before it gets its name; where it raises DataError, the part is removed. `settings`
    are the keys that a message names. Raises DataError where the transfer breaks off or the server refuses.
    """
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = _beside(target, ".part")
        _transfer(url, part, settings, timeout_seconds, progress)
        try:
            accept(part)
        except DataError:
            part.unlink()
            raise
        finally:
            _beside(part, ".validator").unlink(missing_ok=True)
        part.replace(target)
    return target


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _transfer(url: str, part: Path, settings: str, timeout_seconds: float, progress: ProgressReport | None) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"{url}: is no http or https address; correct {settings}")
    start = part.stat().st_size if part.exists() else 0
    headers = _resume_headers(part, start)
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "kdexp", **headers})
        with urllib.request.urlopen(request, timeout=timeout_seconds) as response:
            _receive(response, url, part, start, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # the part is as long as the file, or longer
            if error.headers.get("Content-Range") != f"bytes */{start}":
                part.unlink()
                _transfer(url, part, settings, timeout_seconds, progress)
            return
        raise DataError(f"{url}: the server answered {error.code} {error.reason}; check {settings}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise DataError(f"{url}: the transfer broke off ({error}); run the same command again to go on") from None


def _resume_headers(part: Path, start: int) -> dict[str, str]:
    """Asks for the rest, and for everything where the file on the server is another one by now."""
    validator = _beside(part, ".validator")
    if not start:
        return {}
    return {"Range": f"bytes={start}-"} | ({"If-Range": validator.read_text("utf-8")} if validator.exists() else {})


def _receive(response: HTTPResponse, url: str, part: Path, start: int, progress: ProgressReport | None) -> None:
    """Appends to the part where the server goes on at `start`; writes it anew where the server sends everything."""
    resumed = response.status == 206 and (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-")
    if response.status == 206 and not resumed:
        raise DataError(f"{url}: the server sent another range than asked for; remove {part} and run again")
    done = start if resumed else 0
    length = response.headers.get("Content-Length")
    total = done + int(length) if length is not None else 0
    if not resumed:
        _note_validator(response, part)
    with part.open("ab" if resumed else "wb") as stream:
        while chunk := response.read1(_CHUNK_BYTES):
            stream.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(_CHUNK_UNIT, done, max(total, done))
    if total and done != total:
        raise DataError(f"{url}: the transfer broke off at byte {done} of {total}; run the same command again to go on")


def _note_validator(response: HTTPResponse, part: Path) -> None:
    """What the server calls this version of the file; a weak ETag may not be used to resume."""
    etag = response.headers.get("ETag") or ""
    version = etag if etag.startswith('"') else response.headers.get("Last-Modified")
    validator = _beside(part, ".validator")
    validator.unlink(missing_ok=True)
    if version:
        validator.write_text(version, "utf-8")


def _verify(content: Path, target: Path, url: str) -> None:
    """Compares with the noted hash, or notes it."""
    note, found = _beside(target, ".sha256"), file_sha256(content)
    if not note.exists():
        with written_whole(note) as temporary:
            temporary.write_text(f"{found}  {target.name}\n", encoding="utf-8")
        return
    noted = note.read_text(encoding="utf-8").split()[:1]
    if noted != [found]:
        raise DataError(
            f"{content}: what came from {url} is not what was fetched before ({note.name} notes another SHA-256); "
            f"remove {note} to accept the new content"
        )


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
