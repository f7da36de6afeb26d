"""What a computation allocates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import Costs

_MB = 2**20


def allocated(step: Callable[[], object]) -> Costs:
    """What a step allocates on the CPU, in MB: the most that it holds at once, and its largest tensor."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    changes = [event.nbytes() for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = torch.tensor(changes).cumsum(0)
    return {"peak": int(held.max()) / _MB, "largest": max(changes) / _MB}
