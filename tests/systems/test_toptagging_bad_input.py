"""Bad files of jets through the command as it is typed: one sentence, exit code 2, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from toptagging_files import atlas_file

from kdexp.records import RunFolder, read_json
from support import Finished

RunMain = Callable[..., Finished]
Change = Callable[[h5py.File], None]
WORDS = ("dataset=toptagging", "dataset.root=jets", "dataset.max_constituents=12", "trainer.accelerator=cpu")


def setting(name: str, place: object, value: float) -> Change:
    def change(file: h5py.File) -> None:
        file[name][place] = value

    return change


def without(name: str) -> Change:
    def change(file: h5py.File) -> None:
        del file[name]

    return change


def in_gev(file: h5py.File) -> None:
    for name in ("fjet_clus_pt", "fjet_clus_E", "fjet_pt"):
        file[name][:] = file[name][:] / 1000


def in_logarithms(file: h5py.File) -> None:
    values = file["fjet_clus_pt"][:]
    file["fjet_clus_pt"][:] = np.log(np.where(values > 0, values, 1)) * 1000


def shuffled(file: h5py.File) -> None:
    order = np.random.default_rng(0).permutation(200)
    for name in ("pt", "eta", "phi", "E"):
        file[f"fjet_clus_{name}"][:] = file[f"fjet_clus_{name}"][:][:, order]


MISTAKES: dict[str, tuple[Change | None, str, list[str]]] = {
    "missing": (
        without("fjet_clus_phi"),
        "",
        ["jets/a.h5: lacks the dataset fjet_clus_phi", "it has EventInfo", "fetch it again", "dataset.files"],
    ),
    "GeV read as MeV": (in_gev, "", ["jets/a.h5: fjet_clus_pt: read as MeV", "set dataset.units=GeV"]),
    "MeV read as GeV": (None, "dataset.units=GeV", ["jets/a.h5: fjet_clus_pt: read as GeV", "set dataset.units=MeV"]),
    "no constituent": (
        setting("fjet_clus_pt", 33, 0.0),
        "",
        ["jets/a.h5: fjet_clus_pt, row 33: the jet has no constituent, all are zero", "take such jets out"],
    ),
    "one class": (
        setting("labels", slice(None), 1),
        "",
        ["jets: labels: all 60 jets read are signal", "take more jets (dataset.max_jets) or more files"],
    ),
    "no number": (
        setting("fjet_clus_eta", (33, 2), np.nan),
        "",
        ["jets/a.h5: fjet_clus_eta, row 33: a momentum is not finite", "mend the file"],
    ),
    "logarithms": (
        in_logarithms,
        "",
        ["jets/a.h5: fjet_clus_pt: the hardest", "as logarithms of pT would", "give files that hold the momenta"],
    ),
    "no weight": (
        setting("training_weights", slice(None), 0),
        "",
        ["jets/a.h5: training_weights: all weights are zero", "mend the file"],
    ),
}


def refused(run_main: RunMain, cwd: Path, *words: str) -> str:
    """The sentence that `train` and `data` end with, having left the files as they were and nothing beside them."""
    before = (cwd / "jets" / "a.h5").read_bytes()
    said = []
    for verb, *more in (["train", "figures=false"], ["data", "action=inspect"]):
        shared = [word for word in (*WORDS, *words) if word and (verb == "train" or word.startswith("dataset"))]
        ended = run_main(cwd, verb, *shared, *more)
        assert ended.code == 2, ended.text
        assert "Traceback" not in ended.text and ended.err.count("error:") == 1
        said += [line for line in ended.err.splitlines() if line.startswith("error:")]
    assert (cwd / "jets" / "a.h5").read_bytes() == before
    assert [path.name for path in cwd.rglob("*") if path.is_file()] == ["a.h5"]
    assert said[0] == said[1]
    return said[0]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_bad_file_is_refused_in_one_sentence(run_main: RunMain, tmp_path: Path, mistake: str) -> None:
    change, word, expected = MISTAKES[mistake]
    atlas_file(tmp_path / "jets" / "a.h5", change=change)
    sentence = refused(run_main, tmp_path, word)
    assert [part for part in expected if part not in sentence] == []


def test_a_truncated_file_is_refused_in_one_sentence(run_main: RunMain, tmp_path: Path) -> None:
    path = atlas_file(tmp_path / "jets" / "a.h5")
    path.write_bytes(path.read_bytes()[:-1000])
    sentence = refused(run_main, tmp_path)
    assert "jets/a.h5: is no whole HDF5 file" in sentence and "truncated" in sentence and "fetch it again" in sentence


def test_constituents_out_of_order_are_sorted_and_change_no_result(run_main: RunMain, tmp_path: Path) -> None:
    """The same student to the last digit, and a line that says what was done."""
    words = (
        "student.width=8",
        "trainer.max_epochs=1",
        "figures=false",
        "interval.n_resamples=100",
        "hydra.run.dir=run",
    )
    results, said = {}, {}
    for name, change in (("as written", None), ("shuffled", shuffled)):
        atlas_file(tmp_path / name / "jets" / "a.h5", 100, change=change)
        ended = run_main(tmp_path / name, "train", *WORDS, *words)
        assert ended.code == 0, ended.text
        record = read_json(RunFolder(tmp_path / name / "run").record)
        results[name] = (record["metrics"], record["data"]["fingerprint"], record["config_hash"])
        said[name] = ended.text
    assert results["shuffled"] == results["as written"]
    sentence = "a.h5: the constituents of 200 of 200 jets were not by falling pT and were sorted"
    assert sentence in said["shuffled"] and sentence not in said["as written"]
