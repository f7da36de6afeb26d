"""python -m benchmarks.direct N_RUNS WORD...: the runs that a sweep makes of these words, without the sweep.

One configuration is composed and checked once; then `experiment.run` is called with seed after seed, with a trial that
nobody hears, so that a run reports, and leaves the test split alone, as in a sweep.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.execution_policy import execution_whitelist

from benchmarks.workload import composed
from kdexp.experiment import Command, run
from kdexp.sweeps.plugin import register
from kdexp.trust import execution_whitelist as trusted_names

FIRST_SEED = 1000


class Unheard:
    """A trial of no study."""

    def report(self, step: int, value: float) -> None:
        """Tells nobody."""

    def should_prune(self) -> bool:
        return False


def main(words: Sequence[str]) -> None:
    n_runs, *overrides = words
    register()
    with execution_whitelist(trusted_names()):
        cfg = composed(overrides)
        folder = Path(cfg["paths"]["output_root"]) / "direct"
        for seed in range(FIRST_SEED, FIRST_SEED + int(n_runs)):
            run({**cfg, "seed": seed}, Command(folder=folder / str(seed)), Unheard())


if __name__ == "__main__":
    main(sys.argv[1:])
