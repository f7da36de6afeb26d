"""Small files of jets for the tests of top tagging, in both layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kdexp.systems.toptagging.dataset import TopTagging
from kdexp.systems.toptagging.synthetic import GeneratorOptions, generated
from kdexp.systems.toptagging.writing import MadeJets, joined, write_jets

SEED = 5
M = 12


def some_jets(n_per_class: int, seed: int = 1) -> tuple[MadeJets, np.ndarray]:
    """Jets and labels, one label after the other in turns."""
    pieces = [
        generated(GeneratorOptions(), n_per_class, label, np.random.default_rng([seed, label])) for label in (0, 1)
    ]
    order = np.arange(2 * n_per_class).reshape(2, -1).T.reshape(-1)
    return joined(pieces).take(order), np.tile([0, 1], n_per_class)


def atlas_file(
    path: Path, n_per_class: int = 30, seed: int = 1, change: Callable[[h5py.File], None] | None = None
) -> Path:
    """A file in the ATLAS layout; two jets share an event. `change` may damage it."""
    jets, labels = some_jets(n_per_class, seed)
    events = seed * 1_000 + np.arange(len(labels)) // 4 + 500 * labels
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jets(path, jets, labels, events, attributes={}, compress=False)
    if change is not None:
        with h5py.File(path, "r+") as file:
            change(file)
    return path


def reference_file(path: Path, n_per_class: int = 30, seed: int = 1) -> Path:
    """A file in the layout of the 2019 reference dataset: a compound table, momenta in GeV, interleaved."""
    jets, labels = some_jets(n_per_class, seed)
    kind = np.dtype([("index", "<i8"), ("values_block_0", "<f4", (804,)), ("values_block_1", "<i8", (2,))])
    rows = np.zeros(len(labels), dtype=kind)
    momenta = (jets.energy, jets.pt * np.cos(jets.phi), jets.pt * np.sin(jets.phi), jets.pt * np.sinh(jets.eta))
    for place, values in enumerate(momenta):
        rows["values_block_0"][:, place:800:4] = values
    rows["values_block_1"][:, 1] = labels
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("table/table", data=rows)
    return path


def dataset(root: Path, **settings: Any) -> TopTagging:
    """The data set on a folder, its views beside it, set up."""
    made = unread(root, **settings)
    made.setup(SEED)
    return made


def unread(root: Path, **settings: Any) -> TopTagging:
    beside = {"generated_root": root.parent / "generated", "views_root": root.parent / "views"}
    return TopTagging(root=root, **{"max_constituents": M, **beside, **settings})
