"""Reads jets from HDF5: ATLAS Top Tagging Open Data, both releases, and the Top Quark Tagging Reference Dataset.

ATLAS Open Data: CERN Open Data records 80030 and 15013, arXiv:2407.20127. Reference dataset: Kasieczka et al., Zenodo
2603256, arXiv:1902.09914, CC-BY. Which of them a file is, its content says.

Only what is asked for is read, rows [a, b) and the leading constituents; the stored energies are not used. Shape
suffixes: N jets, M constituents, W constituents that the file has room for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from kdexp.errors import ConfigError, DataError
from kdexp.systems.toptagging.jetchecks import (
    CONSTITUENTS,
    EVENTS,
    JET_PT,
    LABELS,
    N_LOOKED_AT,
    TABLE,
    WEIGHTS,
    Array,
    JetFile,
    Momenta,
    Units,
    out_of_order,
    refuse_bad_numbers,
    refuse_implausible,
    sorted_rows,
)

_MOMENTA, _TRUTH = "values_block_0", "values_block_1"
_REFERENCE_WIDTH = 200
_CHUNK_ROWS = 4_096


@dataclass(frozen=True, kw_only=True)
class Jets:
    """Jets of one file: pT in GeV, eta and phi, (N, M) float32, zeros where pT is 0; labels 0 or 1, weights, jet pT in
    GeV, and event numbers where the file has them; `n_sorted` had to be brought into order."""

    pt: Array
    eta: Array
    phi: Array
    labels: Array
    weights: Array
    jet_pt: Array | None
    events: Array | None
    n_sorted: int

    def __len__(self) -> int:
        return len(self.labels)


def look_at(path: Path, units: Units | None) -> JetFile:
    """Opens a file, finds out which layout it has, and checks order and units on the first 1,000 jets.

    `units` None is the layout's own: MeV for ATLAS, GeV for the reference. Raises DataError naming file and dataset.
    """
    with opened(path) as file:
        is_table = isinstance(file.get(TABLE), h5py.Dataset)
        found = _reference(path, file, units) if is_table else _atlas(path, file, units)
        if found.n_jets == 0:
            raise DataError(f"{path}: {found.constituents} holds no jet; take the file away")
        head = slice(0, min(N_LOOKED_AT, found.n_jets))
        momenta = _constituents(file, found, head, found.width)
    refuse_bad_numbers(found, momenta, head.start)
    refuse_implausible(found, np.sort(momenta[0], axis=1)[:, ::-1])
    return replace(found, is_sorted=len(out_of_order(momenta[0])) == 0)


def read_jets(found: JetFile, rows: slice, n_constituents: int) -> Iterator[tuple[slice, Jets]]:
    """The jets of these rows in pieces, each with its rows in the file.

    Jets whose constituents are not by falling pT are sorted; where some of the first 1,000 are not, whole rows are
    read of all, else of those whose leading ones show it. Raises DataError naming file, dataset and row; ConfigError
    where the file has no room for so many constituents.
    """
    if n_constituents > found.width:
        raise ConfigError(
            f"dataset.max_constituents: is {n_constituents}, but {found.path} has room for {found.width} a jet"
        )
    with opened(found.path) as file:
        for start in range(rows.start, rows.stop, _CHUNK_ROWS):
            piece = slice(start, min(start + _CHUNK_ROWS, rows.stop))
            yield piece, _piece(file, found, piece, n_constituents)


def _atlas(path: Path, file: h5py.File, units: Units | None) -> JetFile:
    lacking = [name for name in (*CONSTITUENTS, LABELS) if name not in file]
    if lacking:
        there = ", ".join(sorted(file)[:12]) or "nothing"
        raise DataError(
            f"{path}: lacks the dataset{'s' * (len(lacking) > 1)} {', '.join(lacking)} of the ATLAS layout and the "
            f"table {TABLE} of the reference layout (it has {there}); fetch it again, or choose with dataset.files"
        )
    weights = next((name for name in WEIGHTS if name in file), None)
    kept = [name for name in (*CONSTITUENTS, LABELS, weights, EVENTS, JET_PT) if name is not None and name in file]
    _refuse_no_numbers(path, file, kept)
    n_jets, width = len(file[LABELS]), 0
    for name in kept:
        shape = file[name].shape
        width = shape[1] if name in CONSTITUENTS and len(shape) == 2 and width in (0, shape[1]) else width
        if shape != ((n_jets, width) if name in CONSTITUENTS else (n_jets,)):
            raise DataError(f"{path}: {name} has the shape {shape}, {LABELS} has {n_jets} jets; fetch the file again")
    return JetFile(
        path=path,
        layout="atlas",
        n_jets=n_jets,
        width=width,
        units=units or "MeV",
        weights=weights,
        has_events=EVENTS in file,
        has_jet_pt=JET_PT in file,
        generator=str(file.attrs.get("generator", "")),
    )


def _refuse_no_numbers(path: Path, file: h5py.File, names: Sequence[str]) -> None:
    for name in names:
        kinds = "iu" if name == EVENTS else "biuf"
        if not isinstance(file[name], h5py.Dataset) or file[name].dtype.kind not in kinds or not file[name].shape:
            what = "whole numbers" if name == EVENTS else "numbers"
            raise DataError(f"{path}: {name} is no dataset of {what}, one or a row for each jet; fetch the file again")


def _reference(path: Path, file: h5py.File, units: Units | None) -> JetFile:
    table = file[TABLE]
    fields = table.dtype.fields or {}
    shapes = {name: fields[name][0].shape for name in (_MOMENTA, _TRUTH) if name in fields}
    if shapes != {_MOMENTA: (4 * (_REFERENCE_WIDTH + 1),), _TRUTH: (2,)}:
        raise DataError(
            f"{path}: {TABLE} is not the reference dataset's table: {_MOMENTA} of 804 numbers and {_TRUTH} of 2 are "
            f"needed, it has {table.dtype}; fetch it again"
        )
    return JetFile(
        path=path,
        layout="reference",
        n_jets=len(table),
        width=_REFERENCE_WIDTH,
        units=units or "GeV",
        weights=None,
        has_events=False,
        has_jet_pt=False,
    )


def _piece(file: h5py.File, found: JetFile, rows: slice, n_constituents: int) -> Jets:
    (pt, eta, phi), n_sorted = _by_falling_pt(file, found, rows, n_constituents)
    labels = _labels(file, found, rows)
    return Jets(
        pt=pt,
        eta=np.where(pt > 0, eta, np.float32(0)),
        phi=np.where(pt > 0, phi, np.float32(0)),
        labels=labels,
        weights=_weights(file, found, rows),
        jet_pt=_per_jet(file, found, JET_PT, rows) / _divisor(found) if found.has_jet_pt else None,
        events=_column(file, found, EVENTS, rows) if found.has_events else None,
        n_sorted=n_sorted,
    )


def _by_falling_pt(file: h5py.File, found: JetFile, rows: slice, n_constituents: int) -> tuple[Momenta, int]:
    """The leading constituents, (N, M) each, and of how many jets they had to be sorted, for which the whole row is
    read."""
    momenta = _constituents(file, found, rows, n_constituents if found.is_sorted else found.width)
    leading = tuple(values[:, :n_constituents].copy() for values in momenta)
    wrong = out_of_order(momenta[0])
    if len(wrong) and found.is_sorted:
        momenta = _constituents(file, found, rows, found.width)
    refuse_bad_numbers(found, momenta, rows.start)
    for values, in_order in zip(leading, sorted_rows(momenta, wrong), strict=True):
        values[wrong] = in_order[:, :n_constituents]
    pt, eta, phi = leading
    return (pt, eta, phi), len(wrong)


def _constituents(file: h5py.File, found: JetFile, rows: slice, width: int) -> Momenta:
    """pT in GeV, eta, phi of the first constituents in the file's own order, (N, M) float32."""
    if found.layout == "atlas":
        pt, eta, phi = (_leading(file, found, name, rows, width) for name in CONSTITUENTS)
    else:
        with _told(found.path, TABLE, rows):
            numbers = file[TABLE].fields(_MOMENTA)[rows][:, : 4 * width].astype(np.float64)
        energy, px, py, pz = (numbers[:, place::4] for place in range(4))
        real = ~(energy <= 0)  # a NaN is real, and is refused
        pt = np.where(real, np.hypot(px, py), 0.0)
        eta = np.where(real, np.arcsinh(pz / np.where(pt > 0, pt, 1.0)), 0.0)
        phi = np.where(real, np.arctan2(py, px), 0.0)
    pt = pt / _divisor(found)
    return pt.astype(np.float32), eta.astype(np.float32), phi.astype(np.float32)


def _leading(file: h5py.File, found: JetFile, name: str, rows: slice, width: int) -> Array:
    with _told(found.path, name, rows):
        return np.asarray(file[name][rows, :width], dtype=np.float64)


def _divisor(found: JetFile) -> float:
    return 1000.0 if found.units == "MeV" else 1.0


def _labels(file: h5py.File, found: JetFile, rows: slice) -> Array:
    if found.layout == "atlas":
        labels, name = _column(file, found, LABELS, rows), LABELS
    else:
        name = TABLE
        with _told(found.path, name, rows):
            labels = np.asarray(file[TABLE].fields(_TRUTH)[rows])[:, 1]
    bad = np.flatnonzero((labels != 0) & (labels != 1))
    if len(bad):
        raise DataError(
            f"{found.path}: {name}, row {rows.start + bad[0]}: the label {labels[bad[0]]} is not 0 or 1; mend the file"
        )
    return labels.astype(np.int64)


def _weights(file: h5py.File, found: JetFile, rows: slice) -> Array:
    """The jets' training weights, ones where the file has none."""
    if found.weights is None:
        return np.ones(rows.stop - rows.start, dtype=np.float32)
    weights = _per_jet(file, found, found.weights, rows)
    bad = np.flatnonzero(weights < 0)
    if len(bad):
        raise DataError(
            f"{found.path}: {found.weights}, row {rows.start + bad[0]}: a weight is negative; mend the file"
        )
    return weights


def _per_jet(file: h5py.File, found: JetFile, name: str, rows: slice) -> Array:
    """One finite number a jet, (N,) float32."""
    values = _column(file, found, name, rows).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(f"{found.path}: {name}, row {rows.start + bad[0]}: is not finite; mend the file")
    return values


def _column(file: h5py.File, found: JetFile, name: str, rows: slice) -> Array:
    with _told(found.path, name, rows):
        return np.asarray(file[name][rows])


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file for reading. Raises DataError where it is no whole HDF5 file."""
    with suppress(ImportError):  # brings the filters of files that PyTables compressed
        import hdf5plugin  # noqa: F401
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: is no whole HDF5 file ({_short(error)}); fetch it again") from None
    with file:
        yield file


@contextmanager
def _told(path: Path, name: str, rows: slice) -> Iterator[None]:
    """What HDF5 says of a broken piece, with file, dataset and rows."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        said = _short(error)
        needs_plugin = "not registered" in said or "can't open directory" in said
        way_out = "pip install hdf5plugin" if needs_plugin else "fetch the file again"
        raise DataError(
            f"{path}: {name}, rows {rows.start} to {rows.stop - 1}: cannot be read ({said}); {way_out}"
        ) from None


def _short(error: Exception) -> str:
    return str(error).splitlines()[0]
