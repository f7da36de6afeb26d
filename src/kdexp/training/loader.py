"""Batches by index: the order of an epoch is drawn at once, and each batch is fetched whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from kdexp.contracts import Batch, Split
from kdexp.seeds import derive_seed

_WINDOW_BATCHES = 50  # of samples in random order, sorted by length among themselves


class BatchLoader:
    """Yields a split's batches; when shuffled, the order is a pure function of (seed, epoch).

    Where the split has `lengths`, samples of like length share a batch: a shuffled order is sorted within windows of 50
    batches, then full batches are shuffled among themselves; an order that is not shuffled is sorted as a whole.

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
        lengths = getattr(split, "lengths", None)
        self._lengths = None if lengths is None else torch.as_tensor(np.asarray(lengths))
        if self._lengths is not None and self._lengths.shape != (len(split),):
            raise ValueError(f"a split of {len(split)} samples has lengths of shape {tuple(self._lengths.shape)}")

    def __len__(self) -> int:
        per_rank = -(-len(self.split) // self.world_size)
        return -(-per_rank // self.batch_size)

    def order(self, epoch: int) -> torch.Tensor:
        """This rank's sample positions, in the order of this epoch."""
        n = len(self.split)
        if self.seed is None:
            order = torch.arange(n) if self._lengths is None else self._lengths.argsort(stable=True)
        else:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            order = torch.randperm(n, generator=generator)
        order = order[torch.arange(n + -n % self.world_size) % n]
        if self.seed is not None and self._lengths is not None:
            order = self._bucketed(order, self._lengths[order], generator)
        return order[self.rank :: self.world_size]

    def _bucketed(self, order: torch.Tensor, length: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The same samples, like lengths side by side. What is left over of a full step on all ranks stays last."""
        step = self.batch_size * self.world_size
        n_full = len(order) // step
        window = torch.arange(n_full * step) // (_WINDOW_BATCHES * step)
        place = torch.as_tensor(np.lexsort((length[: n_full * step].numpy(), window.numpy())))
        batches = order[place].reshape(n_full, step)[torch.randperm(n_full, generator=generator)]
        return torch.cat([batches.flatten(), order[n_full * step :]])

    def __iter__(self) -> Iterator[Batch]:
        for index in self.order(self.epoch()).split(self.batch_size):
            yield self.split.fetch(index)
