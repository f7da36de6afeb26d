"""What MedPix holds and what is wrong with it: counts, label tables, captions, known leaks. Plain values only."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from kdexp.contracts import SPLITS, SplitName
from kdexp.systems.multimodal.medpix_files import LOCATIONS, MODALITIES, MedPixRecord, cases_file, read_json_lines
from kdexp.systems.multimodal.text import MODALITY_WORDS, words_of

Records = Mapping[SplitName, Sequence[MedPixRecord]]

TEMPLATE_WORDS = "replace this"
SAME_PATIENT = (("MPX1683", "MPX1135"), ("MPX1601", "MPX2518"))
"""Pairs of case ids that are one patient each; the official split has each pair in train and dev."""
_NAMES_MODALITY = re.compile(r"\bct|\bmri?\b|\bt[12]|computed tomograph", re.IGNORECASE)


def inspect_records(root: Path, records: Records, image_hashes: Mapping[SplitName, Sequence[str]]) -> dict[str, Any]:
    """Counts per split and label, captions, and dirt, as tables (a mapping of rows) and single facts; `warnings` are
    sentences about what biases a result."""
    titles = _titles_also_in_train(root)
    return {
        "splits": {split: _counts(records[split]) for split in SPLITS},
        "locations": {split: _location_counts(records[split]) for split in SPLITS},
        "modality_by_location": _modality_by_location(records),
        "captions": {split: _captions(records[split]) for split in SPLITS},
        "dirt": {
            split: {
                "template_captions": sum(map(_is_template, records[split])),
                "equal_image_files": _repeats(image_hashes[split]),
                "titles_also_in_train": titles[split],
            }
            for split in SPLITS
        },
        "captions_for_both_modalities": _captions_for_both(records),
        "type_differs_from_description": sum(
            not record.scanner_words.startswith(record.modality) for split in SPLITS for record in records[split]
        ),
        "areas_in_several_locations": _ambiguous_areas(records),
        "image_files_without_record": _files_without_record(root, records),
        "warnings": _warnings(records),
    }


def _counts(records: Sequence[MedPixRecord]) -> dict[str, Any]:
    by_case: dict[str, list[MedPixRecord]] = defaultdict(list)
    for record in records:
        by_case[record.case].append(record)
    modality = Counter(record.modality for record in records)
    sizes = [len(images) for images in by_case.values()]
    return {
        "images": len(records),
        "cases": len(by_case),
        **{name: modality[name] for name in MODALITIES},
        "cases_with_both": sum(len({image.modality for image in images}) > 1 for images in by_case.values()),
        "images_per_case_median": median(sizes),
        "images_per_case_max": max(sizes),
    }


def _location_counts(records: Sequence[MedPixRecord]) -> dict[str, int]:
    counts = Counter(record.location for record in records)
    return {place: counts[place] for place in LOCATIONS}


def _modality_by_location(records: Records) -> dict[str, dict[str, int]]:
    counts = Counter((record.location, split, record.modality) for split in SPLITS for record in records[split])
    return {
        place: {f"{split} {name}": counts[place, split, name] for split in SPLITS for name in MODALITIES}
        for place in LOCATIONS
    }


def _captions(records: Sequence[MedPixRecord]) -> dict[str, Any]:
    captions = [record.caption for record in records]
    lengths = [len(caption.split()) for caption in captions]
    naming = sum(bool(_NAMES_MODALITY.search(caption)) for caption in captions)
    hinting = sum(any(word in MODALITY_WORDS for word in words_of(caption)) for caption in captions)
    return {
        "distinct": len(set(captions)),
        "words_median": median(lengths),
        "words_99_percent": float(np.percentile(lengths, 99)),
        "words_max": max(lengths),
        "naming_the_modality": naming,
        "share_naming_the_modality": round(naming / len(captions), 4),
        "with_a_masked_word": hinting,
        "share_with_a_masked_word": round(hinting / len(captions), 4),
    }


def _is_template(record: MedPixRecord) -> bool:
    return record.caption.lower().startswith(TEMPLATE_WORDS)


def _captions_for_both(records: Records) -> dict[str, int]:
    """Captions that belong to CT and to MR images: the text cannot decide these. The template is one of them."""
    modalities: dict[str, set[str]] = defaultdict(set)
    used: Counter[str] = Counter()
    for split in SPLITS:
        for record in records[split]:
            modalities[record.caption].add(record.modality)
            used[record.caption] += 1
    both = [caption for caption, names in modalities.items() if len(names) > 1]
    return {"distinct": len(both), "records": sum(used[caption] for caption in both)}


def _ambiguous_areas(records: Records) -> list[str]:
    locations: dict[str, set[str]] = defaultdict(set)
    for split in SPLITS:
        for record in records[split]:
            locations[record.fine_location].add(record.location)
    return sorted(area for area, places in locations.items() if len(places) > 1)


def _repeats(hashes: Sequence[str]) -> int:
    return len(hashes) - len(set(hashes))


def _files_without_record(root: Path, records: Records) -> int:
    described = {f"{record.image}.png" for split in SPLITS for record in records[split]}
    return len({path.name for path in (root / "images").iterdir()} - described)


def _titles_also_in_train(root: Path) -> dict[SplitName, int | None]:
    """Cases whose diagnosis title occurs in train too; None in train, and where a case file, which no model needs, is
    absent."""
    if not all(cases_file(root, split).is_file() for split in SPLITS):
        return dict.fromkeys(SPLITS)
    titles = {split: [_title(case) for _, case in read_json_lines(cases_file(root, split))] for split in SPLITS}
    known = set(titles["train"]) - {""}
    return {split: sum(title in known for title in titles[split]) if split != "train" else None for split in SPLITS}


def _title(case: Mapping[str, Any]) -> str:
    return str((case.get("Case") or {}).get("Title") or "").strip().lower()


def _warnings(records: Records) -> list[str]:
    home = {record.case: split for split in SPLITS for record in records[split]}
    found = []
    for first, second in SAME_PATIENT:
        if first in home and second in home and home[first] != home[second]:
            images = sum(record.case == second for record in records[home[second]])
            found.append(
                f"cases {first} ({home[first]}) and {second} ({home[second]}, {images} images) are one patient: "
                f"{home[second]} numbers are a little too good"
            )
    for split in SPLITS:
        present = {(record.location, record.modality) for record in records[split]}
        absent = [f"{name} {place}" for place in LOCATIONS for name in MODALITIES if (place, name) not in present]
        if absent:
            found.append(f"{split} has no {', '.join(absent)}")
    return found
