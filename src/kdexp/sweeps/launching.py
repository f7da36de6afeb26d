"""Hydra's launcher, made to suit a study: it is given one job at a time, and what it leaves lies with the study."""

from __future__ import annotations

import os
from copy import deepcopy

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write

from kdexp.errors import ConfigError
from kdexp.sweeps.leader import WORKER
from kdexp.sweeps.plan import Plan
from kdexp.sweeps.trial import VARIABLE

_ALL_CORES = -1
"""What joblib's `n_jobs` is where nobody set it."""
_OWN = (WORKER, VARIABLE)
"""Variables that belong to one process."""


def make_launcher(plan: Plan, config: DictConfig, context: HydraContext, task: TaskFunction) -> Launcher:
    """The launcher that `hydra/launcher` names. Raises ConfigError for a setting that has no effect in a study."""
    with read_write(config.hydra):
        config.hydra.sweep.dir = str(plan.folder)
    suited = deepcopy(config)
    with read_write(suited.hydra):
        _suit(suited.hydra.launcher)
    launcher = Plugins.instance().instantiate_launcher(config=suited, hydra_context=context, task_function=task)
    launcher.setup(hydra_context=context, task_function=task, config=config)  # no job may differ from it in `hydra`
    return launcher


def _suit(launcher: DictConfig) -> None:
    kind = launcher["_target_"].rpartition(".")[2]
    if kind == "JoblibLauncher":
        _suit_joblib(launcher)
    elif kind == "RayLauncher":
        _suit_ray(launcher)


def _suit_joblib(launcher: DictConfig) -> None:
    if launcher.n_jobs != _ALL_CORES:
        raise ConfigError(
            f"hydra.launcher.n_jobs: a study gives its launcher one job at a time, so {launcher.n_jobs} has no effect; "
            "take it out and say with hydra.sweeper.n_workers how many run side by side"
        )
    launcher.n_jobs = 2  # with 1 joblib would run the job in this process; more would stand idle
    if launcher.backend != "multiprocessing" and "OMP_NUM_THREADS" not in os.environ:
        launcher.inner_max_num_threads = launcher.inner_max_num_threads or os.cpu_count()


def _suit_ray(launcher: DictConfig) -> None:
    """A cluster that runs already has an environment of its own; and it must not run a job again by itself, since a
    study does so in a new folder."""
    told = {name: value for name, value in os.environ.items() if name.startswith("KDEXP_") and name not in _OWN}
    options = {"max_retries": 0, "runtime_env": {"env_vars": told}}
    launcher.ray.remote = OmegaConf.merge(options, launcher.ray.remote)
