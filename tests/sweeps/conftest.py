"""Fixtures for studies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support import Finished
from sweeps.quick import QUICK, Run


@pytest.fixture
def quick_study(run_main: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A search of the rings with these words, in this process and without plots."""
    monkeypatch.setattr("kdexp.sweeps.loop.draw_plots", lambda study, folder: None)
    return lambda *words: run_main(tmp_path, *QUICK, *words)
