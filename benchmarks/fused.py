"""CE and KL in one pass (`distill.fused`) against the two losses apart: time and memory of a loss and its gradient."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.memory import allocated
from benchmarks.timing import Costs, Figure, Plan, interleaved
from kdexp.contracts import Progress, StudentOutput, TaskSpec, TeacherSignal
from kdexp.distill.objective import ce_lambda_kl

TASK = TaskSpec(name="t", kind="multiclass")
TEMPERATURE = 2.0


@dataclass(frozen=True, kw_only=True)
class Size:
    """One task: samples in a batch, classes, and how many losses with their gradients one round takes."""

    classes: int
    batch: int = 32
    n_steps: int


SIZES = (Size(classes=5, n_steps=2000), Size(classes=32_000, n_steps=20))
SMALL = (Size(classes=5, n_steps=3), Size(classes=32_000, n_steps=1))


def fused_ratios(plan: Plan, small: bool) -> list[Figure]:
    """For each size: time and peak memory, fused over plain, and what the plain form takes. RuntimeError where the two
    do not come to the same gradient."""
    torch.set_num_threads(1)
    return [figure for size in (SMALL if small else SIZES) for figure in _ratios(plan, size)]


def _ratios(plan: Plan, size: Size) -> list[Figure]:
    variants = {name: _step(size, is_fused) for name, is_fused in (("fused", True), ("plain", False))}
    gradients = {name: step() for name, step in variants.items()}
    if not torch.allclose(gradients["fused"], gradients["plain"], atol=1e-6):
        raise RuntimeError("the fused form and the plain form did not come to the same gradient")

    def of(step: Callable[[], torch.Tensor]) -> Callable[[], Costs]:
        def run() -> Costs:
            started = time.process_time()
            for _ in range(size.n_steps):
                step()
            return {"ms": 1000 * (time.process_time() - started) / size.n_steps, **allocated(step)}

        return run

    rounds = interleaved({name: of(step) for name, step in variants.items()}, plan)
    what = f"{size.classes:,} classes"
    return [
        rounds.ratio(f"time, {what}: fused / plain", "fused", "plain", "ms"),
        rounds.ratio(f"peak memory, {what}: fused / plain", "fused", "plain", "peak"),
        rounds.amount(f"time of the plain form, {what}, ms", "plain", "ms", digits=3),
        rounds.amount(f"peak memory of the plain form, {what}, MB", "plain", "peak", digits=4),
    ]


def _step(size: Size, is_fused: bool) -> Callable[[], torch.Tensor]:
    """The objective on one batch, and its gradient; both forms get the same numbers."""
    generator = torch.Generator().manual_seed(0)
    logits, values = (torch.randn(size.batch, size.classes, generator=generator) for _ in range(2))
    targets = {"t": torch.randint(size.classes, (size.batch,), generator=generator)}
    objective = ce_lambda_kl(temperature=TEMPERATURE, weights={"ce": 1.0, "kl": 1.0}, fused=is_fused)
    output = StudentOutput(logits={"t": logits.requires_grad_()})
    signal, start = TeacherSignal(values={"t": values}), Progress(epoch=0.0, step=0.0)

    def step() -> torch.Tensor:
        return torch.autograd.grad(objective(output, signal, targets, start, (TASK,)).total, logits)[0]

    return step
