"""What frozen parts give: computed once for each part and input, kept on disk, and looked up by position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdexp.contracts import Batch, FrozenPart
from kdexp.display import Display
from kdexp.errors import CacheError
from kdexp.training.features import FeatureStore, inputs_sha256

N = 150  # more than one batch


class Data:
    """Samples with an image and a word; the teacher's view is the student's unless it has a scale of its own."""

    def __init__(self, seed: int = 0, teacher_scale: float | None = None) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.image, self.word = torch.randn(N, 3, generator=generator), torch.randint(9, (N, 2), generator=generator)
        self.teacher_scale = teacher_scale
        self.clusters = np.array([str(number) for number in range(N)])

    def __len__(self) -> int:
        return N

    def fetch(self, index: Tensor) -> Batch:
        student = {"image": self.image[index], "word": self.word[index]}
        teacher = student
        if self.teacher_scale is not None:
            teacher = {**student, "image": student["image"] * self.teacher_scale}
        return Batch(student=student, teacher=teacher, targets={}, index=index)


class Encoder(nn.Module):
    """Twice the image; counts the samples that it has seen."""

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor, self.n_seen = factor, 0

    def forward(self, image: Tensor) -> Tensor:
        self.n_seen += len(image)
        return image * self.factor


class Model(nn.Module):
    def __init__(self, encoder: nn.Module, fingerprint: str = "twice") -> None:
        super().__init__()
        self.encoder, self.fingerprint = encoder, fingerprint

    def frozen_parts(self) -> dict[str, FrozenPart]:
        return {"seen": FrozenPart(module=self.encoder, reads=("image",), fingerprint=self.fingerprint)}


def store(root: Path, *, deterministic: bool = True) -> FeatureStore:
    return FeatureStore(
        root, deterministic=deterministic, device=torch.device("cpu"), stage=Display(visible=False).stage
    )


def n_computed(root: Path, data: Data, view: str = "student", fingerprint: str = "twice") -> int:
    encoder = Encoder()
    store(root).split(Model(encoder, fingerprint), data, view)
    return encoder.n_seen


def test_features_stand_beside_the_inputs_of_the_same_samples(tmp_path: Path) -> None:
    data, index = Data(), torch.tensor([149, 3, 3])
    batch = store(tmp_path).split(Model(Encoder()), data, "student").fetch(index)
    assert torch.equal(batch.student["seen"], data.image[index] * 2)
    assert torch.equal(batch.student["word"], data.word[index])
    # The other view is left as it was.
    assert "seen" not in batch.teacher and torch.equal(batch.index, index)


def test_a_view_of_its_own_has_features_of_its_own(tmp_path: Path) -> None:
    data, features = Data(teacher_scale=10.0), store(tmp_path)
    both = features.split(Model(Encoder()), features.split(Model(Encoder()), data, "student"), "teacher")
    batch = both.fetch(torch.tensor([1]))
    assert torch.equal(batch.teacher["seen"], batch.student["seen"] * 10)


def test_they_are_computed_once_for_all_that_read_the_same(tmp_path: Path) -> None:
    data = Data()
    assert n_computed(tmp_path, data) == N
    assert n_computed(tmp_path, data) == 0
    assert n_computed(tmp_path, Data()) == 0  # another object with the same content
    assert n_computed(tmp_path, data, view="teacher") == 0
    changed = Data()
    changed.word += 1  # which the part does not read
    assert n_computed(tmp_path, changed) == 0


def test_other_weights_or_inputs_are_other_features(tmp_path: Path) -> None:
    assert n_computed(tmp_path, Data()) == N
    assert n_computed(tmp_path, Data(), fingerprint="thrice") == N
    assert n_computed(tmp_path, Data(seed=1)) == N
    changed = Data()
    changed.image[N - 1, 0] += 1
    assert n_computed(tmp_path, changed) == N
    assert n_computed(tmp_path, Data(teacher_scale=2.0), view="teacher") == N
    assert len(list(tmp_path.glob("*/manifest.json"))) == 5


def test_within_a_run_a_split_is_looked_up_once(tmp_path: Path) -> None:
    class Watched(Data):
        n_fetched = 0

        def fetch(self, index: Tensor) -> Batch:
            Watched.n_fetched += len(index)
            return super().fetch(index)

    features, data, model = store(tmp_path), Watched(), Model(Encoder())
    features.split(model, data, "student")
    before = Watched.n_fetched
    features.split(model, data, "student")
    assert Watched.n_fetched == before


def test_a_model_without_frozen_parts_sees_the_split_itself(tmp_path: Path) -> None:
    data = Data()
    assert store(tmp_path).split(nn.Linear(1, 1), data, "student") is data
    assert list(tmp_path.iterdir()) == []


def test_samples_drawn_anew_each_time_are_never_looked_up(tmp_path: Path) -> None:
    data = Data()
    assert store(tmp_path, deterministic=False).split(Model(Encoder()), data, "student") is data


def test_lengths_and_clusters_come_along(tmp_path: Path) -> None:
    data = Data()
    data.lengths = np.arange(N)
    split = store(tmp_path).split(Model(Encoder()), data, "student")
    assert len(split) == N and split.clusters is data.clusters
    assert split.lengths is data.lengths


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    n_computed(tmp_path, Data())
    (file,) = tmp_path.glob("*/*.npy")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(CacheError, match=r"features\.seen\.npy is missing or was changed"):
        n_computed(tmp_path, Data())


def test_half_written_features_are_computed_again(tmp_path: Path) -> None:
    """The manifest is written last; without it, nothing counts."""
    n_computed(tmp_path, Data())
    (manifest,) = tmp_path.glob("*/manifest.json")
    manifest.unlink()
    assert n_computed(tmp_path, Data()) == N


def test_no_number_is_refused_before_it_is_kept(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="the frozen part behind seen gives NaN or infinity"):
        store(tmp_path).split(Model(Encoder(factor=float("inf"))), Data(), "student")
    assert not list(tmp_path.glob("*/manifest.json"))


def test_the_hash_of_inputs_tells_shapes_and_types_apart() -> None:
    data, other = Data(), Data()
    other.word = other.word.int()
    assert inputs_sha256(data, "student", ("word",)) != inputs_sha256(other, "student", ("word",))
    assert inputs_sha256(data, "student", ("image",)) == inputs_sha256(other, "student", ("image",))
