"""What `-m hparams_search=X` does: settle the plan, open the study, work or lead workers, write the results."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from kdexp.analysis.report import write_study_report
from kdexp.errors import StudyError
from kdexp.provenance import command_line
from kdexp.reporting import report_study
from kdexp.sweeps import workers
from kdexp.sweeps.launching import make_launcher
from kdexp.sweeps.leader import is_worker
from kdexp.sweeps.opening import open_sweep
from kdexp.sweeps.plan import Plan, make_plan
from kdexp.sweeps.plots import draw_plots
from kdexp.sweeps.results import write_results
from kdexp.sweeps.samplers import check_sampler, n_points
from kdexp.sweeps.space import Space
from kdexp.sweeps.storage import STORAGE_ERRORS, patiently, quiet_optuna, reason_of
from kdexp.sweeps.sweep import Sweep
from kdexp.sweeps.vetting import Check, job_check
from kdexp.sweeps.wandb_study import log_study

log = logging.getLogger(__name__)
_TOP = 10
"""How many rows a comparison shows, as in conf/report.yaml."""


def run_sweep(
    settings: Mapping[str, Any], config: DictConfig, context: HydraContext, task: TaskFunction, arguments: list[str]
) -> None:
    """Runs or continues the study. Raises KdexpError for bad input; an interrupt leaves the study as it stands."""
    quiet_optuna()
    plan = make_plan(settings, config)
    launcher = make_launcher(plan, config, context, task)
    space = Space.from_config(settings, config, context, arguments, with_vetting=not is_worker())
    check_sampler(
        plan.sampler,
        space,
        n_objectives=len(plan.directions),
        has_enqueue=bool(plan.enqueue),
        has_constraints=bool(plan.constraints),
    )
    points = n_points(plan.sampler, space)
    if points is not None and points < plan.n_trials:
        log.info("the grid has %d points, so the study ends with %d trials", points, points)
        plan = replace(plan, n_trials=points)
    sweep = patiently("opening the study", lambda: open_sweep(plan, space, launcher))
    try:
        _work(sweep, config, arguments, job_check(context, config))
    finally:
        sweep.storage.remove_session()
        sweep.storage.engine.dispose()


def _work(sweep: Sweep, config: DictConfig, arguments: list[str], check: Check) -> None:
    if is_worker():
        with workers.stoppable(sweep):
            sweep.work()
        return
    patiently("writing down what the study is", lambda: sweep.prepare(config, arguments, check))
    try:
        if sweep.plan.n_workers == 1:
            with workers.stoppable(sweep), workers.watched(sweep):
                sweep.work()
        else:
            workers.lead(sweep)
    finally:
        _show_results(sweep)
    if sweep.plan.comparison is not None and not sweep.interrupted:
        _compare(sweep.plan, config)


def _show_results(sweep: Sweep) -> None:
    """Writes what the study came to so far: plots (where their packages are), summary, table and report."""
    folder = sweep.plan.folder
    try:
        try:
            draw_plots(sweep.study, folder)
        except StudyError as error:
            log.warning("no plots: %s", error)
        workers.report(sweep, write_results(sweep.study, folder))
    except STORAGE_ERRORS as error:
        log.warning("no results were written, the storage is out of reach (%s)", reason_of(error))
        return
    log.info("report: %s", write_study_report(folder))
    if sweep.plan.wandb is not None:
        log_study(folder, **sweep.plan.wandb)


def _compare(plan: Plan, config: DictConfig) -> None:
    """The trials side by side, in groups where they differ in their seeds alone."""
    asked = {
        "study": plan.study_name,
        "split": plan.comparison,
        "reference": None,
        "top": _TOP,
        "eval_batch_size": config.data.eval_batch_size,
        "interval": OmegaConf.to_container(config.interval, resolve=True),
        "paths": OmegaConf.to_container(config.paths, resolve=True),
    }
    command = command_line(("report", f"study={plan.study_name}", f"split={plan.comparison}"))
    report_study(asked, command, groups_only=True)
