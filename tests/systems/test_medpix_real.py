"""The real MedPix files, where they are: every count that was measured on them by other means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdexp.systems.multimodal.medpix import MedPix
from kdexp.systems.multimodal.medpix_files import LOCATIONS

ROOT = Path(os.environ.get("KDEXP_DATA", "")) / "medpix"
pytestmark = pytest.mark.skipif(
    "KDEXP_DATA" not in os.environ or not ROOT.is_dir(), reason="the real MedPix files are not under KDEXP_DATA"
)

COUNTS = {
    "train": (1653, 535, 878, 775, (264, 742, 127, 263, 257), 61, 31),
    "val": (197, 67, 84, 113, (23, 66, 20, 30, 58), 8, 15),
    "test": (200, 69, 100, 100, (32, 76, 11, 41, 40), 8, 12),
}
JOINT_TRAIN = ((246, 18), (235, 507), (98, 29), (239, 24), (60, 197))
CAPTIONS = {"train": (1105, 21, 0.55, 15), "val": (131, 24, 0.56, 6), "test": (128, 17, 0.50, 0)}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    dataset = MedPix(root=ROOT, generated_root=tmp_path_factory.mktemp("generated"), source="real")
    dataset.setup(42)
    assert dataset.source == "real"
    return dataset.inspect()


@pytest.mark.parametrize("split", COUNTS)
def test_images_cases_and_labels(found: dict, split: str) -> None:
    images, cases, ct, mr, locations, mixed, most = COUNTS[split]
    counts = found["splits"][split]
    assert (counts["images"], counts["cases"]) == (images, cases)
    assert (counts["CT"], counts["MR"]) == (ct, mr)
    assert found["locations"][split] == dict(zip(LOCATIONS, locations, strict=True))
    assert counts["cases_with_both"] == mixed
    assert (counts["images_per_case_median"], counts["images_per_case_max"]) == (2, most)


def test_location_and_modality_together_in_train(found: dict) -> None:
    rows = found["modality_by_location"]
    assert [(rows[place]["train CT"], rows[place]["train MR"]) for place in LOCATIONS] == list(JOINT_TRAIN)
    assert rows["Abdomen"]["val MR"] == 0


@pytest.mark.parametrize("split", CAPTIONS)
def test_captions(found: dict, split: str) -> None:
    distinct, median, naming, templates = CAPTIONS[split]
    captions = found["captions"][split]
    assert captions["distinct"] == distinct
    assert captions["words_median"] == median
    assert captions["share_naming_the_modality"] == pytest.approx(naming, abs=0.0051)
    assert found["dirt"][split]["template_captions"] == templates
    # The words that can be masked reach further than the scanner's name.
    assert captions["with_a_masked_word"] > captions["naming_the_modality"]


def test_the_longest_captions(found: dict) -> None:
    assert found["captions"]["train"]["words_99_percent"] == 95
    assert max(found["captions"][split]["words_max"] for split in CAPTIONS) == 189


def test_dirt(found: dict) -> None:
    assert found["captions_for_both_modalities"] == {"distinct": 10, "records": 62}
    assert found["type_differs_from_description"] == 6
    areas = ["Endocrine", "Generalized", "Hematopoietic", "Pathology", "Vascular"]
    assert found["areas_in_several_locations"] == areas
    assert [row["equal_image_files"] for row in found["dirt"].values()] == [0, 0, 0]
    assert found["image_files_without_record"] == 0
    assert [row["titles_also_in_train"] for row in found["dirt"].values()] == [None, 8, 8]


def test_the_two_patients_in_two_splits_and_the_absent_combination_are_warned_of(found: dict) -> None:
    warnings = "\n".join(found["warnings"])
    assert "MPX1683 (train) and MPX1135 (val, 3 images)" in warnings
    assert "MPX1601 (train) and MPX2518 (val, 6 images)" in warnings
    assert "val has no MR Abdomen" in warnings
    assert len(found["warnings"]) == 3
