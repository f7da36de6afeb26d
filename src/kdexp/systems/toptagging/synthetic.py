"""The stand-in for the real jets: a cascade of splittings, in the files of the ATLAS Top Tagging Open Data.

A top is three prongs with the kinematics of t → b W → b q q, each a short cascade; a background jet is one long, wide
cascade whose mass comes from its first splitting. Angles shrink from splitting to splitting. A soft contamination lies
over both. `program=pythia` writes jets of a real event generator in its place (see `pythia.py`).

Shape suffixes: N jets, B branches of a cascade.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray

from kdexp.contracts import ProgressReport
from kdexp.errors import ConfigError
from kdexp.systems.toptagging import pythia
from kdexp.systems.toptagging.merging import wrapped
from kdexp.systems.toptagging.writing import WIDTH, MadeJets, joined, write_jets

VERSION = 1
FILE = "generated_000.h5"
_N_PER_CLASS = {"small": 150, "default": 5_000}
_TOP_MASS, _W_MASS = (172.5, 1.5), (80.4, 2.1)
_Z_MIN, _LEAST_BRANCH = 0.02, 0.6
_KAPPA = 0.8
_TOP_DEPTH, _TOP_ANGLE, _BACKGROUND_DEPTH = 5, 0.15, 7
_N_SOFT_SLOTS = 15
_LEAST_PT, _JET_RADIUS = 0.5, 1.0
_LEAST_MASS, _LEAST_JET_PT, _MAX_ETA, _LEAST_CONSTITUENTS = 40.0, 350.0, 2.0, 3
_OVERSAMPLED = {1: 1.15, 0: 2.2}
_MOST_AT_ONCE = 5_000
_MOST_IN_VAIN = 20

Floats = NDArray[np.float64]
Random = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
    """How many jets are made, and how hard they are to tell apart: `small` has 150 a class, `default` 5,000;
    `n_per_class` overrides that.

    A smaller `least_angle` lets the trigger merge more, `contamination` is the mean number of soft extra constituents,
    `background_angle` the widest first splitting of a background jet; jet pT lies between `least_pt` and `greatest_pt`
    (GeV) and falls as exp(-pT / `pt_scale`). `pt_mode=skewed` gives background lower pT, so that training weights
    matter. With `program=pythia`, `n_per_class` alone counts.
    """

    preset: Literal["small", "default"] = "default"
    n_per_class: Annotated[int, Ge(20)] | None = None
    program: Literal["cascade", "pythia"] = "cascade"
    least_angle: Annotated[float, Gt(0), Lt(1)] = 0.012
    contamination: Annotated[float, Ge(0), Le(_N_SOFT_SLOTS)] = 5.0
    background_angle: Annotated[float, Gt(0), Le(1)] = 0.5
    least_pt: Annotated[float, Ge(_LEAST_JET_PT)] = 800.0
    greatest_pt: Annotated[float, Gt(_LEAST_JET_PT)] = 2500.0
    pt_scale: Annotated[float, Gt(0)] = 1500.0
    pt_mode: Literal["same", "skewed"] = "same"
    compress: bool = False


@dataclass(frozen=True, kw_only=True)
class Branches:
    """Constituents in the making, (N, B) each; pT 0 means that there is none. `angle` is the widest that may follow."""

    pt: Floats
    eta: Floats
    phi: Floats
    angle: Floats


def write(folder: Path, options: GeneratorOptions, seed: int, progress: ProgressReport | None = None) -> None:
    """Fills an empty folder with one file; the same seed, the same bytes. ConfigError where the pT range is empty."""
    if options.greatest_pt <= options.least_pt:
        raise ConfigError(
            f"dataset.generator.greatest_pt: must be above least_pt, got {options.greatest_pt} and {options.least_pt}"
        )
    n = options.n_per_class or _N_PER_CLASS[options.preset]
    if options.program == "pythia":
        pythia.write(folder / FILE, n, seed, compress=options.compress, progress=progress)
        return
    pieces = []
    for label in (1, 0):
        pieces.append(generated(options, n, label, np.random.default_rng([seed, label])))
        if progress is not None:
            progress("generate jets", len(pieces) * n, 2 * n)
    order = np.random.default_rng([seed, 2]).permutation(2 * n)
    labels = np.repeat([1, 0], n)[order]
    write_jets(
        folder / FILE,
        joined(pieces).take(order),
        labels,
        np.arange(2 * n),
        attributes={"generator": "kdexp's cascade of splittings; not ATLAS data", "seed": seed},
        compress=options.compress,
    )


def generated(options: GeneratorOptions, n: int, label: int, random: Random) -> MadeJets:
    """`n` jets of one label that pass the cuts. ConfigError where none does in many draws in a row."""
    if label == 0 and options.pt_mode == "skewed":
        options = replace(options, least_pt=_LEAST_JET_PT, pt_scale=300.0)
    pieces: list[MadeJets] = []
    n_in_vain = 0
    while (n_left := n - sum(map(len, pieces))) > 0:
        n_drawn = min(int(_OVERSAMPLED[label] * n_left) + 10, _MOST_AT_ONCE)
        pt, eta, phi = _axes(options, n_drawn, random)
        branches = _top(options, pt, eta, phi, random) if label else _background(options, pt, eta, phi, random)
        made = _as_jets(_contaminated(branches, eta, phi, options.contamination, random), eta, phi)
        pieces.append(made.take(slice(None, n_left)))
        n_in_vain = 0 if len(made) else n_in_vain + 1
        if n_in_vain == _MOST_IN_VAIN:
            raise ConfigError(_none_passes(options, label, _MOST_IN_VAIN * n_drawn))
    return joined(pieces)


def _none_passes(options: GeneratorOptions, label: int, n_drawn: int) -> str:
    names = ["background_angle"] if label == 0 else []
    names += ["contamination", "least_angle", "least_pt", "greatest_pt", "pt_scale", "pt_mode"]
    values = ", ".join(f"{name}={getattr(options, name)}" for name in names)
    return (
        f"dataset.generator: none of {n_drawn:,} {'top' if label else 'background'} jets in a row passed the cuts "
        f"(mass above {_LEAST_MASS:g} GeV, pT above {_LEAST_JET_PT:g} GeV, |eta| below {_MAX_ETA:g}, at least "
        f"{_LEAST_CONSTITUENTS} constituents) with {values}; wider angles, more contamination or a greater pT give mass"
    )


def _axes(options: GeneratorOptions, n: int, random: Random) -> tuple[Floats, Floats, Floats]:
    """pT, eta and phi of jets, (N,) each."""
    low, span = options.least_pt, options.greatest_pt - options.least_pt
    pt = low - options.pt_scale * np.log1p(-random.random(n) * -np.expm1(-span / options.pt_scale))
    return pt, np.clip(random.normal(0, 0.9, n), -1.9, 1.9), random.uniform(-np.pi, np.pi, n)


def _background(options: GeneratorOptions, pt: Floats, eta: Floats, phi: Floats, random: Random) -> Branches:
    axis = Branches(pt=pt[:, None], eta=eta[:, None], phi=phi[:, None], angle=np.full((len(pt), 1), 1.0))
    start = replace(axis, angle=axis.angle * options.background_angle)
    return _cascade(start, _BACKGROUND_DEPTH, options.least_angle, random)


def _top(options: GeneratorOptions, pt: Floats, eta: Floats, phi: Floats, random: Random) -> Branches:
    """Three prongs, a cascade each."""
    momenta = _top_decay(pt, eta, phi, random)
    prong_pt = np.hypot(momenta[..., 1], momenta[..., 2])
    prong_eta = np.arcsinh(momenta[..., 3] / prong_pt)
    prong_phi = phi[:, None] + wrapped(np.arctan2(momenta[..., 2], momenta[..., 1]) - phi[:, None])
    start = Branches(pt=prong_pt, eta=prong_eta, phi=prong_phi, angle=np.full_like(prong_pt, _TOP_ANGLE))
    return _cascade(start, _TOP_DEPTH, options.least_angle, random)


def _top_decay(pt: Floats, eta: Floats, phi: Floats, random: Random) -> Floats:
    """(N, 3, 4): E, px, py, pz of b and the two quarks of the W, all massless."""
    n = len(pt)
    top_mass, w_mass = random.normal(*_TOP_MASS, n), random.normal(*_W_MASS, n)
    momentum = (top_mass**2 - w_mass**2) / (2 * top_mass)
    w_energy = (top_mass**2 + w_mass**2) / (2 * top_mass)
    b_way, quark_way = _directions(n, random), _directions(n, random)
    b = _massless(momentum[:, None] * b_way)
    w_velocity = -b_way * (momentum / w_energy)[:, None]
    quarks = [boosted(_massless(sign * (w_mass / 2)[:, None] * quark_way), w_velocity) for sign in (1, -1)]
    three = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=-1)
    velocity = three / np.sqrt((three**2).sum(-1) + top_mass**2)[:, None]
    return np.stack([boosted(one, velocity) for one in (b, *quarks)], axis=1)


def boosted(momentum: Floats, velocity: Floats) -> Floats:
    """Four-momenta (N, 4) = (E, p) seen from where what rests here moves with `velocity` (N, 3)."""
    energy, three = momentum[:, :1], momentum[:, 1:]
    square = (velocity**2).sum(-1, keepdims=True)
    gamma = 1 / np.sqrt(1 - square)
    along = (velocity * three).sum(-1, keepdims=True)
    moved = three + velocity * ((gamma - 1) * along / np.maximum(square, 1e-300) + gamma * energy)
    return np.concatenate([gamma * (energy + along), moved], axis=1)


def _massless(three: Floats) -> Floats:
    return np.concatenate([np.sqrt((three**2).sum(-1, keepdims=True)), three], axis=1)


def _directions(n: int, random: Random) -> Floats:
    """Unit vectors (N, 3), isotropic."""
    cosine, angle = random.uniform(-1, 1, n), random.uniform(-np.pi, np.pi, n)
    sine = np.sqrt(1 - cosine**2)
    return np.stack([sine * np.cos(angle), sine * np.sin(angle), cosine], axis=1)


def _cascade(branches: Branches, depth: int, least_angle: float, random: Random) -> Branches:
    """Every branch splits `depth` times, as long as its softer part stays above 0.6 GeV; B grows by 2**depth.

    pT and its centroid are conserved. The softer part has a share z with density 1/z on [0.02, 0.5], the angle has
    the density θ^(κ - 1) up to the last one.
    """
    for _ in range(depth):
        shape = branches.pt.shape
        share = _Z_MIN * (0.5 / _Z_MIN) ** random.random(shape)
        angle = np.maximum(least_angle, branches.angle * random.random(shape) ** (1 / _KAPPA))
        way = random.uniform(-np.pi, np.pi, shape)
        share = np.where(share * branches.pt > _LEAST_BRANCH, share, 0.0)
        angle = np.where(share > 0, angle, branches.angle)
        across, along = angle * np.cos(way), angle * np.sin(way)
        hard = (branches.pt * (1 - share), branches.eta - share * across, branches.phi - share * along)
        soft = (branches.pt * share, branches.eta + (1 - share) * across, branches.phi + (1 - share) * along)
        pt, eta, phi = (np.concatenate(pair, axis=1) for pair in zip(hard, soft, strict=True))
        branches = Branches(pt=pt, eta=eta, phi=phi, angle=np.concatenate([angle, angle], axis=1))
    return branches


def _contaminated(branches: Branches, eta: Floats, phi: Floats, mean: float, random: Random) -> Branches:
    """With a Poisson number of soft constituents, at most 15, uniform in the disc around the axis."""
    shape = (len(eta), _N_SOFT_SLOTS)
    there = np.arange(_N_SOFT_SLOTS) < random.poisson(mean, len(eta))[:, None]
    pt = np.where(there, _LEAST_PT + random.exponential(0.8, shape), 0.0)
    distance, way = _JET_RADIUS * np.sqrt(random.random(shape)), random.uniform(-np.pi, np.pi, shape)
    soft = (pt, eta[:, None] + distance * np.cos(way), phi[:, None] + distance * np.sin(way), np.zeros(shape))
    whole = (branches.pt, branches.eta, branches.phi, branches.angle)
    pt, eta_all, phi_all, angle = (np.concatenate(pair, axis=1) for pair in zip(whole, soft, strict=True))
    return Branches(pt=pt, eta=eta_all, phi=phi_all, angle=angle)


def _as_jets(branches: Branches, eta: Floats, phi: Floats) -> MadeJets:
    """The jets that pass the cuts, constituents by falling pT."""
    distance = np.hypot(branches.eta - eta[:, None], branches.phi - phi[:, None])
    pt = np.where((branches.pt >= _LEAST_PT) & (distance < _JET_RADIUS), branches.pt, 0.0)
    order = np.argsort(-pt, axis=1, kind="stable")[:, :WIDTH]
    pt, slot_eta, slot_phi = (np.take_along_axis(values, order, axis=1) for values in (pt, branches.eta, branches.phi))
    real = pt > 0
    room = ((0, 0), (0, max(0, WIDTH - pt.shape[1])))
    slot_eta, slot_phi = np.where(real, slot_eta, 0.0), np.where(real, wrapped(slot_phi), 0.0)
    energy = pt * np.cosh(slot_eta)
    px, py, pz = (pt * np.cos(slot_phi)).sum(1), (pt * np.sin(slot_phi)).sum(1), (pt * np.sinh(slot_eta)).sum(1)
    jet_pt = np.hypot(px, py)
    mass = np.sqrt(np.maximum(energy.sum(1) ** 2 - jet_pt**2 - pz**2, 0.0))
    made = MadeJets(
        pt=np.pad(pt, room),
        eta=np.pad(slot_eta, room),
        phi=np.pad(slot_phi, room),
        energy=np.pad(energy, room),
        jet_pt=jet_pt,
        jet_eta=np.arcsinh(pz / np.maximum(jet_pt, 1e-300)),
        jet_phi=np.arctan2(py, px),
        jet_mass=mass,
    )
    kept = (mass > _LEAST_MASS) & (jet_pt > _LEAST_JET_PT) & (np.abs(made.jet_eta) < _MAX_ETA)
    return made.take(kept & (real.sum(1) >= _LEAST_CONSTITUENTS))
