"""The teacher's outputs on the training split, computed once and shared by every run that uses the same teacher.

A folder per (teacher weights, how they are read, data, dtype, names): one `.npy` per tensor in sample order, or several
for a task with candidates, whose padding is not stored; and `manifest.json`, written last, with a checksum of each.
`obtain_arrays` keeps such a folder for whatever else is computed once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from kdexp.contracts import Split, TaskSpec
from kdexp.display import Stage
from kdexp.distill.losses.log_probabilities import candidate_mask
from kdexp.errors import CacheError, DataError
from kdexp.records import fingerprint, read_json, write_json, written_whole
from kdexp.training.fit import outputs_of
from kdexp.training.ragged import Ragged, joined, packed
from kdexp.training.signals import CachedTeacher

Values = dict[str, Tensor | Ragged]
Features = dict[str, Tensor]
Groups = Mapping[str, Mapping[str, Tensor | Ragged]]
"""Tensors in sample order, by group and name."""

RAM_LIMIT_BYTES = 2 * 1024**3
"""`teacher.cache=auto` maps larger caches from disk instead of reading them into memory."""


@dataclass(frozen=True, kw_only=True)
class CacheKey:
    """All that a teacher's outputs depend on."""

    teacher: str
    data: str
    dtype: str
    names: tuple[str, ...]
    signal: Mapping[str, Any] = field(default_factory=dict)

    def folder(self, root: Path) -> Path:
        return root / fingerprint(self.teacher, self.data, self.dtype, self.names, dict(self.signal))


def teacher_outputs(
    model: nn.Module,
    split: Split,
    tasks: Sequence[TaskSpec],
    *,
    features: Sequence[str],
    batch_size: int,
    device: torch.device | None = None,
    stage: Stage | None = None,
) -> tuple[Values, Features]:
    """What a teacher says on a whole split, in sample order, by task, and its features by name. Padding of candidates
    is dropped batch by batch, so that the padded whole is never held."""
    kept: dict[str, list[Tensor | Ragged]] = {task.name: [] for task in tasks}
    kept_features: dict[str, list[Tensor]] = {name: [] for name in features}
    indices = []
    for output, batch in outputs_of(model, split, batch_size=batch_size, view="teacher", device=device, stage=stage):
        for task in tasks:
            logits, mask = output.logits[task.name], candidate_mask(output, task)
            kept[task.name].append(logits.float().cpu() if mask is None else packed(task.name, logits.float(), mask))
        for name in features:
            kept_features[name].append(output.features[name].float().cpu())
        indices.append(batch.index.cpu())
    index_N = torch.cat(indices)
    return (
        {name: _together(pieces, index_N) for name, pieces in kept.items()},
        {name: torch.cat(pieces)[index_N.argsort()] for name, pieces in kept_features.items()},
    )


def _together(pieces: list[Tensor | Ragged], index_N: Tensor) -> Tensor | Ragged:
    ragged = [piece for piece in pieces if isinstance(piece, Ragged)]
    if ragged:
        return joined(ragged, index_N)
    return torch.cat([piece for piece in pieces if isinstance(piece, Tensor)])[index_N.argsort()]


def obtain_cache(
    root: Path, key: CacheKey, mode: str, compute: Callable[[], tuple[Values, Features]]
) -> tuple[CachedTeacher, bool]:
    """The cached signal and whether it was there before; `compute` returns logits by task and features by name.

    `mode` is `ram`, `memmap`, or `auto` (memory up to 2 GiB). Raises CacheError where a checksum does not match.
    """
    folder = key.folder(root)

    def narrowed() -> Groups:
        values, features = compute()
        return {
            "values": {name: _narrowed(one, name, key, folder) for name, one in values.items()},
            "features": {name: _narrow(one, name, key, folder) for name, one in features.items()},
        }

    described = {"teacher": key.teacher, "signal": dict(key.signal), "data": key.data}
    groups, manifest, existed = obtain_arrays(folder, mode, described, narrowed)
    features = {name: one for name, one in groups.get("features", {}).items() if isinstance(one, Tensor)}
    return CachedTeacher(dict(groups.get("values", {})), features, str(manifest["teacher"])), existed


def _narrowed(one: Tensor | Ragged, name: str, key: CacheKey, folder: Path) -> Tensor | Ragged:
    if isinstance(one, Ragged):
        return replace(one, entries=_narrow(one.entries, name, key, folder))
    return _narrow(one, name, key, folder)


def _narrow(tensor: Tensor, name: str, key: CacheKey, folder: Path) -> Tensor:
    """The numbers in the cache's precision. Raises CacheError where one is none there."""
    kept = tensor.to(getattr(torch, key.dtype))
    if bool(torch.isfinite(kept).all()):
        return kept
    if bool(torch.isfinite(tensor).all()):
        raise CacheError(f"the teacher's output {name} is too large for {key.dtype}; use teacher.cache_dtype=float32")
    raise CacheError(f"the teacher's output {name} holds NaN or infinity; look at its training in {folder.parents[1]}")


def obtain_arrays(
    folder: Path, mode: str, described: Mapping[str, Any], compute: Callable[[], Groups]
) -> tuple[Groups, dict[str, Any], bool]:
    """What a folder holds, its manifest, and whether it was there before; where it was not, one process computes it and
    others wait. `described` goes into the manifest.

    `mode` as for `obtain_cache`. Raises CacheError where a checksum does not match.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        existed = (folder / "manifest.json").exists()
        if not existed:
            _write(folder, described, compute())
    return *_open(folder, mode, list(described)), existed


def _write(folder: Path, described: Mapping[str, Any], groups: Groups) -> None:
    files: dict[str, Any] = {}
    for group, stored in groups.items():
        for name, one in stored.items():
            parts = one.parts() if isinstance(one, Ragged) else {"": one}
            for part, tensor in parts.items():
                file = ".".join(word for word in (group, name, part, "npy") if word)
                with written_whole(folder / file) as temporary, temporary.open("wb") as stream:
                    np.save(stream, tensor.numpy(), allow_pickle=False)
                files[file] = {"group": group, "name": name, "part": part, "sha256": _checksum(folder / file)}
    write_json(folder / "manifest.json", {**described, "files": files})


def _open(folder: Path, mode: str, keys: Sequence[str]) -> tuple[Groups, dict[str, Any]]:
    try:
        manifest = dict(read_json(folder / "manifest.json"))
        entries = dict(manifest["files"])
        missing = [key for key in keys if key not in manifest]
    except (DataError, KeyError, TypeError, ValueError):
        missing = ["files"]
    if missing:
        raise CacheError(f"{folder / 'manifest.json'} is damaged; remove {folder} and run again")
    size = sum((folder / file).stat().st_size for file in entries if (folder / file).exists())
    mapped = mode == "memmap" or (mode == "auto" and size > RAM_LIMIT_BYTES)
    found: dict[str, dict[str, dict[str, Tensor]]] = {}
    for file, entry in entries.items():
        path = folder / file
        if not path.exists() or _checksum(path) != entry["sha256"]:
            raise CacheError(f"{path} is missing or was changed after it was written; remove {folder} and run again")
        array = np.load(path, mmap_mode="c" if mapped else None, allow_pickle=False)
        found.setdefault(entry["group"], {}).setdefault(entry["name"], {})[entry["part"]] = torch.from_numpy(array)
    return {
        group: {name: parts[""] if "" in parts else Ragged(**parts) for name, parts in stored.items()}
        for group, stored in found.items()
    }, manifest


def _checksum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
