"""Random numbers that belong to a jet: keyed by seed, file and row, so that no order, subset or batch changes them.

Philox 4x32 with ten rounds: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdexp.seeds import derive_seed

VERSION = 1
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

Words = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class SlotNoise:
    """Independent draws for every slot of N jets, each (N, M) float64: three standard normals, and a uniform in
    (0, 1)."""

    pt: NDArray[np.float64]
    eta: NDArray[np.float64]
    phi: NDArray[np.float64]
    loss: NDArray[np.float64]


def slot_noise(seed: int, file: str, row_N: NDArray[np.int64], n_slots: int) -> SlotNoise:
    """The noise of the jets in these rows of the file with this name. More slots leave the first ones as they are."""
    key = derive_seed(seed, "trigger", file)
    row = np.asarray(row_N, dtype=np.uint64)[:, None]
    slot = np.arange(n_slots, dtype=np.uint64)[None, :]
    first = philox((slot, np.uint64(0), row & _LOW, row >> _HALF), key)
    second = philox((slot, np.uint64(1), row & _LOW, row >> _HALF), key)
    radius, angle = _radius(first[0]), 2 * np.pi * _uniform(first[1])
    return SlotNoise(
        pt=radius * np.cos(angle),
        eta=radius * np.sin(angle),
        phi=_radius(first[2]) * np.cos(2 * np.pi * _uniform(first[3])),
        loss=_uniform(second[0]),
    )


def philox(counter: tuple[Words | np.uint64, ...], key: int) -> tuple[Words, Words, Words, Words]:
    """Four 32-bit words, held in uint64, for each counter of four 32-bit words; `key` has 64 bits."""
    one, two, three, four = np.broadcast_arrays(*counter)
    low, high = key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF
    for number in range(10):
        keys = [np.uint64((start + number * step) & 0xFFFFFFFF) for start, step in zip((low, high), _WEYL, strict=True)]
        left, right = one * _MULTIPLIERS[0], three * _MULTIPLIERS[1]
        one, two, three, four = (
            (right >> _HALF) ^ two ^ keys[0],
            right & _LOW,
            (left >> _HALF) ^ four ^ keys[1],
            left & _LOW,
        )
    return one, two, three, four


def _uniform(word: Words) -> NDArray[np.float64]:
    """In (0, 1), never at an end."""
    return (word.astype(np.float64) + 0.5) * 2.0**-32


def _radius(word: Words) -> NDArray[np.float64]:
    """The length of a pair of standard normals (Box and Muller)."""
    return np.sqrt(-2 * np.log(_uniform(word)))
