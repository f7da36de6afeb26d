"""A study's W&B workspace, made in code from the names that `logger=wandb` logs under.

Its panels: validation by trial, parameters against the objective, schedules, best so far. It shows the runs of the
study's group, each by itself: grouped, W&B would draw their mean.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from kdexp.errors import ConfigError, RunFailed, StudyError
from kdexp.records import write_json
from kdexp.sweeps.reading import open_for_reading
from kdexp.sweeps.view import StudyView, take_view
from kdexp.training.loggers import has_wandb_key

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

log = logging.getLogger(__name__)
DOCUMENT = "wandb_workspace.json"
_DEFAULT_PROJECT = "kdexp"
_SCORE = "val/score.max"
"""The best epoch's `val/score`: W&B's summary keeps its maximum beside its last value (see WandbLogger)."""


def publish(study_name: str, studies: Path, url: str | None, *, entity: str | None, project: str | None) -> None:
    """Writes the workspace's document into the study's folder, then saves it in W&B as a new view of the project.

    Raises ConfigError where W&B is not to be reached (no key, or WANDB_MODE says so), RunFailed where it cannot be.
    """
    _require_package()
    storage = open_for_reading(study_name, studies, url)
    view = take_view(optuna.load_study(study_name=study_name, storage=storage), studies / study_name)
    workspace = make_workspace(view, entity=entity, project=project)
    path = view.folder / DOCUMENT
    write_json(path, document(workspace))
    log.info("document: %s", path)
    log.info("workspace: %s", _saved(workspace, path))


def make_workspace(view: StudyView, *, entity: str | None = None, project: str | None = None) -> Workspace:
    """The workspace; entity and project are those of the study's own runs where none are given.

    Raises StudyError where the study has no trial yet, or a name that W&B's filters cannot hold.
    """
    import wandb_workspaces.workspaces as ws

    name = view.study.study_name
    if not view.trials:
        raise StudyError(f"study {name} has no trial yet, so there is nothing to show")
    logger = _own_logger(view)
    synthetic = any(record["data"]["source"] == "synthetic" for record in view.records.values())
    n_runs = max(len(view.trials), view.attributes.get("n_trials") or 0, 10)
    refusal = f"study {name}: W&B's workspaces cannot hold this name; they take letters, digits, spaces and - _ ."
    try:
        workspace = ws.Workspace(
            entity=entity or logger.get("entity") or "",
            project=project or logger.get("project") or _DEFAULT_PROJECT,
            name=f"study {name}{' SYNTHETIC' if synthetic else ''}",
            sections=list(_sections(view)),
            settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=n_runs),
            runset_settings=ws.RunsetSettings(filters=ws.And(ws.Metric("Group") == name)),
        )
        (runs,) = document(workspace)["spec"]["section"]["runSets"]
    except (ValueError, SyntaxError):  # the package writes the filter as Python and reads it again
        raise StudyError(refusal) from None
    if runs["filters"]["filters"][0]["value"] != name:
        raise StudyError(refusal)
    return workspace


def document(workspace: Workspace) -> dict[str, Any]:
    """What W&B is sent, as plain values; the package has no public word for it."""
    model = workspace._to_model().model_dump(by_alias=True, exclude_none=True)
    return {
        "entity": model["entity"] or None,
        "project": model["project"],
        "displayName": model["displayName"],
        "spec": model["spec"],
    }


def _sections(view: StudyView) -> Iterator[Section]:
    import wandb_workspaces.workspaces as ws

    panels = {
        "Validation by trial": [_line("val/score by epoch", "epoch", y=["val/score"])],
        "Parameters against the objective": [_parameters(view)],
        "Schedules": [
            _line("temperature", "epoch", y=["temperature"]),
            _line("weights", "epoch", metric_regex="weight/.*"),
            _line("learning rate", "epoch", y=["lr"]),
        ],
        "Best so far": list(_best_so_far(view)),
    }
    yield from (ws.Section(name=name, is_open=True, panels=inside) for name, inside in panels.items())


def _line(title: str, x: str, **what: Any) -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(title=title, x=x, smoothing_type="none", **what)


def _best_so_far(view: StudyView) -> Iterator[Any]:
    """For each objective: the trials' runs with a line at the best so far, and the same from the study's own run."""
    import wandb_workspaces.reports.v2 as wr

    for objective, direction in zip(view.objectives, view.directions, strict=True):
        for name, title in _outcomes([objective]):
            yield wr.ScatterPlot(
                title=f"{title}, in the order of time",
                x=wr.Metric("CreatedTimestamp"),
                y=wr.SummaryMetric(name),
                running_ymax=direction == "maximize" or None,
                running_ymin=direction == "minimize" or None,
            )
        yield _line(f"best {objective} by trial", "study/trial", y=[f"study/{objective}", f"study/best {objective}"])


def _parameters(view: StudyView) -> Any:
    import wandb_workspaces.reports.v2 as wr

    distributions = {name: one for trial in view.trials for name, one in trial.distributions.items()}
    parameters = [
        wr.ParallelCoordinatesPlotColumn(
            wr.Config(_place(name, view)), display_name=name, log=getattr(distribution, "log", False) or None
        )
        for name, distribution in distributions.items()
    ]
    outcomes = _outcomes(view.objectives) or _outcomes(["val/score"])
    ends = [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(name), display_name=title) for name, title in outcomes]
    return wr.ParallelCoordinatesPlot(title="parameters against the objective", columns=[*parameters, *ends])


def _place(parameter: str, view: StudyView) -> str:
    """Where a run's configuration holds a parameter: a schedule under its own `name`, a choice of a group in `choices`,
    any other under its key."""
    group, _, package = parameter.partition("@")
    if package and group == "schedule":
        return f"{package}.name"
    is_group = "/" in parameter or package or isinstance(_base(view).get(parameter), Mapping)
    return f"choices.{parameter}" if is_group else parameter


def _outcomes(objectives: Sequence[str]) -> list[tuple[str, str]]:
    """Names in a trial's W&B summary, and what they are. What a run only records (latency, size) is not there."""
    score = {"val/score": (_SCORE, "val/score, best epoch")}
    return [score.get(name, (name, f"{name}, last epoch")) for name in objectives if name.startswith("val/")]


def _own_logger(view: StudyView) -> Mapping[str, Any]:
    """The settings of the W&B logger that the study's trials ran with; empty, with a warning, where it was another."""
    logger = _base(view).get("logger") or {}
    if str(logger.get("_target_")).endswith(".wandb_logger"):
        return logger
    log.warning("the trials of %s ran without logger=wandb: W&B has none of their runs", view.study.study_name)
    return {}


def _base(view: StudyView) -> Mapping[str, Any]:
    return view.attributes.get("config") or {}


def _saved(workspace: Workspace, path: Path) -> str:
    """The address of the saved workspace."""
    import wandb

    mode = os.environ.get("WANDB_MODE", "")
    missing = f"WANDB_MODE={mode}" if mode in ("offline", "disabled") else None
    missing = missing or (None if has_wandb_key() else "no key in WANDB_API_KEY or netrc")
    if missing:
        raise ConfigError(
            f"not saved in W&B ({missing}): the workspace is in {path}; mend that, and repeat the command"
        )
    try:
        workspace.entity = workspace.entity or wandb.Api().default_entity or ""
        return str(workspace.save().url)
    except Exception as error:  # network, rights, the server's own: the package has no one kind of error
        raise RunFailed(f"W&B did not take the workspace ({error}); it is in {path}") from error


def _require_package() -> None:
    try:
        import wandb_workspaces.workspaces  # noqa: F401
    except ImportError:
        raise ConfigError(
            "target=wandb needs the package wandb-workspaces; install it with pip install 'kdexp[wandb-workspaces]'"
        ) from None
