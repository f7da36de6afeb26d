"""The teacher's outputs on the training split, computed once and shared by every run that uses the same teacher.

A folder per (teacher weights, data, dtype, names): one `.npy` per tensor in sample order, and `manifest.json`, written
last, with a checksum of each file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from kdexp.errors import CacheError, DataError
from kdexp.records import fingerprint, read_json, write_json, written_whole
from kdexp.training.signals import CachedTeacher

RAM_LIMIT_BYTES = 2 * 1024**3
"""`teacher.cache=auto` maps larger caches from disk instead of reading them into memory."""


@dataclass(frozen=True, kw_only=True)
class CacheKey:
    """All that a teacher's outputs depend on."""

    teacher: str
    data: str
    dtype: str
    names: tuple[str, ...]

    def folder(self, root: Path) -> Path:
        return root / fingerprint(self.teacher, self.data, self.dtype, self.names)


def obtain_cache(
    root: Path, key: CacheKey, mode: str, compute: Callable[[], tuple[dict[str, Tensor], dict[str, Tensor]]]
) -> tuple[CachedTeacher, bool]:
    """The cached signal and whether it was there before; `compute` returns logits by task and features by name.

    `mode` is `ram`, `memmap`, or `auto` (memory up to 2 GiB). Raises CacheError where a checksum does not match.
    """
    folder = key.folder(root)
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        existed = (folder / "manifest.json").exists()
        if not existed:
            values, features = compute()
            _write(folder, key, {"values": values, "features": features})
    return _open(folder, mode), existed


def _write(folder: Path, key: CacheKey, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    files: dict[str, Any] = {}
    for group, tensors in groups.items():
        for name, tensor in tensors.items():
            kept = tensor.to(getattr(torch, key.dtype))
            if bool(torch.isfinite(tensor).all()) and not bool(torch.isfinite(kept).all()):
                raise CacheError(
                    f"the teacher's output {name} is too large for {key.dtype}; use teacher.cache_dtype=float32"
                )
            if not bool(torch.isfinite(kept).all()):
                raise CacheError(
                    f"the teacher's output {name} holds NaN or infinity; look at its training in {folder.parents[1]}"
                )
            file = f"{group}.{name}.npy"
            with written_whole(folder / file) as temporary, temporary.open("wb") as stream:
                np.save(stream, kept.numpy(), allow_pickle=False)
            files[file] = {"group": group, "name": name, "sha256": _checksum(folder / file)}
    write_json(folder / "manifest.json", {"teacher": key.teacher, "data": key.data, "files": files})


def _open(folder: Path, mode: str) -> CachedTeacher:
    try:
        manifest = read_json(folder / "manifest.json")
        entries, teacher = dict(manifest["files"]), str(manifest["teacher"])
    except (DataError, KeyError, TypeError, ValueError):
        raise CacheError(f"{folder / 'manifest.json'} is damaged; remove {folder} and run again") from None
    size = sum((folder / file).stat().st_size for file in entries if (folder / file).exists())
    mapped = mode == "memmap" or (mode == "auto" and size > RAM_LIMIT_BYTES)
    groups: dict[str, dict[str, Tensor]] = {"values": {}, "features": {}}
    for file, entry in entries.items():
        path = folder / file
        if not path.exists() or _checksum(path) != entry["sha256"]:
            raise CacheError(f"{path} is missing or was changed after it was written; remove {folder} and run again")
        array = np.load(path, mmap_mode="c" if mapped else None, allow_pickle=False)
        groups[entry["group"]][entry["name"]] = torch.from_numpy(array)
    return CachedTeacher(groups["values"], groups["features"], teacher)


def _checksum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
