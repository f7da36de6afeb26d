"""Jets of Pythia 8 and FastJet at particle level; needs `pip install 'kdexp[pythia]'`. No detector, no pile-up.

Signal is top-pair production with both W bosons to quarks, background all hard QCD 2 → 2 processes, in five slices of
the hard process's pT. Jets are anti-kT with R = 1 of visible particles, the two leading ones of an event, groomed by
soft drop (beta 1, zcut 0.1): Bierlich et al., arXiv:2203.11601; Cacciari, Salam and Soyez, arXiv:1111.6097; Larkoski et
al., arXiv:1402.2657.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdexp.contracts import ProgressReport
from kdexp.errors import ConfigError
from kdexp.systems.toptagging.merging import wrapped
from kdexp.systems.toptagging.writing import WIDTH, MadeJets, joined, write_jets

VERSION = 1
SLICES_GEV = ((500, 700), (700, 950), (950, 1250), (1250, 1600), (1600, 2050))
_SIGNAL = ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on", "24:onMode = off", "24:onIfAny = 1 2 3 4 5")
_BACKGROUND = ("HardQCD:all = on",)
_RADIUS, _BETA, _Z_CUT = 1.0, 1.0, 0.1
_MAX_PARTICLE_ETA, _LEAST_PARTICLE_PT = 4.5, 0.5
_LEAST_PT, _LEAST_MASS, _MAX_ETA, _LEAST_CONSTITUENTS = 350.0, 40.0, 2.0, 3
_TO_TOP, _TO_QUARK = 0.75, 1.0
_TOP, _W = 6, 24

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Programs:
    """The two packages, imported when they are used."""

    pythia8: Any
    fastjet: Any


def write(path: Path, n_per_class: int, seed: int, *, compress: bool, progress: ProgressReport | None) -> None:
    """Generates so many jets of each label, a fifth in each slice, and writes one file. Tens of jets a second.

    Raises ConfigError where Pythia or FastJet is not installed.
    """
    programs = _programs()
    quotas = [(label, number, n) for label in (1, 0) for number, n in enumerate(_shares(n_per_class))]
    pieces: list[MadeJets] = []
    labels, events = [], []
    first_event = 0
    for label, number, n in quotas:
        made, event = _slice_jets(
            programs, label, number, n, seed, sum(len(piece) for piece in pieces), 2 * n_per_class, progress
        )
        pieces.append(made)
        labels.append(np.full(n, label))
        events.append(event + first_event)
        first_event += int(event.max()) + 1
    order = np.random.default_rng([seed, 2]).permutation(2 * n_per_class)
    versions = f"Pythia {version('pythia8mc')} + FastJet {version('fastjet')}"
    write_jets(
        path,
        joined(pieces).take(order),
        np.concatenate(labels)[order],
        np.concatenate(events)[order],
        attributes={"generator": f"{versions}, particle level, no detector simulation; not ATLAS data", "seed": seed},
        compress=compress,
    )


def _programs() -> _Programs:
    try:
        import fastjet
        import pythia8mc
    except ImportError as error:
        raise ConfigError(
            f"dataset.generator.program=pythia: {error}; pip install 'kdexp[pythia]', or use program=cascade"
        ) from None
    return _Programs(pythia8mc, fastjet)


def _shares(n: int) -> list[int]:
    """`n` over the slices, as evenly as it goes."""
    return [n // len(SLICES_GEV) + (number < n % len(SLICES_GEV)) for number in range(len(SLICES_GEV))]


def _slice_jets(
    programs: _Programs,
    label: int,
    number: int,
    n: int,
    seed: int,
    done: int,
    total: int,
    progress: ProgressReport | None,
) -> tuple[MadeJets, NDArray[np.int64]]:
    """`n` jets of a label in a slice, and the number of the event that each is from."""
    generator = _generator(programs, label, number, seed)
    rows: list[Floats] = []
    events: list[int] = []
    event = 0
    while len(rows) < n:
        if not generator.next():
            continue
        for jet in _jets(programs, generator.event, label):
            if len(rows) < n:
                rows.append(jet)
                events.append(event)
                if progress is not None:
                    progress("generate jets", done + len(rows), total)
        event += 1
    return _as_made(rows), np.array(events)


def _generator(programs: _Programs, label: int, number: int, seed: int) -> Any:
    """Pythia at 13 TeV for one slice, silent, with multiparton interactions off."""
    low, high = SLICES_GEV[number]
    generator = programs.pythia8.Pythia("", False)
    settings = (
        "Print:quiet = on",
        "Beams:eCM = 13000.",
        "PartonLevel:MPI = off",
        f"PhaseSpace:pTHatMin = {low}",
        f"PhaseSpace:pTHatMax = {high}",
        "Random:setSeed = on",
        f"Random:seed = {1 + (10 * seed + 2 * number + label) % 900_000_000}",
        *(_SIGNAL if label else _BACKGROUND),
    )
    refused = [setting for setting in settings if not generator.readString(setting)]
    if refused or not generator.init():
        raise RuntimeError(f"Pythia refuses {', '.join(refused) or 'to start'}")
    return generator


def _jets(programs: _Programs, event: Any, label: int) -> Iterator[Floats]:
    """The groomed leading jets of an event that pass the cuts: constituents (K, 4) as px, py, pz, E."""
    fastjet = programs.fastjet
    visible = [
        fastjet.PseudoJet(particle.px(), particle.py(), particle.pz(), particle.e())
        for particle in event
        if particle.isFinal() and particle.isVisible() and abs(particle.eta()) < _MAX_PARTICLE_ETA
    ]
    clustered = fastjet.ClusterSequence(visible, fastjet.JetDefinition(fastjet.antikt_algorithm, _RADIUS))
    hard = _top_quarks(event) if label else []
    for jet in fastjet.sorted_by_pt(clustered.inclusive_jets(_LEAST_PT))[:2]:
        if label and not any(_contains(jet, top, quarks) for top, quarks in hard):
            continue
        constituents = _groomed(fastjet, jet)
        if _passes(constituents):
            yield constituents


def _groomed(fastjet: Any, jet: Any) -> Floats:
    """Soft drop: Cambridge/Aachen, the softer branch dropped while min(pT) / sum < zcut (ΔR / R)^beta."""
    again = fastjet.ClusterSequence(
        list(jet.constituents()),
        fastjet.JetDefinition(fastjet.cambridge_algorithm, fastjet.JetDefinition.max_allowable_R),
    )
    (kept,) = again.exclusive_jets(1)
    one, other = fastjet.PseudoJet(), fastjet.PseudoJet()
    while kept.has_parents(one, other):
        hard, soft = (one, other) if one.perp() >= other.perp() else (other, one)
        if soft.perp() / (hard.perp() + soft.perp()) >= _Z_CUT * (hard.delta_R(soft) / _RADIUS) ** _BETA:
            break
        kept, one, other = fastjet.PseudoJet(hard), fastjet.PseudoJet(), fastjet.PseudoJet()
    return np.array([[part.px(), part.py(), part.pz(), part.e()] for part in kept.constituents()])


def _passes(constituents: Floats) -> bool:
    px, py, pz, energy = constituents.sum(0)
    pt = float(np.hypot(px, py))
    mass_squared = energy**2 - pt**2 - pz**2
    n = int((np.hypot(constituents[:, 0], constituents[:, 1]) >= _LEAST_PARTICLE_PT).sum())
    is_heavy = mass_squared > _LEAST_MASS**2
    return bool(pt > _LEAST_PT and is_heavy and abs(np.arcsinh(pz / pt)) < _MAX_ETA and n >= _LEAST_CONSTITUENTS)


def _top_quarks(event: Any) -> list[tuple[Any, list[Any]]]:
    """Each top quark before its decay, with the three quarks that it decays to."""
    found = []
    for particle in event:
        children = [event[place] for place in particle.daughterList()]
        if particle.idAbs() != _TOP or any(child.idAbs() == _TOP for child in children):
            continue
        quarks = [child for child in children if child.idAbs() < _TOP]
        for child in children:
            if child.idAbs() == _W:
                last = event[child.iBotCopyId()]
                quarks += [event[place] for place in last.daughterList() if event[place].idAbs() < _TOP]
        found.append((particle, quarks))
    return found


def _contains(jet: Any, top: Any, quarks: Sequence[Any]) -> bool:
    """Whether the jet is near the top and holds all three quarks."""

    def distance(particle: Any) -> float:
        turn = float(wrapped(np.array(jet.phi_std() - particle.phi())))
        return float(np.hypot(jet.rap() - particle.y(), turn))

    return len(quarks) == 3 and distance(top) < _TO_TOP and all(distance(quark) < _TO_QUARK for quark in quarks)


def _as_made(rows: Sequence[Floats]) -> MadeJets:
    """Constituents by falling pT in 200 slots, and each jet's own numbers."""
    total = np.stack([row.sum(0) for row in rows])
    slots = np.zeros((len(rows), WIDTH, 4))
    for place, row in enumerate(rows):
        kept = row[np.hypot(row[:, 0], row[:, 1]) >= _LEAST_PARTICLE_PT]
        kept = kept[np.argsort(-np.hypot(kept[:, 0], kept[:, 1]), kind="stable")][:WIDTH]
        slots[place, : len(kept)] = kept
    pt = np.hypot(slots[..., 0], slots[..., 1])
    jet_pt = np.hypot(total[:, 0], total[:, 1])
    return MadeJets(
        pt=pt,
        eta=np.arcsinh(slots[..., 2] / np.where(pt > 0, pt, 1.0)),
        phi=np.arctan2(slots[..., 1], slots[..., 0]),
        energy=slots[..., 3],
        jet_pt=jet_pt,
        jet_eta=np.arcsinh(total[:, 2] / jet_pt),
        jet_phi=np.arctan2(total[:, 1], total[:, 0]),
        jet_mass=np.sqrt(np.maximum(total[:, 3] ** 2 - jet_pt**2 - total[:, 2] ** 2, 0.0)),
    )
