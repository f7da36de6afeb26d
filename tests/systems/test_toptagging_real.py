"""The 15,000 jets of Pythia under KDEXP_DATA, where they are: what was measured on them by other means."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kdexp.contracts import SPLITS
from kdexp.systems.toptagging.dataset import TopTagging
from kdexp.systems.toptagging.trigger import TriggerOptions

ROOT = Path(os.environ.get("KDEXP_DATA", "")) / "toptagging"
pytestmark = pytest.mark.skipif(
    "KDEXP_DATA" not in os.environ or not ROOT.is_dir(), reason="there are no jets under KDEXP_DATA/toptagging"
)


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("views")


def opened(views: Path, **settings: Any) -> TopTagging:
    made = TopTagging(root=ROOT, generated_root=views / "generated", views_root=views, source="real", **settings)
    made.setup(42)
    return made


def test_counts_are_those_of_the_readme(views: Path) -> None:
    made = opened(views)
    facts = made.inspect()
    (row,) = facts["files"].values()
    assert (row["jets_taken"], row["top"], row["sorted_jets"], row["weights"]) == (15_000, 7_500, 0, "training_weights")
    assert sum(row["events"] for row in facts["splits"].values()) == 9_454
    shares = [len(made.split(name)) / 15_000 for name in SPLITS]
    assert shares == pytest.approx([0.70, 0.15, 0.15], abs=0.01)
    assert [facts["jet_pt_gev"]["top"][key] for key in ("5 %", "50 %", "95 %")] == pytest.approx(
        [509, 1013, 1783], abs=1
    )
    assert [facts["weights"][key] for key in ("least", "greatest")] == pytest.approx([0.74, 1.10], abs=0.005)
    assert "not ATLAS data" in " ".join(facts["warnings"])


def test_the_trigger_leaves_two_thirds_of_the_constituents(views: Path) -> None:
    steps = opened(views).inspect()["constituents_per_jet"]
    assert steps["offline"] == pytest.approx(39.3, abs=0.05) and steps["kept"] == pytest.approx(26.6, abs=0.1)
    assert 0.24 < 1 - steps["merged"] / steps["above_threshold"] < 0.30


def test_the_published_wiring_has_no_threshold(views: Path) -> None:
    steps = opened(views, view=TriggerOptions(wiring="seed")).inspect()["constituents_per_jet"]
    assert steps["raw"] == steps["offline"] == steps["above_threshold"]


def test_the_rule_of_the_atlas_files_tests_on_a_tenth(views: Path) -> None:
    made = opened(views, split="modulo")
    assert len(made.split("test")) / 15_000 == pytest.approx(0.101, abs=0.0005)
    assert all(name.endswith("0") for name in made.split("test").clusters)
