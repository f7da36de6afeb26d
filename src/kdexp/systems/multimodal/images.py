"""Image files as blocks of pixels."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdexp.contracts import ProgressReport
from kdexp.errors import DataError

REPORT_EVERY = 50


class ImageShape(NamedTuple):
    """Images of `size` x `size` pixels, grey (one channel) or in colour (three)."""

    size: int
    colour: bool = False

    @property
    def channels(self) -> int:
        return 3 if self.colour else 1


def decode(
    paths: Sequence[Path], shapes: Sequence[ImageShape], progress: ProgressReport | None = None
) -> tuple[list[Tensor], list[str]]:
    """Pixels uint8 (N, C, S, S) for each shape, resized without keeping the aspect, and the files' SHA-256.

    Each file is read once. Raises DataError naming the file that cannot be read whole as an image.
    """
    pixels = [torch.empty((len(paths), one.channels, one.size, one.size), dtype=torch.uint8) for one in shapes]
    hashes = []
    for row, path in enumerate(paths):
        content = path.read_bytes()
        hashes.append(hashlib.sha256(content).hexdigest())
        for block, array in zip(pixels, _resized(content, path, shapes), strict=True):
            block[row] = torch.from_numpy(array)
        if progress is not None and ((row + 1) % REPORT_EVERY == 0 or row + 1 == len(paths)):
            progress("decode images", row + 1, len(paths))
    return pixels, hashes


def normalise(pixels: Tensor) -> Tensor:
    """uint8 (B, C, S, S) -> float32 of the same shape between -1 and 1 (mean 0.5, standard deviation 0.5)."""
    return (pixels.to(torch.float32) / 127.5).sub_(1.0)


def _resized(content: bytes, path: Path, shapes: Sequence[ImageShape]) -> list[np.ndarray]:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return [_pixels(image, shape) for shape in shapes]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        kind = path.suffix.removeprefix(".").upper()
        raise DataError(f"{path}: is not a whole {kind} image ({error}); restore the file or fetch it again") from None


def _pixels(image: Image.Image, shape: ImageShape) -> np.ndarray:
    """(C, S, S)."""
    resized = image.convert("RGB" if shape.colour else "L").resize((shape.size, shape.size), Image.Resampling.BILINEAR)
    array = np.array(resized)
    return array.transpose(2, 0, 1) if shape.colour else array[None]
