"""Wound 1.0: photographs of wounds with descriptions; two tasks, the type (ten in the release) and the severity.

The format is known from the CSV files of the project `rupeshsah2038/Multi-Modal`; the images are not public, and no
licence is known. So nothing can be fetched: the files have to be there.

The text is the description alone; file names begin with the type and never reach a model. Labels are numbered by one
map for all splits, made of the types in train, so a type that val lacks moves no other.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge

from kdexp.contracts import SPLITS, ProgressReport, SplitName, TaskSpec
from kdexp.errors import ConfigError
from kdexp.records import fingerprint
from kdexp.systems.download import file_sha256
from kdexp.systems.multimodal import wound_synthetic
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
from kdexp.systems.multimodal.wound_files import (
    SEVERITIES,
    Columns,
    WoundRecord,
    image_file,
    missing_files,
    read_records,
)
from kdexp.systems.multimodal.wound_inspect import inspect_records
from kdexp.systems.multimodal.wound_synthetic import GeneratorOptions
from kdexp.systems.sources import Generator, Source, SourceChoice, resolve_source, write_generated

TYPES = (
    "Abrasion", "Bruises", "Burn", "Cut", "Diabetic", "Laceration", "Normal", "Pressure", "Surgical", "Venous",
)  # fmt: skip
"""The types of the release. What a data set tells are those of its own train split."""
NO_DESCRIPTION = "No description available"

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Content:
    root: Path
    records: dict[SplitName, list[WoundRecord]]
    image_hashes: dict[SplitName, list[str]] = field(default_factory=dict)
    splits: dict[SplitName, PairSplit] = field(default_factory=dict)

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(sorted({record.type for record in self.records["train"]}))

    def described(self, split: SplitName, row: int) -> tuple[str, str]:
        """Where a split's row is written, and what its image is called."""
        record = self.records[split][row]
        return record.where, record.image


class Wound:
    """The data set. `root` holds `images/` and either `metadata.csv` or `metadata_{train,dev,test}.csv`; without the
    three files `data.seed` splits the one, 70/15/15 and stratified by type, and nothing is written to `root`. Stand-ins
    are kept under `generated_root`. Images become `image_size` x `image_size` pixels, grey unless `colour`; where
    `teacher_inputs` is given, the teacher sees the same samples in that way."""

    score = ("type/f1", "severity/f1")
    cluster = "image"
    deterministic = True

    def __init__(
        self,
        *,
        root: str | Path,
        generated_root: str | Path,
        name: str = "wound",
        source: SourceChoice = "auto",
        filepath_column: str = "img_path",
        type_column: str = "type",
        severity_column: str = "severity",
        description_column: str = "description",
        image_size: Annotated[int, Ge(8)] = 64,
        colour: bool = False,
        text: TextOptions | PieceOptions | None = None,
        without: Without | None = None,
        teacher_inputs: InputOptions | None = None,
        generator: GeneratorOptions | None = None,
    ) -> None:
        self.name = name
        self.root = Path(root)
        self.generated_root = Path(generated_root)
        self.columns = Columns(
            filepath=filepath_column, type=type_column, severity=severity_column, description=description_column
        )
        self.inputs = InputOptions(image_size=image_size, colour=colour, text=text or TextOptions(), without=without)
        self.teacher_inputs = teacher_inputs
        self.generator = generator or GeneratorOptions()
        self.tasks = _tasks(TYPES)
        self._source_choice: SourceChoice = source
        self.source: Source = "synthetic" if source == "synthetic" else "real"
        self.fingerprint = ""
        self._content: _Content | None = None
        _refuse_modality_words(self.inputs, self.teacher_inputs)

    def setup(self, seed: int, progress: ProgressReport | None = None) -> None:
        """Reads, checks and decodes everything. `seed` drives the generator, and the split where none is given."""
        resolved = resolve_source(
            self.name,
            source=self._source_choice,
            root=self.root,
            generated_root=self.generated_root,
            missing=missing_files,
            generator=self._generator(progress),
            seed=seed,
            can_fetch=False,
        )
        if resolved.source == "real" and self.generator != GeneratorOptions():
            logger.warning("dataset.generator has no effect: the real files under %s are used", resolved.root)
        content = _Content(root=resolved.root, records=read_records(resolved.root, self.columns, seed))
        for split in SPLITS:
            self._load(content, split, progress)
        refuse_images_in_two_splits(content.image_hashes, content.described)
        self.source, self._content, self.tasks = resolved.source, content, _tasks(content.types)
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

    def _generator(self, progress: ProgressReport | None) -> Generator:
        options, columns = self.generator, self.columns
        return Generator(
            write=lambda folder, seed: wound_synthetic.write(folder, options, columns, seed, progress),
            settings={**asdict(options), "columns": asdict(columns), "version": wound_synthetic.VERSION},
        )

    def _load(self, content: _Content, split: SplitName, progress: ProgressReport | None) -> None:
        records = content.records[split]
        pairs = Pairs(
            images=[image_file(content.root, record.image) for record in records],
            texts=[record.description or NO_DESCRIPTION for record in records],
            targets={
                "type": torch.tensor([content.types.index(record.type) for record in records]),
                "severity": torch.tensor([SEVERITIES.index(record.severity) for record in records]),
            },
            clusters=np.array([record.image for record in records]),
        )
        loaded = load_pairs(pairs, self.inputs, self.teacher_inputs, progress)
        content.splits[split], content.image_hashes[split] = loaded

    def _fingerprint(self, content: _Content) -> str:
        """Holds the split as well, however it was made: the images of each, in order."""
        files = sorted({record.file for split in SPLITS for record in content.records[split]})
        hashes = [file_sha256(path) for path in files]
        tokens = [content.splits[split].tokens_sha256() for split in SPLITS]
        settings = [asdict(self.columns), input_settings(self.inputs, self.teacher_inputs)]
        return fingerprint(self.name, hashes, content.image_hashes, settings, tokens)

    def _ready(self) -> _Content:
        if self._content is None:
            raise RuntimeError("Wound.setup has not been called")
        return self._content


def _tasks(types: tuple[str, ...]) -> tuple[TaskSpec, ...]:
    return (
        TaskSpec(name="type", kind="multiclass", classes=types, metrics=METRICS),
        TaskSpec(name="severity", kind="multiclass", classes=SEVERITIES, metrics=METRICS),
    )


def _refuse_modality_words(student: InputOptions, teacher: InputOptions | None) -> None:
    for key, options in (("dataset.text", student), ("dataset.teacher_inputs.text", teacher)):
        if options is not None and options.text.mask_modality_words:
            raise ConfigError(f"{key}.mask_modality_words: takes out words that tell CT from MR; leave it false here")
