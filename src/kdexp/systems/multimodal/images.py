"""PNG files as one block of grey pixels."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdexp.contracts import ProgressReport
from kdexp.errors import DataError

REPORT_EVERY = 50


def decode(paths: Sequence[Path], size: int, progress: ProgressReport | None = None) -> tuple[Tensor, list[str]]:
    """Grey pixels uint8 (N, S, S), each image resized to S x S without keeping its aspect, and the files' SHA-256.

    Raises DataError naming the file that cannot be read whole as an image.
    """
    pixels = torch.empty((len(paths), size, size), dtype=torch.uint8)
    hashes = []
    for row, path in enumerate(paths):
        content = path.read_bytes()
        hashes.append(hashlib.sha256(content).hexdigest())
        pixels[row] = torch.from_numpy(_grey(content, path, size))
        if progress is not None and ((row + 1) % REPORT_EVERY == 0 or row + 1 == len(paths)):
            progress("decode images", row + 1, len(paths))
    return pixels, hashes


def normalise(pixels: Tensor) -> Tensor:
    """uint8 (B, S, S) -> float32 (B, 1, S, S) between -1 and 1 (mean 0.5, standard deviation 0.5)."""
    return pixels.unsqueeze(1).to(torch.float32).div_(127.5).sub_(1.0)


def _grey(content: bytes, path: Path, size: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content)) as image:
            resized = image.convert("L").resize((size, size), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: is not a whole PNG image ({error}); restore the file or fetch it again") from None
    return np.array(resized)
