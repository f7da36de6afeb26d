"""What a jet file is, and what is refused of the constituents in it.

Shape suffixes: N jets, M constituents.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdexp.errors import DataError

Units = Literal["MeV", "GeV"]
Array = NDArray[Any]
Momenta = tuple[Array, Array, Array]
"""pT in GeV, eta and phi of constituents, (N, M) each."""

CONSTITUENTS = ("fjet_clus_pt", "fjet_clus_eta", "fjet_clus_phi")
LABELS, EVENTS, JET_PT = "labels", "EventInfo_mcEventNumber", "fjet_pt"
WEIGHTS = ("training_weights", "weights")
TABLE = "table/table"
N_LOOKED_AT = 1_000
_LEADING_GEV = (5.0, 5_000.0)
_LEAST_RATIO = 2.0


@dataclass(frozen=True, kw_only=True)
class JetFile:
    """A file that was looked at: what it is, how many jets it has, and whether constituents come by falling pT."""

    path: Path
    layout: Literal["atlas", "reference"]
    n_jets: int
    width: int
    units: Units
    weights: str | None
    has_events: bool
    has_jet_pt: bool
    generator: str = ""
    """What the file says made it; the ATLAS files say nothing."""
    is_sorted: bool = True

    @property
    def constituents(self) -> str:
        """What an error calls the constituents."""
        return CONSTITUENTS[0] if self.layout == "atlas" else TABLE


def refuse_bad_numbers(found: JetFile, momenta: Momenta, first_row: int) -> None:
    """Raises DataError for the first jet with a number that is none, a negative pT, or no constituent."""
    names = CONSTITUENTS if found.layout == "atlas" else (TABLE,) * 3
    for name, values in zip(names, momenta, strict=True):
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            raise DataError(f"{found.path}: {name}, row {first_row + bad[0]}: a momentum is not finite; mend the file")
    pt = momenta[0]
    negative, empty = np.flatnonzero((pt < 0).any(axis=1)), np.flatnonzero(~(pt > 0).any(axis=1))
    if len(negative):
        raise DataError(f"{found.path}: {names[0]}, row {first_row + negative[0]}: a pT is negative; mend the file")
    if len(empty):
        raise DataError(
            f"{found.path}: {names[0]}, row {first_row + empty[0]}: the jet has no constituent, all are zero; take "
            f"such jets out ({len(empty)} among the {len(pt)} read together)"
        )


def refuse_implausible(found: JetFile, sorted_pt: Array) -> None:
    """Raises DataError where the pT, read in these units, can be no jet's constituents."""
    here = f"{found.path}: {found.constituents}"
    leading = float(np.median(sorted_pt[:, 0]))
    low, high = _LEADING_GEV
    with_ten = sorted_pt[sorted_pt[:, 9] > 0] if sorted_pt.shape[1] >= 10 else sorted_pt[:0]
    ratio = float(np.median(with_ten[:, 0] / with_ten[:, 9])) if len(with_ten) else np.inf
    if ratio < _LEAST_RATIO:
        raise DataError(
            f"{here}: the hardest constituent has only {ratio:.2f} times the pT of the tenth (median), as logarithms "
            "of pT would; give files that hold the momenta themselves"
        )
    if not low <= leading <= high:
        other: Units = "GeV" if found.units == "MeV" else "MeV"
        factor = 1000 if found.units == "MeV" else 1 / 1000
        hint = f"set dataset.units={other}" if low <= leading * factor <= high else "give files of jets"
        raise DataError(
            f"{here}: read as {found.units}, the median pT of the hardest constituent is {leading:.4g} GeV, outside "
            f"{low:g} to {high:g}; {hint}"
        )


def out_of_order(pt_NM: Array) -> Array:
    """The jets, as row numbers, whose constituents are not by falling pT, or begin with none."""
    return np.flatnonzero((np.diff(pt_NM, axis=1) > 0).any(axis=1) | (pt_NM[:, 0] == 0))


def sorted_rows(momenta: Momenta, rows: Array) -> Momenta:
    """These jets alone, their constituents by falling pT; equal ones keep their order."""
    order = np.argsort(-momenta[0][rows], axis=1, kind="stable")
    pt, eta, phi = (np.take_along_axis(values[rows], order, axis=1) for values in momenta)
    return pt, eta, phi
