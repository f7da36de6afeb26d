"""A teacher's outputs on candidates, stored without padding: what comes back is what a live teacher says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kdexp.contracts import Batch
from kdexp.errors import CacheError
from kdexp.training import cache
from kdexp.training.cache import CacheKey, Features, Values, obtain_cache, teacher_outputs
from kdexp.training.loader import BatchLoader
from kdexp.training.ragged import Ragged, joined, packed
from kdexp.training.signals import CachedTeacher, LiveTeacher
from walks import TASKS, Guide, Walks

KEY = CacheKey(teacher="t", data="d", dtype="float32", names=())
WAY = TASKS[:1]


@pytest.fixture(scope="module")
def walks() -> Walks:
    made = Walks()
    made.setup(3)
    return made


@pytest.fixture
def guide() -> Guide:
    torch.manual_seed(0)
    return Guide()


def cached(root: Path, walks: Walks, guide: Guide, dtype: str = "float32", mode: str = "ram") -> CachedTeacher:
    def compute() -> tuple[Values, Features]:
        return teacher_outputs(guide, walks.split("train"), WAY, features=(), batch_size=7)

    return obtain_cache(root, replace(KEY, dtype=dtype), mode, compute)[0]


def shuffled(walks: Walks) -> list[Batch]:
    return list(BatchLoader(walks.split("train"), batch_size=8, seed=1))


@pytest.mark.parametrize("mode", ["ram", "memmap"])
def test_cached_is_live_to_the_bit_whatever_the_batch(tmp_path: Path, walks: Walks, guide: Guide, mode: str) -> None:
    live, stored = LiveTeacher(guide, "t"), cached(tmp_path, walks, guide, mode=mode)
    shapes = set()
    for batch in shuffled(walks):
        said = live.signal(batch).values["way"]
        found = stored.signal(batch).values["way"]
        assert found.dtype == torch.float32 and torch.equal(found, said)
        shapes.add(said.shape)
    assert len(shapes) > 3, "batches differ in positions and candidates"


def test_half_precision_is_that_of_its_numbers(tmp_path: Path, walks: Walks, guide: Guide) -> None:
    live, stored = LiveTeacher(guide, "t"), cached(tmp_path, walks, guide, "float16")
    assert np.load(replace(KEY, dtype="float16").folder(tmp_path) / "values.way.entries.npy").dtype == np.float16
    for batch in shuffled(walks):
        assert torch.equal(stored.signal(batch).values["way"], live.signal(batch).values["way"].half().float())


def test_only_real_candidates_are_stored(tmp_path: Path, walks: Walks, guide: Guide) -> None:
    cached(tmp_path, walks, guide)
    folder, split = KEY.folder(tmp_path), walks.split("train")
    sizes = {path.name: np.load(path).shape for path in folder.glob("*.npy")}
    assert sizes == {
        "values.way.entries.npy": (int(split.mask.sum()),),
        "values.way.counts.npy": (int(split.lengths.sum()),),
        "values.way.first_entry.npy": (len(split),),
        "values.way.first_position.npy": (len(split),),
        "values.way.n_positions.npy": (len(split),),
    }


def test_a_teacher_of_one_number_per_sample_is_stored_as_before(tmp_path: Path, walks: Walks) -> None:
    """A task without candidates comes back in sample order, though the teacher met samples by length."""
    values = torch.arange(float(len(walks.split("train"))))[:, None] * torch.ones(3)

    class Table(Guide):
        def forward(self, inputs):  # type: ignore[no-untyped-def]
            return replace(super().forward(inputs), logits={"class": inputs["row"]}, features={"row": inputs["row"]})

    class Rows(type(walks.split("train"))):  # type: ignore[misc]
        def __init__(self) -> None:
            self.__dict__.update(walks.split("train").__dict__)

        def fetch(self, index: Tensor) -> Batch:
            batch = super().fetch(index)
            return replace(batch, teacher={**batch.teacher, "row": values[index]})

    task = replace(TASKS[0], name="class", kind="multiclass")
    stored, features = teacher_outputs(Table(), Rows(), [task], features=("row",), batch_size=7)
    assert torch.equal(stored["class"], values) and torch.equal(features["row"], values)


# by hand


def logits_and_mask(*rows: list[int]) -> tuple[Tensor, Tensor]:
    """Numbers 0, 1, 2, … on the real candidates, 99 on padding."""
    mask = torch.arange(max(map(max, rows))) < torch.tensor(rows)[..., None]
    values = torch.full(mask.shape, 99.0)
    values[mask] = torch.arange(float(mask.sum()))
    return values, mask


def targets(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def test_two_walks_by_hand() -> None:
    stored = packed("way", *logits_and_mask([2, 1, 3], [1, 0, 0]))
    assert stored.entries.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert stored.counts.tolist() == [2, 1, 3, 1] and stored.counts.dtype == torch.int32
    assert stored.first_entry.tolist() == [0, 6] and stored.first_position.tolist() == [0, 3]
    assert stored.n_positions.tolist() == [3, 1] and len(stored) == 2
    # The second alone: one position, one candidate. Both, turned, with room for four positions.
    assert stored.rows(torch.tensor([1]), targets(1, 1)).tolist() == [[[6.0]]]
    assert stored.rows(torch.tensor([1, 0]), targets(2, 4)).tolist() == [
        [[6.0, 0.0, 0.0], [0.0] * 3, [0.0] * 3, [0.0] * 3],
        [[0.0, 1.0, 0.0], [2.0, 0.0, 0.0], [3.0, 4.0, 5.0], [0.0] * 3],
    ]


def test_a_position_without_candidates_between_others_keeps_its_place() -> None:
    stored = packed("way", *logits_and_mask([1, 0, 2], [2, 0, 0]))
    assert stored.counts.tolist() == [1, 0, 2, 2]
    assert stored.rows(torch.tensor([0]), targets(1, 3)).tolist() == [[[0.0, 0.0], [0.0, 0.0], [1.0, 2.0]]]


def test_candidates_without_positions_come_back_without() -> None:
    values, mask = logits_and_mask([2], [3], [1])
    stored = packed("t", values[:, 0], mask[:, 0])
    assert stored.rows(torch.tensor([2, 0]), targets(2)).tolist() == [[5.0, 0.0], [0.0, 1.0]]


def test_pieces_are_joined_in_the_order_of_their_samples() -> None:
    one, other = packed("way", *logits_and_mask([2, 1], [1, 3])), packed("way", *logits_and_mask([4, 0]))
    stored = joined([one, other], torch.tensor([2, 0, 1]))
    # Sample 0 is the second of the first piece, sample 1 the second piece, sample 2 the first of the first.
    found = stored.rows(torch.arange(3), targets(3, 2))
    assert found[0].tolist() == [[3.0, 0.0, 0.0, 0.0], [4.0, 5.0, 6.0, 0.0]]
    assert found[1].tolist() == [[0.0, 1.0, 2.0, 3.0], [0.0] * 4]
    assert found[2].tolist() == [[0.0, 1.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]]


def test_padding_between_candidates_cannot_be_stored() -> None:
    with pytest.raises(CacheError, match=r"task way: padding lies between .* or use teacher\.cache=off"):
        packed("way", torch.zeros(1, 1, 3), torch.tensor([[[True, False, True]]]))


def test_a_batch_with_fewer_positions_than_stored_is_refused() -> None:
    stored = packed("way", *logits_and_mask([2, 1, 3]))
    with pytest.raises(CacheError, match="have 3 positions where the batch has 2: they belong to other samples"):
        stored.rows(torch.tensor([0]), targets(1, 2))


@pytest.mark.parametrize("part", ["entries", "counts", "first_entry", "first_position", "n_positions"])
def test_a_damaged_part_is_named(tmp_path: Path, walks: Walks, guide: Guide, part: str) -> None:
    cached(tmp_path, walks, guide)
    file = KEY.folder(tmp_path) / f"values.way.{part}.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CacheError, match=rf"values\.way\.{part}\.npy is missing or was changed"):
        cached(tmp_path, walks, guide)


def test_a_teacher_that_broke_is_refused(tmp_path: Path) -> None:
    values, mask = logits_and_mask([2, 1])
    values[0, 1, 0] = torch.nan
    with pytest.raises(CacheError, match="the teacher's output way holds NaN or infinity"):
        obtain_cache(tmp_path, KEY, "ram", lambda: ({"way": packed("way", values, mask)}, {}))


def test_the_padded_whole_is_never_held(monkeypatch: pytest.MonkeyPatch, walks: Walks, guide: Guide) -> None:
    """Each batch is packed before the next one is asked for."""
    log = []
    pack, fetch = packed, type(walks.split("train")).fetch

    def packing(task: str, values: Tensor, mask: Tensor) -> Ragged:
        log.append("packed")
        return pack(task, values, mask)

    def fetching(self: object, index: Tensor) -> Batch:
        log.append("fetched")
        return fetch(self, index)

    monkeypatch.setattr(cache, "packed", packing)
    monkeypatch.setattr(type(walks.split("train")), "fetch", fetching)
    teacher_outputs(guide, walks.split("train"), WAY, features=(), batch_size=7)
    assert log == ["fetched", "packed"] * 9
