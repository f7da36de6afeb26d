"""Fetches published files of jets: all that were asked for or none, and the same ones every time.

ATLAS Top Tagging Open Data (CERN Open Data record 80030, arXiv:2407.20127) and Top Quark Tagging Reference Dataset
(Zenodo 2603256, arXiv:1902.09914, CC-BY). `SHA256SUMS`, beside the files, holds the hash of each as it lies there, in
the form that `sha256sum -c` reads.
"""

from __future__ import annotations

import gzip
import logging
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt, Len
from filelock import FileLock, Timeout

from kdexp.contracts import ProgressReport
from kdexp.errors import ConfigError, DataError
from kdexp.records import written_whole
from kdexp.systems.download import fetch_file, file_sha256
from kdexp.systems.sources import MARKER, download_folder
from kdexp.systems.toptagging.jetfiles import opened

Release = Literal["atlas", "reference"]
SUMS = "SHA256SUMS"
_PUBLISHED: dict[Release, tuple[str, tuple[str, ...]]] = {
    "atlas": (
        "https://opendata.cern.ch/record/80030/files/assets/atlas/datascience/CERN-EP-2024-159",
        ("train_nominal_000.h5.gz", "test_nominal_000.h5.gz"),
    ),
    "reference": ("https://zenodo.org/records/2603256/files", ("train.h5", "val.h5", "test.h5")),
}
_SETTINGS = "dataset.fetch.base_url and dataset.fetch.files"
_PLAIN_NAME = re.compile(r"\w[\w.+-]*\.h5(\.gz)?")
_HASH = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20
_AGAIN = "run the same command to fetch it again"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """Which files to fetch: `base_url`/name for each of `files`, by default the publisher's address of the release and
    its first training and test file (atlas) or all three (reference). `.h5.gz` is unpacked. `sha256` is what a file
    must have, by its name as it is served or unpacked."""

    release: Release = "atlas"
    files: Annotated[tuple[str, ...], Len(1)] | None = None
    base_url: str | None = None
    sha256: dict[str, str] | None = None
    timeout_seconds: Annotated[float, Gt(0)] = 60.0

    def addresses(self) -> dict[str, str]:
        """The address of each file by its name as served. Raises ConfigError for settings that fit no file."""
        base, names = _PUBLISHED[self.release]
        base, names = self.base_url or base, tuple(self.files or names)
        for name in names:
            if not _PLAIN_NAME.fullmatch(name):
                raise ConfigError(f"dataset.fetch.files: {name!r} is not the plain name of a file *.h5 or *.h5.gz")
        unpacked = {_name_in_root(name) for name in names}
        if len(unpacked) < len(names):
            raise ConfigError("dataset.fetch.files: names a file twice; name each once, packed or not")
        for name, value in (self.sha256 or {}).items():
            if name not in {*names, *unpacked}:
                raise ConfigError(f"dataset.fetch.sha256: {name} is not among dataset.fetch.files")
            if not _HASH.fullmatch(value):
                raise ConfigError(f"dataset.fetch.sha256: {value!r} of {name} is not 64 digits of 0-9 and a-f")
        return {name: f"{base.rstrip('/')}/{name}" for name in names}


def fetch(root: Path, options: FetchOptions, progress: ProgressReport | None = None) -> None:
    """Brings the files to `root`. Those that are there are checked and kept; the others are fetched beside `root`, gone
    on with where an earlier fetch stopped, and put into place together.

    Raises ConfigError for settings that fit no file; DataError where a transfer breaks off, the server refuses, a file
    is no HDF5, or content is not what an earlier fetch noted or the settings say.
    """
    addresses = options.addresses()
    if (root.exists() and not root.is_dir()) or (root / MARKER).exists():
        raise DataError(
            f"{root}: is no folder for real jets, but a file or generated jets ({MARKER}); give root=FOLDER"
        )
    folder = download_folder(root.absolute())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(str(folder / "lock"), timeout=0):
            _fetch(root, folder, addresses, options, progress)
    except Timeout:
        raise DataError(f"{folder}: another process is fetching already; wait for it") from None
    except OSError as error:
        raise DataError(f"{root}: cannot be written ({error}); make room, or give root=FOLDER") from None


def _fetch(
    root: Path, folder: Path, addresses: Mapping[str, str], options: FetchOptions, progress: ProgressReport | None
) -> None:
    hashes = _Hashes(given=options.sha256 or {}, noted=_read_sums(root / SUMS), sums=root / SUMS)
    missing = {name: url for name, url in addresses.items() if not (root / _name_in_root(name)).exists()}
    found = {}
    for path in (root / _name_in_root(name) for name in addresses if name not in missing):
        found[path.name] = hashes.checked(path, path.name, str(path), f"remove the file and {_AGAIN}")
        logger.info("%s: is kept, with the SHA-256 of %s", path, SUMS)
    staged = folder / "files.part"  # while it is there, the data set counts as unfinished
    for name, url in missing.items():
        path = staged / _name_in_root(name)
        if not path.exists():
            _obtain(url, path, folder / name, hashes, options.timeout_seconds, progress)
        with _removed_if_refused(path):
            _refuse_no_hdf5(path, url)
            found[path.name] = hashes.checked(path, path.name, url, _AGAIN)
    _write_sums(root / SUMS, {**hashes.noted, **found})
    for name in missing:
        (staged / _name_in_root(name)).replace(root / _name_in_root(name))
    with suppress(OSError):  # not there, or not empty: files of another fetch
        staged.rmdir()


def _obtain(
    url: str, target: Path, served: Path, hashes: _Hashes, timeout_seconds: float, progress: ProgressReport | None
) -> None:
    """Fetches a file as `served` and makes `target` of it, whole or not at all."""

    def accept(part: Path) -> None:
        hashes.checked(part, served.name, url, _AGAIN)

    fetch_file(url, served, accept=accept, settings=_SETTINGS, timeout_seconds=timeout_seconds, progress=progress)
    target.parent.mkdir(exist_ok=True)
    if served.name == target.name:
        served.replace(target)
        return
    with _removed_if_refused(served):
        _unpack(served, target, url, progress)
    served.unlink()


@dataclass(frozen=True, kw_only=True)
class _Hashes:
    """What files must have, by name: what the settings say, and what an earlier fetch noted in `sums`."""

    given: Mapping[str, str]
    noted: Mapping[str, str]
    sums: Path

    def checked(self, content: Path, name: str, where: str, way_out: str) -> str:
        """The SHA-256 of `content`, which is to be file `name`. Raises DataError where it must have another one."""
        found = file_sha256(content)
        for hashes, source, change in (
            (self.given, "dataset.fetch.sha256", "correct that setting"),
            (self.noted, str(self.sums), "take its line out there"),
        ):
            expected = hashes.get(name, found)
            if expected != found:
                raise DataError(
                    f"{where}: has the SHA-256 {found[:12]}…, but {source} says {expected[:12]}… of {name}; {way_out}, "
                    f"or {change} to accept what it is now"
                )
        return found


@contextmanager
def _removed_if_refused(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        path.unlink(missing_ok=True)
        raise


def _unpack(served: Path, target: Path, url: str, progress: ProgressReport | None) -> None:
    """Unpacks gzip whole or not at all; progress is that through the packed file."""
    total = served.stat().st_size
    try:
        with (
            served.open("rb") as raw,
            gzip.open(raw) as content,
            written_whole(target) as temporary,
            temporary.open("wb") as stream,
        ):
            while piece := content.read(_CHUNK_BYTES):
                stream.write(piece)
                if progress is not None:
                    progress("unpack", raw.tell(), total)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{url}: what came is no whole gzip file ({error}); {_AGAIN}, or check {_SETTINGS}") from None


def _refuse_no_hdf5(path: Path, url: str) -> None:
    try:
        with opened(path):
            pass
    except DataError:
        raise DataError(f"{url}: what came is no whole HDF5 file; {_AGAIN}, or check {_SETTINGS}") from None


def _read_sums(path: Path) -> dict[str, str]:
    """SHA-256 by file name; empty where there is no such file. Raises DataError for a line of another form."""
    if not path.exists():
        return {}
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        value, _, name = line.partition(" ")
        if not _HASH.fullmatch(value) or not name[1:]:
            raise DataError(
                f"{path}, line {number}: is no SHA-256, two spaces and a file name; mend the line, or remove it"
            )
        found[name[1:]] = value
    return found


def _write_sums(path: Path, sums: Mapping[str, str]) -> None:
    with written_whole(path) as temporary:
        temporary.write_text("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)), encoding="utf-8")


def _name_in_root(name: str) -> str:
    return name.removesuffix(".gz")
