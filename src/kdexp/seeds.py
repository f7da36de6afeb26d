"""The one function in which seeds derive: every random stream has a name."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *names: str | int) -> int:
    """A seed in [0, 2^63) for the stream with these names, e.g. `derive_seed(42, "epoch", 3)`.

    Streams with different names are independent; the same names give the same seed on every machine.
    """
    text = ":".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
