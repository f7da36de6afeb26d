"""Fetches the MedPix 2.0 release and brings it into the layout that the loader reads."""

from __future__ import annotations

import io
import logging
import posixpath
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from kdexp.contracts import ProgressReport
from kdexp.errors import DataError
from kdexp.systems.download import download
from kdexp.systems.multimodal.medpix_files import read_records
from kdexp.systems.sources import download_folder, folder_written_whole, refuse_occupied

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

logger = logging.getLogger(__name__)

Member = tuple[str, Callable[[], IO[bytes]]]


def fetch(root: Path, urls: Sequence[str], *, timeout_seconds: float, progress: ProgressReport | None = None) -> None:
    """Downloads the archives beside `root`, unpacks them, checks the records, and only then makes `root` appear.

    The archives are removed afterwards; their noted hashes stay, so a second fetch must bring the same content.
    Raises DataError where `root` holds something, a transfer breaks off, an archive is unsafe, or the release is
    incomplete.
    """
    refuse_occupied(root)
    folder = download_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(str(folder / "lock"), timeout=0):
            _fetch(root, folder, urls, timeout_seconds, progress)
    except Timeout:
        raise DataError(f"{folder}: another process is fetching already; wait for it") from None
    logger.info("MedPix 2.0 is in %s", root)


def _fetch(
    root: Path, folder: Path, urls: Sequence[str], timeout_seconds: float, progress: ProgressReport | None
) -> None:
    archives = [
        download(url, folder / _archive_name(number, url), timeout_seconds=timeout_seconds, progress=progress)
        for number, url in enumerate(urls)
    ]
    with folder_written_whole(root) as temporary:
        for archive in archives:
            unpack(archive, temporary, progress)
        read_records(temporary)
    for archive in archives:
        archive.unlink()


def unpack(archive: Path, target: Path, progress: ProgressReport | None = None) -> None:
    """Takes the images and the split files out of an archive, wherever in it they lie; an `images.zip` inside too.

    Raises DataError for an archive that cannot be read, a member that would leave the folder, a file that is no PNG
    (a Git LFS pointer), and two members that are one file with different content.
    """
    with archive.open("rb") as stream:
        _unpack(stream, str(archive), target, progress, images_only=False)


def _unpack(stream: IO[bytes], name: str, target: Path, progress: ProgressReport | None, *, images_only: bool) -> None:
    with _members(stream, name) as members:
        for number, (path, open_member) in enumerate(members, start=1):
            _refuse_unsafe(path, name)
            place = _place(path, images_only)
            if posixpath.basename(path) == "images.zip":
                with open_member() as inner:
                    _unpack(io.BytesIO(inner.read()), f"{name}, {path}", target, progress, images_only=True)
            elif place is not None:
                with open_member() as content:
                    _store(content, target / place, f"{name}, {path}")
            if progress is not None:
                progress("unpack", number, len(members))


@contextmanager
def _members(stream: IO[bytes], name: str) -> Iterator[list[Member]]:
    """The files in an archive: path and a function that opens it."""
    try:
        if zipfile.is_zipfile(stream):
            with zipfile.ZipFile(stream) as archive:
                yield [(info.filename, _zip_opener(archive, info)) for info in archive.infolist() if not info.is_dir()]
            return
        stream.seek(0)
        with tarfile.open(fileobj=stream) as tar:
            yield [(info.name, _tar_opener(tar, info)) for info in tar.getmembers() if info.isfile()]
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise DataError(f"{name}: is not a whole zip or tar archive ({error}); remove it and fetch again") from None


def _zip_opener(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(info)


def _tar_opener(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def open_member() -> IO[bytes]:
        content = archive.extractfile(info)
        assert content is not None, info.name  # only regular files are listed
        return content

    return open_member


def _refuse_unsafe(path: str, name: str) -> None:
    parts = path.replace("\\", "/").split("/")
    if ".." in parts or path.startswith(("/", "\\")) or ":" in parts[0]:
        raise DataError(f"{name}: its member {path!r} would be written outside the folder; do not use this archive")


def _place(path: str, images_only: bool) -> Path | None:
    """Where in the layout a member belongs; None for what the loader does not read. `images_only`: the archive is an
    images.zip, whose files need no folder."""
    parts = path.split("/")
    folder, file = parts[-2:] if len(parts) > 1 else ("", parts[0])
    if file.startswith("."):
        return None
    if file.endswith(".png") and (folder == "images" or images_only):
        return Path("images") / file
    if folder == "splitted_dataset" and file.endswith((".jsonl", ".json")):
        return Path("splitted_dataset") / file
    return None


def _store(content: IO[bytes], target: Path, where: str) -> None:
    target.parent.mkdir(exist_ok=True)
    if target.suffix == ".png":
        head = content.read(len(_PNG_SIGNATURE))
        if head != _PNG_SIGNATURE:
            raise DataError(
                f"{where}: is no PNG image (perhaps a Git LFS pointer); set dataset.fetch.urls to the images"
            )
    else:
        head = b""
    if target.exists():
        if target.read_bytes() != head + content.read():
            raise DataError(
                f"{where}: differs from another {target.name} in the release; set dataset.fetch.urls to one"
            )
        return
    with target.open("wb") as stream:
        stream.write(head)
        shutil.copyfileobj(content, stream)


def _archive_name(number: int, url: str) -> str:
    return f"{number}_{posixpath.basename(urlsplit(url).path) or 'archive'}"
