"""The files of Wound 1.0, read and checked, and the split where none is given: every mistake is found here, before
anything is decoded or written."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from kdexp.contracts import SPLITS, SplitName
from kdexp.errors import DataError

SEVERITIES = ("Mild", "Moderate", "Severe")
FILE_WORDS: dict[SplitName, str] = {"train": "train", "val": "dev", "test": "test"}
HELD_OUT = 0.30
"""The share of rows that are not for training; half of these are val, half test."""
_NULL = {"", "na", "n/a", "nan", "null", "none"}
Records = Mapping[SplitName, Sequence["WoundRecord"]]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of the CSV files are called."""

    filepath: str = "img_path"
    type: str = "type"
    severity: str = "severity"
    description: str = "description"


@dataclass(frozen=True, kw_only=True)
class WoundRecord:
    """One image with its labels and its stripped description, empty where there is none; `line` (from 1) is where
    `file` begins it."""

    file: Path
    line: int
    image: str
    type: str
    severity: str
    description: str

    @property
    def where(self) -> str:
        return f"{self.file}, line {self.line}"


def metadata_file(root: Path) -> Path:
    return root / "metadata.csv"


def split_file(root: Path, split: SplitName) -> Path:
    return root / f"metadata_{FILE_WORDS[split]}.csv"


def image_file(root: Path, image: str) -> Path:
    return root / "images" / image


def has_split(root: Path) -> bool:
    """Whether the folder comes with a split: some of its three files are there."""
    return any(split_file(root, split).is_file() for split in SPLITS)


def missing_files(root: Path) -> list[str]:
    """What a folder lacks of the layout, as paths relative to it: metadata.csv, or all three files of a split."""
    lacking = [] if (root / "images").is_dir() else ["images/"]
    wanted = [split_file(root, split) for split in SPLITS] if has_split(root) else [metadata_file(root)]
    return lacking + [str(path.relative_to(root)) for path in wanted if not path.is_file()]


def read_records(root: Path, columns: Columns, seed: int) -> dict[SplitName, list[WoundRecord]]:
    """All records by split: those of the three split files, in file order, or metadata.csv split by `seed`.

    Raises DataError for what is no CSV, a missing column, a row cut short, an unknown severity, a row without its image
    file, an image described twice, an empty split, and a type of val or test that train does not have.
    """
    if has_split(root):
        records = {split: read_file(split_file(root, split), columns) for split in SPLITS}
    else:
        records = draw_split(read_file(metadata_file(root), columns), seed)
    _check_sizes(root, records)
    _check_images(root, records)
    _check_types(records)
    return records


def read_file(path: Path, columns: Columns) -> list[WoundRecord]:
    """The records of one CSV file. Raises DataError naming file, line and column."""
    rows = _rows(path)
    _, header = next(rows, (1, []))
    places = {field: _place(header, column, field, path) for field, column in vars(columns).items()}
    records = []
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {line}: has {len(row)} fields, but the header names {len(header)}; it is cut short, or "
                "a text with a comma stands without quotes"
            )
        records.append(_record({field: row[place].strip() for field, place in places.items()}, columns, path, line))
    return records


def draw_split(records: Sequence[WoundRecord], seed: int) -> dict[SplitName, list[WoundRecord]]:
    """70 % train, 15 % val, 15 % test, in two draws stratified by type, each in the order of the file. Every type keeps
    a row in train. The same rows and seed give the same split, another than scikit-learn's draws with that seed."""
    random = np.random.default_rng(seed)
    held_out = _draw(records, HELD_OUT, random, n_left=1)
    in_test = _draw([records[row] for row in held_out], 0.5, random)
    test = {held_out[row] for row in in_test}
    home: dict[int, SplitName] = {row: "test" if row in test else "val" for row in held_out}
    return {
        split: [record for row, record in enumerate(records) if home.get(row, "train") == split] for split in SPLITS
    }


def _draw(records: Sequence[WoundRecord], share: float, random: np.random.Generator, n_left: int = 0) -> list[int]:
    """Positions of this share of the records, with each type's share the same as nearly as whole rows allow and at
    least `n_left` rows of a type left."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        rows[record.type].append(row)
    types = sorted(rows)
    quotas = {name: math.floor(share * len(rows[name])) for name in types}
    by_remainder = sorted(types, key=lambda name: quotas[name] - share * len(rows[name]))
    for name in by_remainder[: math.ceil(share * len(records)) - sum(quotas.values())]:
        quotas[name] += 1
    chosen = []
    for name in types:
        quota = min(quotas[name], len(rows[name]) - n_left)
        chosen += [int(row) for row in random.permutation(rows[name])[:quota]]
    return sorted(chosen)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number from 1 where it begins, fields) of every row that is not blank."""
    last = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            for row in reader:
                if row:
                    yield last + 1, row
                last = reader.line_num
    except csv.Error as error:
        raise DataError(f"{path}, line {last + 1}: is not CSV ({error}); correct its quotes") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error}); save it as CSV in UTF-8") from None


def _place(header: Sequence[str], column: str, field: str, path: Path) -> int:
    if column not in header:
        raise DataError(
            f"{path}, line 1: has no column {column!r}; it has {', '.join(map(repr, header)) or 'none'}; "
            f"dataset.{field}_column says what it is called"
        )
    return header.index(column)


def _record(fields: Mapping[str, str], columns: Columns, path: Path, line: int) -> WoundRecord:
    where, image = f"{path}, line {line}", fields["filepath"]
    plain = PurePosixPath(image)
    if not image or plain.is_absolute() or ".." in plain.parts or "\\" in image:
        raise DataError(f"{where}: {columns.filepath} {image!r} is no file name below images/; correct it")
    if not fields["type"]:
        raise DataError(f"{where} (image {image}): has no {columns.type}; add it or remove the row")
    if fields["severity"] not in SEVERITIES:
        raise DataError(
            f"{where} (image {image}): unknown {columns.severity} {fields['severity']!r}; known are "
            f"{', '.join(SEVERITIES)}"
        )
    description = "" if fields["description"].lower() in _NULL else fields["description"]
    return WoundRecord(
        file=path,
        line=line,
        image=image,
        type=fields["type"],
        severity=fields["severity"],
        description=description,
    )


def _check_sizes(root: Path, records: Records) -> None:
    source = {split: split_file(root, split) if has_split(root) else metadata_file(root) for split in SPLITS}
    for split in SPLITS:
        if not records[split]:
            raise DataError(f"{source[split]}: holds too few rows, the split {split} would be empty; restore the file")
    types = sorted({record.type for record in records["train"]})
    if len(types) < 2:
        raise DataError(f"{source['train']}: train has rows of one type only, {types[0]}; there is nothing to tell")


def _check_images(root: Path, records: Records) -> None:
    seen: dict[str, WoundRecord] = {}
    for record in _all(records):
        if record.image in seen:
            raise DataError(
                f"{record.where}: image {record.image} is described already in {seen[record.image].where}; remove one"
            )
        if not image_file(root, record.image).is_file():
            raise DataError(
                f"{record.where}: its image {image_file(root, record.image)} does not exist; restore it or remove the "
                "row"
            )
        seen[record.image] = record


def _check_types(records: Records) -> None:
    known = sorted({record.type for record in records["train"]})
    for record in _all(records):
        if record.type not in known:
            raise DataError(
                f"{record.where} (image {record.image}): type {record.type!r} does not occur in train, so no model "
                f"could learn it; train has {', '.join(known)}"
            )


def _all(records: Records) -> Iterable[WoundRecord]:
    return (record for split in SPLITS for record in records[split])
