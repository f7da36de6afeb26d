"""The trigger's view of a jet: noise that belongs to the jet, merging as a double loop does it, never an empty jet."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.jets import jet_tables, merged_by_loop
from benchmarks.timing import SMOKE
from toptagging_files import some_jets

from kdexp.systems.toptagging.jetfiles import look_at, read_jets
from kdexp.systems.toptagging.merging import Slots, merged, wrapped
from kdexp.systems.toptagging.noise import SlotNoise, philox, slot_noise
from kdexp.systems.toptagging.trigger import TriggerOptions, energies, offline_view, raw_slots, trigger_view

JETS = Path(os.environ.get("KDEXP_DATA", "")) / "toptagging"
QUIET = {
    "threshold": 0.0,
    "merge_radius": 0.0,
    "pt_smearing": 0.0,
    "eta_smearing": 0.0,
    "phi_smearing": 0.0,
    "loss": 0.0,
}


def slots(*jets: list[tuple[float, float, float]]) -> Slots:
    """Jets of constituents (pT, eta, phi); pT 0 is an empty slot."""
    pt, eta, phi = np.moveaxis(np.array(jets, dtype=float), -1, 0)
    return Slots(pt=pt, eta=eta, phi=phi, alive=pt > 0)


def raw_jets(n_per_class: int, n_slots: int, wiring: str = "gev") -> Slots:
    jets, _ = some_jets(n_per_class)
    return raw_slots(jets.pt[:, :n_slots], jets.eta[:, :n_slots], jets.phi[:, :n_slots], wiring)


def silence(n: int, m: int, **draws: np.ndarray) -> SlotNoise:
    none = {name: np.zeros((n, m)) for name in ("pt", "eta", "phi")}
    return SlotNoise(**{**none, "loss": np.full((n, m), 0.5), **draws})


def assert_same(one: Slots, other: Slots) -> None:
    """To the bit."""
    for name in ("pt", "eta", "phi", "alive"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize(
    ("word", "key", "expected"),
    [
        (0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ],
)
def test_philox_gives_its_authors_known_answers(word: int, key: int, expected: tuple[int, ...]) -> None:
    counter = np.array([word], dtype=np.uint64)
    assert tuple(int(words[0]) for words in philox((counter,) * 4, key)) == expected


def test_a_jets_noise_does_not_depend_on_what_else_is_drawn() -> None:
    every = slot_noise(3, "a.h5", np.arange(50), 20)
    some = np.array([41, 7, 7, 0])
    few = slot_noise(3, "a.h5", some, 8)
    for name in ("pt", "eta", "phi", "loss"):
        np.testing.assert_array_equal(getattr(few, name), getattr(every, name)[some, :8])


def test_seed_file_row_and_slot_each_change_the_noise() -> None:
    base = slot_noise(3, "a.h5", np.arange(40), 10).pt
    for other in (slot_noise(4, "a.h5", np.arange(40), 10).pt, slot_noise(3, "b.h5", np.arange(40), 10).pt):
        assert not (base == other).any()
    assert len(np.unique(base)) == base.size
    # A row beyond 32 bits is a row of its own.
    far = slot_noise(3, "a.h5", np.array([1, 1 + 2**32]), 10).pt
    assert not (far[0] == far[1]).any()


def test_the_draws_are_normal_uniform_and_independent() -> None:
    drawn = slot_noise(1, "a.h5", np.arange(2_000), 20)
    columns = np.stack([drawn.pt, drawn.eta, drawn.phi, drawn.loss]).reshape(4, -1)
    error = 5 / np.sqrt(columns.shape[1])
    np.testing.assert_allclose(columns[:3].mean(1), 0, atol=error)
    np.testing.assert_allclose(columns[:3].std(1), 1, atol=error)
    assert columns[3].min() > 0 and columns[3].max() < 1
    np.testing.assert_allclose(np.quantile(columns[3], [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=error)
    np.testing.assert_allclose(np.corrcoef(columns) - np.eye(4), 0, atol=error)


def test_two_near_constituents_become_one_at_their_weighted_position() -> None:
    found = merged(slots([(30.0, 0.0, 3.14), (10.0, 0.004, -3.14), (5.0, 0.5, 0.0)]), 0.01)
    assert found.alive.tolist() == [[True, False, True]]
    assert found.pt[0, 0] == 40 and found.eta[0, 0] == pytest.approx(0.001)
    # Across the seam at pi: a quarter of the way from 3.14 to 2 pi - 3.14.
    assert found.phi[0, 0] == pytest.approx(3.14 + (2 * np.pi - 6.28) / 4, abs=1e-6)


def test_the_radius_itself_is_outside() -> None:
    assert merged(slots([(2.0, 0.0, 0.0), (1.0, 0.5, 0.0)]), 0.5).alive.all()
    assert not merged(slots([(2.0, 0.0, 0.0), (1.0, 0.5, 0.0)]), 0.5000001).alive.all()


def test_a_pivot_that_has_moved_reaches_further() -> None:
    """A chain: each next constituent is inside the radius of where the pivot is by then, not of where it started."""
    chain = slots([(1.0, 0.0, 0.0), (30.0, 0.9, 0.0), (900.0, 1.7, 0.0), (9e4, 2.6, 0.0)])
    found = merged(chain, 1.0)
    assert found.alive.tolist() == [[True, False, False, False]]
    assert_same(found, merged_by_loop(chain, 1.0))


@pytest.mark.parametrize(("n_slots", "radius"), [(40, 0.01), (40, 0.05), (25, 0.4), (80, 0.01)])
@pytest.mark.parametrize("wiring", ["gev", "seed"])
def test_all_jets_at_once_are_merged_as_by_a_double_loop(n_slots: int, radius: float, wiring: str) -> None:
    raw = raw_jets(20, n_slots, wiring)
    found = merged(raw, radius)
    assert found.alive.sum() < raw.alive.sum()
    assert_same(found, merged_by_loop(raw, radius))


def test_jets_whose_hard_constituents_come_last_are_merged_as_by_a_double_loop() -> None:
    """Pivots jump to harder partners here, further than the candidates' reach."""
    random = np.random.default_rng(2)
    shape = (60, 30)
    pt = np.sort(random.exponential(1.0, shape) ** 4, axis=1)
    raw = Slots(
        pt=pt, eta=random.normal(0, 0.3, shape), phi=random.normal(3, 0.3, shape), alive=random.random(shape) < 0.8
    )
    raw = replace(raw, phi=wrapped(raw.phi))
    assert_same(merged(raw, 0.15), merged_by_loop(raw, 0.15))


def view_by_loop(raw: Slots, options: TriggerOptions, noise: SlotNoise) -> tuple[Slots, np.ndarray]:
    """The trigger's view and its energies, one jet after the other, a step after the other, in plain floats."""
    values = [np.zeros_like(raw.pt) for _ in range(4)]
    alive = np.zeros_like(raw.alive)
    for jet in range(len(raw.pt)):
        for slot, constituent in jet_by_loop(raw, options, noise, jet).items():
            alive[jet, slot] = True
            for made, value in zip(values, constituent, strict=True):
                made[jet, slot] = value
    pt, eta, phi, energy = values
    return Slots(pt=pt, eta=eta, phi=phi, alive=alive), energy


def jet_by_loop(raw: Slots, options: TriggerOptions, noise: SlotNoise, jet: int) -> dict[int, tuple[Any, ...]]:
    """(pT, eta, phi, E) of what is left of a jet, by slot. Sine, cosine, arcus tangens and cosh are numpy's: those of
    `math` differ from them in the last bit."""
    pt, eta, phi = (getattr(raw, name)[jet].tolist() for name in ("pt", "eta", "phi"))
    # 1. Threshold.
    alive = [bool(raw.alive[jet, k]) and pt[k] >= options.threshold for k in range(len(pt))]
    # 2. Merging.
    for i in range(len(pt)):
        for j in range(i + 1, len(pt)):
            apart = math.sqrt((eta[i] - eta[j]) ** 2 + turned(phi[i] - phi[j]) ** 2)
            if alive[i] and alive[j] and apart < options.merge_radius:
                eta[i] = (pt[i] * eta[i] + pt[j] * eta[j]) / (pt[i] + pt[j])
                sine = pt[i] * np.sin(phi[i]) + pt[j] * np.sin(phi[j])
                cosine = pt[i] * np.cos(phi[i]) + pt[j] * np.cos(phi[j])
                phi[i] = float(np.arctan2(sine, cosine))
                pt[i] = pt[i] + pt[j]
                alive[j] = False
    # 3. Smearing.
    smeared = {}
    for k in [k for k in range(len(pt)) if alive[k]]:
        smeared_pt = pt[k] * min(max(1 + options.pt_smearing * noise.pt[jet, k], 0.5), 1.5)
        smeared_eta = min(max(eta[k] + options.eta_smearing * noise.eta[jet, k], -5.0), 5.0)
        smeared_phi = turned(phi[k] + options.phi_smearing * noise.phi[jet, k])
        smeared[k] = (smeared_pt, smeared_eta, smeared_phi, smeared_pt * np.cosh(smeared_eta))
    # 4. Losses, and 5. never an empty jet. Dead slots are zeros.
    kept = {k: constituent for k, constituent in smeared.items() if noise.loss[jet, k] >= options.loss}
    hardest = max(smeared, key=lambda k: smeared[k][0])
    return kept or {hardest: smeared[hardest]}


def turned(angle: float) -> float:
    """By whole turns to [-pi, pi]."""
    while angle > math.pi:
        angle -= 2 * math.pi
    while angle < -math.pi:
        angle += 2 * math.pi
    return angle


def assert_view_of_the_loop(raw: Slots, options: TriggerOptions) -> Slots:
    """To the bit, energies too."""
    noise = slot_noise(7, "a.h5", np.arange(len(raw.pt)), raw.pt.shape[1])
    found = trigger_view(raw, options, noise).view
    expected, energy = view_by_loop(raw, options, noise)
    assert_same(found, expected)
    np.testing.assert_array_equal(energies(found), energy)
    return found


@pytest.fixture(scope="module")
def generated_jets() -> dict[str, Slots]:
    """300 jets of 40 slots, by wiring."""
    return {wiring: raw_jets(150, 40, wiring) for wiring in ("gev", "seed")}


@pytest.mark.parametrize("wiring", ["gev", "seed"])
@pytest.mark.parametrize("radius", [0.01, 0.05])
def test_the_view_of_all_jets_at_once_is_that_of_a_plain_double_loop(
    wiring: str, radius: float, generated_jets: dict[str, Slots]
) -> None:
    raw = generated_jets[wiring]
    found = assert_view_of_the_loop(raw, TriggerOptions(wiring=wiring, merge_radius=radius))  # type: ignore[arg-type]
    assert found.alive.sum() < raw.alive.sum()


def test_a_jet_that_loses_all_keeps_the_one_that_a_plain_double_loop_keeps(generated_jets: dict[str, Slots]) -> None:
    found = assert_view_of_the_loop(generated_jets["gev"], TriggerOptions(loss=0.97, pt_smearing=0.5))
    lost = slot_noise(7, "a.h5", np.arange(300), 40).loss < 0.97
    saved = (found.alive & lost).sum(axis=1)
    assert set(saved.tolist()) == {0, 1} and saved.sum() > 20


@pytest.mark.skipif(
    "KDEXP_DATA" not in os.environ or not list(JETS.glob("*.h5")),
    reason="there are no jets under KDEXP_DATA/toptagging",
)
@pytest.mark.parametrize("wiring", ["gev", "seed"])
@pytest.mark.parametrize("radius", [0.01, 0.05])
def test_the_view_of_jets_in_files_is_that_of_a_plain_double_loop(wiring: str, radius: float) -> None:
    ((_, jets),) = read_jets(look_at(min(JETS.glob("*.h5")), None), slice(0, 1_000), 40)
    raw = raw_slots(jets.pt, jets.eta, jets.phi, wiring)
    assert_view_of_the_loop(raw, TriggerOptions(wiring=wiring, merge_radius=radius))  # type: ignore[arg-type]


def test_merging_leaves_its_input_alone_and_keeps_the_momentum() -> None:
    raw = raw_jets(10, 40)
    before = raw.copy()
    found = merged(raw, 0.05)
    assert_same(raw, before)
    np.testing.assert_allclose((found.pt * found.alive).sum(1), (raw.pt * raw.alive).sum(1), rtol=1e-12)


def test_each_step_of_the_trigger_does_what_it_says() -> None:
    raw = slots([(100.0, 4.99, 3.0), (10.0, 0.0, 0.0), (1.5, 1.0, 1.0), (1.49, 2.0, 2.0)])
    noise = silence(1, 4, pt=np.array([[9.0, -9.0, 1.0, 0.0]]), eta=np.full((1, 4), 1.0), phi=np.full((1, 4), 1.0))
    noise = replace(noise, loss=np.array([[0.5, 0.5, 0.02, 0.5]]))
    found = trigger_view(raw, TriggerOptions(phi_smearing=0.2), noise)
    # The fourth is below the threshold, the third is lost; the factor on pT lies between 0.5 and 1.5.
    assert found.view.alive.tolist() == [[True, True, False, False]]
    assert found.view.pt.tolist() == [[150.0, 5.0, 0.0, 0.0]]
    assert found.view.eta[0, :2].tolist() == [5.0, 0.03]
    np.testing.assert_allclose(found.view.phi[0, :2], [3.2 - 2 * np.pi, 0.2])
    assert (found.n_above_threshold, found.n_merged, found.n_kept) == (3, 3, 2)


@pytest.mark.parametrize("setting", [{"loss": 1.0}, {"threshold": 1e6}])
def test_a_jet_is_never_empty(setting: dict[str, float]) -> None:
    raw = raw_jets(10, 20)
    noise = slot_noise(0, "a.h5", np.arange(20), 20)
    found = trigger_view(raw, TriggerOptions(**setting), noise).view
    assert found.alive.sum(1).tolist() == [1] * 20
    kept = found.pt[found.alive]
    if "threshold" in setting:  # the hardest one, smeared
        np.testing.assert_allclose(kept, raw.pt[:, 0] * np.clip(1 + 0.1 * noise.pt[:, 0], 0.5, 1.5))
    else:  # the hardest after merging and smearing
        assert (kept == trigger_view(raw, TriggerOptions(loss=0.0), noise).view.pt.max(1)).all()


def test_without_any_effect_the_view_is_the_offline_view() -> None:
    raw = raw_jets(10, 20)
    options = TriggerOptions(**{**QUIET, "threshold": 0.5})
    found = trigger_view(raw, options, slot_noise(0, "a.h5", np.arange(20), 20))
    assert_same(found.view, offline_view(raw, options))


def test_a_slot_of_the_trigger_is_the_same_constituent_offline_or_empty() -> None:
    raw = raw_jets(20, 40)
    options = TriggerOptions()
    offline = offline_view(raw, options)
    hlt = trigger_view(raw, options, slot_noise(0, "a.h5", np.arange(40), 40)).view
    assert hlt.alive.sum() < offline.alive.sum() and not (hlt.alive & ~offline.alive).any()
    for view in (offline, hlt):
        dead = ~view.alive
        assert not view.pt[dead].any() and not view.eta[dead].any() and not view.phi[dead].any()
        assert not energies(view)[dead].any() and (energies(view)[view.alive] > 0).all()


def test_the_offline_view_is_a_threshold() -> None:
    raw = slots([(0.5, 1.0, 0.0), (0.49, 0.0, 0.0)], [(0.3, 0.0, 0.0), (0.2, 0.0, 0.0)])
    # The second jet keeps its hardest constituent.
    assert offline_view(raw, TriggerOptions()).alive.tolist() == [[True, False], [True, False]]


def test_the_seed_study_took_the_logarithm_for_the_momentum() -> None:
    jets, _ = some_jets(20)
    made = raw_jets(20, 30, "seed")
    alive = made.alive
    np.testing.assert_allclose(made.pt[alive], np.log(jets.pt[:, :30] * 1000)[alive])
    np.testing.assert_allclose(made.eta[:, 0], 0)
    np.testing.assert_allclose(made.phi[:, 0], 0)
    # The second constituent lies on the negative phi axis, the third has eta >= 0.
    np.testing.assert_allclose(made.eta[:, 1], 0, atol=1e-12)
    assert (made.phi[:, 1] <= 0).all() and (made.eta[:, 2] >= 0).all()
    # Distances to the first constituent are kept.
    first = np.hypot(jets.eta[:, :30] - jets.eta[:, :1], wrapped(jets.phi[:, :30] - jets.phi[:, :1]))
    np.testing.assert_allclose(np.hypot(made.eta, made.phi)[alive], first[alive])
    # So its thresholds removed nothing.
    options = TriggerOptions(wiring="seed")
    found = trigger_view(made, options, slot_noise(0, "a.h5", np.arange(40), 30))
    assert found.n_above_threshold == int(alive.sum())


def test_the_benchmark_of_merging_runs_small_and_says_what_it_measured_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDEXP_DATA", raising=False)
    ((title, figures),) = jet_tables(SMOKE, small=True)
    assert "40 SYNTHETIC jets, 40 constituents" in title
    assert len(figures) == 4 and all(value > 0 for figure in figures for value in figure.per_round)
