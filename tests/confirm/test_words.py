"""Words that Hydra would refuse as people type them."""

from __future__ import annotations

import pytest

from kdexp.cli import _with_quoted_overrides


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ("overrides=[trainer.max_epochs=25]", "overrides=['trainer.max_epochs=25']"),
        ("overrides=[a=1, b.c=x]", "overrides=['a=1','b.c=x']"),
        ("overrides=['a=[1,2]']", "overrides=['a=[1,2]']"),
        ("contenders={mild: [a=2], other: /runs/x}", "contenders={mild: ['a=2'], other: /runs/x}"),
        ("seeds=[1,2]", "seeds=[1,2]"),
    ],
)
def test_overrides_need_no_quotes(typed: str, given: str) -> None:
    assert _with_quoted_overrides(typed) == given
