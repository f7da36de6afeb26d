"""Jet files as they come: two layouts, several files, units, weights, order, splits, and files that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from toptagging_files import SEED, M, atlas_file, dataset, reference_file, some_jets, unread

from kdexp.contracts import SPLITS
from kdexp.errors import ConfigError, DataError
from kdexp.systems.toptagging import jetfiles, store
from kdexp.systems.toptagging.dataset import TopTagging
from kdexp.systems.toptagging.jetfiles import look_at, read_jets


def read(path: Path, n: int, units: Any = None) -> jetfiles.Jets:
    ((_, jets),) = read_jets(look_at(path, units), slice(0, n), M)
    return jets


def by_cluster(made: TopTagging, view: str = "student") -> dict[str, np.ndarray]:
    """Raw features of every jet by its name; jets of one event together."""
    content = made._ready()
    values = content.views.hlt.features if view == "student" else content.views.offline.features
    names = content.table.clusters
    return {name: values[np.flatnonzero(names == name)].numpy() for name in np.unique(names)}


def test_both_layouts_give_the_same_jets(tmp_path: Path) -> None:
    atlas = read(atlas_file(tmp_path / "a.h5"), 60)
    reference = read(reference_file(tmp_path / "train.h5"), 60)
    jets, labels = some_jets(30)
    for found in (atlas, reference):
        assert found.pt.shape == (60, M) and found.pt.dtype == np.float32
        np.testing.assert_allclose(found.pt, jets.pt[:, :M], rtol=2e-6)
        np.testing.assert_allclose(found.eta, jets.eta[:, :M], atol=2e-6)
        np.testing.assert_allclose(found.phi, jets.phi[:, :M], atol=2e-6)
        assert found.labels.tolist() == labels.tolist()
    assert atlas.events is not None and reference.events is None
    assert reference.weights.tolist() == [1.0] * 60
    assert look_at(tmp_path / "train.h5", None).layout == "reference"


@pytest.mark.parametrize("name", ["training_weights", "weights", None])
def test_weights_are_read_under_either_name_or_are_ones(tmp_path: Path, name: str | None) -> None:
    expected = np.linspace(0.1, 2.0, 60, dtype=np.float32)

    def rename(file: h5py.File) -> None:
        del file["training_weights"]
        if name is not None:
            file[name] = expected

    atlas_file(tmp_path / "jets" / "a.h5", change=rename)
    made = dataset(tmp_path / "jets")
    weights = [made.split(split).weights for split in SPLITS]
    batch = made.split("train").fetch(torch.arange(4))
    if name is None:  # all ones need not be said
        assert weights == [None, None, None] and batch.weights is None
    else:
        assert sorted(weight for part in weights for weight in part.tolist()) == expected.tolist()
        assert batch.weights is not None and batch.weights.tolist() == weights[0][:4].tolist()
    assert made.inspect()["files"]["a.h5"]["weights"] == (name or "ones")


def test_files_are_read_in_order_up_to_the_limit(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        atlas_file(tmp_path / "jets" / f"{number}.h5", 30, seed=number)
    facts = dataset(tmp_path / "jets", max_jets=100).inspect()
    assert {name: row["jets_taken"] for name, row in facts["files"].items()} == {"1.h5": 60, "2.h5": 40}
    facts = dataset(tmp_path / "jets", files=("3.h5", "[12].h5")).inspect()
    assert list(facts["files"]) == ["3.h5", "1.h5", "2.h5"]
    assert sum(row["jets"] for row in facts["splits"].values()) == 180


def test_a_jet_is_the_same_in_any_subset_and_order_of_files(tmp_path: Path) -> None:
    for number in (1, 2):
        atlas_file(tmp_path / "jets" / f"{number}.h5", 30, seed=number)
    every = by_cluster(dataset(tmp_path / "jets"))
    turned = by_cluster(dataset(tmp_path / "jets", files=("2.h5", "1.h5")))
    few = by_cluster(dataset(tmp_path / "jets", files=("2.h5",), max_jets=40))
    assert set(turned) == set(every) and len(few) < len(every)
    for name, values in turned.items():
        np.testing.assert_array_equal(values, every[name])
    whole_events = [name for name in few if len(few[name]) == len(every[name])]
    assert len(whole_events) > 10
    for name in whole_events:
        np.testing.assert_array_equal(few[name], every[name])


def test_pieces_and_mapped_views_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atlas_file(tmp_path / "jets" / "a.h5")
    at_once = dataset(tmp_path / "jets")
    monkeypatch.setattr(jetfiles, "_CHUNK_ROWS", 7)
    in_pieces = dataset(tmp_path / "jets", views_root=tmp_path / "other", memory_limit_gb=1e-9)
    assert in_pieces.inspect()["mapped_from_disk"] and not at_once.inspect()["mapped_from_disk"]
    assert in_pieces.fingerprint == at_once.fingerprint
    for split in SPLITS:
        one, other = (made.split(split).fetch(torch.arange(5)) for made in (at_once, in_pieces))
        for view in ("student", "teacher"):
            for name, values in getattr(one, view).items():
                assert torch.equal(values, getattr(other, view)[name])


def test_views_are_made_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atlas_file(tmp_path / "jets" / "a.h5")
    dataset(tmp_path / "jets")
    made: list[Path] = []
    write = store._write
    monkeypatch.setattr(store, "_write", lambda folder, *rest: (made.append(folder), write(folder, *rest)))
    dataset(tmp_path / "jets", split="modulo", statistics="own")  # neither changes a view
    assert made == []
    dataset(tmp_path / "jets", max_constituents=M - 1)
    unread(tmp_path / "jets").setup(SEED + 1)
    assert len(made) == 2


def test_a_damaged_view_is_refused(tmp_path: Path) -> None:
    atlas_file(tmp_path / "jets" / "a.h5")
    dataset(tmp_path / "jets")
    (kept,) = (tmp_path / "views").glob("*/hlt_features.npy")
    kept.write_bytes(kept.read_bytes()[:-100])
    with pytest.raises(DataError, match="damaged; remove the folder"):
        dataset(tmp_path / "jets")


def test_any_change_of_what_is_read_changes_the_fingerprint(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file["fjet_clus_eta"][59, M - 1] += np.float32(1e-3)

    def beyond(file: h5py.File) -> None:
        file["fjet_clus_eta"][59, M] += np.float32(1e-3)

    prints = []
    for name, what in (("one", None), ("two", change), ("three", beyond)):
        atlas_file(tmp_path / name / "a.h5", change=what)
        prints.append(dataset(tmp_path / name).fingerprint)
    # Constituents beyond the leading ones are not read.
    assert prints[0] == prints[2] != prints[1]


def test_constituents_out_of_order_are_sorted_with_a_count(tmp_path: Path) -> None:
    def shuffle(file: h5py.File) -> None:
        order = np.random.default_rng(0).permutation(file["fjet_clus_pt"].shape[1])
        for name in ("pt", "eta", "phi", "E"):
            values = file[f"fjet_clus_{name}"][:]
            values[:20] = values[:20, order]
            file[f"fjet_clus_{name}"][:] = values

    atlas_file(tmp_path / "sorted" / "a.h5")
    atlas_file(tmp_path / "jets" / "a.h5", change=shuffle)
    made, expected = dataset(tmp_path / "jets"), dataset(tmp_path / "sorted")
    facts = made.inspect()
    assert facts["files"]["a.h5"]["sorted_jets"] == 20 and "not by falling pT" in " ".join(facts["warnings"])
    found = by_cluster(made)
    for name, values in by_cluster(expected).items():
        np.testing.assert_array_equal(found[name], values)
    assert made.fingerprint == expected.fingerprint


def test_units_are_what_is_declared(tmp_path: Path) -> None:
    def to_gev(file: h5py.File) -> None:
        for name in ("fjet_clus_pt", "fjet_clus_E", "fjet_pt"):
            file[name][:] = file[name][:] / 1000

    jets, _ = some_jets(30)
    path = atlas_file(tmp_path / "a.h5", change=to_gev)
    np.testing.assert_allclose(read(path, 60, "GeV").pt, jets.pt[:, :M], rtol=2e-6)
    with pytest.raises(DataError, match=r"read as MeV.*set dataset.units=GeV"):
        look_at(path, None)
    with pytest.raises(DataError, match=r"read as GeV.*set dataset.units=MeV"):
        look_at(atlas_file(tmp_path / "b.h5"), "GeV")
    with pytest.raises(DataError, match=r"set dataset.units=GeV"):
        look_at(reference_file(tmp_path / "train.h5"), "MeV")


def damage(name: str, place: Any, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[name][place] = value

    return change


def logarithms(file: h5py.File) -> None:
    values = file["fjet_clus_pt"][:]
    file["fjet_clus_pt"][:] = np.log(np.where(values > 0, values, 1)) * 1000


def without(*names: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        for name in names:
            del file[name]

    return change


def replaced(name: str, content: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = content

    return change


def in_a_group(file: h5py.File) -> None:
    file.move("labels", "jets/labels")
    file.move("jets", "labels")


def shortened(file: h5py.File) -> None:
    values = file["labels"][:50]
    del file["labels"]
    file["labels"] = values


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (damage("fjet_clus_eta", (33, 2), np.nan), r"a\.h5: fjet_clus_eta, row 33: a momentum is not finite"),
        (damage("fjet_clus_pt", (33, 2), np.inf), r"a\.h5: fjet_clus_pt, row 33: a momentum is not finite"),
        (damage("fjet_clus_pt", (33, 150), -1.0), r"a\.h5: fjet_clus_pt, row 33: a pT is negative"),
        (damage("fjet_clus_pt", 33, 0.0), r"a\.h5: fjet_clus_pt, row 33: the jet has no constituent"),
        (damage("labels", 33, 2), r"a\.h5: labels, row 33: the label 2 is not 0 or 1"),
        (damage("training_weights", 33, -1), r"a\.h5: training_weights, row 33: a weight is negative"),
        (damage("training_weights", 33, np.nan), r"a\.h5: training_weights, row 33: is not finite"),
        (logarithms, r"a\.h5: fjet_clus_pt: .*only 1\.\d\d times the pT of the tenth .* logarithms"),
        (without("labels", "fjet_clus_phi"), r"a\.h5: lacks the datasets fjet_clus_phi, labels of the ATLAS layout"),
        (damage("training_weights", slice(None), 0), r"a\.h5: training_weights: all weights are zero"),
        (replaced("fjet_clus_eta", np.full((60, 200), b"x")), r"a\.h5: fjet_clus_eta is no dataset of numbers"),
        (replaced("EventInfo_mcEventNumber", np.full(60, np.nan)), r"a\.h5: EventInfo_mcEventNumber is no .*whole"),
        (in_a_group, r"a\.h5: labels is no dataset of numbers"),
        (shortened, r"a\.h5: fjet_clus_pt has the shape \(60, 200\), labels has 50 jets"),
        (damage("labels", slice(None), 1), r"labels: all 60 jets read are signal; take more jets"),
    ],
)
def test_a_damaged_file_is_refused_with_file_dataset_and_row(
    tmp_path: Path, change: Callable[[h5py.File], None], says: str
) -> None:
    atlas_file(tmp_path / "jets" / "a.h5", change=change)
    with pytest.raises(DataError, match=says):
        dataset(tmp_path / "jets")


def test_a_row_is_named_as_it_stands_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file is read in pieces, and looked at only in its first rows."""
    monkeypatch.setattr(jetfiles, "_CHUNK_ROWS", 7)
    monkeypatch.setattr(jetfiles, "N_LOOKED_AT", 10)
    atlas_file(tmp_path / "jets" / "a.h5", change=damage("fjet_clus_phi", (40, 1), np.nan))
    with pytest.raises(DataError, match=r"fjet_clus_phi, row 40: a momentum"):
        dataset(tmp_path / "jets")


def test_a_jet_out_of_order_behind_the_rows_looked_at_is_sorted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its whole row is read then; the constituents that lead may stand anywhere in it."""

    def turn(file: h5py.File) -> None:
        for name in ("pt", "eta", "phi", "E"):
            file[f"fjet_clus_{name}"][41] = file[f"fjet_clus_{name}"][41][::-1]

    monkeypatch.setattr(jetfiles, "N_LOOKED_AT", 10)
    atlas_file(tmp_path / "sorted" / "a.h5")
    atlas_file(tmp_path / "jets" / "a.h5", change=turn)
    file = look_at(tmp_path / "jets" / "a.h5", None)
    assert file.is_sorted
    full, expected = (read(tmp_path / name / "a.h5", 60) for name in ("jets", "sorted"))
    assert full.n_sorted == 1 and expected.n_sorted == 0
    for name in ("pt", "eta", "phi"):
        np.testing.assert_array_equal(getattr(full, name), getattr(expected, name))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = atlas_file(tmp_path / "jets" / "a.h5")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"a\.h5: is no whole HDF5 file .*truncated.*; fetch it again"):
        dataset(tmp_path / "jets")


def test_a_piece_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    def compressed(file: h5py.File) -> None:
        values = file["fjet_clus_eta"][:]
        del file["fjet_clus_eta"]
        made = file.create_dataset("fjet_clus_eta", data=values, chunks=(10, 200), compression="gzip")
        made.id.write_direct_chunk((30, 0), b"not gzip")

    atlas_file(tmp_path / "jets" / "a.h5", change=compressed)
    with pytest.raises(
        DataError, match=r"a\.h5: fjet_clus_eta, rows 0 to 59: cannot be read \(.*\); fetch the file again"
    ):
        dataset(tmp_path / "jets")


def test_a_table_that_is_not_the_reference_datasets_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file.create_dataset("table/table", data=np.zeros(3, dtype=[("values_block_0", "<f4", (10,))]))
    with pytest.raises(DataError, match="is not the reference dataset's table"):
        look_at(tmp_path / "train.h5", None)


def test_more_constituents_than_there_is_room_for_are_refused(tmp_path: Path) -> None:
    atlas_file(tmp_path / "jets" / "a.h5")
    with pytest.raises(ConfigError, match=r"max_constituents: is 201, but .*a\.h5 has room for 200"):
        dataset(tmp_path / "jets", max_constituents=201)


def test_a_folder_without_jets_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "jets").mkdir()
    with pytest.raises(DataError, match=r"without an HDF5 file \(\*\.h5\); add what is missing"):
        dataset(tmp_path / "jets")
    (tmp_path / "jets" / "train_nominal_000.h5.gz").touch()
    with pytest.raises(DataError, match=r"unpack the 1 files \*\.h5\.gz"):
        dataset(tmp_path / "jets")
    atlas_file(tmp_path / "jets" / "a.h5")
    with pytest.raises(DataError, match=r"no file fits dataset\.files entry 'val\*'"):
        dataset(tmp_path / "jets", files=("val*",))


@pytest.mark.parametrize("rule", ["random", "modulo"])
def test_two_jets_of_one_event_are_in_one_split(tmp_path: Path, rule: Any) -> None:
    atlas_file(tmp_path / "jets" / "a.h5", 100)
    made = dataset(tmp_path / "jets", split=rule)
    splits = {name: set(made.split(name).clusters.tolist()) for name in SPLITS}
    n_jets = {name: len(made.split(name)) for name in SPLITS}
    assert sum(n_jets.values()) == 200 and sum(map(len, splits.values())) == len(set.union(*splits.values())) == 100
    if rule == "random":
        assert [len(splits[name]) for name in SPLITS] == [70, 14, 16]
    else:
        assert splits["test"] == {name for name in set.union(*splits.values()) if int(name) % 10 == 0}
    for name in SPLITS:
        labels = made.split(name).fetch(torch.arange(n_jets[name])).targets["top"]
        assert rule == "modulo" or abs(labels.float().mean() - 0.5) < 0.04


def test_files_may_say_the_split(tmp_path: Path) -> None:
    for number, name in enumerate(("test", "train", "val"), start=1):
        reference_file(tmp_path / "jets" / f"{name}.h5", 15 * number, seed=number)
    made = dataset(tmp_path / "jets", split="file")
    assert [len(made.split(name)) for name in SPLITS] == [60, 90, 30]
    assert all(cluster.startswith("val.h5:") for cluster in made.split("val").clusters)
    # The limit is each split's own.
    assert [len(dataset(tmp_path / "jets", split="file", max_jets=40).split(name)) for name in SPLITS] == [40, 40, 30]
    (tmp_path / "jets" / "val.h5").unlink()
    made = dataset(tmp_path / "jets", split="file")
    assert [len(made.split(name)) for name in SPLITS] == [52, 8, 30]
    reference_file(tmp_path / "jets" / "more.h5", 5)
    with pytest.raises(DataError, match=r"more\.h5: with dataset\.split=file"):
        dataset(tmp_path / "jets", split="file")


def test_rules_that_do_not_fit_the_files_are_refused(tmp_path: Path) -> None:
    reference_file(tmp_path / "jets" / "train.h5")
    with pytest.raises(DataError, match="modulo needs EventInfo_mcEventNumber"):
        dataset(tmp_path / "jets", split="modulo")
    with pytest.raises(DataError, match="test has 0 jets and not both labels"):
        dataset(tmp_path / "jets", split="file")
    assert "two jets of one event" in " ".join(dataset(tmp_path / "jets").inspect()["warnings"])


def test_the_view_of_the_published_study_is_another_one(tmp_path: Path) -> None:
    from kdexp.systems.toptagging.trigger import TriggerOptions

    atlas_file(tmp_path / "jets" / "a.h5")
    made = dataset(tmp_path / "jets", view=TriggerOptions(wiring="seed"))
    steps = made.inspect()["constituents_per_jet"]
    assert steps["raw"] == steps["offline"] == steps["above_threshold"] > steps["merged"] > steps["kept"]
