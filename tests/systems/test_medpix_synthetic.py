from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path

import pytest
from medpix_helpers import SEED, descriptions, make_medpix, read_descriptions
from PIL import Image

from kdexp.contracts import SPLITS
from kdexp.errors import DataError
from kdexp.systems.multimodal.images import normalise
from kdexp.systems.multimodal.medpix import MedPix
from kdexp.systems.multimodal.medpix_files import LOCATIONS
from kdexp.systems.multimodal.medpix_synthetic import TEMPLATE, GeneratorOptions

WORDS = ("train", "dev", "test")


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(small_root: Path, tmp_path: Path) -> None:
    make_medpix(tmp_path).generate(tmp_path / "again", SEED)
    make_medpix(tmp_path).generate(tmp_path / "other", SEED + 1)
    assert contents(tmp_path / "again") == contents(small_root)
    other, first = contents(tmp_path / "other"), contents(small_root)
    shared = [name for name in first if name.startswith("images/") and name in other]
    assert len(shared) > 10
    assert all(other[name] != first[name] for name in shared)


def test_the_small_preset_is_about_120_images_in_under_two_seconds(tmp_path: Path) -> None:
    start = time.process_time()
    make_medpix(tmp_path).generate(tmp_path / "medpix", 0)
    assert time.process_time() - start < 2
    assert 90 <= len(list((tmp_path / "medpix" / "images").iterdir())) <= 150


def test_the_default_preset_is_several_hundred_images(tmp_path: Path) -> None:
    make_medpix(tmp_path, generator=GeneratorOptions()).generate(tmp_path / "medpix", 0)
    assert 500 <= len(list((tmp_path / "medpix" / "images").iterdir())) <= 750


def test_the_marker_says_what_made_the_folder(small_root: Path) -> None:
    marker = json.loads((small_root / "synthetic.json").read_text())
    assert marker["dataset"] == "medpix"
    assert marker["seed"] == SEED
    assert marker["settings"]["preset"] == "small"


def test_an_existing_folder_is_never_overwritten(copied_root: Path) -> None:
    before = contents(copied_root)
    with pytest.raises(DataError, match="exists already"):
        make_medpix(copied_root).generate(copied_root, SEED)
    assert contents(copied_root) == before


def test_a_generator_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_medpix(tmp_path).generate(tmp_path / "medpix", 0, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_all_files_of_the_release_are_there(small_root: Path) -> None:
    assert sorted(path.name for path in (small_root / "splitted_dataset").iterdir()) == sorted(
        [f"{kind}_{word}.jsonl" for kind in ("data", "descriptions") for word in WORDS] + ["uid_list.json"]
    )
    listed = json.loads((small_root / "splitted_dataset" / "uid_list.json").read_text())
    assert listed["train_1"] + listed["train_2"] == listed["train"]
    for word in WORDS:
        assert set(listed[word]) == {record["U_id"] for record in read_descriptions(small_root, word)}


def test_case_files_list_the_images_by_scanner(small_root: Path) -> None:
    for word in WORDS:
        path = small_root / "splitted_dataset" / f"data_{word}.jsonl"
        cases = [json.loads(line) for line in path.read_text().splitlines()]
        by_case = defaultdict(lambda: {"CT": [], "MR": []})
        for record in read_descriptions(small_root, word):
            by_case[record["U_id"]][record["Type"]].append(record["image"])
        assert {case["U_id"]: {"CT": case["TAC"], "MR": case["MRI"]} for case in cases} == dict(by_case)


@pytest.mark.parametrize("seed", range(3))
def test_the_dirt_of_the_real_data_is_planted(tmp_path: Path, seed: int) -> None:
    root = tmp_path / "medpix"
    dataset = make_medpix(root)
    dataset.generate(root, seed)
    records = {word: read_descriptions(root, word) for word in WORDS}
    everything = [record for word in WORDS for record in records[word]]
    assert [sum(r["Description"]["Caption"] == TEMPLATE for r in records[word]) for word in WORDS] == [2, 1, 0]
    # Val misses a combination that train has; each region alone is in each split.
    combinations = {word: {(r["Type"], r["Location Category"]) for r in records[word]} for word in WORDS}
    assert ("MR", "Abdomen") not in combinations["dev"]
    assert ("MR", "Abdomen") in combinations["train"]
    for word in WORDS:
        assert {place for _, place in combinations[word]} == set(LOCATIONS)
        assert {name for name, _ in combinations[word]} == {"CT", "MR"}
    # Captions are ASCII with escapes on disk and more than ASCII once read.
    assert all(descriptions(root, word).read_bytes().isascii() for word in WORDS)
    assert any(not record["Description"]["Caption"].isascii() for record in everything)
    dataset.setup(0)
    found = dataset.inspect()
    assert found["captions_for_both_modalities"]["distinct"] >= 2
    for split in SPLITS:
        assert found["splits"][split]["images_per_case_max"] > 1
        assert found["splits"][split]["cases_with_both"] >= 1
        assert found["captions"][split]["distinct"] < found["splits"][split]["images"]
        assert 0 < found["captions"][split]["naming_the_modality"] < found["splits"][split]["images"]


def test_images_vary_in_size_and_kind(small_root: Path) -> None:
    kinds, sizes = set(), set()
    for path in (small_root / "images").iterdir():
        with Image.open(path) as image:
            kinds.add(image.mode)
            sizes.add(image.size)
    assert kinds == {"L", "RGB", "RGBA"}
    assert len(sizes) > 20


def test_the_location_is_visible_in_the_image(small_medpix: MedPix) -> None:
    """The nearest mean image of train finds the region of most test images; guessing would find one in five."""
    import torch

    train, test = (
        split.fetch(torch.arange(len(split))) for split in (small_medpix.split("train"), small_medpix.split("test"))
    )

    def shapes(batch) -> torch.Tensor:
        return torch.nn.functional.normalize(
            torch.nn.functional.avg_pool2d(normalise(batch.student["image"]), 4).flatten(1).abs()
        )

    right = 0
    for modality in (0, 1):
        pick = {name: batch.targets["modality"] == modality for name, batch in (("train", train), ("test", test))}
        places = train.targets["location"][pick["train"]].unique()
        features = shapes(train)[pick["train"]]
        means = torch.stack([features[train.targets["location"][pick["train"]] == p].mean(0) for p in places])
        guess = places[torch.cdist(shapes(test)[pick["test"]], means).argmin(1)]
        right += int((guess == test.targets["location"][pick["test"]]).sum())
    assert right / len(test) > 0.5


def test_noise_changes_the_images(tmp_path: Path) -> None:
    for noise in (0.0, 0.4):
        options = GeneratorOptions(preset="small", noise=noise)
        make_medpix(tmp_path, generator=options).generate(tmp_path / str(noise), SEED)
    clean, noisy = (contents(tmp_path / str(noise)) for noise in (0.0, 0.4))
    assert set(clean) == set(noisy)
    name = next(name for name in clean if name.startswith("images/"))
    assert len(clean[name]) < len(noisy[name])
