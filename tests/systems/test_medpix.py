from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from medpix_helpers import change_records, make_medpix, read_descriptions

from kdexp.contracts import SPLITS, Dataset, Split
from kdexp.systems.multimodal.medpix import MedPix
from kdexp.systems.multimodal.medpix_files import LOCATIONS, MODALITIES
from kdexp.systems.multimodal.text import TextOptions


def test_medpix_keeps_the_dataset_contract(small_medpix: MedPix) -> None:
    assert isinstance(small_medpix, Dataset)
    assert all(isinstance(small_medpix.split(name), Split) for name in SPLITS)


def test_using_it_before_setup_is_an_error(small_root: Path) -> None:
    with pytest.raises(RuntimeError, match="setup"):
        make_medpix(small_root).split("train")


def test_the_constructor_reads_nothing(tmp_path: Path) -> None:
    make_medpix(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("split", "word"), [("train", "train"), ("val", "dev"), ("test", "test")])
def test_labels_and_clusters_are_those_of_the_files(small_medpix: MedPix, small_root: Path, split, word) -> None:
    records = read_descriptions(small_root, word)
    held = small_medpix.split(split)
    targets = held.fetch(torch.arange(len(held))).targets
    assert [MODALITIES[label] for label in targets["modality"]] == [record["Type"] for record in records]
    assert [LOCATIONS[label] for label in targets["location"]] == [record["Location Category"] for record in records]
    assert held.clusters.tolist() == [record["U_id"] for record in records]


def test_a_batch_has_the_promised_shapes_and_one_view(small_medpix: MedPix) -> None:
    batch = small_medpix.split("train").fetch(torch.tensor([3, 0, 3]))
    assert batch.teacher is batch.student
    assert batch.student["image"].shape == (3, 1, 32, 32)
    assert batch.student["image"].dtype == torch.uint8
    assert batch.student["tokens"].shape == (3, 48)
    assert batch.student["tokens"].dtype == torch.int64
    assert batch.student["mask"].dtype == torch.bool
    # A start token keeps every row readable, whatever was masked.
    assert batch.student["mask"][:, 0].all()
    assert batch.index.tolist() == [3, 0, 3]


def test_fetching_together_equals_fetching_one_by_one(small_medpix: MedPix) -> None:
    split = small_medpix.split("val")
    index = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    together = split.fetch(index)
    for place, sample in enumerate(index):
        alone = split.fetch(sample[None])
        for name, tensor in alone.student.items():
            assert torch.equal(tensor[0], together.student[name][place])
        for task, label in alone.targets.items():
            assert torch.equal(label[0], together.targets[task][place])


def test_a_fetched_batch_may_be_changed_without_harm(small_medpix: MedPix) -> None:
    split = small_medpix.split("train")
    first = split.fetch(torch.tensor([0]))
    expected = first.student["image"].clone()
    first.student["image"].zero_()
    first.student["tokens"].zero_()
    assert torch.equal(split.fetch(torch.tensor([0])).student["image"], expected)
    assert split.fetch(torch.tensor([0])).student["tokens"].any()


def test_nothing_that_names_a_label_reaches_a_model(small_medpix: MedPix, copied_root: Path) -> None:
    """Every field but the caption and the pixels is changed; file names too. The model must see the same."""

    def give_away(records: list[dict[str, Any]]) -> None:
        for number, record in enumerate(records):
            record["Type"] = MODALITIES[1 - MODALITIES.index(record["Type"])]
            record["Location Category"] = LOCATIONS[(LOCATIONS.index(record["Location Category"]) + 1) % 5]
            record["Location"] = record["Location Category"]
            record["Description"] |= {"Modality": record["Type"], "ACR Codes": "9.9", "Age": "1", "Plane": None}
            renamed = f"{record['Type']}_{record['Location'][:4]}_{number}"
            (copied_root / "images" / f"{record['image']}.png").rename(copied_root / "images" / f"{renamed}.png")
            record["image"] = renamed

    change_records(copied_root, "train", give_away)
    changed = make_medpix(copied_root)
    changed.setup(0)
    index = torch.arange(len(changed.split("train")))
    before, after = small_medpix.split("train").fetch(index), changed.split("train").fetch(index)
    assert set(after.student) == {"image", "tokens", "mask"}
    for name in after.student:
        assert torch.equal(before.student[name], after.student[name])
    # The labels themselves did change, so the test has looked at the changed files.
    assert (before.targets["modality"] != after.targets["modality"]).all()
    assert (before.targets["location"] != after.targets["location"]).all()


def test_the_fingerprint_is_the_same_twice_and_moves_with_the_data_and_the_settings(
    small_medpix: MedPix, small_root: Path, copied_root: Path
) -> None:
    def fingerprint_of(root: Path, **settings: Any) -> str:
        dataset = make_medpix(root, **settings)
        dataset.setup(0)
        return dataset.fingerprint

    assert fingerprint_of(small_root) == small_medpix.fingerprint
    others = {fingerprint_of(small_root, image_size=16), fingerprint_of(small_root, text=TextOptions(length=16))}
    others.add(fingerprint_of(small_root, text=TextOptions(mask_modality_words=True)))
    change_records(copied_root, "dev", lambda records: records[0]["Description"].update(Caption="new"))
    others.add(fingerprint_of(copied_root))
    assert len(others | {small_medpix.fingerprint}) == 5


def test_the_fingerprint_moves_with_one_pixel(copied_root: Path) -> None:
    from PIL import Image

    before, after = make_medpix(copied_root), make_medpix(copied_root)
    before.setup(0)
    path = sorted((copied_root / "images").iterdir())[0]
    with Image.open(path) as image:
        changed = image.copy()
    changed.putpixel(
        (0, 0), tuple(255 - value for value in changed.getpixel((0, 0))[:3]) if changed.mode != "L" else 77
    )
    changed.save(path)
    after.setup(0)
    assert before.fingerprint != after.fingerprint


def test_progress_is_told_while_images_are_decoded(small_root: Path) -> None:
    told: list[tuple[str, int, int]] = []
    make_medpix(small_root).setup(0, progress=lambda what, done, total: told.append((what, done, total)))
    assert {what for what, _, _ in told} == {"decode images"}
    # Once at the end of each of the three splits, at least.
    assert sum(done == total for _, done, total in told) == 3


def test_model_arguments_say_what_a_model_needs(small_root: Path) -> None:
    dataset = make_medpix(small_root, text=TextOptions(vocabulary_size=100, length=12))
    arguments = dataset.model_arguments()
    assert [task.name for task in arguments.pop("tasks")] == ["modality", "location"]
    assert arguments == {
        "vocabulary_size": 100,
        "text_length": 12,
        "tokenizer": "words",
        "image_size": 32,
        "colour": False,
    }


def test_inspect_counts_and_warns(small_medpix: MedPix) -> None:
    found = small_medpix.inspect()
    json.dumps(found)  # plain values only
    for split in SPLITS:
        counts = found["splits"][split]
        assert counts["images"] == len(small_medpix.split(split))
        assert counts["CT"] + counts["MR"] == sum(found["locations"][split].values()) == counts["images"]
    assert found["source"] == "synthetic"
    assert [found["dirt"][split]["template_captions"] for split in SPLITS] == [2, 1, 0]
    assert found["image_files_without_record"] == 0
    assert any(warning.startswith("val has no MR Abdomen") for warning in found["warnings"])


def test_inspect_names_the_patients_that_are_in_two_splits(copied_root: Path) -> None:
    def rename(case: str):
        return lambda records: [r.update(U_id=case) for r in records if r["U_id"] == records[0]["U_id"]]

    change_records(copied_root, "train", rename("MPX1683"))
    change_records(copied_root, "dev", rename("MPX1135"))
    dataset = make_medpix(copied_root)
    dataset.setup(0)
    assert any("MPX1683 (train) and MPX1135 (val" in warning for warning in dataset.inspect()["warnings"])


def test_inspect_says_when_the_case_files_are_absent(copied_root: Path) -> None:
    (copied_root / "splitted_dataset" / "data_dev.jsonl").unlink()
    dataset = make_medpix(copied_root)
    dataset.setup(0)
    assert [row["titles_also_in_train"] for row in dataset.inspect()["dirt"].values()] == [None, None, None]
