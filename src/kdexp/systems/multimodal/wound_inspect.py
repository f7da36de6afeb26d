"""What Wound 1.0 holds and what is wrong with it: counts, label tables, descriptions, dirt. Plain values only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from statistics import median
from typing import Any

import numpy as np

from kdexp.contracts import SPLITS, SplitName
from kdexp.systems.multimodal.text import words_of
from kdexp.systems.multimodal.wound_files import (
    SEVERITIES,
    Records,
    WoundRecord,
    has_split,
    metadata_file,
    split_file,
)

_HOLE = re.compile(r"\ba +(?=[aeiou])", re.IGNORECASE)
_SHORT = 4  # "cutaneous" names no cut
_ENDED = re.compile(r"[.!?][\"'”’)\]]*$")


def inspect_records(root: Path, records: Records, image_hashes: Mapping[SplitName, Sequence[str]]) -> dict[str, Any]:
    """Counts per split and label, descriptions, and dirt, as tables (a mapping of rows) and single facts; `warnings`
    are sentences about what biases a result."""
    types = sorted({record.type for record in records["train"]})
    return {
        "split_from": ", ".join(split_file(root, split).name for split in SPLITS)
        if has_split(root)
        else f"{metadata_file(root).name}, drawn by data.seed",
        "splits": {split: _counts(records[split]) for split in SPLITS},
        "types": {name: {split: _severities(records[split], name) for split in SPLITS} for name in types},
        "descriptions": {split: _descriptions(records[split]) for split in SPLITS},
        "dirt": {split: _dirt(records[split], types, image_hashes[split]) for split in SPLITS},
        "image_files_without_row": _files_without_row(root, records),
        "warnings": _warnings(records, types),
    }


def _counts(records: Sequence[WoundRecord]) -> dict[str, int]:
    severities = Counter(record.severity for record in records)
    return {
        "images": len(records),
        "types": len({record.type for record in records}),
        **{name: severities[name] for name in SEVERITIES},
    }


def _severities(records: Sequence[WoundRecord], name: str) -> str:
    """Rows of a type: mild/moderate/severe."""
    counts = Counter(record.severity for record in records if record.type == name)
    return "/".join(str(counts[severity]) for severity in SEVERITIES)


def _descriptions(records: Sequence[WoundRecord]) -> dict[str, Any]:
    written = [record.description for record in records if record.description]
    lengths = [len(text.split()) for text in written] or [0]
    return {
        "null": len(records) - len(written),
        "distinct": len(set(written)),
        "words_median": median(lengths),
        "words_99_percent": float(np.percentile(lengths, 99)),
        "words_max": max(lengths),
    }


def _dirt(records: Sequence[WoundRecord], types: Sequence[str], hashes: Sequence[str]) -> dict[str, int]:
    written = [record for record in records if record.description]
    named = {record.image: _types_named(record.description, types) for record in written}
    return {
        "naming_their_type": sum(record.type in named[record.image] for record in written),
        "naming_only_another_type": sum(
            bool(named[record.image]) and record.type not in named[record.image] for record in written
        ),
        "stating_their_severity": sum(record.severity.lower() in words_of(record.description) for record in written),
        "with_a_hole_after_a": sum(bool(_HOLE.search(record.description)) for record in written),
        "stopping_mid_sentence": sum(not _ENDED.search(record.description) for record in written),
        "file_names_beginning_with_type": sum(_begins_with(record.image, record.type) for record in records),
        "equal_image_files": len(hashes) - len(set(hashes)),
    }


def _types_named(description: str, types: Sequence[str]) -> set[str]:
    """The types that a description names, also in the plural or, where the word is long enough, with another ending."""
    words = words_of(description)
    return {name for name in types if any(_names(word, _stem(name)) for word in words)}


def _names(word: str, stem: str) -> bool:
    return word.startswith(stem) if len(stem) > _SHORT else word in (stem, f"{stem}s")


def _begins_with(image: str, name: str) -> bool:
    return PurePosixPath(image).name.lower().startswith(_stem(name))


def _stem(name: str) -> str:
    return name.lower().removesuffix("s")


def _files_without_row(root: Path, records: Records) -> int:
    described = {str(PurePosixPath(record.image)) for split in SPLITS for record in records[split]}
    images = root / "images"
    present = {path.relative_to(images).as_posix() for path in images.rglob("*") if path.is_file()}
    return len(present - described)


def _warnings(records: Records, types: Sequence[str]) -> list[str]:
    found = ["there is no patient key: images of one patient may lie in two splits, and intervals take rows as apart"]
    for split in SPLITS:
        present = {record.type for record in records[split]} | {record.severity for record in records[split]}
        absent = [name for name in (*types, *SEVERITIES) if name not in present]
        if absent:
            found.append(f"{split} has no {', '.join(absent)}")
    for name in types:
        severities = {record.severity for split in SPLITS for record in records[split] if record.type == name}
        if len(severities) == 1:
            found.append(f"every image of the type {name} is {severities.pop()}, so its type tells its severity")
    return found
