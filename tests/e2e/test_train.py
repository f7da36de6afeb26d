"""The main job as a user types it: a teacher, a student, a record that says what it was measured on, a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

RINGS = ["-cd", "{outside}", "dataset=rings", "trainer.max_epochs=3"]
SMALL = ["dataset=medpix", "dataset.source=synthetic", "dataset.generator.preset=small", "trainer.max_epochs=2"]


def record_of(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


@pytest.fixture(scope="module")
def medpix_run(tmp_path_factory, run_main) -> tuple[Path, str]:
    """The whole job on a small synthetic data set, with everything on."""
    cwd = tmp_path_factory.mktemp("medpix")
    done = run_main(cwd, "train", *SMALL, "with_no_kd=true", "hydra.run.dir=run")
    assert done.code == 0, done.err
    return cwd, done.out


def test_a_system_outside_the_package_trains_end_to_end(run_main, tmp_path):
    done = run_main(tmp_path, "train", *RINGS, "hydra.run.dir=run")
    assert done.code == 0, done.err
    record = record_of(tmp_path / "run")
    assert record["data"]["name"] == "rings"
    assert record["status"] == "done"
    assert (tmp_path / "run" / "figures" / "learning_curves.png").stat().st_size > 10_000


def test_a_system_outside_the_package_needs_to_be_trusted(run_main, tmp_path):
    refused = run_main(tmp_path, "train", *RINGS, KDEXP_TRUSTED_PACKAGES="")
    assert refused.code == 2
    assert "KDEXP_TRUSTED_PACKAGES" in refused.text


def test_the_run_leaves_what_the_readme_promises(medpix_run):
    run = medpix_run[0] / "run"
    left = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} - {".lock"}
    assert left >= {
        "run.json",
        "config.yaml",
        "metrics.jsonl",
        "predictions/val.npz",
        "predictions/test.npz",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "figures/learning_curves.png",
        "figures/confusion_modality.png",
        "figures/confusion_location.png",
        "figures/reliability_modality.png",
        "figures/reliability_location.png",
        "no_kd/metrics.jsonl",
        "no_kd/predictions/test.npz",
    }
    assert not [name for name in left if name.endswith(".tmp")]


def test_the_record_says_what_it_was_measured_on(medpix_run):
    record = record_of(medpix_run[0] / "run")
    assert record["data"]["source"] == "synthetic"
    with np.load(medpix_run[0] / "run" / "predictions" / "test.npz") as file:
        assert len(file["index"]) == record["data"]["n"]["test"]
        assert len(set(file["cluster"].tolist())) == record["data"]["n_clusters"]["test"]
    interval = record["intervals"]["test"]["score"]
    assert interval["low"] <= record["metrics"]["test"]["score"] <= interval["high"]
    assert record["objective"]["value"] == record["metrics"]["val"]["best"]["score"]
    assert record["teacher"]["fingerprint"]
    assert len(record["config_hash"]) >= 8
    assert record["versions"]["torch"]


def test_the_table_names_all_three_and_marks_synthetic_data(medpix_run):
    for word in ("SYNTHETIC", "teacher", "student", "no-KD", "ms per", "cases", "95%"):
        assert word in medpix_run[1], word


def test_the_same_command_gives_the_same_metrics_and_hash_and_reuses_the_teacher(run_main, medpix_run):
    cwd, _ = medpix_run
    again = run_main(cwd, "train", *SMALL, "with_no_kd=true", "hydra.run.dir=again", "figures=false")
    assert again.code == 0, again.err
    assert "teacher: reused" in again.text
    assert "teacher outputs: reused" in again.text
    one, other = record_of(cwd / "run"), record_of(cwd / "again")
    assert one["metrics"] == other["metrics"]
    assert one["config_hash"] == other["config_hash"]
    assert one["no_kd"]["metrics"] == other["no_kd"]["metrics"]
    assert (other["teacher"]["reused"], other["teacher"]["outputs"]) == (True, "reused")


@pytest.mark.parametrize("cache", ["off", "memmap"])
def test_a_live_teacher_and_a_cached_one_train_the_same_student(run_main, medpix_run, cache):
    cwd, _ = medpix_run
    name = f"cache_{cache}"
    done = run_main(cwd, "train", *SMALL, f"teacher.cache={cache}", f"hydra.run.dir={name}", "figures=false")
    assert done.code == 0, done.err
    rows = [
        [json.loads(line) for line in (cwd / folder / "metrics.jsonl").read_text().splitlines()]
        for folder in ("run", name)
    ]
    for cached, other in zip(*rows, strict=True):
        # A live teacher meets other batch shapes, so its last bits may differ.
        assert other["train/kl"] == pytest.approx(cached["train/kl"], rel=1e-3)


def test_another_seed_gives_another_student_and_the_same_teacher(run_main, medpix_run):
    cwd, _ = medpix_run
    done = run_main(cwd, "train", *SMALL, "seed=43", "hydra.run.dir=seed43", "figures=false")
    assert done.code == 0, done.err
    one, other = record_of(cwd / "run"), record_of(cwd / "seed43")
    assert one["teacher"]["fingerprint"] == other["teacher"]["fingerprint"]
    assert one["metrics"]["val"] != other["metrics"]["val"]
    assert one["config_hash"] != other["config_hash"]


@pytest.mark.parametrize("distill", ["alpha_beta", "mix", "none"])
def test_every_preset_trains(run_main, tmp_path, distill):
    done = run_main(tmp_path, "train", *RINGS, f"distill={distill}", "figures=false", "hydra.run.dir=run")
    assert done.code == 0, done.err
    assert (record_of(tmp_path / "run")["teacher"] is None) == (distill == "none")


def test_scheduled_weights_and_temperature_reach_both_ends(run_main, tmp_path):
    words = ["distill=mix", "schedule@distill.alpha=linear", "distill.alpha.start=0.9", "distill.alpha.end=0.1"]
    words += ["schedule@distill.temperature=cosine", "distill.temperature.start=6", "distill.temperature.end=2"]
    done = run_main(tmp_path, "train", *RINGS, *words, "figures=false", "hydra.run.dir=run")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["weight/kl"] for row in rows] == pytest.approx([0.9, 0.5, 0.1])
    assert [row["weight/ce"] for row in rows] == pytest.approx([0.1, 0.5, 0.9])
    assert [row["temperature"] for row in rows] == pytest.approx([6, 4, 2])


@pytest.mark.parametrize(
    "words",
    [
        ["trainer.precision=bf16-mixed"],
        ["trainer.gradient_clip_val=0.5", "trainer.accumulate_grad_batches=2"],
        [
            "schedule@optimizer.lr=cosine",
            "optimizer.lr.end=1e-5",
            "optimizer.lr.per=step",
            "optimizer.lr.warmup=0.1",
            "optimizer.lr.warmup_start=0",
        ],
    ],
    ids=["bf16", "clipping and accumulation", "warm-up and cosine"],
)
def test_ordinary_trainer_settings_work(run_main, tmp_path, words):
    done = run_main(tmp_path, "train", *RINGS, *words, "figures=false")
    assert done.code == 0, done.err


def test_evaluate_repeats_the_test_metrics(run_main, medpix_run):
    cwd, _ = medpix_run
    done = run_main(cwd, "evaluate", "run=run", "split=test")
    assert done.code == 0, done.err
    kept = json.loads((cwd / "run" / "evaluations" / "test" / "evaluation.json").read_text())
    assert kept["metrics"] == pytest.approx(record_of(cwd / "run")["metrics"]["test"])
    assert run_main(cwd, "evaluate", "run=run", "split=train").code == 0


def test_multirun_trains_one_after_the_other(run_main, tmp_path):
    done = run_main(tmp_path, "-m", *RINGS, "seed=1,2", "figures=false", "hydra.sweep.dir=sweep")
    assert done.code == 0, done.err
    records = [record_of(path.parent) for path in sorted((tmp_path / "sweep").glob("*/run.json"))]
    assert [record["seed"] for record in records] == [1, 2]


def test_wandb_offline_leaves_a_run_and_no_secret(run_main, tmp_path):
    done = run_main(tmp_path, "train", *RINGS, "logger=wandb", "figures=false", "hydra.run.dir=run")
    assert done.code == 0, done.err
    assert "offline" in done.text
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))) == 1


def test_real_medpix_trains(run_main, real_medpix, tmp_path):
    done = run_main(tmp_path, "train", f"dataset.root={real_medpix}", "trainer.max_epochs=1", "hydra.run.dir=run")
    assert done.code == 0, done.err
    record = record_of(tmp_path / "run")
    assert record["data"]["source"] == "real"
    assert record["data"]["n"] == {"train": 1653, "val": 197, "test": 200}
    assert "SYNTHETIC" not in done.out
