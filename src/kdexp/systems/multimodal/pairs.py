"""Pairs of an image and a text as MedPix and Wound hold them: what a model sees of a pair, and a split in memory.

Shape suffixes: B samples of a batch, N of a split, C channels, S image side, L text length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from kdexp.contracts import SPLITS, Batch, ProgressReport, SplitName
from kdexp.errors import DataError
from kdexp.systems.multimodal.images import ImageShape, decode
from kdexp.systems.multimodal.pieces import PieceOptions
from kdexp.systems.multimodal.text import PADDING, TextOptions

Without = Literal["image", "text"]
METRICS = ("f1", "acc", "prec", "rec", "auc")
"""What each task reports."""
_EVEN_GREY = 128


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """What a model sees of a pair: `image_size` x `image_size` pixels, grey unless `colour`, and the text's tokens.
    `without` blanks one of the two, for an ablation: every image is an even grey, or every text is empty."""

    image_size: Annotated[int, Ge(8)] = 64
    colour: bool = False
    text: TextOptions | PieceOptions = field(default_factory=TextOptions)
    without: Without | None = None

    @property
    def image_shape(self) -> ImageShape:
        return ImageShape(self.image_size, self.colour)

    def arguments(self) -> dict[str, Any]:
        """What a model needs to know of its inputs, by constructor argument name."""
        return {
            "image_size": self.image_size,
            "colour": self.colour,
            "tokenizer": self.text.tokenizer,
            "vocabulary_size": self.text.vocabulary_size,
            "text_length": self.text.length,
        }


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The pairs of one split, in file order: images, texts, labels int64 (N,) by task, and who belongs together."""

    images: Sequence[Path]
    texts: Sequence[str]
    targets: Mapping[str, Tensor]
    clusters: np.ndarray


@dataclass(frozen=True, kw_only=True)
class View:
    """All pairs of a split as one model sees them: pixels uint8 (N, C, S, S), tokens int32 (N, L)."""

    pixels: Tensor
    tokens: Tensor

    def fetch(self, index: Tensor) -> dict[str, Tensor]:
        """`image` uint8 (B, C, S, S), `tokens` int64 (B, L), `mask` bool (B, L), False on padding."""
        tokens = self.tokens[index].long()
        return {"image": self.pixels[index], "tokens": tokens, "mask": tokens != PADDING}


class PairSplit:
    """One split in memory; teacher and student share a view unless the teacher has one of its own."""

    def __init__(self, pairs: Pairs, *, student: View, teacher: View | None = None) -> None:
        self.clusters = pairs.clusters
        self._targets = dict(pairs.targets)
        self._student, self._teacher = student, teacher

    def __len__(self) -> int:
        return len(self.clusters)

    def fetch(self, index: Tensor) -> Batch:
        """The views' inputs as `View.fetch` says, and the labels int64 (B,) by task."""
        student = self._student.fetch(index)
        return Batch(
            student=student,
            teacher=student if self._teacher is None else self._teacher.fetch(index),
            targets={task: labels[index] for task, labels in self._targets.items()},
            index=index,
        )

    def tokens_sha256(self) -> list[str]:
        """A hash of each view's tokens: a tokeniser that comes from elsewhere may change without its name."""
        views = [self._student] if self._teacher is None else [self._student, self._teacher]
        return [hashlib.sha256(view.tokens.numpy().tobytes()).hexdigest() for view in views]


def load_pairs(
    pairs: Pairs, student: InputOptions, teacher: InputOptions | None = None, progress: ProgressReport | None = None
) -> tuple[PairSplit, list[str]]:
    """A split, decoded and encoded once for each kind of input, and the image files' SHA-256.

    Raises DataError naming the file that cannot be read whole as an image.
    """
    wanted = [student] if teacher is None else [student, teacher]
    shapes = list(dict.fromkeys(options.image_shape for options in wanted))
    pixels, hashes = decode(pairs.images, shapes, progress)
    tokens = {options: options.encode(pairs.texts) for options in dict.fromkeys(each.text for each in wanted)}
    views = [
        _view(each, pixels[shapes.index(each.image_shape)], tokens[each.text], len(pairs.texts)) for each in wanted
    ]
    return PairSplit(pairs, student=views[0], teacher=views[1] if teacher is not None else None), hashes


def _view(options: InputOptions, pixels: Tensor, tokens: Tensor, n: int) -> View:
    if options.without == "image":
        pixels = torch.full_like(pixels, _EVEN_GREY)
    if options.without == "text":
        tokens = options.text.encode([""] * n)
    return View(pixels=pixels, tokens=tokens)


def input_settings(student: InputOptions, teacher: InputOptions | None) -> list[dict[str, Any] | None]:
    """Both views' settings as plain values, for a data set's fingerprint."""

    def settings(options: InputOptions) -> dict[str, Any]:
        facts = {**asdict(options), "tokenizer": options.text.tokenizer}
        return {key: value for key, value in facts.items() if key != "without" or value}

    return [None if each is None else settings(each) for each in (student, teacher)]


def refuse_images_in_two_splits(
    image_hashes: Mapping[SplitName, Sequence[str]], described: Callable[[SplitName, int], tuple[str, str]]
) -> None:
    """Raises DataError where two splits hold the same image file under two names; `described` says of a split's row
    where it is written and what its image is called."""
    home: dict[str, tuple[SplitName, int]] = {}
    for split in SPLITS:
        for row, image_hash in enumerate(image_hashes[split]):
            other, twin = home.setdefault(image_hash, (split, row))
            if other != split:
                where, image = described(split, row)
                raise DataError(
                    f"{where}: image {image} is the same file as {described(other, twin)[1]} in {other}, so {split} "
                    "would leak; remove one of them"
                )
