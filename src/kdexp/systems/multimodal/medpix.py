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

from kdexp.contracts import SPLITS, ProgressReport, SplitName, TaskSpec
from kdexp.records import fingerprint
from kdexp.systems.download import file_sha256
from kdexp.systems.multimodal import medpix_release, medpix_synthetic
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
from kdexp.systems.multimodal.pairs import (
    METRICS,
    InputOptions,
    Pairs,
    PairSplit,
    Without,
    input_settings,
    load_pairs,
    refuse_images_in_two_splits,
)
from kdexp.systems.multimodal.pieces import PieceOptions
from kdexp.systems.multimodal.text import TextOptions
from kdexp.systems.sources import Generator, Source, SourceChoice, resolve_source, write_generated

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """Where the release comes from: archives (zip or tar) that hold `splitted_dataset` and `images` somewhere."""

    urls: Annotated[tuple[str, ...], Len(1)] = ("https://github.com/CHILab1/MedPix-2.0/archive/d3bc431.zip",)
    timeout_seconds: Annotated[float, Gt(0)] = 60.0


@dataclass(kw_only=True)
class _Content:
    root: Path
    records: dict[SplitName, list[MedPixRecord]]
    image_hashes: dict[SplitName, list[str]] = field(default_factory=dict)
    splits: dict[SplitName, PairSplit] = field(default_factory=dict)

    def described(self, split: SplitName, row: int) -> tuple[str, str]:
        """Where a split's row is written, and what its image is called."""
        record = self.records[split][row]
        return f"{descriptions_file(self.root, split)}, line {record.line}", record.image


class MedPix:
    """The data set. `root` holds `images/` and `splitted_dataset/`; stand-ins are kept under `generated_root`.
    Images become `image_size` x `image_size` pixels, grey unless `colour`; where `teacher_inputs` is given, the teacher
    sees the same samples in that way."""

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
        colour: bool = False,
        text: TextOptions | PieceOptions | None = None,
        without: Without | None = None,
        teacher_inputs: InputOptions | None = None,
        generator: GeneratorOptions | None = None,
        fetch: FetchOptions | None = None,
    ) -> None:
        self.name = name
        self.root = Path(root)
        self.generated_root = Path(generated_root)
        self.inputs = InputOptions(image_size=image_size, colour=colour, text=text or TextOptions(), without=without)
        self.teacher_inputs = teacher_inputs
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
        refuse_images_in_two_splits(content.image_hashes, content.described)
        self.source, self._content = resolved.source, content
        self.fingerprint = self._fingerprint(content)

    def split(self, name: SplitName) -> PairSplit:
        return self._ready().splits[name]

    def model_arguments(self) -> dict[str, Any]:
        return {"tasks": self.tasks, **self.inputs.arguments()}

    def teacher_arguments(self) -> dict[str, Any]:
        return {"tasks": self.tasks, **(self.teacher_inputs or self.inputs).arguments()}

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
        pairs = Pairs(
            images=[image_file(content.root, record) for record in records],
            texts=[record.caption for record in records],
            targets={
                "modality": torch.tensor([MODALITIES.index(record.modality) for record in records]),
                "location": torch.tensor([LOCATIONS.index(record.location) for record in records]),
            },
            clusters=np.array([record.case for record in records]),
        )
        loaded = load_pairs(pairs, self.inputs, self.teacher_inputs, progress)
        content.splits[split], content.image_hashes[split] = loaded

    def _fingerprint(self, content: _Content) -> str:
        files = [descriptions_file(content.root, split) for split in SPLITS]
        if uid_list_file(content.root).is_file():
            files.append(uid_list_file(content.root))
        hashes = [file_sha256(path) for path in files]
        tokens = [content.splits[split].tokens_sha256() for split in SPLITS]
        settings = input_settings(self.inputs, self.teacher_inputs)
        return fingerprint(self.name, hashes, content.image_hashes, settings, tokens)

    def _ready(self) -> _Content:
        if self._content is None:
            raise RuntimeError("MedPix.setup has not been called")
        return self._content
