"""The files of MedPix 2.0, read and checked: every mistake is found here, before anything is decoded or written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdexp.contracts import SPLITS, SplitName
from kdexp.errors import DataError

MODALITIES = ("CT", "MR")
LOCATIONS = ("Abdomen", "Head", "Reproductive and Urinary System", "Thorax", "Spine and Muscles")
FILE_WORDS: dict[SplitName, str] = {"train": "train", "val": "dev", "test": "test"}
NO_CAPTION = "No description available"
_RECORD_KEYS = ("Type", "U_id", "image", "Location", "Location Category", "Description")
_IMAGE_NAME = re.compile(r"[\w-][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class MedPixRecord:
    """One image with its labels and its caption; `line` (from 1) is where its descriptions file holds it."""

    line: int
    case: str
    image: str
    modality: str
    location: str
    caption: str
    fine_location: str
    scanner_words: str


def descriptions_file(root: Path, split: SplitName) -> Path:
    return root / "splitted_dataset" / f"descriptions_{FILE_WORDS[split]}.jsonl"


def cases_file(root: Path, split: SplitName) -> Path:
    return root / "splitted_dataset" / f"data_{FILE_WORDS[split]}.jsonl"


def image_file(root: Path, record: MedPixRecord) -> Path:
    return root / "images" / f"{record.image}.png"


def uid_list_file(root: Path) -> Path:
    return root / "splitted_dataset" / "uid_list.json"


def missing_files(root: Path) -> list[str]:
    """What a folder lacks of the layout, as paths relative to it."""
    lacking = [] if (root / "images").is_dir() else ["images/"]
    wanted = [descriptions_file(root, split) for split in SPLITS]
    return lacking + [str(path.relative_to(root)) for path in wanted if not path.is_file()]


def read_records(root: Path) -> dict[SplitName, list[MedPixRecord]]:
    """All records by split, in file order.

    Raises DataError for a line cut short, a missing key, an unknown label, a record without its image file, an image
    described twice, an empty split, a case in two splits, and cases that differ from uid_list.json, if that is there.
    """
    records = {split: _read_split(root, split) for split in SPLITS}
    _check_images(root, records)
    _check_cases(root, records)
    _check_uid_list(root, records)
    return records


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) for every line. Raises DataError for a missing file and a line that is not JSON."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: does not exist; fetch the data again or use dataset.source=synthetic") from None
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n") if content else [], start=1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: is cut short or not JSON ({error}); fetch the file again"
            ) from None
        if not isinstance(value, dict):
            raise DataError(f"{path}, line {number}: holds no JSON object; fetch the file again")
        yield number, value


def _read_split(root: Path, split: SplitName) -> list[MedPixRecord]:
    path = descriptions_file(root, split)
    records = [_record(value, path, line) for line, value in read_json_lines(path)]
    if not records:
        raise DataError(f"{path}: holds no records, so the split {split} would be empty; fetch the file again")
    return records


def _record(value: dict[str, Any], path: Path, line: int) -> MedPixRecord:
    where = f"{path}, line {line}"
    lacking = [key for key in _RECORD_KEYS if key not in value]
    if lacking:
        raise DataError(f"{where}: has no {', '.join(map(repr, lacking))}; each record needs {', '.join(_RECORD_KEYS)}")
    description = value["Description"]
    if not isinstance(description, dict) or not isinstance(description.get("Caption"), str):
        raise DataError(f"{where} (image {value['image']}): 'Description' has no text under 'Caption'; add it")
    image = _text(value, "image", where)
    if not _IMAGE_NAME.fullmatch(image):
        raise DataError(f"{where}: image {image!r} is not a plain file name without its ending; correct it")
    return MedPixRecord(
        line=line,
        case=_text(value, "U_id", where),
        image=image,
        modality=_label(value, "Type", MODALITIES, f"{where} (image {image})"),
        location=_label(value, "Location Category", LOCATIONS, f"{where} (image {image})"),
        caption=description["Caption"].strip() or NO_CAPTION,
        fine_location=str(value["Location"]),
        scanner_words=str(description.get("Modality", "")),
    )


def _text(value: dict[str, Any], key: str, where: str) -> str:
    if not isinstance(value[key], str) or not value[key]:
        raise DataError(f"{where}: {key!r} must be text, got {value[key]!r}; correct it")
    return value[key]


def _label(value: dict[str, Any], key: str, known: tuple[str, ...], where: str) -> str:
    if value[key] not in known:
        raise DataError(f"{where}: unknown label {value[key]!r} under {key!r}; known are {', '.join(known)}")
    return value[key]


def _check_images(root: Path, records: dict[SplitName, list[MedPixRecord]]) -> None:
    folder = root / "images"
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    seen: dict[str, str] = {}
    for split, record in _all(records):
        where = f"{descriptions_file(root, split)}, line {record.line}"
        if record.image in seen:
            raise DataError(f"{where}: image {record.image} is described already in {seen[record.image]}; remove one")
        if f"{record.image}.png" not in present:
            raise DataError(f"{where}: its image {image_file(root, record)} does not exist; fetch the images again")
        seen[record.image] = where


def _check_cases(root: Path, records: dict[SplitName, list[MedPixRecord]]) -> None:
    home: dict[str, SplitName] = {}
    for split, record in _all(records):
        if home.setdefault(record.case, split) != split:
            raise DataError(
                f"{descriptions_file(root, split)}, line {record.line}: case {record.case} is in {home[record.case]} "
                f"too, so {split} would leak; keep each case in one split"
            )


def _check_uid_list(root: Path, records: dict[SplitName, list[MedPixRecord]]) -> None:
    """uid_list.json names the cases of each split; a descriptions file that lost whole lines differs from it."""
    path = uid_list_file(root)
    if not path.is_file():
        return
    try:
        listed = json.loads(path.read_bytes())
        expected = {split: set(listed[FILE_WORDS[split]]) for split in SPLITS}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: does not list the cases of train, dev and test ({error!r}); fetch it again") from None
    for split in SPLITS:
        differing = sorted(expected[split] ^ {record.case for record in records[split]})
        if differing:
            raise DataError(
                f"{descriptions_file(root, split)}: its cases differ from {path.name}, first {differing[0]} "
                f"({len(differing)} in all); fetch both again"
            )


def _all(records: dict[SplitName, list[MedPixRecord]]) -> Iterable[tuple[SplitName, MedPixRecord]]:
    return ((split, record) for split in SPLITS for record in records[split])
