"""What the trigger's view costs: merging one jet after the other in a double loop, and all jets at once."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.timing import Costs, Figure, Plan, interleaved
from kdexp.systems.toptagging import synthetic
from kdexp.systems.toptagging.jetfiles import look_at, read_jets
from kdexp.systems.toptagging.merging import Slots, merged
from kdexp.systems.toptagging.noise import slot_noise
from kdexp.systems.toptagging.synthetic import GeneratorOptions
from kdexp.systems.toptagging.trigger import TriggerOptions, raw_slots, trigger_view

_SEED = 0
_SIZES = (40, 80)


@dataclass(frozen=True, kw_only=True)
class JetSample:
    """Constituents above the trigger's threshold, and what they are."""

    slots: Slots
    says: str


def jet_tables(plan: Plan, small: bool) -> list[tuple[str, list[Figure]]]:
    """A table for each number of constituents."""
    return [_table(n_slots, plan, 40 if small else 4_000) for n_slots in (_SIZES[:1] if small else _SIZES)]


def merged_by_loop(slots: Slots, radius: float) -> Slots:
    """The same as `merging.merged`, as one would write it: jet by jet, pivot by pivot, partner by partner."""
    result = slots.copy()
    for jet in range(len(result.pt)):
        pt, eta, phi, alive = result.pt[jet], result.eta[jet], result.phi[jet], result.alive[jet]
        for pivot in range(len(pt)):
            if not alive[pivot]:
                continue
            for partner in range(pivot + 1, len(pt)):
                if not alive[partner]:
                    continue
                turn = phi[pivot] - phi[partner]
                turn = turn - 2 * np.pi * np.rint(turn / (2 * np.pi))
                if np.sqrt((eta[pivot] - eta[partner]) ** 2 + turn**2) < radius:
                    one, other = pt[pivot], pt[partner]
                    eta[pivot] = (one * eta[pivot] + other * eta[partner]) / (one + other)
                    phi[pivot] = np.arctan2(
                        one * np.sin(phi[pivot]) + other * np.sin(phi[partner]),
                        one * np.cos(phi[pivot]) + other * np.cos(phi[partner]),
                    )
                    pt[pivot] = one + other
                    alive[partner] = False
    return result


def _table(n_slots: int, plan: Plan, n_jets: int) -> tuple[str, list[Figure]]:
    sample, options = _sample(n_jets, n_slots), TriggerOptions()
    radius = options.merge_radius
    rows = np.arange(n_jets)
    variants: dict[str, Callable[[], Costs]] = {
        "loop": lambda: _cost(lambda: merged_by_loop(sample.slots, radius)),
        "at once": lambda: _cost(lambda: merged(sample.slots, radius)),
        "view": lambda: _cost(
            lambda: trigger_view(sample.slots, options, slot_noise(_SEED, "benchmark", rows, n_slots))
        ),
    }
    rounds = interleaved(variants, plan)
    figures = [
        rounds.ratio("merging, double loop / all jets at once (aimed at: 15 or more)", "loop", "at once", "all"),
        rounds.amount(f"double loop, ms for {n_jets:,} jets", "loop", "all", 1),
        rounds.amount(f"all jets at once, ms for {n_jets:,} jets", "at once", "all", 1),
        rounds.amount(f"the whole HLT view with its noise, ms for {n_jets:,} jets", "view", "all", 1),
    ]
    return f"jets: {sample.says}, {n_slots} constituents, merging radius {radius:g}", figures


def _cost(work: Callable[[], object]) -> Costs:
    started = time.process_time()
    work()
    return {"all": (time.process_time() - started) * 1000}


def _sample(n_jets: int, n_slots: int) -> JetSample:
    """Jets of the files under KDEXP_DATA where there are some, else generated ones."""
    given = os.environ.get("KDEXP_DATA")
    real = sorted((Path(given) / "toptagging").glob("*.h5"))[:1] if given else []
    with tempfile.TemporaryDirectory() as folder:
        if not real:
            synthetic.write(Path(folder), GeneratorOptions(n_per_class=-(-n_jets // 2)), _SEED)
        path = real[0] if real else Path(folder) / synthetic.FILE
        pieces = [jets for _, jets in read_jets(look_at(path, None), slice(0, n_jets), n_slots)]
    pt, eta, phi = (np.concatenate([getattr(jets, name) for jets in pieces]) for name in ("pt", "eta", "phi"))
    raw = raw_slots(pt, eta, phi, "gev")
    slots = replace(raw, alive=raw.alive & (raw.pt >= TriggerOptions().threshold))
    return JetSample(slots=slots, says=f"{n_jets:,} jets of {path.name}" if real else f"{n_jets:,} SYNTHETIC jets")
