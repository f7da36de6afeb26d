"""What the command line costs before it answers, against the least that any Hydra program pays."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable

from benchmarks.timing import Costs, Figure, Plan, interleaved


def startup_ratios(plan: Plan) -> list[Figure]:
    """`kdexp --help` and `kdexp train --help` against `import hydra`, each in a process of its own."""
    rounds = interleaved(
        {
            "hydra": _child("-c", "import hydra"),
            "help": _child("-m", "kdexp", "--help"),
            "train": _child("-m", "kdexp", "train", "--help"),
        },
        plan,
    )
    return [
        rounds.ratio("kdexp --help / import hydra", "help", "hydra", "process", 2.0),
        rounds.ratio("kdexp train --help / import hydra", "train", "hydra", "process", 2.0),
    ]


def _child(*words: str) -> Callable[[], Costs]:
    """A run of this Python with these words, in processor seconds of user and system together."""

    def run() -> Costs:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {"process": after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime}

    return run
