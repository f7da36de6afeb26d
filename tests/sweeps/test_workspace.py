"""A study's W&B workspace: its document without network, against what real runs log; saved by the real client."""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kdexp.errors import StudyError
from kdexp.sweeps.view import take_view
from kdexp.sweeps.workspace import document, make_workspace
from made_study import new_study, night, run_trial
from support import OUTSIDE
from wandb_files import closed, history, only, summary_of, wandb_files

pytest.importorskip("wandb", reason="wandb is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:.*V1 style `@validator`.*:DeprecationWarning")
pytest.importorskip("wandb_workspaces", reason="the extra kdexp[wandb-workspaces] is not installed")

WANDB_RUNS = {"logger": {"_target_": "kdexp.training.loggers.wandb_logger", "project": "mine", "entity": None}}


def made(folder: Path, **attributes: Any) -> dict[str, Any]:
    """The document of a small study."""
    return document(make_workspace(take_view(night(folder, n=6, **attributes), folder)))


def panels(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The panels' settings by title."""
    sections = found["spec"]["section"]["panelBankConfig"]["sections"]
    return {panel["config"]["chartTitle"]: panel["config"] for section in sections for panel in section["panels"]}


def test_the_document_shows_each_trial_of_the_study_and_nothing_else(tmp_path):
    found = made(tmp_path, config=WANDB_RUNS)
    assert (found["project"], found["entity"], found["displayName"]) == ("mine", None, "study toy")
    section = found["spec"]["section"]
    (runs,) = section["runSets"]
    (only_filter,) = runs["filters"]["filters"]
    assert (only_filter["key"], only_filter["op"]) == ({"section": "run", "name": "group"}, "=")
    assert (only_filter["value"], only_filter["disabled"]) == ("toy", False)
    # Grouped, the trials would be drawn as their mean.
    assert runs["grouping"] == []
    assert section["settings"]["maxRuns"] == 30
    names = [part["name"] for part in section["panelBankConfig"]["sections"]]
    assert names == ["Validation by trial", "Parameters against the objective", "Schedules", "Best so far"]
    shown = panels(found)
    curves = shown["val/score by epoch"]
    assert (curves["xAxis"], curves["metrics"], curves.get("aggregate")) == ("epoch", ["val/score"], None)
    columns = {column["displayName"]: column for column in shown["parameters against the objective"]["columns"]}
    assert columns["optimizer.lr"] == {
        "accessor": "config:optimizer.value.lr", "displayName": "optimizer.lr", "log": True,
    }  # fmt: skip
    assert columns["schedule@distill.weights.kl"]["accessor"] == "config:distill.value.weights.kl.name"
    assert list(columns)[-1] == "val/score, best epoch"
    best = shown["val/score, best epoch, in the order of time"]
    assert (best["xAxis"], best["yAxis"]) == ("run:createdAt", "summary:val/score.max")
    assert (best["showMaxYAxisLine"], best.get("showMinYAxisLine")) == (True, None)


def test_several_objectives_have_a_panel_each_in_their_own_direction(tmp_path):
    study = new_study(
        tmp_path,
        directions=["minimize", "minimize"],
        metric=["val/loss", "student/latency_ms_per_sample"],
        config=WANDB_RUNS,
    )
    run_trial(study, tmp_path)
    shown = panels(document(make_workspace(take_view(study, tmp_path))))
    best = shown["val/loss, last epoch, in the order of time"]
    assert (best["yAxis"], best["showMinYAxisLine"]) == ("summary:val/loss", True)
    # A latency is not among the metrics of a trial's run; the study's own run has it.
    latency = shown["best student/latency_ms_per_sample by trial"]
    assert latency["xAxis"] == "study/trial"
    assert latency["metrics"] == [f"study/{best}student/latency_ms_per_sample" for best in ("", "best ")]
    columns = [column["accessor"] for column in shown["parameters against the objective"]["columns"]]
    assert "summary:val/loss" in columns
    assert not [column for column in columns if "latency" in column]


def test_synthetic_data_are_in_the_name_and_a_study_without_wandb_is_warned_of(tmp_path, caplog):
    found = made(tmp_path, source="synthetic")
    assert found["displayName"] == "study toy SYNTHETIC"
    assert "the trials of toy ran without logger=wandb" in caplog.text


def test_entity_and_project_may_be_given(tmp_path):
    view = take_view(night(tmp_path, n=1, config=WANDB_RUNS), tmp_path)
    found = document(make_workspace(view, entity="ada", project="other"))
    assert (found["entity"], found["project"]) == ("ada", "other")


def test_a_study_without_a_trial_has_nothing_to_show(tmp_path):
    view = take_view(new_study(tmp_path), tmp_path)
    with pytest.raises(StudyError, match="toy has no trial yet"):
        make_workspace(view)


@pytest.mark.parametrize("name", ["it's", "a=b", "a<b", "a\\b", "\N{SLIGHTLY SMILING FACE}"])
def test_a_name_that_the_package_would_garble_is_refused(tmp_path, name):
    study = new_study(tmp_path, name=name)
    run_trial(study, tmp_path)
    view = take_view(study, tmp_path)
    with pytest.raises(StudyError, match="W&B's workspaces cannot hold this name"):
        make_workspace(view)


@pytest.mark.parametrize(
    ("words", "environment", "reason"),
    [
        ((), {}, "no key in WANDB_API_KEY or netrc"),
        (("project=other",), {"WANDB_API_KEY": "0" * 40, "WANDB_MODE": "offline"}, "WANDB_MODE=offline"),
    ],
)
def test_without_a_way_to_wandb_the_document_is_kept(run_main, tmp_path, words, environment, reason):
    folder = tmp_path / "outputs" / "studies" / "toy"
    run_trial(new_study(folder, config=WANDB_RUNS), folder)
    nowhere = {"NETRC": str(tmp_path / "no-netrc")}
    ended = run_main(tmp_path, "dashboard", "target=wandb", "study=toy", *words, **nowhere, **environment)
    assert ended.code == 2
    assert f"not saved in W&B ({reason}): the workspace is in outputs/studies/toy/wandb_workspace.json" in ended.err
    kept = json.loads((folder / "wandb_workspace.json").read_text())
    assert kept["project"] == ("other" if words else "mine")
    assert "val/score by epoch" in panels(kept)


def test_a_missing_package_names_the_extra(run_main, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    ended = run_main(tmp_path, "dashboard", "target=wandb", "study=toy")
    assert ended.code == 2
    assert "pip install 'kdexp[wandb-workspaces]'" in ended.err


@contextmanager
def wandb_server(saves: bool) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A W&B server of a few answers, its address, and the views that it was sent."""
    views: list[dict[str, Any]] = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer: dict[str, Any] = {"data": {}}
            if "upsertView" in asked["query"]:
                views.append(asked["variables"])
                view = {"view": {"id": "1", "name": asked["variables"]["name"]}, "inserted": True}
                answer = {"data": {"upsertView": view}} if saves else {"errors": [{"message": "permission denied"}]}
            elif "viewer" in asked["query"]:
                viewer = {"id": "1", "entity": "ada", "username": "ada", "email": "", "flags": "{}"}
                answer = {"data": {"viewer": viewer | {"teams": {"edges": []}}}}
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", views
        server.shutdown()


@pytest.mark.parametrize("saves", [True, False])
def test_the_real_client_sends_the_document(kdexp, saves):
    folder = kdexp.cwd / "outputs" / "studies" / "toy"
    run_trial(new_study(folder, config=WANDB_RUNS), folder)
    with wandb_server(saves) as (url, views):
        reach = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": url, "WANDB_ERROR_REPORTING": "false"}
        ended = kdexp("dashboard", "target=wandb", "study=toy", **reach)
    kept = json.loads((folder / "wandb_workspace.json").read_text())
    (view,) = views
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("ada", "mine", "study toy")
    assert json.loads(view["spec"]) == kept["spec"]
    if saves:
        assert ended.code == 0, ended.err
        assert f"{url}/ada/mine?nw=" in ended.text
    else:
        assert ended.code == 1
        assert "W&B did not take the workspace" in ended.err
        assert "permission denied" in ended.err


def looked_up(tree: Any, path: str) -> Any:
    for name in path.split("."):
        tree = tree[name]
    return tree


SEARCH_FILE = """# @package _global_
defaults:
  - override /dataset: rings
  - override /hydra/sweeper: optuna
  - override /hydra/sweeper/sampler: random
trainer:
  max_epochs: 2
hydra:
  sweeper:
    n_trials: 2
    sampler:
      seed: 7
    params:
      distill.weights.kl.start: tag(log, interval(0.1, 1))
      distill.temperature: interval(1, 5)
      schedule@distill.weights.kl: choice(constant, linear)
      optimizer: choice(adamw)
      student.width: choice(4, 8)
"""


@pytest.mark.slow
def test_every_name_in_the_document_is_one_that_real_runs_log(kdexp):
    shutil.copytree(OUTSIDE / "conf", kdexp.cwd / "conf")
    (kdexp.cwd / "conf" / "hparams_search" / "scheduled.yaml").write_text(SEARCH_FILE, encoding="utf-8")
    words = ("-cd", "conf", "hparams_search=scheduled", "teacher.max_epochs=2", "logger=wandb", "logger.mode=offline")
    swept = kdexp(*words, KDEXP_TRUSTED_PACKAGES="rings")
    assert swept.code == 0, swept.err
    folder = kdexp.cwd / "outputs" / "studies" / "scheduled"
    ended = kdexp("dashboard", "target=wandb", "study=scheduled", NETRC="none")
    assert ended.code == 2
    shown = panels(json.loads((folder / "wandb_workspace.json").read_text()))
    trials = [closed(path) for run in sorted((folder / "trials").iterdir()) for path in wandb_files(run)]
    assert len(trials) == 2
    (study_run,) = [closed(path) for path in wandb_files(folder)]
    for records in trials:
        run, rows, summary = only(records, "run"), history(records), summary_of(records)
        logged = {name for row in rows for name in row}
        assert {shown[title]["xAxis"] for title in ("val/score by epoch", "temperature", "weights")} == {"epoch"}
        assert {"epoch", *shown["val/score by epoch"]["metrics"], *shown["temperature"]["metrics"]} <= logged
        assert {*shown["learning rate"]["metrics"]} <= logged
        assert [name for name in logged if re.fullmatch(shown["weights"]["metricRegex"], name)]
        config = {item.key: {"value": json.loads(item.value_json)} for item in run.config.update}
        columns = [column["accessor"] for column in shown["parameters against the objective"]["columns"]]
        places = {"config": config, "summary": summary}
        for section, path in (column.split(":", 1) for column in columns):
            assert looked_up(places[section], path) is not None, path
        assert len(columns) == 6
    rows = history(study_run)
    by_trial = shown["best val/score by trial"]
    assert {by_trial["xAxis"], *by_trial["metrics"]} <= {name for row in rows for name in row}
