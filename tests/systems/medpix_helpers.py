"""What the MedPix tests share beside fixtures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdexp.systems.multimodal.medpix import MedPix
from kdexp.systems.multimodal.medpix_synthetic import GeneratorOptions

SEED = 7


def make_medpix(root: Path, **settings: Any) -> MedPix:
    """A small MedPix; its stand-in would go beside `root`."""
    settings.setdefault("generator", GeneratorOptions(preset="small"))
    settings.setdefault("image_size", 32)
    return MedPix(root=root, generated_root=root.parent / "generated", **settings)


def descriptions(root: Path, word: str) -> Path:
    return root / "splitted_dataset" / f"descriptions_{word}.jsonl"


def read_descriptions(root: Path, word: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in descriptions(root, word).read_text().splitlines()]


def change_records(root: Path, word: str, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Rewrites one descriptions file after `change` has edited its records."""
    records = read_descriptions(root, word)
    change(records)
    descriptions(root, word).write_text("".join(json.dumps(record) + "\n" for record in records))
