"""Which positions of a sample a divergence counts: `distill.positions`.

Shape suffixes: B samples, P positions of a sample.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from kdexp.contracts import TaskSpec
from kdexp.errors import ConfigError

FORMS = "decisions, all, last or sample:k, with k the number of positions, such as sample:4"
_SAMPLE = re.compile(r"sample:([1-9][0-9]*)")
_FOR_ANY_TASK = ("decisions", "all")


def check_form(positions: str) -> None:
    """Raises ConfigError where the word names no positions."""
    if positions not in (*_FOR_ANY_TASK, "last") and not _SAMPLE.fullmatch(str(positions)):
        raise ConfigError(f"distill.positions: must be {FORMS}, got {positions!r}")


def check_task(positions: str, task: TaskSpec, *, has_positions: bool) -> None:
    """Raises ConfigError where the word would have no effect on the task."""
    if not has_positions and positions not in _FOR_ANY_TASK:
        raise ConfigError(
            f"distill.positions={positions}: has no effect on task {task.name!r}, whose samples have no positions; "
            "use decisions or all"
        )


def chosen(n_candidates_BP: Tensor, positions: str) -> Tensor:
    """(B, P), True where a position counts, given how many candidates it has; one without any never does.

    `decisions`: two candidates or more. `all`: one or more (one alone has nothing to learn, and adds 0 to the mean).
    `last`: each sample's last. `sample:k`: k of each sample's, or all where it has fewer, drawn from torch's global
    generator, which training seeds at each epoch.
    """
    if positions == "decisions":
        return n_candidates_BP >= 2
    there_BP = n_candidates_BP > 0
    if positions == "all":
        return there_BP
    if positions == "last":
        n_to_come_BP = there_BP.flip(1).cumsum(1).flip(1)
        return there_BP & (n_to_come_BP == 1)
    match = _SAMPLE.fullmatch(positions)
    assert match is not None, "a word that `check_form` lets pass"
    drawn_BP = torch.rand(there_BP.shape, device=there_BP.device).masked_fill(~there_BP, -1.0)
    rank_BP = drawn_BP.argsort(dim=1, descending=True).argsort(dim=1)
    return there_BP & (rank_BP < int(match[1]))
