"""Finds every plug-in that a config can choose, in `conf/` and in the system that lives outside, and composes it as the
command line does. The suites of this folder and the config tests run on what is found here."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.execution_policy import execution_whitelist
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from kdexp import check, trust
from kdexp.building import build_dataset, build_model
from kdexp.config import TrainConfig
from kdexp.contracts import Dataset
from kdexp.errors import ConfigError
from kdexp.sweeps.plugin import register
from support import OUTSIDE, ROOT

CONF = ROOT / "conf"
HOMES = (CONF, OUTSIDE / "conf")
DATA_SEED = 5
_NOT_A_MODEL = {"base"}  # what teachers share
_LARGE = {"beijing"}  # its teacher has some 60 million parameters on a small city
_DOWNLOADED = ("=hub",)  # encoders that are not here; what they are is tested with random weights


def options(group: str) -> list[str]:
    """The options of a config group, of both homes."""
    return sorted({path.stem for home in HOMES for path in (home / group).glob("*.yaml")})


DATASETS = options("dataset")


def has_files(name: str) -> bool:
    """Whether a data set reads files that may be there, rather than drawing all samples itself."""
    return any("root" in OmegaConf.load(path) for home in HOMES for path in (home / "dataset").glob(f"{name}.yaml"))


@contextmanager
def outside_trusted() -> Iterator[None]:
    """The outside system can be imported and named, and configs may build what the whitelist allows, nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(OUTSIDE)])
        patch.setenv(trust.TRUST_VARIABLE, "rings")
        with execution_whitelist(trust.execution_whitelist()):
            yield


def composed(*words: str, verb: str = "train", homes: Sequence[Path] = HOMES[1:]) -> DictConfig:
    """The configuration that these words of a command line mean, without Hydra's own section."""
    search = "hydra.searchpath=[{}]".format(",".join(f"file://{home}" for home in homes))
    GlobalHydra.instance().clear()
    register()
    with initialize_config_dir(str(CONF)):
        cfg = compose(verb, [search, *words], return_hydra_config=True)
    with open_dict(cfg):
        hydra = cfg.pop("hydra")
        if "choices" in cfg:  # it points into what is Hydra's
            cfg.choices = hydra.runtime.choices
    return cfg


def checked(*words: str, homes: Sequence[Path] = HOMES[1:]) -> dict[str, Any]:
    """The same as plain values, as a run gets them. Raises ConfigError with every mistake."""
    return check.check_config(composed(*words, homes=homes), TrainConfig, overrides=words)


@functools.cache
def plain(*words: str) -> dict[str, Any]:
    """The same, composed once; read only."""
    return checked(*words)


@dataclass(frozen=True)
class ModelCase:
    """A model of the configs: which data set it is for, and the words that choose it."""

    role: str
    dataset: str
    words: tuple[str, ...] = field(default=())

    @property
    def node(self) -> str:
        return "student" if self.role == "student" else "teacher.model"

    @property
    def is_large(self) -> bool:
        return self.role == "teacher" and self.dataset in _LARGE

    @property
    def is_downloaded(self) -> bool:
        return any(word.endswith(_DOWNLOADED) for word in self.words)

    @property
    def data_words(self) -> tuple[str, ...]:
        """What a model asks of its data."""
        return tuple(word for word in self.words if word.startswith("dataset"))

    def __str__(self) -> str:
        return " ".join([self.role, self.dataset, *self.words])

    def build(self, dataset: Dataset, seed: int = 1) -> nn.Module:
        node: Any = plain(f"dataset={self.dataset}", *self.words)
        for name in self.node.split("."):
            node = node[name]
        with installed():
            return build_model(node, dataset, seed, self.node)


@contextmanager
def installed() -> Iterator[None]:
    """Skips a test that needs pretrained encoders where they are not installed."""
    try:
        yield
    except ConfigError as error:
        if "kdexp[pretrained]" not in str(error):
            raise
        pytest.skip(str(error))


def model_cases() -> list[ModelCase]:
    """Every student and teacher with its data set, then every choice inside a model, such as a fusion. A file that only
    repeats another (porto's teacher is Beijing's) is no case of its own."""
    cases = []
    for role in ("student", "teacher"):
        for option in options(role):
            if option in _NOT_A_MODEL or repeats(role, option):
                continue
            dataset = _dataset_of(role, option)
            cases.append(ModelCase(role, dataset, () if option == dataset else (f"{role}={option}",)))
    return cases + [case for part in _parts() for case in _part_cases(part)]


def repeats(role: str, option: str) -> bool:
    """Whether a model's file holds nothing but the name of another."""
    nodes = [
        OmegaConf.load(home / role / f"{option}.yaml") for home in HOMES if (home / role / f"{option}.yaml").exists()
    ]
    return all(set(node) == {"defaults"} for node in nodes)


def as_params(cases: Sequence[ModelCase]) -> list[Any]:
    """Cases for pytest; a teacher at its published size is for the second step."""
    return [pytest.param(case, marks=pytest.mark.slow) if case.is_large else case for case in cases]


def _dataset_of(role: str, option: str) -> str:
    """A model is named as its data set, or begins with that name: `arc`, `arc_context`."""
    fits = [name for name in DATASETS if option == name or option.startswith(f"{name}_")]
    assert fits, f"conf/{role}/{option}.yaml belongs to no data set: begin its name with one of {DATASETS}"
    return max(fits, key=len)


def _parts() -> list[str]:
    """Groups inside the models' groups: `student/fusion`."""
    folders = {path.name for home in HOMES for path in (home / "student").glob("*") if path.is_dir()}
    return [f"student/{name}" for name in sorted(folders)]


def _part_cases(group: str) -> list[ModelCase]:
    """Each option of the group in every model that has such a part, as student and as teacher, with what it needs. A
    data set whose models only repeat another's is passed over."""
    cases = []
    for dataset in DATASETS:
        if repeats("student", dataset):
            continue
        chosen = composed(f"dataset={dataset}").choices
        for key, name in chosen.items():
            if key.partition("@")[0] == group:
                role = "teacher" if "@teacher." in key else "student"
                cases += [
                    ModelCase(role, dataset, (f"{key}={o}", *needs(group, o))) for o in options(group) if o != name
                ]
    return cases


def needs(group: str, option: str) -> list[str]:
    """What must be said beside `group=option`: the other words of the command in the file's first comment."""
    (path,) = [home / group / f"{option}.yaml" for home in HOMES if (home / group / f"{option}.yaml").exists()]
    words = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").split()
    return [word for word in words if word.startswith(("dataset.", "dataset/"))]


def small(name: str) -> tuple[str, ...]:
    """The words that make a data set small and synthetic, where it has such settings."""
    node = composed(f"dataset={name}").dataset
    smallest = "tiny" if "n_crossings" in node.get("generator", {}) else "small"
    words = (("source", "synthetic"), ("generator.preset", smallest))
    return tuple(f"dataset.{key}={value}" for key, value in words if OmegaConf.select(node, key) is not None)


def unread(name: str, base: Path, *words: str) -> Dataset:
    """A small data set that is not set up; what it generates lies under `base`."""
    root = (f"paths.output_root={base / 'outputs'}", f"paths.data_root={base / 'data'}")
    return build_dataset(plain(f"dataset={name}", *root, *small(name), *words)["dataset"])


@functools.cache
def opened(name: str, base: Path, *words: str, seed: int = DATA_SEED) -> Dataset:
    """The same, set up once for all suites; read only."""
    dataset = unread(name, base, *words)
    with installed():
        dataset.setup(seed)
    return dataset
