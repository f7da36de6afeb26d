"""Real files or the synthetic stand-in: one rule for every system.

`auto` takes the real files where the root exists, else the system's generator. A root that exists is never passed
over: where it is incomplete, that is an error. A generated folder carries a marker, so it stays SYNTHETIC wherever it
is moved.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from kdexp.errors import DataError
from kdexp.records import fingerprint, write_json

MARKER = "synthetic.json"
Source = Literal["real", "synthetic"]
SourceChoice = Literal["auto", "real", "synthetic"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Generator:
    """How a system makes its stand-in: `write` fills an empty folder, `settings` is everything but the seed that
    changes what it writes."""

    write: Callable[[Path, int], None]
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Where to read from, and what that is."""

    root: Path
    source: Source


def resolve_source(
    name: str,
    *,
    source: SourceChoice,
    root: Path,
    generated_root: Path,
    missing: Callable[[Path], list[str]],
    generator: Generator,
    seed: int,
    can_fetch: bool = True,
) -> Resolved:
    """Decides what to read for the data set `name`; generates the stand-in where that is the decision.

    `missing` lists what a root lacks of the layout; `can_fetch` says whether `data action=fetch` gets the files.
    Raises DataError where real files are asked for and not there, where a root exists but is incomplete, and where a
    generated folder is passed off as real.
    """
    if source == "synthetic":
        return _generated(name, generated_root, generator, seed)
    if root.exists():
        return _existing(name, root, source, missing, can_fetch)
    _refuse_unfinished_download(name, root)
    if source == "real":
        fetch = f"or run `python -m kdexp data action=fetch dataset={name}`, " if can_fetch else ""
        raise DataError(
            f"{root}: there are no {name} files (dataset.source=real); set KDEXP_DATA to the folder that holds "
            f"{name}/, {fetch}or use dataset.source=synthetic"
        )
    return _generated(name, generated_root, generator, seed)


def write_generated(root: Path, generator: Generator, seed: int, name: str) -> None:
    """Generates into `root`, whole or not at all, with the marker. Raises DataError where `root` holds something."""
    refuse_occupied(root)
    with folder_written_whole(root) as temporary:
        generator.write(temporary, seed)
        write_json(temporary / MARKER, {"dataset": name, "seed": seed, "settings": dict(generator.settings)})


def refuse_occupied(root: Path) -> None:
    """Raises DataError where writing a data set to `root` would overwrite something."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root}: exists already, and would be overwritten; remove it or choose another root")


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, beside the final place; renamed there when the block ends well, else removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def download_folder(root: Path) -> Path:
    """Where the archives for `root` are kept while they are fetched: beside it, so that `root` appears whole."""
    return root.with_name(f".{root.name}.download")


def _existing(
    name: str, root: Path, source: SourceChoice, missing: Callable[[Path], list[str]], can_fetch: bool
) -> Resolved:
    lacking = missing(root)
    if lacking:
        fetch = f"remove the folder and run `python -m kdexp data action=fetch dataset={name}`"
        raise DataError(
            f"{root}: {name} is incomplete, without {', '.join(lacking)}; "
            f"{fetch if can_fetch else 'add what is missing'}, or use dataset.source=synthetic"
        )
    if not (root / MARKER).exists():
        return Resolved(root=root, source="real")
    if source == "real":
        raise DataError(
            f"{root / MARKER}: marks a generated folder, but dataset.source=real; point dataset.root at the real "
            "files, or use dataset.source=auto"
        )
    _warn_synthetic(name, root)
    return Resolved(root=root, source="synthetic")


def _refuse_unfinished_download(name: str, root: Path) -> None:
    if any(download_folder(root).glob("*.part")):
        raise DataError(
            f"{download_folder(root)}: the download of {name} did not finish; run `python -m kdexp data action=fetch "
            f"dataset={name}` to go on with it, remove that folder, or use dataset.source=synthetic"
        )


def _generated(name: str, generated_root: Path, generator: Generator, seed: int) -> Resolved:
    """The stand-in for these settings, made once. The lock lets one of several processes make it."""
    folder = generated_root / f"{name}-{fingerprint(dict(generator.settings), seed)}"
    generated_root.mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder.with_name(f".{folder.name}.lock"))):
        if not (folder / MARKER).exists():
            write_generated(folder, generator, seed, name)
    _warn_synthetic(name, folder)
    return Resolved(root=folder, source="synthetic")


def _warn_synthetic(name: str, folder: Path) -> None:
    logger.warning(
        "SYNTHETIC data: %s is a generated stand-in (%s); its numbers say nothing about the real data", name, folder
    )
