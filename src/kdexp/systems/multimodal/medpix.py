"""MedPix 2.0: radiology images with captions; two tasks, the scanner (CT or MR) and one of five body regions.

Siragusa et al., "MedPix 2.0", Data Science and Engineering 2025, doi:10.1007/s41019-025-00297-8. The collection is the
U.S. National Library of Medicine's MedPix, for education and research; the release carries no licence file, and rights
in single images may stay with their contributors.

The text is the caption alone. `Description.Modality`, `Location`, the ACR codes, the case lists `TAC` and `MRI` and the
file names give the labels away, and none of them reaches a model.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Len
from torch import Tensor

from kdexp.contracts import SPLITS, Batch, ProgressReport, SplitName, TaskSpec
from kdexp.errors import DataError
from kdexp.records import fingerprint
from kdexp.systems.download import file_sha256
from kdexp.systems.multimodal import medpix_release, medpix_synthetic
from kdexp.systems.multimodal.images import decode, normalise
from kdexp.systems.multimodal.medpix_files import (
    LOCATIONS,
    MODALITIES,
    MedPixRecord,
    descriptions_file,
    image_file,
    missing_files,
    read_records,
    uid_list_file,
)
from kdexp.systems.multimodal.medpix_inspect import inspect_records
from kdexp.systems.multimodal.medpix_synthetic import GeneratorOptions
from kdexp.systems.multimodal.text import PADDING, TextOptions, encode
from kdexp.systems.sources import Generator, Source, SourceChoice, resolve_source, write_generated

METRICS = ("f1", "acc", "prec", "rec", "auc")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """Where the release comes from: archives (zip or tar) that hold `splitted_dataset` and `images` somewhere."""

    urls: Annotated[tuple[str, ...], Len(1)] = ("https://github.com/CHILab1/MedPix-2.0/archive/d3bc431.zip",)
    timeout_seconds: Annotated[float, Gt(0)] = 60.0


class MedPixSplit:
    """One split in memory: pixels uint8 (N, S, S), tokens int32 (N, L), labels int64 (N,), case ids (N,)."""

    def __init__(self, records: list[MedPixRecord], pixels: Tensor, tokens: Tensor) -> None:
        self.clusters = np.array([record.case for record in records])
        self._pixels = pixels
        self._tokens = tokens
        self._targets = {
            "modality": torch.tensor([MODALITIES.index(record.modality) for record in records]),
            "location": torch.tensor([LOCATIONS.index(record.location) for record in records]),
        }

    def __len__(self) -> int:
        return len(self.clusters)

    def fetch(self, index: Tensor) -> Batch:
        """`image` (B, 1, S, S) float32 in [-1, 1], `tokens` (B, L) int64, `mask` (B, L) bool; one view for both."""
        tokens = self._tokens[index].to(torch.int64)
        view = {"image": normalise(self._pixels[index]), "tokens": tokens, "mask": tokens != PADDING}
        targets = {task: labels[index] for task, labels in self._targets.items()}
        return Batch(student=view, teacher=view, targets=targets, index=index)


@dataclass(kw_only=True)
class _Content:
    root: Path
    records: dict[SplitName, list[MedPixRecord]]
    image_hashes: dict[SplitName, list[str]] = field(default_factory=dict)
    splits: dict[SplitName, MedPixSplit] = field(default_factory=dict)


class MedPix:
    """The data set. `root` holds `images/` and `splitted_dataset/`; stand-ins are kept under `generated_root`.
    Images become `image_size` x `image_size` grey pixels."""

    tasks = (
        TaskSpec(name="modality", kind="multiclass", classes=MODALITIES, metrics=METRICS),
        TaskSpec(name="location", kind="multiclass", classes=LOCATIONS, metrics=METRICS),
    )
    score = ("modality/f1", "location/f1")
    cluster = "case"
    deterministic = True

    def __init__(
        self,
        *,
        root: str | Path,
        generated_root: str | Path,
        name: str = "medpix",
        source: SourceChoice = "auto",
        image_size: Annotated[int, Ge(8)] = 64,
        text: TextOptions | None = None,
        generator: GeneratorOptions | None = None,
        fetch: FetchOptions | None = None,
    ) -> None:
        self.name = name
        self.root = Path(root)
        self.generated_root = Path(generated_root)
        self.image_size = image_size
        self.text = text or TextOptions()
        self.generator = generator or GeneratorOptions()
        self.fetch_options = fetch or FetchOptions()
        self._source_choice: SourceChoice = source
        self.source: Source = "synthetic" if source == "synthetic" else "real"
        self.fingerprint = ""
        self._content: _Content | None = None

    def setup(self, seed: int, progress: ProgressReport | None = None) -> None:
        """Reads, checks and decodes everything. `seed` drives the generator; real files do not depend on it."""
        resolved = resolve_source(
            self.name,
            source=self._source_choice,
            root=self.root,
            generated_root=self.generated_root,
            missing=missing_files,
            generator=self._generator(progress),
            seed=seed,
        )
        if resolved.source == "real" and self.generator != GeneratorOptions():
            logger.warning("dataset.generator has no effect: the real files under %s are used", resolved.root)
        content = _Content(root=resolved.root, records=read_records(resolved.root))
        for split in SPLITS:
            self._load(content, split, progress)
        _refuse_images_in_two_splits(content)
        self.source, self._content = resolved.source, content
        self.fingerprint = self._fingerprint(content)

    def split(self, name: SplitName) -> MedPixSplit:
        return self._ready().splits[name]

    def model_arguments(self) -> dict[str, Any]:
        return {
            "tasks": self.tasks,
            "vocabulary_size": self.text.vocabulary_size,
            "text_length": self.text.length,
            "image_size": self.image_size,
        }

    def inspect(self) -> dict[str, Any]:
        content = self._ready()
        found = inspect_records(content.root, content.records, content.image_hashes)
        head = {"root": str(content.root), "source": self.source, "fingerprint": self.fingerprint}
        return head | found

    def generate(self, root: Path, seed: int, progress: ProgressReport | None = None) -> None:
        """Writes the stand-in to `root`, which must be empty or absent."""
        write_generated(Path(root), self._generator(progress), seed, self.name)

    def fetch(self, root: Path, progress: ProgressReport | None = None) -> None:
        """Downloads the release to `root`, which must be empty or absent; an interrupted download is gone on with."""
        options = self.fetch_options
        medpix_release.fetch(Path(root), options.urls, timeout_seconds=options.timeout_seconds, progress=progress)

    def _generator(self, progress: ProgressReport | None) -> Generator:
        options = self.generator
        return Generator(
            write=lambda folder, seed: medpix_synthetic.write(folder, options, seed, progress),
            settings={**asdict(options), "version": medpix_synthetic.VERSION},
        )

    def _load(self, content: _Content, split: SplitName, progress: ProgressReport | None) -> None:
        records = content.records[split]
        paths = [image_file(content.root, record) for record in records]
        pixels, content.image_hashes[split] = decode(paths, self.image_size, progress)
        tokens = encode([record.caption for record in records], self.text)
        content.splits[split] = MedPixSplit(records, pixels, tokens)

    def _fingerprint(self, content: _Content) -> str:
        files = [descriptions_file(content.root, split) for split in SPLITS]
        if uid_list_file(content.root).is_file():
            files.append(uid_list_file(content.root))
        settings = {"image_size": self.image_size, "text": asdict(self.text)}
        return fingerprint(self.name, [file_sha256(path) for path in files], content.image_hashes, settings)

    def _ready(self) -> _Content:
        if self._content is None:
            raise RuntimeError("MedPix.setup has not been called")
        return self._content


def _refuse_images_in_two_splits(content: _Content) -> None:
    """Raises DataError where two splits hold the same image file under two names."""
    home: dict[str, tuple[SplitName, MedPixRecord]] = {}
    for split in SPLITS:
        for record, image_hash in zip(content.records[split], content.image_hashes[split], strict=True):
            other, twin = home.setdefault(image_hash, (split, record))
            if other != split:
                raise DataError(
                    f"{descriptions_file(content.root, split)}, line {record.line}: image {record.image} is the same "
                    f"file as {twin.image} in {other}, so {split} would leak; remove one of them"
                )
