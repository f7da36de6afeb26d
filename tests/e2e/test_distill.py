"""The losses in whole runs: each preset trains, and what a model cannot give stops a run before any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdexp.errors import RunFailed
from kdexp.training.callbacks import EpochRecorder
from kdexp.training.fit import load_checkpoint

SMALL = ["dataset=medpix", "dataset.source=synthetic", "dataset.generator.preset=small", "dataset.image_size=32"]
SHORT = ["trainer.max_epochs=2", "teacher.max_epochs=1", "figures=false"]
PARTS = {
    "ce_kl_mse": {"ce", "kl", "feature_mse"},
    "combined": {"ce", "kl", "feature_mse", "crd"},
    "crd": {"ce", "crd"},
    "rkd": {"ce", "rkd"},
    "rkd_park": {"ce", "rkd_park"},
    "mmd": {"ce", "mmd"},
    "dkd": {"ce", "dkd"},
    "dist": {"ce", "dist"},
    "attention": {"ce", "attention"},
}
PROJECTED = {"ce_kl_mse": 2, "combined": 4, "crd": 2, "rkd": 2, "mmd": 2}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder, so that all runs share a teacher."""
    return tmp_path_factory.mktemp("distill")


def rows(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


@pytest.mark.parametrize("preset", PARTS)
def test_every_preset_trains_and_names_its_parts(run_main: Any, shared: Path, preset: str) -> None:
    done = run_main(shared, "train", *SMALL, *SHORT, f"distill={preset}", f"hydra.run.dir={preset}")
    assert done.code == 0, done.err
    found = rows(shared / preset)
    assert {name.removeprefix("weight/") for name in found[0] if name.startswith("weight/")} == PARTS[preset]
    assert all(row[f"train/{part}"] > 0 for row in found for part in PARTS[preset])
    state = load_checkpoint(shared / preset / "checkpoints" / "last.ckpt")["state_dict"]
    assert sum(name.startswith("objective.") for name in state) == 2 * PROJECTED.get(preset, 0)
    record = json.loads((shared / preset / "run.json").read_text())
    # The projections are no part of the student.
    weights = sum(tensor.numel() for name, tensor in state.items() if name.startswith("model."))
    assert record["models"]["student"]["parameters"] == pytest.approx(weights, rel=0.01)


def test_a_stopped_run_with_projections_resumes_to_the_same_bits(
    run_main: Any, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*SMALL, *SHORT, "distill=combined")
    assert run_main(shared, "train", *words, "hydra.run.dir=whole").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(EpochRecorder, "_ask_trial", stop)
        assert run_main(shared, "train", *words, "hydra.run.dir=cut").code == 1
    assert len(rows(shared / "cut")) == 1
    assert run_main(shared, "train", "resume=cut").code == 0
    states = [load_checkpoint(shared / name / "checkpoints" / "last.ckpt")["state_dict"] for name in ("whole", "cut")]
    assert rows(shared / "whole") == rows(shared / "cut")
    assert all((tensor == states[1][name]).all() for name, tensor in states[0].items())


def stop(*_: Any) -> None:
    raise RunFailed("stopped after its first epoch")


CITY = ["dataset=city", "dataset.generator.preset=tiny"]
REFUSED = [
    ([*CITY, "distill=combined"], "distill.features: the student gives no 'img_proj'; it gives candidate_duration"),
    ([*CITY, "distill=dkd"], "distill.weights.dkd: decoupled KD needs three classes that all samples share"),
    ([*CITY, "distill=dist"], "distill.weights.dist: DIST relates the samples of a class, and the candidates of"),
    ([*CITY, "distill.fused=true"], "distill.fused: only multiclass tasks can be fused, not next_road (candidates)"),
    ([*SMALL, "distill.positions=last"], "distill.positions=last: has no effect on task"),
    ([*SMALL, "+distill.aux.energy=0.1"], "distill.aux.energy weighs a part that this student does not give"),
]


@pytest.mark.parametrize(("words", "says"), REFUSED)
def test_what_cannot_be_distilled_stops_a_run_before_a_teacher_is_trained(
    run_main: Any, tmp_path: Path, words: list[str], says: str
) -> None:
    done = run_main(tmp_path, "train", *words, "teacher.max_epochs=1000")
    assert done.code == 2
    assert says in done.text
    assert not list(tmp_path.glob("outputs/teachers/*/metrics.jsonl"))


def test_an_auxiliary_part_that_nothing_weighs_is_named_once_and_only_then(run_main: Any, tmp_path: Path) -> None:
    words = (*SMALL, "student/fusion=energy_aware_adaptive", "distill=none", "trainer.max_epochs=1", "figures=false")
    silent = run_main(tmp_path, "train", *words)
    assert silent.code == 0, silent.err
    assert silent.text.count("the student gives energy, which nothing weighs; set +distill.aux.energy") == 1
    weighed = run_main(tmp_path, "train", *words, "+distill.aux.energy=0.01")
    assert weighed.code == 0 and "which nothing weighs" not in weighed.text
