"""The finished views of all jets: made once, piece by piece, kept on disk, and held in memory or mapped from there.

A folder per (jets read, view, number of constituents, seed) appears whole. Two passes over the files: one reads, checks
and hashes, the other, where the folder is not there yet, makes the views. So files may be larger than memory.

Shape suffixes: N jets, M constituents, F features.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from kdexp.contracts import ProgressReport
from kdexp.errors import DataError
from kdexp.records import fingerprint, read_json, write_json
from kdexp.systems.sources import folder_written_whole
from kdexp.systems.toptagging import features as feature_module
from kdexp.systems.toptagging import noise, trigger
from kdexp.systems.toptagging.features import FEATURES, features, jet_axis
from kdexp.systems.toptagging.jetfiles import JetFile, Jets, read_jets
from kdexp.systems.toptagging.noise import slot_noise
from kdexp.systems.toptagging.trigger import TriggerOptions, offline_view, raw_slots, trigger_view

VIEWS = ("offline", "hlt")
_HASHED = ("pt", "eta", "phi", "labels", "weights", "jet_pt", "events")
_MANIFEST = "manifest.json"
VIEW_VERSIONS = (feature_module.VERSION, noise.VERSION, trigger.VERSION)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Portion:
    """The first `n_jets` of a file."""

    file: JetFile
    n_jets: int

    @property
    def rows(self) -> slice:
        return slice(0, self.n_jets)


@dataclass(frozen=True, kw_only=True)
class JetTable:
    """What is known of each jet beside its constituents, (N,) each: label, training weight, pT in GeV, a number that
    jets of one event share, the jet's event or place as a name, and its file's number. `digest` is a hash of all that
    was read, constituents too; `n_sorted` are the jets by file whose constituents had to be sorted."""

    labels: NDArray[np.int64]
    weights: NDArray[np.float32]
    jet_pt: NDArray[np.float32]
    unit: NDArray[np.int64]
    clusters: NDArray[np.str_]
    file: NDArray[np.int64]
    n_sorted: tuple[int, ...]
    has_events: bool
    digest: str

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class View:
    """One view of all jets: features (N, M, F) float32, not standardised, and mask (N, M), True on constituents."""

    features: Tensor
    mask: Tensor


@dataclass(frozen=True, kw_only=True)
class Views:
    """Both views, and how many constituents there were in all: `raw`, `offline`, and after each step of the trigger."""

    offline: View
    hlt: View
    constituents: dict[str, int]
    is_mapped: bool


def read_table(portions: Sequence[Portion], n_constituents: int, progress: ProgressReport | None) -> JetTable:
    """Reads and checks every jet. Raises DataError naming file, dataset and row."""
    total = sum(portion.n_jets for portion in portions)
    has_events = all(portion.file.has_events for portion in portions)
    digests = {name: hashlib.sha256() for name in _HASHED}
    pieces: dict[str, list[Any]] = {name: [] for name in ("labels", "weights", "jet_pt", "unit", "clusters", "file")}
    n_sorted = [0] * len(portions)
    done = 0
    for number, portion in enumerate(portions):
        for rows, jets in read_jets(portion.file, portion.rows, n_constituents):
            places = np.arange(done, done + len(jets))
            events = jets.events if has_events and jets.events is not None else None
            for name, values in _columns(portion, rows, jets, events, places).items():
                pieces[name].append(values)
            pieces["file"].append(np.full(len(jets), number))
            _digested(digests, jets)
            n_sorted[number] += jets.n_sorted
            done += len(jets)
            if progress is not None:
                progress("read jets", done, total)
        if n_sorted[number]:
            logger.warning(
                "%s: the constituents of %s of %s jets were not by falling pT and were sorted",
                portion.file.path,
                f"{n_sorted[number]:,}",
                f"{portion.n_jets:,}",
            )
    table = JetTable(
        **{name: np.concatenate(found) for name, found in pieces.items()},
        n_sorted=tuple(n_sorted),
        has_events=has_events,
        digest=fingerprint([digest.hexdigest() for digest in digests.values()]),
    )
    if not table.weights.any():
        where = ", ".join(f"{portion.file.path}: {portion.file.weights}" for portion in portions)
        raise DataError(f"{where}: all weights are zero, so nothing could be learnt; mend the file")
    return table


def obtain_views(
    root: Path,
    portions: Sequence[Portion],
    table: JetTable,
    options: TriggerOptions,
    *,
    n_constituents: int,
    seed: int,
    memory_limit_bytes: float,
    progress: ProgressReport | None,
) -> Views:
    """The views from their folder under `root`, made first where it is not there. Larger than the limit, they are
    mapped from disk. Raises DataError where a folder is damaged."""
    key = fingerprint(
        table.digest, [describe(portion) for portion in portions], asdict(options), n_constituents, seed, VIEW_VERSIONS
    )
    folder = root / key
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(str(root / f".{key}.lock")):
        if not (folder / _MANIFEST).exists():
            with folder_written_whole(folder) as temporary:
                _write(temporary, portions, options, n_constituents, seed, progress)
    return _open(folder, memory_limit_bytes)


def describe(portion: Portion) -> dict[str, Any]:
    """What a fingerprint says of a file: its name, size, rows, units and where weights come from."""
    return {
        "name": portion.file.path.name,
        "bytes": portion.file.path.stat().st_size,
        "rows": [0, portion.n_jets],
        "layout": portion.file.layout,
        "units": portion.file.units,
        "weights": portion.file.weights or "ones",
    }


def _columns(
    portion: Portion, rows: slice, jets: Jets, events: NDArray[Any] | None, places: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    if jets.jet_pt is None:
        jet_pt = jet_axis(raw_slots(jets.pt, jets.eta, jets.phi, "gev"))[0].astype(np.float32)
    else:
        jet_pt = jets.jet_pt
    if events is not None:
        clusters = events.astype(np.int64).astype(str)
    else:
        clusters = np.array([f"{portion.file.path.name}:{row}" for row in range(rows.start, rows.stop)])
    unit = places if events is None else events.astype(np.int64)
    return {"labels": jets.labels, "weights": jets.weights, "jet_pt": jet_pt, "unit": unit, "clusters": clusters}


def _digested(digests: Mapping[str, Any], jets: Jets) -> None:
    """Each column has a hash of its own, so that pieces of any size give the same."""
    for name, digest in digests.items():
        values = getattr(jets, name)
        if values is not None:
            digest.update(np.ascontiguousarray(values).tobytes())


def _write(
    folder: Path,
    portions: Sequence[Portion],
    options: TriggerOptions,
    n_constituents: int,
    seed: int,
    progress: ProgressReport | None,
) -> None:
    """Makes both views piece by piece; the manifest is written last."""
    total = sum(portion.n_jets for portion in portions)
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        "features": ((total, n_constituents, len(FEATURES)), np.float32),
        "mask": ((total, n_constituents), np.bool_),
    }
    files = {
        (view, what): np.lib.format.open_memmap(folder / f"{view}_{what}.npy", mode="w+", shape=shape, dtype=dtype)
        for view in VIEWS
        for what, (shape, dtype) in shapes.items()
    }
    counts = dict.fromkeys(("raw", "offline", "above_threshold", "merged", "kept"), 0)
    done = 0
    for name, rows, jets in _pieces(portions, n_constituents):
        raw = raw_slots(jets.pt, jets.eta, jets.phi, options.wiring)
        drawn = slot_noise(seed, name, np.arange(rows.start, rows.stop), n_constituents)
        seen, triggered = offline_view(raw, options), trigger_view(raw, options, drawn)
        here = slice(done, done + len(jets))
        for view, slots in (("offline", seen), ("hlt", triggered.view)):
            files[view, "features"][here], files[view, "mask"][here] = features(slots), slots.alive
        counts["raw"] += int(raw.alive.sum())
        counts["offline"] += int(seen.alive.sum())
        counts["above_threshold"] += triggered.n_above_threshold
        counts["merged"] += triggered.n_merged
        counts["kept"] += triggered.n_kept
        done += len(jets)
        if progress is not None:
            progress("make the trigger's view", done, total)
    for file in files.values():
        file.flush()
    write_json(folder / _MANIFEST, {"n_jets": total, "constituents": counts})


def _pieces(portions: Sequence[Portion], n_constituents: int) -> Iterator[tuple[str, slice, Jets]]:
    for portion in portions:
        for rows, jets in read_jets(portion.file, portion.rows, n_constituents):
            yield portion.file.path.name, rows, jets


def _open(folder: Path, memory_limit_bytes: float) -> Views:
    paths = {(view, what): folder / f"{view}_{what}.npy" for view in VIEWS for what in ("features", "mask")}
    try:
        manifest = read_json(folder / _MANIFEST)
        is_mapped = sum(path.stat().st_size for path in paths.values()) > memory_limit_bytes
        mode: Literal["c"] | None = "c" if is_mapped else None
        found = {
            key: torch.from_numpy(np.load(path, mmap_mode=mode, allow_pickle=False)) for key, path in paths.items()
        }
        counts = dict(manifest["constituents"])
        whole = all(len(values) == manifest["n_jets"] for values in found.values())
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        whole = False
    if not whole:
        raise DataError(f"{folder}: the stored views are damaged; remove the folder and run again")
    views = {view: View(features=found[view, "features"], mask=found[view, "mask"]) for view in VIEWS}
    return Views(**views, constituents=counts, is_mapped=is_mapped)
