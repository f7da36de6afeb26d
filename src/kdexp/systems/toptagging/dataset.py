"""Jets in two views: the teacher's is offline reconstruction, the student's the high-level trigger (HLT).

Files of the ATLAS Top Tagging Open Data (CERN Open Data records 80030 and 15013, arXiv:2407.20127) and of the Top Quark
Tagging Reference Dataset (Zenodo 2603256, arXiv:1902.09914, CC-BY) are read as they are. One binary task: top against
light quark or gluon. A sample is one jet, a cluster one collision event.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Len

from kdexp.contracts import SPLITS, ProgressReport, SplitName, TaskSpec
from kdexp.errors import DataError
from kdexp.records import fingerprint
from kdexp.systems.sources import Generator, Source, SourceChoice, resolve_source, write_generated
from kdexp.systems.toptagging import release, synthetic
from kdexp.systems.toptagging.features import FEATURES
from kdexp.systems.toptagging.inspection import inspect_jets
from kdexp.systems.toptagging.jetfiles import Units, look_at
from kdexp.systems.toptagging.jetsplit import JetSplit, Scale, scale_of
from kdexp.systems.toptagging.notes import oddities, rejection_note, view_note, weights_note
from kdexp.systems.toptagging.release import FetchOptions
from kdexp.systems.toptagging.split_rules import SplitRule, file_split, modulo_split, random_split
from kdexp.systems.toptagging.store import VIEW_VERSIONS, JetTable, Portion, Views, describe, obtain_views, read_table
from kdexp.systems.toptagging.synthetic import GeneratorOptions
from kdexp.systems.toptagging.trigger import TriggerOptions

_VERSION = 2  # 2: metrics are weighted too

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Content:
    root: Path
    portions: list[Portion]
    table: JetTable
    views: Views
    rows: dict[SplitName, np.ndarray]
    scales: dict[str, Scale]


class TopTagging:
    """The data set. `root` holds the HDF5 files; `files` names them or gives patterns (by default all `*.h5`), in
    order.

    `max_jets` takes the first so many, file by file; with `split=file`, of each split. `max_constituents` is M, the
    leading ones by pT. `units` is what the files hold momenta in (by default MeV in the ATLAS layout, GeV in the
    reference layout). `split` is `random` (70/15/15 by event and label, drawn by `data.seed`), `modulo` (event number
    ending in 0: test) or `file` (as the files' names begin: train, val, test). `statistics` says whose mean and
    deviation standardise the HLT view: those of the offline view, or its own. `interpolate` takes rejections with FPR
    linear in TPR between vertices of the ROC. Views are kept under `views_root`; above
    `memory_limit_gb` they are mapped from disk.
    """

    score = ("top/auc",)
    cluster = "event"
    deterministic = True

    def __init__(
        self,
        *,
        root: str | Path,
        generated_root: str | Path,
        views_root: str | Path,
        name: str = "toptagging",
        source: SourceChoice = "auto",
        files: Annotated[tuple[str, ...], Len(1)] | None = None,
        units: Units | None = None,
        max_jets: Annotated[int, Ge(10)] | None = None,
        max_constituents: Annotated[int, Ge(3)] = 40,
        split: SplitRule = "random",
        statistics: Literal["offline", "own"] = "offline",
        interpolate: bool = False,
        memory_limit_gb: Annotated[float, Gt(0)] = 4.0,
        view: TriggerOptions | None = None,
        generator: GeneratorOptions | None = None,
        fetch: FetchOptions | None = None,
    ) -> None:
        self.name = name
        self.root = Path(root)
        self.generated_root = Path(generated_root)
        self.views_root = Path(views_root)
        self.files = files
        self.units = units
        self.max_jets = max_jets
        self.max_constituents = max_constituents
        self.split_rule = split
        self.statistics = statistics
        self.interpolate = interpolate
        rejections = [f"rejection_{percent}" + ("_interpolated" if interpolate else "") for percent in (50, 30, 80)]
        metrics = (*rejections, "auc", "acc")
        self.tasks = (TaskSpec(name="top", kind="binary", classes=("background", "top"), metrics=metrics),)
        self.memory_limit_gb = memory_limit_gb
        self.view = view or TriggerOptions()
        self.generator = generator or GeneratorOptions()
        self.fetch_options = fetch or FetchOptions()
        self._source_choice: SourceChoice = source
        self.source: Source = "synthetic" if source == "synthetic" else "real"
        self.fingerprint = ""
        self._content: _Content | None = None

    def setup(self, seed: int, progress: ProgressReport | None = None) -> None:
        """Reads and checks everything, and makes the views where they are not stored. `seed` drives the generator, the
        split and the trigger's noise.

        Raises DataError naming file, dataset and row.
        """
        resolved = resolve_source(
            self.name,
            source=self._source_choice,
            root=self.root,
            generated_root=self.generated_root,
            missing=missing_files if self.files is None else lambda root: [],
            generator=self._generator(progress),
            seed=seed,
            can_fetch=not self.root.exists(),  # a folder that lacks files may hold others: it is added to
        )
        if resolved.source == "real" and self.generator != GeneratorOptions():
            logger.warning("dataset.generator has no effect: the files under %s are used", resolved.root)
        portions = self._portions(resolved.root)
        table = read_table(portions, self.max_constituents, progress)
        _refuse_one_class(resolved.root, table)
        rows = self._rows(resolved.root, portions, table, seed)
        views = obtain_views(
            self.views_root,
            portions,
            table,
            self.view,
            n_constituents=self.max_constituents,
            seed=seed,
            memory_limit_bytes=self.memory_limit_gb * 1e9,
            progress=progress,
        )
        offline = scale_of(views.offline, rows["train"])
        hlt = scale_of(views.hlt, rows["train"]) if self.statistics == "own" else offline
        scales = {"offline": offline, "hlt": hlt}
        self._content = _Content(
            root=resolved.root, portions=portions, table=table, views=views, rows=rows, scales=scales
        )
        self.source = resolved.source
        self.fingerprint = self._fingerprint(portions, table, seed)

    def split(self, name: SplitName) -> JetSplit:
        content = self._ready()
        return JetSplit(content.table, content.views, content.scales, content.rows[name])

    def model_arguments(self) -> dict[str, Any]:
        return {"tasks": self.tasks, "n_features": len(FEATURES)}

    def inspect(self) -> dict[str, Any]:
        content = self._ready()
        head: dict[str, Any] = {"root": str(content.root), "source": self.source, "fingerprint": self.fingerprint}
        return head | inspect_jets(content.portions, content.table, content.views, content.rows)

    def notes(self) -> list[str]:
        """The student's view, the splits in which jets are weighted, what a rejection is, what may bias a result."""
        content = self._ready()
        weighted = weights_note(content.table.weights, content.rows)
        said = [view_note(self.view, self.max_constituents), *([weighted] if weighted else [])]
        return [*said, rejection_note(self.interpolate), *oddities(content.portions, content.table)]

    def generate(self, root: Path, seed: int, progress: ProgressReport | None = None) -> None:
        """Writes generated jets to `root`, which must be empty or absent."""
        write_generated(Path(root), self._generator(progress), seed, self.name)

    def fetch(self, root: Path, progress: ProgressReport | None = None) -> None:
        """Brings published files to `root`; those that are there are checked and kept."""
        release.fetch(Path(root), self.fetch_options, progress)

    def _generator(self, progress: ProgressReport | None) -> Generator:
        options = self.generator
        return Generator(
            write=lambda folder, seed: synthetic.write(folder, options, seed, progress),
            settings={**asdict(options), "version": synthetic.VERSION},
        )

    def _portions(self, root: Path) -> list[Portion]:
        """The files in order, each with how many of its jets are taken."""
        left: dict[str, int] = {}
        portions = []
        for path in chosen_files(root, self.files):
            group = split_of(path) if self.split_rule == "file" else ""
            n_left = left.get(group, self.max_jets if self.max_jets is not None else 2**62)
            if n_left == 0:
                continue
            file = look_at(path, self.units)
            n_jets = min(file.n_jets, n_left)
            left[group] = n_left - n_jets
            if n_jets:
                portions.append(Portion(file=file, n_jets=n_jets))
        return portions

    def _rows(self, root: Path, portions: Sequence[Portion], table: JetTable, seed: int) -> dict[SplitName, np.ndarray]:
        if self.split_rule == "file":
            said = np.array([split_of(portion.file.path) for portion in portions])[table.file]
            rows = file_split(said, table.unit, table.labels, seed)
        elif self.split_rule == "modulo":
            if not table.has_events:
                raise DataError(
                    f"{root}: dataset.split=modulo needs EventInfo_mcEventNumber, which not every file has; use "
                    "dataset.split=random"
                )
            rows = modulo_split(table.unit, table.labels, seed)
        else:
            rows = random_split(table.unit, table.labels, seed)
        for split in SPLITS:
            if len(np.unique(table.labels[rows[split]])) < 2:
                raise DataError(
                    f"{root}: {split} has {len(rows[split])} jets and not both labels with dataset.split="
                    f"{self.split_rule}; take more jets or another rule"
                )
        return rows

    def _fingerprint(self, portions: Sequence[Portion], table: JetTable, seed: int) -> str:
        settings = {
            "view": asdict(self.view),
            "max_constituents": self.max_constituents,
            "split": self.split_rule,
            "statistics": self.statistics,
            "interpolate": self.interpolate,
            "seed": seed,
            "versions": [_VERSION, *VIEW_VERSIONS],
        }
        return fingerprint(self.name, [describe(portion) for portion in portions], table.digest, settings)

    def _ready(self) -> _Content:
        if self._content is None:
            raise RuntimeError("TopTagging.setup has not been called")
        return self._content


def missing_files(root: Path) -> list[str]:
    """What a root lacks: an HDF5 file."""
    if list(root.glob("*.h5")):
        return []
    packed = len(list(root.glob("*.h5.gz")))
    return [f"an HDF5 file (*.h5; unpack the {packed} files *.h5.gz)" if packed else "an HDF5 file (*.h5)"]


def chosen_files(root: Path, patterns: Sequence[str] | None) -> list[Path]:
    """The files that the patterns find, each once. Raises DataError for a pattern that finds none."""
    found: dict[Path, None] = {}
    for pattern in patterns or ("*.h5",):
        matched = sorted(path for path in root.glob(pattern) if path.is_file())
        if not matched:
            raise DataError(f"{root}: no file fits dataset.files entry {pattern!r}")
        found |= dict.fromkeys(matched)
    names = [path.name for path in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise DataError(
            f"{root}: dataset.files finds several files called {', '.join(sorted(twice))}; a jet's noise goes by its "
            "file's name, so rename them"
        )
    return list(found)


def split_of(path: Path) -> SplitName:
    """The split that a file's name begins with. Raises DataError where it begins with none."""
    for name in SPLITS:
        if path.name.startswith(name):
            return name
    raise DataError(f"{path}: with dataset.split=file a file's name begins with train, val or test")


def _refuse_one_class(root: Path, table: JetTable) -> None:
    if len(np.unique(table.labels)) < 2:
        only = "signal" if table.labels[0] else "background"
        raise DataError(
            f"{root}: labels: all {len(table):,} jets read are {only}; take more jets (dataset.max_jets) or more files "
            "(dataset.files)"
        )
