"""What a model's frozen parts give, computed once and kept on disk, so that training and measuring never run them.

A folder per (frozen part, the inputs that it reads) under `<output_root>/features/`, in the form of `cache.py`. The
inputs are known by a hash of their content: models, runs and views that feed a part the same share what it gives.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from kdexp.contracts import Batch, FrozenPart, Split
from kdexp.display import Stage
from kdexp.errors import CacheError
from kdexp.records import fingerprint
from kdexp.training.cache import Groups, obtain_arrays

log = logging.getLogger(__name__)

_BATCH_SIZE = 64  # of its own, so that no setting of a run changes what is stored


class FeatureStore:
    """The features under one folder. `stage` opens a progress bar; where samples are drawn anew each time
    (`deterministic` false), nothing is stored and a model runs its frozen parts itself."""

    def __init__(
        self, root: Path, *, deterministic: bool, device: torch.device, stage: Callable[[str, int], Stage]
    ) -> None:
        self.root, self.deterministic, self.device, self._stage = root, deterministic, device, stage
        self._held: list[tuple[Split, str, str, Tensor]] = []
        self._reuses = False

    def split(self, model: nn.Module, split: Split, view: str) -> Split:
        """The split with the features of this model's frozen parts beside what its view holds."""
        parts: Mapping[str, FrozenPart] = getattr(model, "frozen_parts", dict)()
        if not parts or not self.deterministic:
            return split
        return FeaturedSplit(
            split, view, {name: self._features(name, part, split, view) for name, part in parts.items()}
        )

    def _features(self, name: str, part: FrozenPart, split: Split, view: str) -> Tensor:
        for known_split, known_view, known, held in self._held:
            if (known_split, known_view, known) == (split, view, part.fingerprint):
                return held
        inputs = inputs_sha256(split, view, part.reads)
        folder = self.root / fingerprint(part.fingerprint, part.reads, inputs)

        def compute() -> Groups:
            return {"features": {name: self._computed(name, part, split, view)}}

        described = {"part": part.fingerprint, "inputs": inputs}
        groups, _, existed = obtain_arrays(folder, "auto", described, compute)
        self._say(name, split, folder, existed)
        (features,) = groups["features"].values()
        assert isinstance(features, Tensor)
        self._held.append((split, view, part.fingerprint, features))
        return features

    def _say(self, name: str, split: Split, folder: Path, existed: bool) -> None:
        """A line for each file made, and one for all that were there."""
        if not existed:
            log.info("features: %s of %d samples kept in %s", name, len(split), folder)
        elif not self._reuses:
            log.info("features: reused from %s", self.root)
        self._reuses = self._reuses or existed

    @torch.inference_mode()
    def _computed(self, name: str, part: FrozenPart, split: Split, view: str) -> Tensor:
        stage = self._stage(f"features {name}", -(-len(split) // _BATCH_SIZE))
        module = part.module.to(self.device).eval()
        rows = []
        for batch in _in_order(split):
            inputs = getattr(batch.to(self.device), view)
            rows.append(module(*(inputs[read] for read in part.reads)).float().cpu())
            stage.advance()
        features = torch.cat(rows)
        if not bool(torch.isfinite(features).all()):
            raise CacheError(f"the frozen part behind {name} gives NaN or infinity; look at its inputs and weights")
        return features


class FeaturedSplit:
    """A split whose batches hold, beside a view's inputs, the features of the same samples."""

    def __init__(self, split: Split, view: str, features: Mapping[str, Tensor]) -> None:
        self.clusters = split.clusters
        self.lengths = getattr(split, "lengths", None)
        self._split, self._view, self._features = split, view, dict(features)

    def __len__(self) -> int:
        return len(self._split)

    def fetch(self, index: Tensor) -> Batch:
        batch = self._split.fetch(index)
        rows = {name: features[index] for name, features in self._features.items()}
        inputs = {**getattr(batch, self._view), **rows}
        return replace(batch, student=inputs) if self._view == "student" else replace(batch, teacher=inputs)


def inputs_sha256(split: Split, view: str, names: tuple[str, ...]) -> str:
    """A hash of these inputs of all samples, in sample order."""
    digest = hashlib.sha256()
    for batch in _in_order(split):
        inputs = getattr(batch, view)
        for name in names:
            tensor = inputs[name].contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().data)
    return digest.hexdigest()


def _in_order(split: Split) -> Iterator[Batch]:
    for index in torch.arange(len(split)).split(_BATCH_SIZE):
        yield split.fetch(index)
