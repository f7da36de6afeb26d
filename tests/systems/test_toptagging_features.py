"""The seven features of a constituent, worked out one by one, and their standardisation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from toptagging_files import atlas_file, dataset, some_jets

from kdexp.systems.toptagging.features import FEATURES, features, jet_axis
from kdexp.systems.toptagging.jetsplit import scale_of
from kdexp.systems.toptagging.merging import Slots
from kdexp.systems.toptagging.store import View
from kdexp.systems.toptagging.trigger import raw_slots


def one_by_one(jet: list[tuple[float, float, float]]) -> list[list[float]]:
    """The features of one jet's constituents (pT, eta, phi), with plain numbers."""
    px, py = (sum(pt * wave(phi) for pt, _, phi in jet) for wave in (math.cos, math.sin))
    pz = sum(pt * math.sinh(eta) for pt, eta, _ in jet)
    jet_pt, jet_phi = math.hypot(px, py), math.atan2(py, px)
    jet_eta = math.asinh(pz / jet_pt)
    total = sum(pt * math.cosh(eta) for pt, eta, _ in jet)
    rows = []
    for pt, eta, phi in jet:
        turn = (phi - jet_phi + math.pi) % (2 * math.pi) - math.pi
        energy = pt * math.cosh(eta)
        shares = [math.log(pt), math.log(energy), math.log(pt / jet_pt), math.log(energy / total)]
        rows.append([eta - jet_eta, turn, *shares, math.hypot(eta - jet_eta, turn)])
    return rows


def test_features_are_those_worked_out_one_by_one() -> None:
    jets = [
        [(300.0, 0.5, 3.1), (20.0, 0.8, -3.0), (1.0, -0.1, 2.6)],
        [(40.0, -1.2, 0.3), (7.0, -1.0, 0.1), (0.6, -1.5, 0.9)],
    ]
    pt, eta, phi = np.moveaxis(np.array(jets), -1, 0)
    made = features(Slots(pt=pt, eta=eta, phi=phi, alive=pt > 0))
    assert made.dtype == np.float32 and made.shape == (2, 3, len(FEATURES))
    np.testing.assert_allclose(made, [one_by_one(jet) for jet in jets], rtol=1e-6, atol=1e-7)


def test_empty_slots_hold_zeros_and_take_no_part() -> None:
    jet = np.array([[(300.0, 0.5, 3.1), (99.0, 0.0, 0.0), (1.0, -0.1, 2.6)]])
    pt, eta, phi = np.moveaxis(jet, -1, 0)
    alive = np.array([[True, False, True]])
    made = features(Slots(pt=pt, eta=eta, phi=phi, alive=alive))
    assert not made[0, 1].any()
    np.testing.assert_allclose(made[0, [0, 2]], one_by_one([(300.0, 0.5, 3.1), (1.0, -0.1, 2.6)]), rtol=1e-6)


def test_extreme_numbers_are_clipped_and_finite() -> None:
    jet = np.array([[(1e-30, 40.0, 0.0), (1e30, -40.0, 3.0)]])
    pt, eta, phi = np.moveaxis(jet, -1, 0)
    made = features(Slots(pt=pt, eta=eta, phi=phi, alive=pt > 0))
    assert np.isfinite(made).all() and np.abs(made).max() == 20


def test_the_axis_of_a_jet_is_that_of_its_generated_sum() -> None:
    jets, _ = some_jets(20)
    pt, eta, phi = jet_axis(raw_slots(jets.pt, jets.eta, jets.phi, "gev"))
    np.testing.assert_allclose(pt, jets.jet_pt)
    np.testing.assert_allclose(eta, jets.jet_eta, atol=1e-9)
    np.testing.assert_allclose(phi, jets.jet_phi)


def test_a_scale_is_the_mean_and_deviation_over_constituents_of_the_jets_asked_for() -> None:
    random = torch.Generator().manual_seed(0)
    values = torch.randn(9_000, 4, len(FEATURES), generator=random) * 3 + 1
    mask = torch.rand(9_000, 4, generator=random) < 0.6
    rows = np.arange(0, 9_000, 2)
    scale = scale_of(View(features=values, mask=mask), rows)
    taken = values[rows][mask[rows]]
    torch.testing.assert_close(scale.mean, taken.mean(0))
    torch.testing.assert_close(scale.deviation, taken.std(0, correction=0))


def test_training_jets_offline_set_the_scale_of_both_views(tmp_path: Path) -> None:
    atlas_file(tmp_path / "jets" / "a.h5", 60)
    made = dataset(tmp_path / "jets")
    train = made.split("train")
    batch = train.fetch(torch.arange(len(train)))
    offline = batch.teacher["features"][batch.teacher["mask"]]
    torch.testing.assert_close(offline.mean(0), torch.zeros(7), atol=0.02, rtol=0)  # a few are clipped at 10
    torch.testing.assert_close(offline.std(0), torch.ones(7), atol=0.05, rtol=0)
    hlt = batch.student["features"][batch.student["mask"]]
    assert (hlt.mean(0).abs() > 0.05).any()
    for view in (batch.student, batch.teacher):
        assert view["features"].abs().max() <= 10 and not view["features"][~view["mask"]].any()


def test_the_hlt_view_may_have_a_scale_of_its_own(tmp_path: Path) -> None:
    atlas_file(tmp_path / "jets" / "a.h5", 60)
    train = dataset(tmp_path / "jets", statistics="own").split("train")
    hlt = train.fetch(torch.arange(len(train))).student
    assert hlt["features"][hlt["mask"]].mean(0).abs().max() == pytest.approx(0, abs=0.02)
