"""Generated jets: the real files' names, units and types, and the kinematics that they are made with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from kdexp.errors import ConfigError
from kdexp.systems.toptagging import synthetic
from kdexp.systems.toptagging.synthetic import Branches, GeneratorOptions, boosted, generated
from kdexp.systems.toptagging.writing import MadeJets, reweighted


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jets")
    synthetic.write(folder, GeneratorOptions(n_per_class=200), 3)
    return folder / synthetic.FILE


def test_a_file_has_the_names_types_and_attributes_of_the_real_ones(made: Path) -> None:
    with h5py.File(made) as file:
        described = {name: (file[name].shape, file[name].dtype.str) for name in file}
        attributes = dict(file.attrs)
    constituents = dict.fromkeys((f"fjet_clus_{name}" for name in ("pt", "eta", "phi", "E")), ((400, 200), "<f4"))
    jets = dict.fromkeys(("fjet_pt", "fjet_eta", "fjet_phi", "fjet_m", "training_weights"), ((400,), "<f4"))
    numbers = dict.fromkeys(("labels", "EventInfo_mcEventNumber"), ((400,), "<i4"))
    assert described == constituents | jets | numbers
    assert attributes["constit"].tolist() == ["fjet_clus_eta", "fjet_clus_phi", "fjet_clus_pt", "fjet_clus_E"]
    assert (attributes["max_constits"], attributes["num_jets"], attributes["num_cons"]) == (200, 400, 4)
    assert "not ATLAS data" in attributes["generator"]


def test_jets_pass_the_cuts_and_are_the_sum_of_their_constituents(made: Path) -> None:
    with h5py.File(made) as file:
        columns = {name: file[name][:].astype(float) for name in file}
    pt, eta, phi, energy = (columns[f"fjet_clus_{name}"] for name in ("pt", "eta", "phi", "E"))
    assert (np.diff(pt, axis=1) <= 0).all() and pt[pt > 0].min() >= 500  # MeV
    assert ((pt > 0).sum(1) >= 3).all() and np.isin(columns["labels"], (0, 1)).all()
    assert columns["labels"].sum() == 200 and len(set(columns["EventInfo_mcEventNumber"])) == 400
    np.testing.assert_allclose(energy, pt * np.cosh(eta), rtol=1e-5)
    px, py = (pt * np.cos(phi)).sum(1), (pt * np.sin(phi)).sum(1)
    np.testing.assert_allclose(columns["fjet_pt"], np.hypot(px, py), rtol=1e-4)
    assert columns["fjet_pt"].min() > 350e3 and columns["fjet_m"].min() > 40e3 and np.abs(columns["fjet_eta"]).max() < 2


def test_a_top_is_heavier_and_its_peak_is_narrow(made: Path) -> None:
    with h5py.File(made) as file:
        mass, labels = file["fjet_m"][:] / 1000, file["labels"][:]
    quarter, half, three = np.percentile(mass[labels == 1], [25, 50, 75])
    assert 170 < half < 205 and three - quarter < 50
    assert np.percentile(mass[labels == 0], 50) < half


def test_three_massless_prongs_have_the_mass_of_a_top_and_two_that_of_a_w() -> None:
    random = np.random.default_rng(1)
    pt, eta, phi = random.uniform(800, 2000, 500), random.normal(0, 1, 500), random.uniform(-3, 3, 500)
    momenta = synthetic._top_decay(pt, eta, phi, random)

    def mass(total: np.ndarray) -> np.ndarray:
        return np.sqrt(total[:, 0] ** 2 - (total[:, 1:] ** 2).sum(1))

    np.testing.assert_allclose(mass(momenta.sum(1)), 172.5, atol=8)
    np.testing.assert_allclose(mass(momenta[:, 1:].sum(1)), 80.4, atol=11)
    np.testing.assert_allclose(momenta[..., 0], np.sqrt((momenta[..., 1:] ** 2).sum(-1)), rtol=1e-9)
    np.testing.assert_allclose(np.hypot(*momenta.sum(1)[:, 1:3].T), pt, rtol=1e-9)


def test_a_boost_of_what_rests_gives_it_the_velocity() -> None:
    velocity = np.array([[0.0, 0.6, 0.0], [0.0, 0.0, 0.0]])
    moved = boosted(np.array([[10.0, 0.0, 0.0, 0.0], [5.0, 0.0, 3.0, 0.0]]), velocity)
    np.testing.assert_allclose(moved, [[12.5, 0.0, 7.5, 0.0], [5.0, 0.0, 3.0, 0.0]])


def test_a_cascade_conserves_momentum_and_its_centroid() -> None:
    random = np.random.default_rng(1)
    start = Branches(
        pt=np.full((50, 1), 900.0), eta=np.full((50, 1), 0.3), phi=np.full((50, 1), 1.0), angle=np.full((50, 1), 0.5)
    )
    end = synthetic._cascade(start, 6, 0.012, random)
    assert end.pt.shape == (50, 64) and (end.pt >= 0).all() and ((end.pt > 0).sum(1) > 5).all()
    np.testing.assert_allclose(end.pt.sum(1), 900)
    np.testing.assert_allclose((end.pt * end.eta).sum(1) / 900, 0.3)
    np.testing.assert_allclose((end.pt * end.phi).sum(1) / 900, 1.0)
    # Angles only shrink.
    assert (end.angle <= 0.5).all()


def test_the_same_seed_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    for name, seed in (("same", 3), ("other", 4)):
        (tmp_path / name).mkdir()
        synthetic.write(tmp_path / name, GeneratorOptions(n_per_class=200), seed)
    assert (tmp_path / "same" / synthetic.FILE).read_bytes() == made.read_bytes()
    assert (tmp_path / "other" / synthetic.FILE).read_bytes() != made.read_bytes()


def test_compressed_jets_are_the_same_jets(made: Path, tmp_path: Path) -> None:
    synthetic.write(tmp_path, GeneratorOptions(n_per_class=200, compress=True), 3)
    assert (tmp_path / synthetic.FILE).stat().st_size < made.stat().st_size / 2
    with h5py.File(tmp_path / synthetic.FILE) as one, h5py.File(made) as other:
        assert all(np.array_equal(one[name][:], other[name][:]) for name in other)


def test_weights_bring_a_softer_background_to_the_signals_spectrum() -> None:
    options = GeneratorOptions(pt_mode="skewed")
    pt = np.concatenate([generated(options, 600, label, np.random.default_rng(label)).jet_pt for label in (1, 0)])
    labels = np.repeat([1, 0], 600)
    assert np.median(pt[labels == 0]) < 0.7 * np.median(pt[labels == 1])
    weights = reweighted(pt, labels)
    assert (weights[labels == 1] == 1).all() and weights.min() >= 0
    edges = np.linspace(pt.min(), pt.max(), 21)
    signal = np.histogram(pt[labels == 1], edges)[0]
    background = np.histogram(pt[labels == 0], edges, weights=weights[labels == 0])[0]
    there = np.histogram(pt[labels == 0], edges)[0] > 0
    np.testing.assert_allclose(background[there], signal[there], rtol=1e-5)


def test_knobs_do_what_they_say() -> None:
    def jets(**options: float) -> MadeJets:
        return generated(GeneratorOptions(**options), 150, 0, np.random.default_rng(0))

    base, clean, narrow, soft = (
        jets(),
        jets(contamination=0),
        jets(background_angle=0.2),
        jets(least_pt=400, greatest_pt=500),
    )
    assert (clean.pt > 0).sum() < (base.pt > 0).sum()
    assert np.median(narrow.jet_mass) < np.median(base.jet_mass)
    assert soft.jet_pt.max() < 560 < base.jet_pt.min()


def test_an_empty_range_of_momenta_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"generator\.greatest_pt: must be above least_pt, got 800 and 900"):
        synthetic.write(tmp_path, GeneratorOptions(least_pt=900, greatest_pt=800), 0)


@pytest.mark.parametrize("pt_mode", ["same", "skewed"])
def test_settings_with_which_no_jet_passes_the_cuts_are_refused(tmp_path: Path, pt_mode: str) -> None:
    options = GeneratorOptions(n_per_class=20, background_angle=0.02, contamination=0, pt_mode=pt_mode)  # type: ignore[arg-type]
    said = (
        r"^dataset\.generator: none of 1,080 background jets .* with background_angle=0\.02, contamination=0, .*; wid"
    )
    with pytest.raises(ConfigError, match=said):
        synthetic.write(tmp_path, options, 0)
    assert not list(tmp_path.iterdir())


def test_draws_in_vain_count_only_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """One jet passes in every fifth draw: there are more draws in vain than are allowed, never as many in a row."""
    as_jets, n_draws = synthetic._as_jets, 0

    def seldom(*given: Any) -> MadeJets:
        nonlocal n_draws
        n_draws += 1
        return as_jets(*given).take(slice(None, int(n_draws % 5 == 0)))

    monkeypatch.setattr(synthetic, "_as_jets", seldom)
    assert len(generated(GeneratorOptions(), 8, 0, np.random.default_rng(0))) == 8 and n_draws == 40


def test_pythia_is_asked_for_by_name_where_it_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastjet", None)
    with pytest.raises(ConfigError, match=r"program=pythia: .*pip install 'kdexp\[pythia\]', or use program=cascade"):
        synthetic.write(tmp_path, GeneratorOptions(n_per_class=20, program="pythia"), 0)


@pytest.mark.slow
def test_pythia_writes_the_same_layout(made: Path, tmp_path: Path) -> None:
    pytest.importorskip("fastjet", reason="pip install 'kdexp[pythia]' to generate jets with Pythia")
    pytest.importorskip("pythia8mc", reason="pip install 'kdexp[pythia]' to generate jets with Pythia")
    told: list[tuple[int, int]] = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        options = GeneratorOptions(n_per_class=20, program="pythia")
        synthetic.write(tmp_path / name, options, 1, lambda what, done, total: told.append((done, total)))
    assert told == [(done, 40) for done in range(1, 41)] * 2
    one, two = (tmp_path / name / synthetic.FILE for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    with h5py.File(one) as file, h5py.File(made) as other:
        assert {name: file[name].dtype for name in file} == {name: other[name].dtype for name in other}
        pt, labels = file["fjet_clus_pt"][:], file["labels"][:]
        assert labels.sum() == 20 and (np.diff(pt, axis=1) <= 0).all() and pt[pt > 0].min() >= 499
        assert file["fjet_m"][:].min() > 40e3 and file["fjet_pt"][:].min() > 350e3
        assert "Pythia" in file.attrs["generator"] and file.attrs["seed"] == 1
