"""What `-m hparams_search=X` does: settle the plan, open the study, work or lead workers, write the results."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hydra.core.plugins import Plugins
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from kdexp.analysis.report import write_study_report
from kdexp.errors import StudyError
from kdexp.sweeps import workers
from kdexp.sweeps.leader import is_worker
from kdexp.sweeps.plan import make_plan
from kdexp.sweeps.plots import draw_plots
from kdexp.sweeps.results import write_results
from kdexp.sweeps.samplers import check_sampler, n_points
from kdexp.sweeps.space import Space
from kdexp.sweeps.storage import quiet_optuna
from kdexp.sweeps.sweep import Sweep, open_sweep
from kdexp.sweeps.wandb_study import log_study

log = logging.getLogger(__name__)


def run_sweep(
    settings: Mapping[str, Any], config: DictConfig, context: HydraContext, task: TaskFunction, arguments: list[str]
) -> None:
    """Runs or continues the study. Raises KdexpError for bad input; an interrupt leaves the study as it stands."""
    quiet_optuna()
    plan = make_plan(settings, config)
    launcher = Plugins.instance().instantiate_launcher(config=config, hydra_context=context, task_function=task)
    space = Space.from_config(settings, config, context, arguments, with_vetting=not is_worker())
    check_sampler(plan.sampler, space, n_objectives=len(plan.directions), has_enqueue=bool(plan.enqueue))
    points = n_points(plan.sampler, space)
    if points is not None and points < plan.n_trials:
        log.info("the grid has %d points, so the study ends with %d trials", points, points)
        plan = replace(plan, n_trials=points)
    sweep = open_sweep(plan, space, launcher)
    if is_worker():
        with workers.stoppable(sweep):
            sweep.work()
        return
    sweep.prepare(config, arguments)
    try:
        if plan.n_workers == 1:
            with workers.stoppable(sweep), workers.watched(sweep):
                sweep.work()
        else:
            workers.lead(sweep)
    finally:
        _show_results(sweep)


def _show_results(sweep: Sweep) -> None:
    """Writes what the study came to so far: plots (where their packages are), summary, table and report."""
    folder = sweep.plan.folder
    try:
        draw_plots(sweep.study, folder)
    except StudyError as error:
        log.warning("no plots: %s", error)
    workers.report(sweep, write_results(sweep.study, folder))
    log.info("report: %s", write_study_report(folder))
    if sweep.plan.logs_to_wandb:
        log_study(folder)
