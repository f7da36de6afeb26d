"""Which jets are trained on: the unit is the event, so that two jets of one event are never in two splits."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kdexp.contracts import SplitName
from kdexp.seeds import derive_seed

SplitRule = Literal["random", "modulo", "file"]
Rows = NDArray[np.int64]
_OFF_TRAIN, _VAL_OF_THE_REST = 0.30, 0.15
_MODULUS = 10


def random_split(unit_N: Rows, labels_N: Rows, seed: int) -> dict[SplitName, Rows]:
    """70, 15 and 15 % of the units by label; rows by split, in their order. A unit with jets of both labels counts as a
    kind of its own."""
    rest, train = _parted(unit_N, labels_N, _OFF_TRAIN, derive_seed(seed, "split", "train"))
    test, val = _parted(unit_N[rest], labels_N[rest], 0.5, derive_seed(seed, "split", "test"))
    return {"train": train, "val": rest[val], "test": rest[test]}


def modulo_split(events_N: Rows, labels_N: Rows, seed: int) -> dict[SplitName, Rows]:
    """The rule of the ATLAS files: an event whose number ends in 0 is a test event; of the others 15 % are val."""
    is_test = events_N % _MODULUS == 0
    test, rest = np.flatnonzero(is_test), np.flatnonzero(~is_test)
    val, train = _parted(events_N[rest], labels_N[rest], _VAL_OF_THE_REST, derive_seed(seed, "split", "val"))
    return {"train": rest[train], "val": rest[val], "test": test}


def file_split(said_N: NDArray[np.str_], unit_N: Rows, labels_N: Rows, seed: int) -> dict[SplitName, Rows]:
    """As the files' names say; where none is a val file, 15 % of the units of train are val."""
    found: dict[SplitName, Rows] = {name: np.flatnonzero(said_N == name) for name in ("train", "val", "test")}
    if len(found["val"]) == 0:
        train = found["train"]
        val, kept = _parted(unit_N[train], labels_N[train], _VAL_OF_THE_REST, derive_seed(seed, "split", "val"))
        found |= {"train": train[kept], "val": train[val]}
    return found


def _parted(unit_N: Rows, labels_N: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """(rows of a share of the units, all other rows), each in order: that share of every kind of unit."""
    _, place_N = np.unique(unit_N, return_inverse=True)
    place_N = place_N.reshape(-1)
    n_units = int(place_N.max()) + 1 if len(place_N) else 0
    has = [np.bincount(place_N[labels_N == label], minlength=n_units) > 0 for label in (0, 1)]
    kind = has[0] + 2 * has[1]
    taken = np.zeros(n_units, dtype=bool)
    generator = np.random.default_rng(seed)
    for number in np.unique(kind):
        units = np.flatnonzero(kind == number)
        taken[generator.permutation(units)[: round(share * len(units))]] = True
    return np.flatnonzero(taken[place_N]), np.flatnonzero(~taken[place_N])
