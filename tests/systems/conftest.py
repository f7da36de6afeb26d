"""One small generated MedPix folder for all tests, copied where a test damages it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from medpix_helpers import SEED, make_medpix

from kdexp.systems.multimodal.medpix import MedPix


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
