"""One function per verb, given to Hydra by the command line; torch and its company are imported inside them."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from kdexp.errors import ConfigError, KdexpError, RunFailed

if TYPE_CHECKING:
    from kdexp.sweeps.trial import StudyTrial

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> Any:
    """Teacher, student, test, record, figures, table. Returns the objective."""
    return _answer_errors(_train, cfg)


def evaluate(cfg: DictConfig) -> Any:
    """A finished run on one split."""
    return _answer_errors(_evaluate, cfg)


def data(cfg: DictConfig) -> Any:
    """Inspects, generates or fetches a data set."""
    return _answer_errors(_data, cfg)


def check(cfg: DictConfig) -> Any:
    """Lists every mistake of a training configuration."""
    return _answer_errors(_check, cfg)


def confirm(cfg: DictConfig) -> Any:
    """A study's winners against no distillation, on fresh seeds."""
    return _answer_errors(_confirm, cfg)


def report(cfg: DictConfig) -> Any:
    """Finished runs, or a study's trials, compared."""
    return _answer_errors(_report, cfg)


def dashboard(cfg: DictConfig) -> Any:
    """A study in the browser until Ctrl-C, or its W&B workspace."""
    return _answer_errors(_dashboard, cfg)


def _answer_errors(action: Callable[[DictConfig], Any], cfg: DictConfig) -> Any:
    """In a single run, an error for people ends the program with its sentence; in a sweep, the sweeper hears of it."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    single = HydraConfig.get().mode != RunMode.MULTIRUN
    if single:
        signal.signal(signal.SIGTERM, _stopped)
    try:
        return action(cfg)
    except (KdexpError, RunFailed) as error:
        if not single:
            raise
        for sentence in str(error).split("\n"):
            sys.stderr.write(f"error: {sentence}\n")
        raise SystemExit(1 if isinstance(error, RunFailed) else 2) from None
    finally:
        _remove_if_empty(Path(HydraConfig.get().runtime.output_dir))


def _train(cfg: DictConfig) -> Any:
    if os.environ.get("KDEXP_TRIAL"):
        _go_where_the_command_was_given()
    plain = _checked(cfg)
    trial = _trial(cfg)
    from kdexp.experiment import Command, run

    words, name = (tuple(sys.argv[1:]), None) if trial is None else (trial.command, trial.name)
    record = run(plain, Command(folder=_output_dir(), words=words, name=name), trial)
    if record is None:  # a helper process of a distributed run
        return 0.0
    if trial is None:
        _show(record, plain["figures"])
    return _pruned(record) if record["status"] == "pruned" else record["objective"]["value"]


def _trial(cfg: DictConfig) -> StudyTrial | None:
    """The trial of a study that this job runs; None outside a sweep."""
    if not os.environ.get("KDEXP_TRIAL"):
        return None
    from hydra.core.hydra_config import HydraConfig

    from kdexp.sweeps.plan import make_plan
    from kdexp.sweeps.trial import trial_of_this_job

    return trial_of_this_job(make_plan(HydraConfig.get().sweeper, cfg))


def _pruned(record: dict[str, Any]) -> Any:
    from kdexp.sweeps.trial import Pruned

    return Pruned(step=record["epochs"], value=record["metrics"]["val"]["last"]["score"])


def _show(record: dict[str, Any], figures: bool) -> None:
    from rich.console import Console

    from kdexp.analysis.binned import render_bins
    from kdexp.analysis.figures import draw_run
    from kdexp.analysis.table import render

    folder = _output_dir()
    drawn = draw_run(folder) if figures else []
    console = Console()
    render(record, console)
    for table in (path for path in drawn if path.suffix == ".csv"):
        render_bins(table, console)
    console.print(f"run folder: {_relative(folder)}", soft_wrap=True)
    if drawn:
        console.print(f"figures: {_relative(drawn[0].parent)} ({len(drawn)} files)", soft_wrap=True)


def _evaluate(cfg: DictConfig) -> float:
    from kdexp.check import check_config
    from kdexp.config import EvaluateConfig

    plain = check_config(cfg, EvaluateConfig)
    from kdexp.evaluate import evaluate_run

    return evaluate_run(plain)


def _data(cfg: DictConfig) -> None:
    from kdexp.check import check_config
    from kdexp.config import DataVerbConfig

    plain = check_config(cfg, DataVerbConfig)
    from kdexp.datasets import data_action

    data_action(plain)


def _check(cfg: DictConfig) -> None:
    names_wanted = _taken_out(cfg, "list_trials")
    plain = _checked(cfg)
    if names_wanted:
        sys.stdout.write("".join(f"{name}\n" for name in _named_trials(plain)))
    else:
        log.info("the configuration is sound")


def _taken_out(cfg: DictConfig, key: str) -> bool:
    """A switch of the verb alone, which is no part of a training configuration."""
    from omegaconf import open_dict

    with open_dict(cfg):
        value = cfg.pop(key)
    if not isinstance(value, bool):
        raise ConfigError(f"{key}: must be true or false, got {value!r}")
    return value


def _named_trials(plain: Mapping[str, Any]) -> list[str]:
    """The names of the trials that the chosen search would put in line."""
    from hydra.core.hydra_config import HydraConfig

    from kdexp.sweeps.enqueue import trial_names

    hydra = HydraConfig.get()
    words = list(hydra.overrides.task)
    return trial_names(hydra.sweeper, words, Path(plain["paths"]["output_root"]) / "studies")


def _confirm(cfg: DictConfig) -> None:
    from kdexp.check import check_config
    from kdexp.config import ConfirmConfig

    plain = check_config(cfg, ConfirmConfig)
    from kdexp.confirm.loop import confirm as run_confirmation

    run_confirmation(plain, sys.argv[1:])


def _report(cfg: DictConfig) -> None:
    from kdexp.check import check_config
    from kdexp.config import ReportConfig

    plain = check_config(cfg, ReportConfig)
    from kdexp.reporting import report as compare

    compare(plain, sys.argv[1:])


def _dashboard(cfg: DictConfig) -> None:
    from kdexp.check import check_config
    from kdexp.config import DashboardConfig

    plain = check_config(cfg, DashboardConfig)
    from kdexp.sweeps.dashboard import show_study

    show_study(plain)


def _checked(cfg: DictConfig) -> dict[str, Any]:
    """What to train, as plain values: the configuration or the saved run's, without a mistake."""
    from hydra.core.hydra_config import HydraConfig

    from kdexp.check import check_config
    from kdexp.saved import own_words, take_up

    overrides = [str(word) for word in OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False) or ()]
    return check_config(take_up(cfg, overrides), overrides=own_words(cfg.resume or cfg.from_run, overrides))


def _output_dir() -> Path:
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir)


def _go_where_the_command_was_given() -> None:
    """A relative path means the same in a trial's job, wherever a launcher or hydra.job.chdir put it."""
    from hydra.core.hydra_config import HydraConfig

    os.chdir(HydraConfig.get().runtime.cwd)


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _stopped(number: int, frame: object) -> None:
    """SIGTERM ends a run as Ctrl-C does: at once, with the way back.

    No Exception: the `except Exception` of whoever was at work (a log handler that was printing) would swallow it.
    """
    raise KeyboardInterrupt("stopped by SIGTERM")


def _remove_if_empty(folder: Path) -> None:
    """Takes away the folder that Hydra made for a run that never began."""
    if folder != Path.cwd() and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
