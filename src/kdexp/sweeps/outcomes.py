"""How a trial's job ended, as the study is told."""

from __future__ import annotations

import math

from hydra.core.utils import JobReturn

from kdexp.sweeps.storage import StorageLost
from kdexp.sweeps.trial import Pruned

Outcome = Pruned | tuple[float, ...] | str | None
"""How a job ended: pruned, its values, or in words why it failed."""


def outcome_of(done: JobReturn, n_objectives: int) -> Outcome:
    """Raises StorageLost where the job did: that is no fault of the trial."""
    try:
        value = done.return_value
    except StorageLost:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if isinstance(value, Pruned):
        return value
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if len(values) != n_objectives or not all(isinstance(one, (int, float)) for one in values):
        return f"the job returned {value!r}, the study needs {n_objectives} number(s)"
    if not all(math.isfinite(one) for one in values):
        return f"the objective is no number: {value}"
    return tuple(float(one) for one in values)
