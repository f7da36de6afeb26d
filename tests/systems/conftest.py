"""One small generated MedPix folder and one Wound folder for all tests, copied where a test damages them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from medpix_helpers import SEED, make_medpix
from wound_helpers import csv_file, make_wound

from kdexp.systems.multimodal.medpix import MedPix
from kdexp.systems.multimodal.wound import Wound


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated folder; read only."""
    root = tmp_path_factory.mktemp("medpix") / "medpix"
    make_medpix(root).generate(root, SEED)
    return root


@pytest.fixture(scope="session")
def small_medpix(small_root: Path) -> MedPix:
    """The same folder, set up; read only."""
    dataset = make_medpix(small_root)
    dataset.setup(SEED)
    return dataset


@pytest.fixture
def copied_root(small_root: Path, tmp_path: Path) -> Path:
    """A copy that a test may change; without the list of case ids, so that one mistake is one mistake."""
    root = tmp_path / "medpix"
    shutil.copytree(small_root, root)
    (root / "splitted_dataset" / "uid_list.json").unlink()
    return root


@pytest.fixture(scope="session")
def wound_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated Wound folder; read only."""
    root = tmp_path_factory.mktemp("wound") / "wound"
    make_wound(root).generate(root, SEED)
    return root


@pytest.fixture(scope="session")
def small_wound(wound_root: Path) -> Wound:
    """The same folder, set up; read only."""
    dataset = make_wound(wound_root)
    dataset.setup(SEED)
    return dataset


@pytest.fixture
def copied_wound(wound_root: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(wound_root, tmp_path / "wound"))


@pytest.fixture
def undivided_wound(copied_wound: Path) -> Path:
    """The same with metadata.csv alone, so that it has to be split."""
    for word in ("train", "dev", "test"):
        csv_file(copied_wound, word).unlink()
    return copied_wound
