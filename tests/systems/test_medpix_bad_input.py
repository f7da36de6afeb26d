"""Each kind of damaged MedPix folder is refused with one sentence that names the place and the way out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from medpix_helpers import change_records, descriptions, make_medpix, read_descriptions

from kdexp.errors import DataError


def refusal(root: Path, **settings) -> str:
    """What `setup` says of a folder it must refuse, having written nothing."""
    before = sorted(path for path in root.parent.rglob("*"))
    dataset = make_medpix(root, **settings)
    with pytest.raises(DataError) as error:
        dataset.setup(0)
    assert sorted(path for path in root.parent.rglob("*")) == before
    message = str(error.value)
    assert "\n" not in message
    return message


def test_real_files_asked_for_and_not_there(tmp_path: Path) -> None:
    message = refusal(tmp_path / "medpix", source="real")
    for part in (str(tmp_path / "medpix"), "KDEXP_DATA", "data action=fetch dataset=medpix", "source=synthetic"):
        assert part in message


@pytest.mark.parametrize("source", ["auto", "real"])
@pytest.mark.parametrize("lost", ["images", "splitted_dataset/descriptions_dev.jsonl"])
def test_a_folder_with_a_part_missing_is_not_passed_over(copied_root: Path, lost: str, source: str) -> None:
    path = copied_root / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    message = refusal(copied_root, source=source)
    assert lost in message
    assert "incomplete" in message


def test_an_empty_folder_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "medpix").mkdir()
    assert "incomplete" in refusal(tmp_path / "medpix")


def test_a_line_cut_short_is_named_by_file_and_number(copied_root: Path) -> None:
    path = descriptions(copied_root, "dev")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][: len(lines[3]) // 2])
    message = refusal(copied_root)
    assert f"{path}, line 4" in message
    assert "cut short" in message


def test_an_empty_line_is_not_a_record(copied_root: Path) -> None:
    path = descriptions(copied_root, "dev")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + "\n" + "".join(lines[1:]))
    assert f"{path}, line 2" in refusal(copied_root)


def test_a_line_that_is_no_object(copied_root: Path) -> None:
    path = descriptions(copied_root, "test")
    path.write_text('["CT"]\n' + path.read_text())
    assert f"{path}, line 1: holds no JSON object" in refusal(copied_root)


def test_lost_lines_show_against_the_list_of_cases(small_root: Path, tmp_path: Path) -> None:
    """A file cut between two lines is valid JSON; only uid_list.json knows better."""
    root = tmp_path / "medpix"
    shutil.copytree(small_root, root)
    last = read_descriptions(root, "train")[-1]["U_id"]
    change_records(root, "train", lambda records: records.__setitem__(slice(None), _without(records, last)))
    message = refusal(root)
    assert "uid_list.json" in message
    assert last in message


def test_a_broken_list_of_cases(copied_root: Path) -> None:
    path = copied_root / "splitted_dataset" / "uid_list.json"
    path.write_text(json.dumps({"train": ["MPX9001"]}))
    assert str(path) in refusal(copied_root)


@pytest.mark.parametrize("key", ["Type", "U_id", "image", "Location", "Location Category", "Description"])
def test_a_missing_key_is_named(copied_root: Path, key: str) -> None:
    change_records(copied_root, "train", lambda records: records[2].pop(key))
    message = refusal(copied_root)
    assert f"{descriptions(copied_root, 'train')}, line 3" in message
    assert f"has no '{key}'" in message


RECORD_MISTAKES: list[tuple[Callable, str]] = [
    (lambda record: record["Description"].pop("Caption"), "'Caption'"),
    (lambda record: record["Description"].update(Caption=None), "'Caption'"),
    (lambda record: record.update(Description="text"), "'Caption'"),
    (lambda record: record.update(Type="XR"), "unknown label 'XR' under 'Type'; known are CT, MR"),
    (lambda record: record.update({"Location Category": "Foot"}), "unknown label 'Foot' under 'Location Category'"),
    (lambda record: record.update({"Location Category": ["Head"]}), "unknown label ['Head']"),
    (lambda record: record.update(U_id=7), "'U_id' must be text"),
    (lambda record: record.update(image="../../secret"), "is not a plain file name"),
    (lambda record: record.update(image="MPX0000_synpic1"), "does not exist; fetch the images again"),
]


@pytest.mark.parametrize(("damage", "said"), RECORD_MISTAKES)
def test_a_wrong_record_is_named_by_file_and_line(copied_root: Path, damage: Callable, said: str) -> None:
    change_records(copied_root, "dev", lambda records: damage(records[4]))
    message = refusal(copied_root)
    assert f"{descriptions(copied_root, 'dev')}, line 5" in message
    assert said in message


def test_an_image_file_that_is_missing(copied_root: Path) -> None:
    name = read_descriptions(copied_root, "test")[1]["image"]
    path = copied_root / "images" / f"{name}.png"
    path.unlink()
    message = refusal(copied_root)
    assert f"{descriptions(copied_root, 'test')}, line 2" in message
    assert str(path) in message


@pytest.mark.parametrize("kept", [0, 20, 400])
def test_a_broken_png(copied_root: Path, kept: int) -> None:
    path = copied_root / "images" / f"{read_descriptions(copied_root, 'train')[5]['image']}.png"
    path.write_bytes(path.read_bytes()[:kept])
    assert f"{path}: is not a whole PNG" in refusal(copied_root)


def test_an_empty_split(copied_root: Path) -> None:
    descriptions(copied_root, "dev").write_text("")
    message = refusal(copied_root)
    assert f"{descriptions(copied_root, 'dev')}: holds no records" in message
    assert "val" in message


@pytest.mark.parametrize("word", ["train", "test"])
def test_an_image_described_twice(copied_root: Path, word: str) -> None:
    twin = read_descriptions(copied_root, "train")[0]["image"]
    change_records(copied_root, word, lambda records: records[-1].update(image=twin))
    message = refusal(copied_root)
    assert f"image {twin} is described already in {descriptions(copied_root, 'train')}, line 1" in message
    assert str(descriptions(copied_root, word)) in message


def test_the_same_image_file_under_two_names_in_two_splits(copied_root: Path) -> None:
    images = copied_root / "images"
    first, second = (read_descriptions(copied_root, word)[0]["image"] for word in ("train", "test"))
    shutil.copyfile(images / f"{first}.png", images / f"{second}.png")
    message = refusal(copied_root)
    assert first in message
    assert f"{descriptions(copied_root, 'test')}, line 1" in message


def test_a_case_in_two_splits(copied_root: Path) -> None:
    case = read_descriptions(copied_root, "train")[0]["U_id"]
    change_records(copied_root, "dev", lambda records: records[1].update(U_id=case))
    message = refusal(copied_root)
    assert f"{descriptions(copied_root, 'dev')}, line 2: case {case} is in train too" in message


def test_a_generated_folder_is_not_taken_for_real(small_root: Path) -> None:
    with pytest.raises(DataError, match=r"synthetic\.json: marks a generated folder"):
        make_medpix(small_root, source="real").setup(0)


def _without(records: list[dict], case: str) -> list[dict]:
    return [record for record in records if record["U_id"] != case]
