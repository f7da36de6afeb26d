"""Taxi trips on a road graph, in the files of the HOSER releases: Beijing, Porto, San Francisco and a synthetic city.

Cao et al., "Holistic Semantic Representation for Navigational Trajectory Generation", AAAI 2025. The releases carry no
data licence; maps derive from OpenStreetMap (Open Database License 1.0, © OpenStreetMap contributors).

A sample is one trip. At each of its moves a student scores the roads that may come next, and tells how long it takes to
get there; it knows the trip so far, the destination and the time. A teacher sees cells of a grid in place of roads.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge

from kdexp.contracts import SPLITS, ProgressReport, SplitName, TaskSpec
from kdexp.errors import ConfigError, DataError
from kdexp.records import fingerprint
from kdexp.systems.download import file_sha256
from kdexp.systems.sources import Generator, Source, SourceChoice, resolve_source, write_generated
from kdexp.systems.trajectories import city
from kdexp.systems.trajectories.city import CityOptions
from kdexp.systems.trajectories.features import TripFeatures
from kdexp.systems.trajectories.grid import GridOptions, build_grid
from kdexp.systems.trajectories.inspection import inspect_trips
from kdexp.systems.trajectories.mapfiles import GEO, PARTITION, REL, MapDirt, read_roads, read_zones
from kdexp.systems.trajectories.partition import ZoneOptions, balanced_zones, zone_changes
from kdexp.systems.trajectories.roadmap import RoadMap, build_road_map, with_zones
from kdexp.systems.trajectories.rules import trivial_rules
from kdexp.systems.trajectories.tripfiles import missing_files, read_trips, trips_file
from kdexp.systems.trajectories.trips import Trips, TripSplit, duration_statistics, lost_steps

logger = logging.getLogger(__name__)
_RULES = {
    "frequent": "frequent",
    "nearest": "nearest",
    "frequent_else_nearest": "both rules",
}
"""The most frequent successor in train; the candidate nearest to the destination; that where train has no word."""
_PLACES = {"acc": "all", "acc_decisions": "decisions", "acc_inner": "inner"}


@dataclass(kw_only=True)
class _Content:
    root: Path
    trips: dict[SplitName, Trips]
    all_train: Trips
    features: TripFeatures
    dirt: MapDirt
    durations: tuple[float, float]


class Trajectories:
    """The data set. `root` holds roadmap.geo, roadmap.rel, train.csv, val.csv, test.csv and road_network_partition.

    `candidate_top_k` keeps that many of the candidates nearest to the destination; a cut that would lose the true next
    road is an error, or with `lost_label=ignore` a step without label. `max_length` keeps the last moves of longer
    trips. `legacy_angle` has longitude and latitude swapped in one feature, as published. `n_train_trips` draws the
    labelled trips: a student and all statistics see these alone, `teacher_split` has all.
    """

    tasks = (
        TaskSpec(name="next_road", kind="candidates", metrics=("acc", "acc_decisions", "acc_inner")),
        TaskSpec(name="duration", kind="duration", metrics=("mape_log", "mape_sec")),
    )
    score = ("next_road/acc",)
    cluster = "trip"
    deterministic = True

    def __init__(
        self,
        *,
        root: str | Path,
        generated_root: str | Path,
        name: str = "city",
        source: SourceChoice = "auto",
        grid: GridOptions | None = None,
        zones: ZoneOptions | None = None,
        candidate_top_k: Annotated[int, Ge(1)] | None = None,
        lost_label: Literal["error", "ignore"] = "error",
        max_length: Annotated[int, Ge(1)] | None = None,
        legacy_angle: bool = False,
        n_train_trips: Annotated[int, Ge(1)] | None = None,
        generator: CityOptions | None = None,
    ) -> None:
        self.name = name
        self.root = Path(root)
        self.generated_root = Path(generated_root)
        self.grid = grid or GridOptions()
        self.zones = zones or ZoneOptions()
        self.candidate_top_k = candidate_top_k
        self.lost_label = lost_label
        self.max_length = max_length
        self.legacy_angle = legacy_angle
        self.n_train_trips = n_train_trips
        self.generator = generator or CityOptions()
        self._source_choice: SourceChoice = source
        self.source: Source = "synthetic" if source == "synthetic" else "real"
        self.fingerprint = ""
        self._content: _Content | None = None

    def setup(self, seed: int, progress: ProgressReport | None = None) -> None:
        """Reads and checks everything. `seed` drives the generator and draws the labelled trips.

        Raises DataError naming file and line, and ConfigError for settings that do not fit the data.
        """
        resolved = resolve_source(
            self.name,
            source=self._source_choice,
            root=self.root,
            generated_root=self.generated_root,
            missing=missing_files,
            generator=self._generator(progress),
            seed=seed,
        )
        self._warn_of_settings_without_effect(resolved.source, resolved.root)
        content = self._read(resolved.root, seed, progress)
        self.source, self._content = resolved.source, content
        self.fingerprint = self._fingerprint(resolved.root, seed)

    def split(self, name: SplitName) -> TripSplit:
        content = self._ready()
        return TripSplit(content.trips[name], content.features)

    def teacher_split(self) -> TripSplit:
        """All trips of train, those without labels for the student too: what the teacher is trained on."""
        content = self._ready()
        return TripSplit(content.all_train, content.features)

    def trivial_rules(self, name: SplitName) -> dict[str, dict[str, float]]:
        """The next-step accuracies of rules that need no model; labels alone teach them, as they teach the student."""
        content = self._ready()
        uncut = TripFeatures(content.features.road_map, content.features.grid)
        found = trivial_rules(uncut, content.trips["train"], content.trips[name])
        return {
            said: {f"next_road/{metric}": found[rule][place] for metric, place in _PLACES.items()}
            | {"score": found[rule]["all"]}
            for rule, said in _RULES.items()
        }

    def model_arguments(self) -> dict[str, Any]:
        content = self._ready()
        mean, deviation = content.durations
        return {
            "tasks": self.tasks,
            "road_map": content.features.road_map,
            "grid": content.features.grid,
            "time_mean": mean,
            "time_std": deviation,
        }

    def inspect(self) -> dict[str, Any]:
        content = self._ready()
        head: dict[str, Any] = {"root": str(content.root), "source": self.source, "fingerprint": self.fingerprint}
        if self.n_train_trips is not None:
            head["train_trips_of_the_teacher"] = len(content.all_train)
        return head | inspect_trips(content.features, content.trips, content.dirt)

    def generate(self, root: Path, seed: int, progress: ProgressReport | None = None) -> None:
        """Writes the synthetic city to `root`, which must be empty or absent."""
        write_generated(Path(root), self._generator(progress), seed, self.name)

    def _generator(self, progress: ProgressReport | None) -> Generator:
        options = self.generator
        return Generator(
            write=lambda folder, seed: city.write(folder, options, seed, progress),
            settings={**asdict(options), "version": city.VERSION},
        )

    def _read(self, root: Path, seed: int, progress: ProgressReport | None) -> _Content:
        roads, dirt = read_roads(root, progress)
        road_map = build_road_map(roads)
        trips = {split: read_trips(trips_file(root, split), road_map, progress) for split in SPLITS}
        trips = {split: one.last_steps(self.max_length) for split, one in trips.items()}
        all_train = trips["train"]
        trips["train"] = self._labelled(all_train, seed)
        road_map = self._in_zones(road_map, root, trips["train"])
        features = TripFeatures(
            road_map,
            build_grid(road_map, self.grid.size_degrees, self.grid.downsample),
            candidate_top_k=self.candidate_top_k,
            legacy_angle=self.legacy_angle,
        )
        if self.lost_label == "error":
            for one in (all_train, trips["val"], trips["test"]):
                _refuse_lost_labels(features, one)
        return _Content(
            root=root,
            trips=trips,
            all_train=all_train,
            features=features,
            dirt=dirt,
            durations=duration_statistics(trips["train"]),
        )

    def _labelled(self, trips: Trips, seed: int) -> Trips:
        n = self.n_train_trips
        if n is None:
            return trips
        if n > len(trips):
            raise ConfigError(f"dataset.n_train_trips: is {n}, but {trips.path} has {len(trips)} trips")
        return trips.take(np.sort(np.random.default_rng(seed).permutation(len(trips))[:n]))

    def _in_zones(self, road_map: RoadMap, root: Path, train: Trips) -> RoadMap:
        if self.zones.source == "file":
            zone = read_zones(root, road_map.n_roads)
        else:
            zone = balanced_zones(road_map.centroid_lon, road_map.centroid_lat, self.zones.count)
        return with_zones(road_map, zone, zone_changes(train.pieces(), zone))

    def _warn_of_settings_without_effect(self, source: Source, root: Path) -> None:
        if source == "real" and replace(self.generator, location="west") != CityOptions():
            logger.warning("dataset.generator has no effect: the real files under %s are used", root)
        if self.zones.source == "file" and self.zones.count is not None:
            logger.warning("dataset.zones.count has no effect: zones are read from %s", root / PARTITION)

    def _fingerprint(self, root: Path, seed: int) -> str:
        paths = [root / GEO, root / REL, *(trips_file(root, split) for split in SPLITS)]
        if self.zones.source == "file":
            paths.append(root / PARTITION)
        settings: Mapping[str, Any] = {
            "grid": asdict(self.grid),
            "zones": asdict(self.zones),
            "candidate_top_k": self.candidate_top_k,
            "lost_label": self.lost_label,
            "max_length": self.max_length,
            "legacy_angle": self.legacy_angle,
            "labelled": None if self.n_train_trips is None else (self.n_train_trips, seed),
        }
        return fingerprint(self.name, [file_sha256(path) for path in paths], settings)

    def _ready(self) -> _Content:
        if self._content is None:
            raise RuntimeError("Trajectories.setup has not been called")
        return self._content


def _refuse_lost_labels(features: TripFeatures, trips: Trips) -> None:
    """Raises DataError for the first move whose next road is not among the candidates that are kept."""
    for piece in trips.pieces():
        trip, place = lost_steps(piece, features)
        if len(trip):
            here = f"{trips.path}, line {piece.line[trip[0]]} (trip {piece.trip[trip[0]]})"
            road, following = piece.roads[place[0] : place[0] + 2]
            raise DataError(
                f"{here}: road {following} after {road} is not among the {features.candidate_top_k} candidates nearest "
                "to the destination; raise dataset.candidate_top_k or set dataset.lost_label=ignore"
            )
