"""A teacher's stored outputs: computed once, checked on opening, whole or not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdexp.contracts import Batch
from kdexp.errors import CacheError
from kdexp.training import cache
from kdexp.training.cache import CacheKey, Features, Values, obtain_cache
from kdexp.training.signals import CachedTeacher

KEY = CacheKey(teacher="t1", data="d1", dtype="float32", names=("hidden",))
N = 7


def outputs() -> tuple[Values, Features]:
    generator = torch.Generator().manual_seed(0)
    values: Values = {"organ": torch.randn(N, 3, generator=generator), "sick": torch.randn(N, generator=generator)}
    return values, {"hidden": torch.randn(N, 5, generator=generator)}


def refuse() -> tuple[Values, Features]:
    raise AssertionError("it was there already")


def batch(*positions: int) -> Batch:
    return Batch(student={}, teacher={}, targets={}, index=torch.tensor(positions))


def made(root: Path, key: CacheKey = KEY, mode: str = "ram") -> CachedTeacher:
    return obtain_cache(root, key, mode, outputs)[0]


@pytest.mark.parametrize("mode", ["ram", "memmap", "auto"])
def test_outputs_are_computed_once_and_looked_up_by_position(tmp_path: Path, mode: str) -> None:
    first, existed = obtain_cache(tmp_path, KEY, mode, outputs)
    second, existed_then = obtain_cache(tmp_path, KEY, mode, refuse)
    assert (existed, existed_then) == (False, True)
    values, features = outputs()
    for source in (first, second):
        signal = source.signal(batch(5, 0, 5))
        assert torch.equal(signal.values["organ"], values["organ"][[5, 0, 5]])
        assert torch.equal(signal.values["sick"], values["sick"][[5, 0, 5]])
        assert torch.equal(signal.features["hidden"], features["hidden"][[5, 0, 5]])
        assert signal.fingerprint == "t1" and signal.kind == "logits" and signal.temperature == 1.0


def is_mapped(source: CachedTeacher) -> bool:
    """Whether the numbers lie in the file: a change of the file shows."""
    return source.values["organ"][0, 0].item() == 123.0


@pytest.mark.parametrize(
    ("mode", "limit", "mapped"),
    [("ram", 0, False), ("memmap", 10**9, True), ("auto", 10**9, False), ("auto", 10, True)],
)
def test_the_mode_decides_what_lies_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, limit: int, mapped: bool
) -> None:
    monkeypatch.setattr(cache, "RAM_LIMIT_BYTES", limit)
    source = made(tmp_path, mode=mode)
    file = KEY.folder(tmp_path) / "values.organ.npy"
    array = np.lib.format.open_memmap(file, mode="r+")
    array[0, 0] = 123.0
    array.flush()
    assert is_mapped(source) == mapped


def test_a_change_to_a_mapped_signal_does_not_reach_the_file(tmp_path: Path) -> None:
    source = made(tmp_path, mode="memmap")
    source.values["organ"].zero_()
    assert torch.equal(obtain_cache(tmp_path, KEY, "ram", refuse)[0].values["organ"], outputs()[0]["organ"])


@pytest.mark.parametrize(
    "other",
    [{"teacher": "t2"}, {"data": "d2"}, {"dtype": "float16"}, {"names": ()}, {"signal": {"window": 4}}],
    ids=str,
)
def test_another_teacher_data_type_feature_or_reading_is_another_cache(tmp_path: Path, other: dict) -> None:
    key = replace(KEY, **other)
    made(tmp_path)
    assert key.folder(tmp_path) != KEY.folder(tmp_path)
    assert obtain_cache(tmp_path, key, "ram", outputs)[1] is False
    assert len(list(tmp_path.glob("*/manifest.json"))) == 2


def test_half_precision_is_stored_as_such_and_given_as_float32(tmp_path: Path) -> None:
    key = replace(KEY, dtype="float16")
    source = made(tmp_path, key)
    assert np.load(key.folder(tmp_path) / "values.organ.npy").dtype == np.float16
    signal = source.signal(batch(0, 1))
    assert signal.values["organ"].dtype == torch.float32
    assert torch.equal(signal.values["organ"], outputs()[0]["organ"][:2].half().float())


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    """Above 65504 a logit would become infinite, and the loss with it."""
    large = {"organ": torch.tensor([[7e4, 0.0]])}
    with pytest.raises(CacheError, match="organ"):
        obtain_cache(tmp_path, replace(KEY, dtype="float16"), "ram", lambda: (large, {}))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_teacher_that_broke_is_refused_and_nothing_is_kept(tmp_path: Path, broken: float) -> None:
    with pytest.raises(CacheError, match="the teacher's output sick holds NaN or infinity"):
        obtain_cache(tmp_path, KEY, "ram", lambda: ({"sick": torch.tensor([1.0, broken])}, {}))
    assert not list(tmp_path.glob("*/manifest.json"))
    assert made(tmp_path).values["sick"].shape == (N,)


def damage_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_byte, shorten, empty, Path.unlink])
@pytest.mark.parametrize("mode", ["ram", "memmap"])
@pytest.mark.parametrize("name", ["values.organ.npy", "values.sick.npy", "features.hidden.npy"])
def test_a_damaged_file_is_named_with_the_way_out(
    tmp_path: Path, name: str, mode: str, damage: Callable[[Path], object]
) -> None:
    made(tmp_path)
    folder = KEY.folder(tmp_path)
    damage(folder / name)
    with pytest.raises(CacheError, match=f"{name} is missing or was changed.*remove {folder} and run again"):
        obtain_cache(tmp_path, KEY, mode, refuse)


@pytest.mark.parametrize("content", ["", '{"teacher": "t1"', "{}"])
def test_a_damaged_manifest_is_named_with_the_way_out(tmp_path: Path, content: str) -> None:
    made(tmp_path)
    (KEY.folder(tmp_path) / "manifest.json").write_text(content)
    with pytest.raises(CacheError, match=r"manifest\.json.*remove"):
        obtain_cache(tmp_path, KEY, "ram", refuse)


def test_what_was_cut_off_while_writing_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the manifest, which is written last, files that lie there count for nothing."""

    def stop(path: Path, value: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cache, "write_json", stop)
        made(tmp_path)
    assert list(KEY.folder(tmp_path).glob("*.npy")) and not list(tmp_path.glob("*/manifest.json"))
    again, existed = obtain_cache(tmp_path, KEY, "ram", outputs)
    assert not existed and torch.equal(again.values["organ"], outputs()[0]["organ"])


def test_the_manifest_says_what_the_outputs_belong_to(tmp_path: Path) -> None:
    key = replace(KEY, signal={"window": 4})
    made(tmp_path, key)
    manifest = json.loads((key.folder(tmp_path) / "manifest.json").read_text())
    assert (manifest["teacher"], manifest["data"], manifest["signal"]) == ("t1", "d1", {"window": 4})
    assert set(manifest["files"]) == {"values.organ.npy", "values.sick.npy", "features.hidden.npy"}


def test_nothing_in_a_cache_is_unpickled(tmp_path: Path) -> None:
    """A file with objects in it, and a manifest that vouches for it."""
    made(tmp_path)
    folder = KEY.folder(tmp_path)
    np.save(folder / "values.organ.npy", np.array([print], dtype=object), allow_pickle=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["values.organ.npy"]["sha256"] = cache._checksum(folder / "values.organ.npy")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises((CacheError, ValueError), match=r"allow_pickle|organ"):
        obtain_cache(tmp_path, KEY, "ram", refuse)
