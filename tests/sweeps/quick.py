"""A search of the rings inside this process, and what is looked at afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support import Finished

QUICK = (
    "-cd", "{outside}", "hparams_search=rings", "hydra/sweeper/pruner=nop", "teacher.max_epochs=1",
    "trainer.max_epochs=3", "interval.n_resamples=100",
)  # fmt: skip
TWO_GOALS = ("objective=[val/score,student/latency_ms_per_sample]", "hydra.sweeper.direction=[maximize,minimize]")
Run = Callable[..., Finished]


def folder_of(cwd: Path) -> Path:
    return cwd / "outputs" / "studies" / "rings"


def summary_of(cwd: Path) -> dict[str, Any]:
    return dict(json.loads((folder_of(cwd) / "study_summary.json").read_text()))


def assert_refused(ended: Finished, words: Sequence[str], n_sentences: int = 1) -> None:
    """Exit code 2, so many sentences, and all these words in them."""
    assert ended.code == 2, ended.text
    assert "Traceback" not in ended.text
    assert ended.err.count("error: ") == n_sentences, ended.err
    for word in words:
        assert word in ended.text, ended.text
