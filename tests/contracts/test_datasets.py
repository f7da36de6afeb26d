"""What every data set of `conf/dataset` promises, on its synthetic stand-in and, where they are, on its real files."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from contracts.plugins import DATA_SEED, DATASETS, has_files, opened, outside_trusted, plain, unread
from kdexp.bootstrap import METRICS
from kdexp.building import build_dataset
from kdexp.contracts import SPLITS, Batch, Dataset, Split

# Settings that change what a batch holds. A data set of one's own adds its line.
CHANGES = {
    "medpix": [
        "dataset.image_size=32",
        "dataset.colour=true",
        "dataset.text.length=20",
        "dataset.text.mask_modality_words=true",
        "dataset.generator.noise=0.3",
    ],
    "wound": [
        "dataset.image_size=32",
        "dataset.colour=false",
        "dataset.text.length=20",
        "dataset.generator.noise=0.3",
    ],
    "rings": ["dataset.n=90", "dataset.noise=0.3"],
    "toptagging": [
        "dataset/view=hlt_harsh",
        "dataset/view=hlt_none",
        "dataset/view=seed_wiring",
        "dataset.view.loss=0.1",
        "dataset.max_constituents=20",
        "dataset.max_jets=200",
        "dataset.split=modulo",
        "dataset.statistics=own",
        "dataset.generator.n_per_class=120",
        "dataset.generator.least_angle=0.02",
        "dataset.generator.pt_mode=skewed",
    ],
    "city": [
        "dataset.grid.size_degrees=0.002",
        "dataset.grid.downsample=2",
        "dataset.zones.source=built_in",
        "dataset.candidate_top_k=64",
        "dataset.max_length=6",
        "dataset.legacy_angle=true",
        "dataset.n_train_trips=100",
        "dataset.generator.route_noise=0.3",
        "dataset.generator.location=east",
    ],
    # The same class, so one setting shows that each file's are read.
    "beijing": ["dataset.max_length=6"],
    "porto": ["dataset.max_length=6"],
    "porto_small": ["dataset.max_length=6"],
    "san_francisco": ["dataset.max_length=6"],
}
SOURCES = ("synthetic", "real")


@pytest.fixture(scope="module", autouse=True)
def outside() -> Iterator[None]:
    with outside_trusted():
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where stand-ins are generated, once for all suites."""
    return tmp_path_factory.getbasetemp() / "plugins"


CASES = [f"{name}-{source}" for name in DATASETS for source in SOURCES if source == "synthetic" or has_files(name)]


@pytest.fixture(scope="module", params=CASES)
def dataset(request: pytest.FixtureRequest, base: Path) -> Dataset:
    name, _, source = request.param.rpartition("-")
    return opened(name, base) if source == "synthetic" else opened_real(name, base)


REAL: dict[str, Dataset] = {}


def opened_real(name: str, base: Path) -> Dataset:
    node = plain(f"dataset={name}", f"paths.output_root={base / 'outputs'}")["dataset"]
    if not Path(node["root"]).is_absolute() or not Path(node["root"]).is_dir():
        pytest.skip(f"set KDEXP_DATA to a folder that holds {name}/ to run the suite on its real files")
    if name not in REAL:
        made = build_dataset({**node, "source": "real"})
        made.setup(DATA_SEED)
        REAL[name] = made
    return REAL[name]


def tensors(batch: Batch) -> dict[str, Tensor]:
    groups = {"student": batch.student, "teacher": batch.teacher, "targets": batch.targets}
    found = {f"{group}.{name}": tensor for group, some in groups.items() for name, tensor in some.items()}
    weights = {} if batch.weights is None else {"weights": batch.weights}
    return {**found, **weights, "index": batch.index}


def assert_equal(one: Batch, other: Batch) -> None:
    a, b = tensors(one), tensors(other)
    assert set(a) == set(b)
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype and same(tensor, b[name]), name


def same(one: Tensor, other: Tensor) -> bool:
    """To the bit, where a NaN (a duration that does not count) is a NaN in both."""
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())


def cut(tensor: Tensor, like: Tensor) -> Tensor:
    """The leading part of a tensor that was padded to a larger batch's shape."""
    return tensor[tuple(map(slice, like.shape))]


def some(split: Split, n: int = 12) -> Tensor:
    """A few samples of a split, out of order."""
    return torch.randperm(len(split), generator=torch.Generator().manual_seed(3))[:n]


def test_the_suite_sees_all_data_sets() -> None:
    assert len(DATASETS) >= 2
    assert {"medpix", "rings"} <= set(DATASETS)
    assert set(CHANGES) == set(DATASETS)


def test_the_contract_is_kept(dataset: Dataset) -> None:
    assert isinstance(dataset, Dataset)
    assert dataset.name in DATASETS and dataset.source in SOURCES
    assert dataset.cluster.isalpha() and isinstance(dataset.deterministic, bool)
    assert dataset.fingerprint


def test_tasks_are_named_once_with_metrics_that_their_kind_has(dataset: Dataset) -> None:
    names = [task.name for task in dataset.tasks]
    assert names and len(set(names)) == len(names)
    for task in dataset.tasks:
        assert task.metrics and set(task.metrics) <= set(METRICS[task.kind])
        if task.kind == "multiclass":
            assert len(set(task.classes)) == len(task.classes) >= 2


def test_the_score_is_made_of_metrics_that_tasks_report(dataset: Dataset) -> None:
    reported = {f"{task.name}/{metric}" for task in dataset.tasks for metric in task.metrics}
    assert dataset.score and set(dataset.score) <= reported


@pytest.mark.parametrize("name", SPLITS)
def test_a_batch_has_its_fields_and_types(dataset: Dataset, name: Any) -> None:
    split = dataset.split(name)
    assert isinstance(split, Split) and len(split) > 0
    index = some(split)
    batch = split.fetch(index)
    durations = {f"targets.{task.name}" for task in dataset.tasks if task.kind == "duration"}
    assert len(batch) == len(index)
    assert batch.index.dtype == torch.int64 and torch.equal(batch.index, index)
    assert batch.student and batch.teacher and set(batch.targets) == {task.name for task in dataset.tasks}
    for key, tensor in tensors(batch).items():
        assert len(tensor) == len(index), key
        if tensor.is_floating_point():
            assert tensor.dtype == torch.float32, key
            assert tensor.isfinite().all() or key in durations, key


@pytest.mark.parametrize("name", SPLITS)
def test_targets_lie_within_the_task(dataset: Dataset, name: Any) -> None:
    split = dataset.split(name)
    targets = split.fetch(torch.arange(len(split))).targets
    for task in dataset.tasks:
        target = targets[task.name]
        if task.kind == "regression":
            assert target.is_floating_point()
            continue
        if task.kind == "duration":  # NaN where a position does not count
            assert target.is_floating_point() and target.ndim == 2
            assert not target.isinf().any() and target.nan_to_num().min() >= 0 and not target.isnan().all(dim=1).any()
            continue
        if task.kind == "candidates":  # -1 where a position does not count
            assert target.dtype == torch.int64 and target.min() >= -1
            continue
        assert target.shape == (len(split),)
        n_classes = len(task.classes) if task.kind == "multiclass" else 2
        assert set(target.tolist()) <= set(range(n_classes))
        if task.kind == "multiclass":
            assert target.dtype == torch.int64


def test_every_class_occurs_in_train(dataset: Dataset) -> None:
    split = dataset.split("train")
    targets = split.fetch(torch.arange(len(split))).targets
    for task in dataset.tasks:
        if task.kind == "multiclass":
            assert set(targets[task.name].tolist()) == set(range(len(task.classes)))


def test_each_sample_has_one_cluster_and_no_cluster_is_in_two_splits(dataset: Dataset) -> None:
    clusters = {name: dataset.split(name).clusters for name in SPLITS}
    for name, of in clusters.items():
        assert of.shape == (len(dataset.split(name)),) and of.dtype.kind == "U"
        assert all(of)
    sets = [set(of.tolist()) for of in clusters.values()]
    # Samples of one cluster resemble each other, so a shared one would leak.
    assert len(set.union(*sets)) == sum(map(len, sets))


def test_samples_fetched_together_are_those_fetched_one_by_one(dataset: Dataset) -> None:
    split = dataset.split("train")
    index = some(split)
    together = tensors(split.fetch(index))
    for place, position in enumerate(index):
        for name, tensor in tensors(split.fetch(position[None])).items():
            assert same(cut(together[name][place], tensor[0]), tensor[0]), name


def test_order_and_duplicates_are_honoured(dataset: Dataset) -> None:
    split = dataset.split("val")
    last = len(split) - 1
    index = torch.tensor([last, 0, 0, last // 2, last])
    batch = tensors(split.fetch(index))
    assert batch["index"].tolist() == index.tolist()
    whole = tensors(split.fetch(torch.arange(len(split))))
    for name, tensor in batch.items():
        assert same(tensor, cut(whole[name][index], tensor)), name


def test_a_sample_outside_the_split_is_refused(dataset: Dataset) -> None:
    split = dataset.split("test")
    with pytest.raises(IndexError):
        split.fetch(torch.tensor([len(split)]))


def test_a_fetched_batch_belongs_to_the_caller(dataset: Dataset) -> None:
    split = dataset.split("train")
    index = some(split)
    before = {name: tensor.clone() for name, tensor in tensors(split.fetch(index)).items()}
    for tensor in tensors(split.fetch(index.clone())).values():
        tensor.zero_()
    for name, tensor in tensors(split.fetch(index)).items():
        assert same(tensor, before[name]), name


def test_a_deterministic_data_set_gives_a_sample_twice(dataset: Dataset) -> None:
    split = dataset.split("train")
    one, other = (tensors(split.fetch(some(split))) for _ in range(2))
    assert all(same(one[name], other[name]) for name in one) == dataset.deterministic


@pytest.mark.parametrize("name", SPLITS)
def test_lengths_are_those_of_the_samples(dataset: Dataset, name: Any) -> None:
    """Where a split says how long its samples are, that is how many of their durations count."""
    split = dataset.split(name)
    lengths = np.asarray(getattr(split, "lengths", np.ones(len(split))))
    assert lengths.shape == (len(split),) and lengths.min() >= 1
    targets = split.fetch(torch.arange(len(split))).targets
    for task in dataset.tasks:
        if task.kind == "duration":
            assert (~targets[task.name].isnan()).sum(1).tolist() == lengths.tolist()


def test_model_arguments_tell_the_tasks(dataset: Dataset) -> None:
    told = dataset.model_arguments()
    assert told["tasks"] == dataset.tasks
    assert all(name.isidentifier() for name in told)


def test_inspect_gives_plain_values(dataset: Dataset) -> None:
    facts = dataset.inspect()
    assert facts
    assert json.loads(json.dumps(facts, allow_nan=False)).keys() == facts.keys()


def states() -> tuple[bytes, Any, Any]:
    numpy = np.random.get_state(legacy=False)
    return torch.get_rng_state().numpy().tobytes(), str(numpy), random.getstate()


@pytest.mark.parametrize("name", DATASETS)
def test_reading_leaves_global_chance_alone(name: str, tmp_path: Path) -> None:
    before = states()
    made = unread(name, tmp_path)
    made.setup(DATA_SEED)
    made.split("train").fetch(torch.arange(4))
    assert states() == before


@pytest.mark.parametrize("name", DATASETS)
def test_read_twice_it_is_the_same(name: str, base: Path, tmp_path: Path) -> None:
    """In another folder, generated anew: the same fingerprint and the same samples."""
    again, first = unread(name, tmp_path), opened(name, base)
    again.setup(DATA_SEED)
    assert again.fingerprint == first.fingerprint
    for split in SPLITS:
        assert_equal(again.split(split).fetch(torch.arange(6)), first.split(split).fetch(torch.arange(6)))
        assert again.split(split).clusters.tolist() == first.split(split).clusters.tolist()


@pytest.mark.parametrize("name", DATASETS)
def test_the_seed_changes_a_stand_in_and_its_fingerprint(name: str, base: Path) -> None:
    one, other = opened(name, base), opened(name, base, seed=DATA_SEED + 1)
    assert one.source == other.source == "synthetic"
    assert one.fingerprint != other.fingerprint
    index = torch.arange(6)
    a, b = (tensors(each.split("train").fetch(index)) for each in (one, other))
    assert not all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(("name", "word"), [(name, word) for name in DATASETS for word in CHANGES.get(name, [])])
def test_a_setting_that_changes_a_batch_changes_the_fingerprint(name: str, word: str, base: Path) -> None:
    assert opened(name, base, word).fingerprint != opened(name, base).fingerprint


@pytest.mark.parametrize("name", DATASETS)
def test_generated_twice_the_files_are_the_same_to_the_byte(name: str, tmp_path: Path) -> None:
    made = unread(name, tmp_path)
    roots = [tmp_path / "one", tmp_path / "two", tmp_path / "other"]
    for root, seed in zip(roots, (3, 3, 4), strict=True):
        made.generate(root, seed)
    one, two, other = (contents(root) for root in roots)
    assert one and one == two
    assert one != other


@pytest.mark.parametrize("name", DATASETS)
def test_progress_is_told_in_whole_numbers_up_to_the_end(name: str, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    made = unread(name, tmp_path)

    def report(what: str, done: int, total: int) -> None:
        told.append((what, done, total))

    made.setup(DATA_SEED, report)
    assert all(what and 0 <= done <= total for what, done, total in told)
    last = {what: (done, total) for what, done, total in told}
    assert all(done == total for done, total in last.values())


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
