"""The order of an epoch is a function of (seed, epoch) and nothing else, alone and under DDP."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from kdexp.contracts import Batch
from kdexp.training.loader import BatchLoader


class Numbers:
    """A split whose samples are their own positions; it remembers how it was asked."""

    def __init__(self, n: int) -> None:
        self.clusters = np.arange(n).astype(str)
        self.asked: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.clusters)

    def fetch(self, index: Tensor) -> Batch:
        self.asked.append(index)
        view = {"number": index.float()}
        return Batch(student=view, teacher=view, targets={}, index=index)


def numbers(loader: BatchLoader) -> list[int]:
    return [int(number) for batch in loader for number in batch.student["number"]]


class Trips(Numbers):
    """Samples of different lengths."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.lengths = np.random.default_rng(n).integers(1, 40, n)


@pytest.mark.parametrize("kind", [Numbers, Trips])
@pytest.mark.parametrize("n", [1, 5, 16, 17])
@pytest.mark.parametrize("seed", [None, 3])
def test_an_epoch_holds_each_sample_once_in_as_many_batches_as_it_says(
    n: int, seed: int | None, kind: type[Numbers]
) -> None:
    split = kind(n)
    loader = BatchLoader(split, batch_size=8, seed=seed)
    assert sorted(numbers(loader)) == list(range(n))
    # Each batch is fetched whole.
    assert len(split.asked) == len(loader) == -(-n // 8)
    assert all(len(index) == 8 for index in split.asked[:-1])
    assert all(index.dtype == torch.int64 for index in split.asked)


def test_without_a_seed_the_order_is_that_of_the_samples() -> None:
    loader = BatchLoader(Numbers(20), batch_size=6)
    assert numbers(loader) == numbers(loader) == list(range(20))


@pytest.mark.parametrize("kind", [Numbers, Trips])
def test_the_order_is_a_pure_function_of_seed_and_epoch(kind: type[Numbers]) -> None:
    one, other = (BatchLoader(kind(50), batch_size=8, seed=3) for _ in range(2))
    ahead = [one.order(epoch).tolist() for epoch in range(4)]
    torch.rand(7)  # chance elsewhere has no say
    assert [other.order(epoch).tolist() for epoch in reversed(range(4))] == ahead[::-1]
    assert len({tuple(order) for order in ahead}) == 4
    assert BatchLoader(kind(50), batch_size=8, seed=4).order(0).tolist() != ahead[0]


def test_the_batch_size_does_not_change_the_order() -> None:
    orders = [numbers(BatchLoader(Numbers(50), batch_size=size, seed=3)) for size in (1, 7, 50, 99)]
    assert orders == [orders[0]] * 4


def test_the_epoch_is_asked_for_when_it_begins() -> None:
    clock = itertools.count(5)
    loader = BatchLoader(Numbers(50), batch_size=8, seed=3, epoch=lambda: next(clock))
    assert numbers(loader) == loader.order(5).tolist()
    assert numbers(loader) == loader.order(6).tolist()


@pytest.mark.parametrize("kind", [Numbers, Trips])
def test_shuffling_draws_nothing_from_global_chance(kind: type[Numbers]) -> None:
    before = torch.get_rng_state()
    numbers(BatchLoader(kind(50), batch_size=8, seed=3))
    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_are_shuffled_evenly() -> None:
    """Over 2000 epochs each of four samples comes first about 500 times; chance alone moves that by about 20."""
    loader = BatchLoader(Numbers(4), batch_size=4, seed=0)
    firsts = [int(loader.order(epoch)[0]) for epoch in range(2000)]
    assert all(400 < firsts.count(sample) < 600 for sample in range(4))


@pytest.mark.parametrize("kind", [Numbers, Trips])
@pytest.mark.parametrize("n", [1, 3, 16, 17, 30])
@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("seed", [None, 3])
def test_ranks_share_an_epoch_evenly(n: int, world_size: int, seed: int | None, kind: type[Numbers]) -> None:
    ranks = [
        BatchLoader(kind(n), batch_size=4, seed=seed, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    orders = [loader.order(2).tolist() for loader in ranks]
    # As many samples and as many steps on each, or DDP would wait for ever.
    assert len({len(order) for order in orders}) == 1
    assert {len(loader) for loader in ranks} == {len(list(loader)) for loader in ranks}
    together = [sample for order in orders for sample in order]
    assert set(together) == set(range(n))
    # Filled up with as few samples as it takes.
    assert len(together) == -(-n // world_size) * world_size
    if kind is Numbers or seed is None:
        # All ranks hold parts of one and the same order.
        alone = BatchLoader(kind(n), batch_size=4, seed=seed).order(2).tolist()
        assert [sample for step in zip(*orders, strict=True) for sample in step][:n] == alone


# samples of like length


def spread(split: Trips, batches: list[list[int]]) -> float:
    """How far lengths lie apart within a batch, on average."""
    return float(np.mean([np.ptp(split.lengths[batch]) for batch in batches]))


def batches_of(loader: BatchLoader) -> list[list[int]]:
    return [batch.index.tolist() for batch in loader]


def test_samples_of_like_length_share_a_batch_and_windows_are_drawn_anew() -> None:
    split, plain = Trips(4000), Numbers(4000)
    epochs = [batches_of(BatchLoader(split, batch_size=16, seed=3, epoch=lambda e=e: e)) for e in range(2)]
    mixed = batches_of(BatchLoader(plain, batch_size=16, seed=3))
    # 800 samples of a window over 39 lengths: a batch of 16 spans one or two. Unsorted it spans nearly all.
    assert spread(split, epochs[0]) < 2 < 25 < spread(split, mixed)
    assert {frozenset(batch) for batch in epochs[0]}.isdisjoint({frozenset(batch) for batch in epochs[1]})


def test_long_and_short_batches_take_turns_in_no_order() -> None:
    split = Trips(4000)
    means = [split.lengths[batch].mean() for batch in batches_of(BatchLoader(split, batch_size=16, seed=3))]
    # Where batches were left sorted, neighbours would be alike.
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2


def test_what_is_left_over_of_the_last_batch_is_any_length() -> None:
    """Each sample is in the last, short batch about as often as another, whatever its length."""
    split = Trips(20)
    loader = BatchLoader(split, batch_size=8, seed=1)
    left_over = [loader.order(epoch)[16:] for epoch in range(600)]
    seen = torch.cat(left_over).bincount(minlength=20)
    # 600 · 4 / 20 = 120 times each; chance moves that by about 10.
    assert seen.min() > 75 and seen.max() < 165


def test_without_a_seed_samples_come_by_length_and_equals_in_their_order() -> None:
    split = Trips(100)
    order = numbers(BatchLoader(split, batch_size=8))
    assert order == sorted(range(100), key=lambda sample: (split.lengths[sample], sample))


def test_ranks_share_like_lengths_in_each_step() -> None:
    split = Trips(4000)
    ranks = [batches_of(BatchLoader(split, batch_size=8, seed=3, rank=rank, world_size=2)) for rank in range(2)]
    steps = [one + other for one, other in zip(*ranks, strict=True)]
    assert spread(split, steps) < 2
    assert sorted(sample for step in steps for sample in step) == list(range(4000))


def test_lengths_that_do_not_fit_the_split_are_refused() -> None:
    split = Trips(10)
    split.lengths = split.lengths[:9]
    with pytest.raises(ValueError, match=r"a split of 10 samples has lengths of shape \(9,\)"):
        BatchLoader(split, batch_size=4)
