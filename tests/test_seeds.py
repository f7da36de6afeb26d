"""Every random stream has a name, and its seed depends on nothing else."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
import torch

from kdexp.seeds import derive_seed
from support import ROOT


def test_a_seed_is_the_same_on_every_machine() -> None:
    # The first 8 bytes of `printf 42:weights | sha256sum`, halved; another rule would change every repeated run.
    assert derive_seed(42, "weights") == 1546291376628261352
    assert derive_seed(42, "epoch", 3, 0) == 811140653287060365


def test_a_seed_does_not_depend_on_the_hash_seed_of_the_process() -> None:
    code = "from kdexp.seeds import derive_seed; print(derive_seed(7, 'order', 2))"
    environment = {"PYTHONPATH": str(ROOT / "src")}
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert said == {str(derive_seed(7, "order", 2))}


def test_streams_differ_by_seed_and_by_every_part_of_their_name() -> None:
    streams = [
        (seed, *name) for seed in range(20) for name in (("weights",), ("order", 0), ("order", 1), ("epoch", 1, 0))
    ]
    assert len({derive_seed(*stream) for stream in streams}) == len(streams) == 80
    # A name is not its neighbours run together.
    assert derive_seed(1, "a", "b") != derive_seed(1, "ab")
    assert derive_seed(1, 12, 3) != derive_seed(1, 1, 23)
    assert derive_seed(11, "x") != derive_seed(1, "1x")


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63, 10**30])
def test_a_seed_suits_every_generator(seed: int) -> None:
    derived = derive_seed(seed, "x")
    assert 0 <= derived < 2**63
    assert torch.Generator().manual_seed(derived).initial_seed() == derived


def test_deriving_draws_nothing() -> None:
    before = random.getstate(), torch.get_rng_state()
    derive_seed(1, "x")
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
