"""The synthetic stand-in for MedPix: the same files, small, with the real data's dirt planted in it.

The region is drawn into the image, the scanner decides brightness and texture, and captions name a region's findings.
About half the captions name the scanner; some cases share one caption over all images, some mix CT and MR, a few
captions are the unfilled template, and val has no MR image of the abdomen, as in the real split.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le

from kdexp.contracts import SPLITS, ProgressReport, SplitName
from kdexp.systems.multimodal.drawing import as_pixels, disc, plane, save_images
from kdexp.systems.multimodal.medpix_files import FILE_WORDS, LOCATIONS

VERSION = 1
TEMPLATE = "Replace this - DESCRIPTION OF THE IMAGE OR FINDINGS."
_FIRST_CASE = 9001
_MAX_IMAGES = 6
_CASES: dict[str, dict[SplitName, int]] = {
    "small": {"train": 26, "val": 7, "test": 7},
    "default": {"train": 140, "val": 30, "test": 30},
}
_MR_SHARE = (0.12, 0.65, 0.3, 0.12, 0.75)  # by location, near the real train split
_LOCATION_SHARE = (0.16, 0.40, 0.10, 0.17, 0.17)
_FINE = (
    ("Abdomen", "Gastrointestinal", "Vascular"),
    ("Brain and Neuro", "Head and Neck", "Vascular"),
    ("Genitourinary", "Gynecology and Obstetrics", "Left Blank"),
    ("Chest, Pulmonary", "Cardiac", "Vascular"),
    ("Spine", "Musculoskeletal", "Left Blank"),
)
_ORGANS = (
    ("liver", "spleen", "pancreas", "bowel wall", "duodenum"),
    ("ventricle", "cerebellum", "frontal lobe", "orbit", "sinus"),
    ("kidney", "bladder", "ureter", "prostate", "ovary"),
    ("right upper lobe", "aortic arch", "pleura", "hilum", "heart"),
    ("lumbar disc", "vertebral body", "knee meniscus", "tibia", "spinal canal"),
)
_FINDINGS = ("mass", "cyst", "enlargement", "thickening", "collection", "stenosis", "lesion", "calcification")
_OPENINGS = {
    "CT": ("Axial CT shows", "Noncontrast CT demonstrates", "Computed tomography with contrast shows"),
    "MR": ("Sagittal T1 MRI shows", "Axial T2 weighted MR demonstrates", "FLAIR image with gadolinium shows"),
}
_NEUTRAL_OPENINGS = ("There is", "Arrow points to", "Image shows", "Note the", "Follow-up:")
_ENDINGS = (
    "",
    ".",
    " – stable since last year.",
    " measuring ≥ 2 cm.",
    " (see arrow), \u00b13 mm.",
    " with mild mass effect.",
)
_SCANNER_WORDS = {
    "CT": ("CT - noncontrast", "CT w/contrast (IV)", "CT - GI & IV Contrast"),
    "MR": ("MR - T2 weighted", "MR - T1W - noncontrast", "MR - FLAIR"),
}


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
    """How much is generated and how hard it is: `small` has about 120 images, `default` about 600; `noise` is the
    standard deviation added to pixels between 0 and 1."""

    preset: Literal["small", "default"] = "default"
    noise: Annotated[float, Ge(0), Le(1)] = 0.15


def write(folder: Path, options: GeneratorOptions, seed: int, progress: ProgressReport | None = None) -> None:
    """Fills an empty folder: images, descriptions, cases and the list of case ids. The same seed, the same bytes."""
    random = np.random.default_rng(seed)
    (folder / "images").mkdir()
    (folder / "splitted_dataset").mkdir()
    counts = _CASES[options.preset]
    next_case, ids = _FIRST_CASE, {}
    for split in SPLITS:
        cases = [_case(random, f"MPX{next_case + k}", k, split) for k in range(counts[split])]
        next_case += counts[split]
        records = [record for case in cases for record in case["records"]]
        _plant_templates(records, split)
        pictures = (
            (folder / "images" / f"{record['image']}.png", _picture(random, record, options.noise))
            for record in records
        )
        save_images(pictures, len(records), f"generate {split} images", progress)
        _write_lines(folder / "splitted_dataset" / f"descriptions_{FILE_WORDS[split]}.jsonl", records)
        _write_lines(
            folder / "splitted_dataset" / f"data_{FILE_WORDS[split]}.jsonl", [case["report"] for case in cases]
        )
        ids[FILE_WORDS[split]] = [case["report"]["U_id"] for case in cases]
    half = len(ids["train"]) // 2
    halves = {"train": ids["train"], "train_1": ids["train"][:half], "train_2": ids["train"][half:]}
    text = json.dumps({**halves, "dev": ids["dev"], "test": ids["test"]})
    (folder / "splitted_dataset" / "uid_list.json").write_text(text, encoding="ascii")


def _case(random: np.random.Generator, case: str, number: int, split: SplitName) -> dict[str, Any]:
    """One case: its region (the first five cases of a split cover all), its images' records, its report."""
    location = number % 5 if number < 5 else int(random.choice(5, p=_LOCATION_SHARE))
    modalities = _modalities(random, location, number, split)
    organ = str(random.choice(_ORGANS[location]))
    finding = str(random.choice(_FINDINGS))
    shared = len(set(modalities)) > 1 or random.random() < 0.5
    naming = len(set(modalities)) == 1 and random.random() < 0.6
    common = _caption(random, modalities[0], organ, finding, naming)
    records = []
    for place, modality in enumerate(modalities):
        caption = common if shared else _caption(random, modality, organ, finding, random.random() < 0.55)
        records.append(_record(random, case, f"{case}_synpic{place + 1:05d}", modality, location, caption))
    return {"records": records, "report": _report(case, records, organ, finding)}


def _modalities(random: np.random.Generator, location: int, number: int, split: SplitName) -> list[str]:
    """The scanner of each image. Every eighth case, from the second on, mixes CT and MR, and so does the first of
    train, an abdomen; val has no MR abdomen."""
    n_images = int(random.integers(1, _MAX_IMAGES))
    main = "MR" if number == 1 or random.random() < _MR_SHARE[location] else "CT"
    if split == "val" and location == 0:
        return ["CT"] * n_images
    if number % 8 == 1 or (split == "train" and number == 0):
        return ["CT", "MR"] + [main] * (n_images - 1)
    return [main] * n_images


def _caption(random: np.random.Generator, modality: str, organ: str, finding: str, naming: bool) -> str:
    opening = random.choice(_OPENINGS[modality] if naming else _NEUTRAL_OPENINGS)
    return (
        f"{opening} {random.choice(('a', 'the', 'focal', 'diffuse'))} {finding} of the {organ}{random.choice(_ENDINGS)}"
    )


def _record(
    random: np.random.Generator, case: str, image: str, modality: str, location: int, caption: str
) -> dict[str, Any]:
    description = {
        "ACR Codes": f"{location + 1}.-1",
        "Age": str(random.integers(1, 90)),
        "Caption": caption,
        "Figure Part": None,
        "Modality": str(random.choice(_SCANNER_WORDS[modality])),
        "Plane": str(random.choice(("Axial", "Coronal", "Sagittal"))),
        "Sex": str(random.choice(("male", "female", "N/A"))),
    }
    return {
        "Type": modality,
        "U_id": case,
        "image": image,
        "Description": description,
        "Location": str(random.choice(_FINE[location])),
        "Location Category": LOCATIONS[location],
    }


def _report(case: str, records: Sequence[dict[str, Any]], organ: str, finding: str) -> dict[str, Any]:
    title = f"{finding} of the {organ}".capitalize()
    return {
        "U_id": case,
        "TAC": [record["image"] for record in records if record["Type"] == "CT"],
        "MRI": [record["image"] for record in records if record["Type"] == "MR"],
        "Case": {"Title": title, "History": "Pain for three weeks.", "Exam": "N/A", "Findings": title, "Media": None},
        "Topic": {"Title": title, "Category": "Unsure", "ACR Code": "1.9", "Disease Discussion": None},
    }


def _plant_templates(records: list[dict[str, Any]], split: SplitName) -> None:
    """The last record of each modality in train and the last of val keep the unfilled template; test has none."""
    if split == "test":
        return
    for modality in ("CT", "MR") if split == "train" else ("CT",):
        last = [record for record in records if record["Type"] == modality][-1]
        last["Description"]["Caption"] = TEMPLATE


def _write_lines(path: Path, values: Sequence[dict[str, Any]]) -> None:
    """JSON lines in ASCII with escapes, as the release has them."""
    path.write_text("".join(json.dumps(value, separators=(",", ":")) + "\n" for value in values), encoding="ascii")


def _picture(random: np.random.Generator, record: dict[str, Any], noise: float) -> np.ndarray:
    """Grey pixels (height, width) uint8 of a varied size: a body whose shape is the region's, in the scanner's look."""
    location, modality = LOCATIONS.index(record["Location Category"]), record["Type"]
    y, x = plane(random)
    shift_y, shift_x = random.normal(0, 0.06, size=2)
    body, parts = _shape(location, y - shift_y, x - shift_x)
    edge = body & ~_shape(location, (y - shift_y) * 1.12, (x - shift_x) * 1.12)[0]
    if modality == "CT":
        picture = 0.05 + 0.40 * body + 0.25 * parts + 0.45 * edge
    else:
        waves = 0.1 * np.sin(x * random.uniform(8, 14) + y * random.uniform(8, 14))
        picture = 0.02 + (0.55 + waves) * body - 0.25 * parts - 0.35 * edge
    picture = picture * random.uniform(0.8, 1.2) + random.normal(0, noise, size=picture.shape)
    return as_pixels(picture)


def _shape(location: int, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two masks: the body's outline, and the organs that tell the region."""
    if location == 0:  # a wide body with one large organ on the left
        return disc(y, x, 0.60, 0.90), disc(y, x + 0.4, 0.30, 0.35)
    if location == 1:  # a round skull with two narrow ventricles
        return disc(y, x, 0.80, 0.70), disc(y, x - 0.15, 0.30, 0.08) | disc(y, x + 0.15, 0.30, 0.08)
    if location == 2:  # a wide body with one round organ, low in the middle
        return disc(y, x, 0.60, 0.90), disc(y - 0.30, x, 0.20, 0.20)
    if location == 3:  # a wide body with two large lungs
        return disc(y, x, 0.70, 0.90), disc(y, x - 0.42, 0.45, 0.28) | disc(y, x + 0.42, 0.45, 0.28)
    return (np.abs(x) < 0.45) & (np.abs(y) < 0.95), (np.abs(x) < 0.18) & (np.sin(y * 14) > 0)  # a column of bones
