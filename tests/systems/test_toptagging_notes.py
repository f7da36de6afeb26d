"""What a set of jets says of itself: the view, where weights are, what is odd; and settings that notes speak of."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from toptagging_files import M, atlas_file, dataset, reference_file

from kdexp.contracts import SPLITS
from kdexp.errors import DataError
from kdexp.systems.toptagging import store
from kdexp.systems.toptagging.trigger import TriggerOptions


def without(*names: str):
    def change(file: h5py.File) -> None:
        for name in names:
            del file[name]

    return change


def test_the_notes_say_in_which_splits_jets_have_weights(tmp_path: Path) -> None:
    atlas_file(tmp_path / "jets" / "train_0.h5", seed=1)
    atlas_file(tmp_path / "jets" / "test_0.h5", seed=2, change=without("training_weights"))
    made = dataset(tmp_path / "jets", split="file")
    weighted = [made.split(split).weights is not None for split in SPLITS]
    assert weighted == [True, True, False]
    notes = made.notes()
    assert "Jets count by their training weights, in losses and metrics in train and val; test has none." in notes
    assert any(note.startswith("Not every file has training weights") for note in notes)


def test_what_files_lack_is_in_the_notes_and_not_only_in_inspect(tmp_path: Path) -> None:
    atlas_file(tmp_path / "whole" / "a.h5")
    lacking = ("training_weights", "EventInfo_mcEventNumber", "fjet_pt")
    atlas_file(tmp_path / "bare" / "a.h5", change=without(*lacking))
    whole, bare = (dataset(tmp_path / name).notes() for name in ("whole", "bare"))
    assert not any(note.startswith("Not every file") for note in whole)
    for name in ("training weights", "event numbers", "the jets' own pT"):
        assert sum(note.startswith(f"Not every file has {name}") for note in bare) == 1
    assert "in losses and metrics." in " ".join(whole) and "training weights, in losses" not in " ".join(bare)


@pytest.mark.parametrize(("wiring", "said"), [("gev", "HLT view: pT in GeV"), ("seed", "The published study's wiring")])
def test_the_first_note_is_the_view(tmp_path: Path, wiring: str, said: str) -> None:
    atlas_file(tmp_path / "jets" / "a.h5")
    view = TriggerOptions(wiring=wiring, threshold=1.25)  # type: ignore[arg-type]
    note = dataset(tmp_path / "jets", view=view).notes()[0]
    assert note.startswith(said) and "1.25" in note and f"{M} constituents at most" in note


def test_rejections_may_be_interpolated_and_the_notes_say_which_they_are(tmp_path: Path) -> None:
    atlas_file(tmp_path / "jets" / "a.h5")
    plain, smooth = (dataset(tmp_path / "jets", interpolate=chosen) for chosen in (False, True))
    assert plain.tasks[0].metrics[:3] == ("rejection_50", "rejection_30", "rejection_80")
    assert smooth.tasks[0].metrics[0] == "rejection_50_interpolated"
    assert plain.fingerprint != smooth.fingerprint, "a stored teacher has one kind of numbers"
    assert any("first vertex" in note for note in plain.notes())
    assert any("linear in TPR" in note for note in smooth.notes())


def test_a_new_version_of_the_views_is_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atlas_file(tmp_path / "jets" / "a.h5")
    before = dataset(tmp_path / "jets").fingerprint
    newer = (*store.VIEW_VERSIONS[:-1], store.VIEW_VERSIONS[-1] + 1)
    monkeypatch.setattr(store, "VIEW_VERSIONS", newer)
    monkeypatch.setattr("kdexp.systems.toptagging.dataset.VIEW_VERSIONS", newer)
    assert dataset(tmp_path / "jets").fingerprint != before


def test_files_may_lie_in_folders_below_but_not_share_a_name(tmp_path: Path) -> None:
    root = tmp_path / "jets"
    atlas_file(root / "x" / "a.h5", seed=1)
    reference_file(root / "y" / "b.h5", seed=2)
    made = dataset(root, files=("x/a.h5", "y/*.h5"))
    assert sum(len(made.split(split)) for split in SPLITS) == 120
    atlas_file(root / "y" / "a.h5", seed=3)
    with pytest.raises(DataError, match=r"several files called a\.h5; .* rename them"):
        dataset(root, files=("x/a.h5", "y/a.h5"))


def test_files_beyond_the_limit_are_not_opened(tmp_path: Path) -> None:
    atlas_file(tmp_path / "jets" / "a.h5")
    (tmp_path / "jets" / "b.h5").write_bytes(b"not yet whole")
    made = dataset(tmp_path / "jets", max_jets=60)
    assert sum(len(made.split(split)) for split in SPLITS) == 60
    with pytest.raises(DataError, match=r"b\.h5: is no whole HDF5 file"):
        dataset(tmp_path / "jets", max_jets=61)


def test_the_covariate_of_a_split_is_its_jets_pt(tmp_path: Path) -> None:
    path = atlas_file(tmp_path / "jets" / "a.h5")
    made = dataset(tmp_path / "jets")
    with h5py.File(path) as file:
        expected = np.sort(file["fjet_pt"][:] / 1000)
    found = np.concatenate([made.split(split).covariates["jet pT [GeV]"] for split in SPLITS])
    np.testing.assert_allclose(np.sort(found), expected, rtol=1e-6)
