"""What the Wound tests share beside fixtures."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdexp.systems.multimodal.wound import Wound
from kdexp.systems.multimodal.wound_synthetic import GeneratorOptions

SEED = 7
Rows = list[dict[str, str]]


def make_wound(root: Path, **settings: Any) -> Wound:
    """A small Wound; its stand-in would go beside `root`."""
    settings.setdefault("generator", GeneratorOptions(preset="small"))
    settings.setdefault("image_size", 32)
    return Wound(root=root, generated_root=root.parent / "generated", **settings)


def read_rows(root: Path, word: str = "") -> Rows:
    """The rows of metadata.csv, or of one split's file."""
    with csv_file(root, word).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def csv_file(root: Path, word: str = "") -> Path:
    return root / (f"metadata_{word}.csv" if word else "metadata.csv")


def change_rows(root: Path, word: str, change: Callable[[Rows], object]) -> None:
    """Rewrites one CSV file after `change` has edited its rows."""
    rows = read_rows(root, word)
    change(rows)
    with csv_file(root, word).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
