"""The sweeper as Hydra sees it, under the name `optuna`. Every start of the program imports this: it stays light."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_optuna_sweeper import config as upstream
from omegaconf import MISSING, DictConfig


@dataclass
class SweeperConfig:
    """The first seven keys are the Optuna sweeper's and mean what they mean there; the others are ours."""

    _target_: str = "kdexp.sweeps.plugin.StudySweeper"
    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}, {"pruner": "nop"}])

    sampler: Any = MISSING
    direction: Any = "minimize"
    storage: str | None = None
    """A database URL; by default SQLite in the study's folder."""
    study_name: str | None = None
    """By default the name of the search."""
    n_trials: int = 20
    """Finished trials (complete or pruned) that the study shall hold, over all runs of the command."""
    params: dict[str, Any] | None = None
    custom_search_space: str | None = None

    pruner: Any = MISSING
    n_workers: int = 1
    """Processes that work on the study side by side, each taking one trial at a time."""
    max_retries: int = 2
    """How often a trial that was cut off (a kill, a lost host) is run again with the same parameters and seed."""
    max_consecutive_failures: int = 3
    """After so many failed trials in a row the study stops: something is wrong with all of them. Each start of the
    command counts anew. A failed trial's place goes to another draw; with grid, brute_force and a full list in
    `enqueue`, which have no other, it stays empty until the command is given again, which runs it once more."""
    timeout: float | None = None
    """Seconds of wall clock after which no new trial starts."""
    enqueue: Any = None
    """Trials to run first, or instead: a list of {name, params}; a text with a line `name key=value ...` for each,
    which costs less where there are many, since every job's configuration holds it; or {study, top}."""
    without: Any = None
    """Parameters of `params` to leave out, by name: a search file serves a smaller search too."""
    active_when: Any = None
    """Conditional parameters: {parameter: {other_parameter: [values]}}; it is drawn only where the other has one."""
    constraints: Any = None
    """Limits that the best trial must keep, on what `objective` could name: {student/parameters: {max: 50000}}, with
    min, max or both. For the samplers that heed them: tpe, gp, nsgaii, nsgaiii."""
    pairing: str = "slot"
    """`slot`: a trial's seed is base_seed + its slot. `common`: all trials have base_seed."""
    base_seed: int = 1000
    """Searches start here, so that 42, 43, 44, ... stay fresh for a confirmation."""
    keep_checkpoints: int = 1
    """How many of the study's best trials keep their checkpoints."""
    comparison: str | None = None
    """`val` or `test`: when the study is at its end its trials are compared as by `report study=NAME split=...`; `test`
    measures them on the test split, so it needs their checkpoints (`keep_checkpoints`)."""
    heartbeat_seconds: int = 30
    """How often a worker says that it lives; one silent for four times as long is taken for dead."""


class StudySweeper(Sweeper):
    """Hands the work to `sweeps.loop` when a sweep starts; nothing is built before."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        from kdexp.sweeps.loop import run_sweep

        assert self.config is not None and self.hydra_context is not None and self.task_function is not None
        run_sweep(self.settings, self.config, self.hydra_context, self.task_function, arguments)


def register() -> None:
    """Makes `override /hydra/sweeper: optuna` mean this sweeper, in this process alone.

    Upstream's module stores its own under that name when it is imported, so ours must come after it.
    """
    assert upstream.OptunaSweeperConf is not None
    Plugins.instance().register(StudySweeper)
    ConfigStore.instance().store(
        group="hydra/sweeper", name="optuna", node=SweeperConfig, provider="kdexp", replace=True
    )
