"""Batches by index: the order of an epoch is drawn at once, and each batch is fetched whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from kdexp.contracts import Batch, Split
from kdexp.seeds import derive_seed


class BatchLoader:
    """Yields a split's batches; when shuffled, the order is a pure function of (seed, epoch).

    Under DDP every rank draws the same order and takes its own part of each batch's positions; the order is filled
    up from its start so that all ranks see equally many samples.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int | None = None,
        epoch: Callable[[], int] = lambda: 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.split, self.batch_size, self.seed, self.epoch = split, batch_size, seed, epoch
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        per_rank = -(-len(self.split) // self.world_size)
        return -(-per_rank // self.batch_size)

    def order(self, epoch: int) -> torch.Tensor:
        """This rank's sample positions, in the order of this epoch."""
        n = len(self.split)
        if self.seed is None:
            order = torch.arange(n)
        else:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            order = torch.randperm(n, generator=generator)
        filled = torch.arange(n + -n % self.world_size) % n
        return order[filled][self.rank :: self.world_size]

    def __iter__(self) -> Iterator[Batch]:
        for index in self.order(self.epoch()).split(self.batch_size):
            yield self.split.fetch(index)
