"""Each kind of damaged Wound folder is refused with one sentence that names the place and the way out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from wound_helpers import change_rows, csv_file, make_wound, read_rows

from kdexp.errors import DataError


def refusal(root: Path, **settings) -> str:
    """What `setup` says of a folder it must refuse, having written nothing."""
    before = sorted(path for path in root.parent.rglob("*"))
    dataset = make_wound(root, **settings)
    with pytest.raises(DataError) as error:
        dataset.setup(0)
    assert sorted(path for path in root.parent.rglob("*")) == before
    message = str(error.value)
    assert "\n" not in message
    return message


def test_real_files_asked_for_and_not_there(tmp_path: Path) -> None:
    message = refusal(tmp_path / "wound", source="real")
    assert str(tmp_path / "wound") in message and "KDEXP_DATA" in message and "source=synthetic" in message
    # Nothing can be fetched, so nobody is sent to try.
    assert "fetch" not in message


@pytest.mark.parametrize("source", ["auto", "real"])
@pytest.mark.parametrize("lost", ["images", "metadata_dev.csv"])
def test_a_folder_with_a_part_missing_is_not_passed_over(copied_wound: Path, lost: str, source: str) -> None:
    path = copied_wound / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    message = refusal(copied_wound, source=source)
    assert f"incomplete, without {lost}" in message and "add what is missing" in message and "fetch" not in message


def test_an_empty_folder_lacks_metadata(tmp_path: Path) -> None:
    (tmp_path / "wound").mkdir()
    assert "incomplete, without images/, metadata.csv" in refusal(tmp_path / "wound")


@pytest.mark.parametrize("field", ["filepath", "type", "severity", "description"])
def test_a_missing_column_is_named_with_those_that_are_there(copied_wound: Path, field: str) -> None:
    message = refusal(copied_wound, **{f"{field}_column": "other"})
    assert f"{csv_file(copied_wound, 'train')}, line 1: has no column 'other'" in message
    assert "it has 'img_path', 'type', 'severity', 'description'" in message
    assert f"dataset.{field}_column" in message


ROW_MISTAKES: list[tuple[Callable, str]] = [
    (lambda row: row.update(severity="Awful"), "unknown severity 'Awful'; known are Mild, Moderate, Severe"),
    (lambda row: row.update(severity="mild"), "unknown severity 'mild'"),
    (lambda row: row.update(severity=""), "unknown severity ''"),
    (lambda row: row.update(type=" "), "has no type"),
    (lambda row: row.update(type="Bite"), "type 'Bite' does not occur in train"),
    (lambda row: row.update(img_path=""), "img_path '' is no file name"),
    (lambda row: row.update(img_path="../metadata.csv"), "is no file name below images/"),
    (lambda row: row.update(img_path="/etc/passwd"), "is no file name below images/"),
    (lambda row: row.update(img_path="gone_1.png"), "images/gone_1.png does not exist"),
]


@pytest.mark.parametrize(("damage", "said"), ROW_MISTAKES)
def test_a_wrong_row_is_named_by_file_and_line(copied_wound: Path, damage: Callable, said: str) -> None:
    change_rows(copied_wound, "dev", lambda rows: damage(rows[4]))
    message = refusal(copied_wound)
    assert f"{csv_file(copied_wound, 'dev')}, line 6" in message
    assert said in message


def test_a_type_of_test_that_train_lacks_is_not_given_some_other_label(copied_wound: Path) -> None:
    """Train loses a type; rows of it in test are named, with the types that train has."""
    change_rows(
        copied_wound, "train", lambda rows: rows.__setitem__(slice(None), [r for r in rows if r["type"] != "Burn"])
    )
    change_rows(
        copied_wound, "dev", lambda rows: rows.__setitem__(slice(None), [r for r in rows if r["type"] != "Burn"])
    )
    line = next(place for place, row in enumerate(read_rows(copied_wound, "test"), 2) if row["type"] == "Burn")
    message = refusal(copied_wound)
    assert f"{csv_file(copied_wound, 'test')}, line {line}" in message
    assert "type 'Burn' does not occur in train" in message and "Abrasion, Bruises, Cut" in message


def test_a_row_cut_short(copied_wound: Path) -> None:
    path = csv_file(copied_wound, "dev")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + "cut_1.png,Cut\n")
    message = refusal(copied_wound)
    assert f"{path}, line 3: has 2 fields, but the header names 4" in message


def test_a_text_with_a_comma_and_no_quotes(copied_wound: Path) -> None:
    path = csv_file(copied_wound, "train")
    path.write_text(path.read_text() + "cut_1.png,Cut,Severe,red, swollen\n")
    assert "has 5 fields" in refusal(copied_wound) and "without quotes" in refusal(copied_wound)


@pytest.mark.parametrize("torn", ['cut_1.png,Cut,Severe,"never closed', 'cut_1.png,Cut,Severe,"a"b\n'])
def test_broken_quotes(copied_wound: Path, torn: str) -> None:
    path = csv_file(copied_wound, "test")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines) + torn)
    assert f"{path}, line {len(lines) + 1}: is not CSV" in refusal(copied_wound)


def test_another_encoding(copied_wound: Path) -> None:
    path = csv_file(copied_wound, "test")
    path.write_bytes(path.read_text(encoding="utf-8").encode("cp1252"))
    message = refusal(copied_wound)
    assert str(path) in message and "is not UTF-8" in message


@pytest.mark.parametrize("kept", [0, 20, 400])
def test_a_torn_png(copied_wound: Path, kept: int) -> None:
    path = copied_wound / "images" / read_rows(copied_wound, "train")[5]["img_path"]
    path.write_bytes(path.read_bytes()[:kept])
    assert f"{path}: is not a whole PNG" in refusal(copied_wound)


@pytest.mark.parametrize("content", ["", "img_path,type,severity,description\n"])
def test_an_empty_split(copied_wound: Path, content: str) -> None:
    csv_file(copied_wound, "dev").write_text(content)
    message = refusal(copied_wound)
    assert str(csv_file(copied_wound, "dev")) in message
    assert ("val would be empty" if content else "has no column 'img_path'; it has none") in message


def test_too_few_rows_to_split(undivided_wound: Path) -> None:
    change_rows(undivided_wound, "", lambda rows: rows.__delitem__(slice(2, None)))
    message = refusal(undivided_wound)
    assert str(csv_file(undivided_wound)) in message and "would be empty" in message


def test_one_type_alone(undivided_wound: Path) -> None:
    change_rows(undivided_wound, "", lambda rows: [row.update(type="Burn") for row in rows])
    assert "rows of one type only, Burn" in refusal(undivided_wound)


@pytest.mark.parametrize("word", ["train", "test"])
def test_an_image_described_twice(copied_wound: Path, word: str) -> None:
    twin = read_rows(copied_wound, "train")[0]["img_path"]
    change_rows(copied_wound, word, lambda rows: rows[-1].update(img_path=twin))
    message = refusal(copied_wound)
    assert f"image {twin} is described already in {csv_file(copied_wound, 'train')}, line 2" in message
    assert str(csv_file(copied_wound, word)) in message


def test_the_same_image_file_under_two_names_in_two_splits(copied_wound: Path) -> None:
    images = copied_wound / "images"
    first, second = (read_rows(copied_wound, word)[0]["img_path"] for word in ("train", "test"))
    shutil.copyfile(images / first, images / second)
    message = refusal(copied_wound)
    assert f"{csv_file(copied_wound, 'test')}, line 2: image {second} is the same file as {first} in train" in message


def test_a_generated_folder_is_not_taken_for_real(wound_root: Path) -> None:
    with pytest.raises(DataError, match=r"synthetic\.json: marks a generated folder"):
        make_wound(wound_root, source="real").setup(0)
