"""What settings and files make of the data, in sentences: for the record, for reports, for `data action=inspect`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from kdexp.contracts import SplitName
from kdexp.systems.toptagging.store import JetTable, Portion
from kdexp.systems.toptagging.trigger import TriggerOptions

_LEAST_SHARE = 0.1


def view_note(view: TriggerOptions, max_constituents: int) -> str:
    """Which view the student has; the published study's wiring is called that."""
    said = (
        f"merged within {view.merge_radius:g}, smearing {view.pt_smearing:g} of pT, {view.eta_smearing:g} in eta "
        f"and {view.phi_smearing:g} in phi, loss {view.loss:g}; {max_constituents} constituents at most"
    )
    if view.wiring == "gev":
        return f"HLT view: pT in GeV, threshold {view.threshold:g} GeV (offline {view.offline_threshold:g}), {said}."
    return (
        "The published study's wiring (dataset.view.wiring=seed, whatever dataset/view is called): ln(pT/MeV) "
        "stood for pT, and angles were those of the jet's own frame, in both views. HLT view: threshold "
        f"{view.threshold:g} in ln(pT/MeV), which is {math.exp(view.threshold):.2g} MeV, {said}."
    )


def weights_note(weights: np.ndarray, rows: Mapping[SplitName, np.ndarray]) -> str | None:
    """In which splits jets count by their training weights; None where all weights are 1."""
    weighted = [split for split, chosen in rows.items() if (weights[chosen] != 1).any()]
    if not weighted:
        return None
    rest = [split for split in rows if split not in weighted]
    where = f" in {' and '.join(weighted)}; {' and '.join(rest)} has none" if rest else ""
    return f"Jets count by their training weights, in losses and metrics{where}."


def rejection_note(interpolate: bool) -> str:
    how = "with FPR linear in TPR between the ROC's vertices" if interpolate else "at the ROC's first vertex there"
    return f"Rejection: 1/FPR at a signal efficiency (TPR), {how}."


def oddities(portions: Sequence[Portion], table: JetTable) -> list[str]:
    """What may bias a result."""
    found = []
    share = float(table.labels.mean())
    if min(share, 1 - share) < _LEAST_SHARE:
        found.append(f"{share:.1%} of the jets are tops: a split may hold too few of the other kind to measure with.")
    if any(portion.file.weights is None for portion in portions):
        found.append(
            "Not every file has training weights, ones are used there: the pT spectrum itself may tell the label."
        )
    if not table.has_events:
        found.append("Not every file has event numbers: two jets of one event may be in two splits.")
    if not all(portion.file.has_jet_pt for portion in portions):
        found.append("Not every file has the jets' own pT: there it is that of the constituents read.")
    return found
