"""The supervised loss, worked out by hand and compared with torch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kdexp.contracts import StudentOutput, TaskSpec
from kdexp.distill.losses.ce import ce

MULTICLASS = TaskSpec(name="t", kind="multiclass")
BINARY = TaskSpec(name="t", kind="binary")
CANDIDATES = TaskSpec(name="t", kind="candidates")
REGRESSION = TaskSpec(name="t", kind="regression")
DURATION = TaskSpec(name="t", kind="duration")


def of(task: TaskSpec, logits: Any, target: Any, mask: Any = None) -> Tensor:
    masks = {} if mask is None else {"t": torch.as_tensor(mask)}
    output = StudentOutput(logits={"t": torch.as_tensor(logits)}, masks=masks)
    return ce(output, {"t": torch.as_tensor(target)}, tasks=(task,))


BY_HAND = [
    # Probabilities (1/2, 1/4, 1/4): -ln 1/4.
    (MULTICLASS, [[math.log(2), 0.0, 0.0]], [2], None, [math.log(4)]),
    # σ(ln 3) = 3/4.
    (BINARY, [math.log(3), math.log(3)], [1, 0], None, [math.log(4 / 3), math.log(4)]),
    (CANDIDATES, [[math.log(3), 0.0, 99.0]], [0], [[True, True, False]], [math.log(4 / 3)]),
    # Two counted positions, ln 2 and 0 (a lone candidate), and one that does not count.
    (
        CANDIDATES,
        [[[0.0, 0.0], [5.0, 9.0], [1.0, 2.0]]],
        [[1, 0, -1]],
        [[[True, True], [True, False], [True, True]]],
        [math.log(2) / 2],
    ),
    (REGRESSION, [1.5, 2.0], [1.0, 5.0], None, [0.25, 9.0]),
    # |3 - 4| / 4 and |1 - 0.5| / 1 (never less than 1); then |4 - 2| / 2 beside a position that does not count; none.
    (
        DURATION,
        [[3.0, 1.0], [4.0, math.nan], [9.0, math.inf]],
        [[4.0, 0.5], [2.0, math.nan], [math.nan, math.nan]],
        None,
        [(0.25 + 0.5) / 2, 1.0, 0.0],
    ),
]


@pytest.mark.parametrize(("task", "logits", "target", "mask", "expected"), BY_HAND)
def test_values_by_hand(task: TaskSpec, logits: Any, target: Any, mask: Any, expected: list[float]) -> None:
    assert of(task, logits, target, mask).tolist() == pytest.approx(expected, abs=1e-6)


def test_it_is_torchs_cross_entropy() -> None:
    logits = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    target = torch.arange(20) % 6
    expected = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(of(MULTICLASS, logits, target), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("task", [MULTICLASS, BINARY, CANDIDATES, REGRESSION])
def test_one_float32_number_per_sample_with_a_finite_gradient(task: TaskSpec, dtype: torch.dtype) -> None:
    ragged = task.kind in ("multiclass", "candidates")
    logits = (torch.tensor([[60.0, -60.0], [3.0, 1.0]]) if ragged else torch.tensor([60.0, 3.0])).to(dtype)
    logits.requires_grad_()
    mask = torch.ones(2, 2, dtype=torch.bool) if task is CANDIDATES else None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = of(task, logits, [1, 0], mask)
    assert result.shape == (2,) and result.dtype == torch.float32
    assert torch.autograd.grad(result.sum(), logits)[0].isfinite().all()


def test_positions_that_do_not_count_are_silent() -> None:
    logits = torch.full((2, 3, 2), math.nan)
    logits[0, 0] = torch.tensor([1.0, 2.0])
    mask = torch.zeros(2, 3, 2, dtype=torch.bool)
    mask[0, 0] = True
    target = torch.full((2, 3), -1)
    target[0, 0] = 1
    logits.requires_grad_()
    result = of(CANDIDATES, logits, target, mask)
    # The second sample has nothing to say, and says 0.
    assert result.tolist() == pytest.approx([math.log1p(math.exp(-1)), 0.0])
    gradient = torch.autograd.grad(result.sum(), logits)[0]
    assert gradient[0, 0].abs().min() > 0
    assert gradient[1].abs().sum() == 0 and gradient[0, 1:].abs().sum() == 0


@pytest.mark.parametrize("row", [[True, False], [False, False]])
def test_a_target_on_padding_is_not_hidden(row: list[bool]) -> None:
    assert of(CANDIDATES, [[0.0, 0.0]], [1], [row]).item() == math.inf


def test_durations_that_do_not_count_get_no_gradient() -> None:
    prediction = torch.tensor([[3.0, 7.0, math.nan], [1.0, 2.0, 3.0]], requires_grad=True)
    target = torch.tensor([[4.0, math.nan, math.nan], [0.0, 0.5, 2.0]])
    with torch.autograd.set_detect_anomaly(True):
        of(DURATION, prediction, target).sum().backward()
    # The sign of the gap over max(y, 1) and over how many positions count.
    assert prediction.grad is not None
    expected = [-1 / 4, 0.0, 0.0, 1 / 3, 1 / 3, 1 / 6]
    assert prediction.grad.flatten().tolist() == pytest.approx(expected, abs=1e-7)


def test_a_duration_that_counts_and_is_no_number_is_not_hidden() -> None:
    assert of(DURATION, [[math.nan, 1.0]], [[1.0, 1.0]]).isnan().all()


def test_tasks_add_up() -> None:
    tasks = (TaskSpec(name="a", kind="binary"), TaskSpec(name="b", kind="regression"))
    output = StudentOutput(logits={"a": torch.zeros(1), "b": torch.tensor([3.0])})
    result = ce(output, {"a": torch.ones(1), "b": torch.tensor([1.0])}, tasks=tasks)
    assert result.item() == pytest.approx(math.log(2) + 4.0)
