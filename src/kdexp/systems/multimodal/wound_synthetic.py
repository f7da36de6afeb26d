"""The synthetic stand-in for Wound 1.0: the same files, small, with the real data's dirt planted in it.

The wound's shape is its type, its size and darkness are its severity. Descriptions are written with the type's name and
then scrubbed of it, which leaves holes and misses some; a few contradict their label, stop mid-sentence or are missing.
One type does not occur in val. Shares of types and severities are near the real dev split's.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from annotated_types import Ge, Le

from kdexp.contracts import SPLITS, ProgressReport, SplitName
from kdexp.systems.multimodal.drawing import as_pixels, disc, plane, save_images
from kdexp.systems.multimodal.wound_files import SEVERITIES, Columns, metadata_file, split_file

VERSION = 1
ABSENT_FROM_VAL = "Laceration"
_SIZES: dict[str, dict[SplitName, int]] = {
    "small": {"train": 84, "val": 26, "test": 26},
    "default": {"train": 420, "val": 90, "test": 90},
}
_SKIN = np.array([0.80, 0.62, 0.52])


class _Kind(NamedTuple):
    """One type: how its files begin, rows of each severity in the real dev split, what descriptions call it and find
    in it, and its colour."""

    file_word: str
    severities: tuple[int, int, int]
    called: str
    finding: str
    colour: tuple[float, float, float]


_KINDS = {
    "Abrasion": _Kind("abrasions", (1, 11, 0), "abrasion", "scraped, grainy surface", (0.70, 0.30, 0.28)),
    "Bruises": _Kind("bruises", (10, 10, 0), "bruise", "blue–purple discolouration, skin intact", (0.40, 0.30, 0.50)),
    "Burn": _Kind("burns", (3, 7, 3), "burn", "blisters, a charred centre", (0.55, 0.25, 0.15)),
    "Cut": _Kind("cut", (0, 3, 2), "cut", "one straight, narrow line", (0.50, 0.10, 0.10)),
    "Diabetic": _Kind(
        "diabetic_wounds", (2, 13, 31), "diabetic foot ulcer", "round crater, callus at the rim", (0.45, 0.20, 0.15)
    ),
    "Laceration": _Kind("laseration", (0, 6, 5), "laceration", "jagged, gaping edges", (0.55, 0.08, 0.10)),
    "Normal": _Kind("normal", (8, 0, 0), "normal", "", (0.80, 0.62, 0.52)),
    "Pressure": _Kind("pressure_wounds", (0, 16, 34), "pressure injury", "slough over a bone", (0.50, 0.35, 0.20)),
    "Surgical": _Kind(
        "surgical_wounds", (0, 12, 21), "surgical wound", "sutures, a row of staples", (0.60, 0.25, 0.25)
    ),
    "Venous": _Kind("venous_wounds", (0, 13, 24), "venous ulcer", "weeping, scalloped border", (0.55, 0.20, 0.30)),
}
_FINDINGS = tuple(kind.finding for kind in _KINDS.values() if kind.finding)
_STOCK = ("The skin is intact, with no visible wound.", "Healthy skin, no redness or swelling.", "No injury is seen.")
_PLACES = ("forearm", "lower leg", "heel", "hand", "back", "knee")
_EDGES = ("edges well defined", "edges uneven", "margins rolled")
_EXUDATE = {"Mild": "no exudate", "Moderate": "scant, clear exudate", "Severe": "copious exudate, necrotic tissue"}
_AROUND = ("surrounding skin is pink", "redness around it", 'the so-called "halo" is pale', "swelling of 1–2 cm")


class _Row(NamedTuple):
    image: str
    type: str
    severity: str
    description: str


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
    """How much is generated and how hard it is: `small` has about 140 images, `default` about 600; `noise` is the
    standard deviation added to pixels between 0 and 1."""

    preset: Literal["small", "default"] = "default"
    noise: Annotated[float, Ge(0), Le(1)] = 0.1


def write(
    folder: Path, options: GeneratorOptions, columns: Columns, seed: int, progress: ProgressReport | None = None
) -> None:
    """Fills an empty folder: images, metadata.csv and the three files of the split. The same seed, the same bytes."""
    random = np.random.default_rng(seed)
    (folder / "images").mkdir()
    counter: Counter[str] = Counter()
    everything = []
    for split in SPLITS:
        rows = _rows(random, _SIZES[options.preset][split], split, counter)
        pictures = ((folder / "images" / row.image, _picture(random, row, options.noise)) for row in rows)
        save_images(pictures, len(rows), f"generate {split} images", progress)
        _write_csv(split_file(folder, split), rows, columns)
        everything += rows
    _write_csv(metadata_file(folder), everything, columns)


def _rows(random: np.random.Generator, size: int, split: SplitName, counter: Counter[str]) -> list[_Row]:
    """The rows of a split in mixed order; `counter` numbers the files of each type."""
    total = sum(sum(kind.severities) for kind in _KINDS.values())
    rows = []
    for name, kind in _KINDS.items():
        n = max(2, round(size * sum(kind.severities) / total))
        if split == "val" and name == ABSENT_FROM_VAL:
            continue
        for _ in range(n):
            counter[name] += 1
            shares = np.array(kind.severities) / sum(kind.severities)
            severity = str(random.choice(SEVERITIES, p=shares))
            image = f"{kind.file_word}_{counter[name]}.png"
            rows.append(_Row(image, name, severity, _description(random, name, severity)))
    rows = [rows[place] for place in random.permutation(len(rows))]
    return _with_dirt(rows)


def _description(random: np.random.Generator, name: str, severity: str) -> str:
    """Sentences about a wound, scrubbed of the type's name in most rows."""
    if name == "Normal":
        return str(random.choice(_STOCK))
    called = _KINDS[name].called if random.random() < 0.15 else "injury"  # which leaves "a injury"
    finding = _mostly(random, _KINDS[name].finding, _FINDINGS)
    exudate = _mostly(random, _EXUDATE[severity], tuple(_EXUDATE.values()))
    stated = f" {severity} severity." if random.random() < 0.4 else ""
    width = {"Mild": 1, "Moderate": 3, "Severe": 6}[severity] + int(random.integers(0, 3))
    return (
        f"There is {random.choice(('a', 'one'))} {called} on the {random.choice(_PLACES)}, {finding}.{stated} "
        f"About {width} × {width + 1} cm, {random.choice(_EDGES)}, {exudate}; {random.choice(_AROUND)}."
    )


def _mostly(random: np.random.Generator, own: str, others: Sequence[str]) -> str:
    """What belongs to the label, in two cases of three, else any."""
    return own if random.random() < 2 / 3 else str(random.choice(others))


def _with_dirt(rows: Sequence[_Row]) -> list[_Row]:
    """One row has no description, one calls itself something else, one stops mid-sentence."""
    made = list(rows)
    wounds = [place for place, row in enumerate(made) if row.type not in ("Normal", "Burn")]
    null, wrong, torn = wounds[:3]
    made[null] = made[null]._replace(description="")
    made[wrong] = made[wrong]._replace(description="A burn with blisters, red and swollen.")
    made[torn] = made[torn]._replace(description=made[torn].description.rpartition(",")[0] + ", and the")
    return made


def _write_csv(path: Path, rows: Sequence[_Row], columns: Columns) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([columns.filepath, columns.type, columns.severity, columns.description])
        writer.writerows(rows)


def _picture(random: np.random.Generator, row: _Row, noise: float) -> np.ndarray:
    """Pixels (height, width, 3) uint8 of a varied size: skin with a wound."""
    y, x = plane(random)
    shift_y, shift_x = random.normal(0, 0.08, size=2)
    level = SEVERITIES.index(row.severity)
    scale = (0.55, 0.75, 1.0)[level]
    depth = _shape(row.type, (y - shift_y) / scale, (x - shift_x) / scale).astype(float)
    strength = (0.6, 0.8, 1.0)[level] * depth[..., None]
    picture = _SKIN * (1 - strength) + np.array(_KINDS[row.type].colour) * strength
    picture = picture * random.uniform(0.85, 1.15) + random.normal(0, noise, size=(*depth.shape, 1))
    return as_pixels(picture)


def _shape(name: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """How deep the wound is, 0 to 1, at each place."""
    if name == "Abrasion":  # grains within a patch
        return disc(y, x, 0.6, 0.7) & (np.sin(18 * x) * np.sin(18 * y) > 0)
    if name == "Bruises":  # a patch without an edge
        return np.exp(-3 * (x**2 + y**2))
    if name == "Burn":  # a patch with a dark middle
        return 0.5 * disc(y, x, 0.75, 0.75) + 0.5 * disc(y, x, 0.35, 0.35)
    if name == "Cut":  # one straight line
        return (np.abs(y) < 0.08) & (np.abs(x) < 0.8)
    if name == "Diabetic":  # a round crater within a pale rim
        return disc(y, x, 0.4, 0.4) + 0.3 * (disc(y, x, 0.65, 0.65) & ~disc(y, x, 0.55, 0.55))
    if name == "Laceration":  # a jagged line
        return (np.abs(y - 0.25 * np.sign(np.sin(12 * x))) < 0.18) & (np.abs(x) < 0.8)
    if name == "Normal":
        return np.zeros_like(y)
    if name == "Pressure":  # a wide oval within a wider one
        return 0.5 * disc(y, x, 0.5, 0.95) + 0.5 * disc(y, x, 0.25, 0.5)
    if name == "Surgical":  # an upright line crossed by stitches
        line = (np.abs(x) < 0.05) & (np.abs(y) < 0.85)
        return line | ((np.abs(x) < 0.3) & (np.sin(22 * y) > 0.6) & (np.abs(y) < 0.85))
    return disc(y, x, 0.6 + 0.15 * np.sin(9 * np.arctan2(y, x)), 0.6)  # Venous: a scalloped border
