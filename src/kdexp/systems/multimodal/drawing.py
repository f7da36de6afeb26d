"""What the generators of images share: shapes on a plane, and image files of varied size and kind."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from kdexp.contracts import ProgressReport
from kdexp.systems.multimodal.images import REPORT_EVERY


def plane(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """y and x from -1 to 1 of an image whose sides, 72 to 128 pixels, are drawn."""
    height, width = (int(side) for side in random.integers(72, 129, size=2))
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return y, x


def disc(y: np.ndarray, x: np.ndarray, height: float, width: float) -> np.ndarray:
    """Where an ellipse with these half axes about the origin is."""
    return (y / height) ** 2 + (x / width) ** 2 < 1


def as_pixels(picture: np.ndarray) -> np.ndarray:
    """Brightness, where 0 is black and 1 is white, as uint8."""
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8)


def save_images(
    pictures: Iterable[tuple[Path, np.ndarray]], total: int, what: str, progress: ProgressReport | None = None
) -> None:
    """Draws and writes one picture after another; grey ones as grey, RGB and RGBA with opaque alpha in turn, others as
    RGB and RGBA."""
    for number, (path, pixels) in enumerate(pictures, start=1):
        kind = ("L", "RGB", "RGBA")[number % 3] if pixels.ndim == 2 else ("RGB", "RGBA")[number % 2]
        Image.fromarray(pixels).convert(kind).save(path, compress_level=1)
        if progress is not None and (number % REPORT_EVERY == 0 or number == total):
            progress(what, number, total)
