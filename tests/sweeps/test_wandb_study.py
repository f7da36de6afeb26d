"""A study's own W&B run, written offline by the real client and read back from its file."""

import json
import os
import time

import optuna
import pytest

from kdexp.errors import DataError, StudyError
from kdexp.records import read_json
from kdexp.sweeps.plots import draw_plots
from kdexp.sweeps.results import SUMMARY, TRIALS, write_results
from kdexp.sweeps.wandb_study import _log, _read_rows, log_study
from made_study import new_study, run_trial
from wandb_files import closed, history, only, summary_of, wandb_files, written


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """A machine without a W&B key."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


@pytest.fixture
def small_study(tmp_path):
    """Four complete trials, a pruned one and a failed one whose error names a folder; on synthetic data."""
    folder = tmp_path / "study"
    study = new_study(folder, base_overrides=["logger.api_key=hunter2"])
    for end in ("complete", "complete", "pruned", "complete", "complete"):
        run_trial(study, folder, end, epochs=3, source="synthetic")
    run_trial(study, folder, "fail", error="cannot read /home/ada/private/x.csv")
    write_results(study, folder)
    return study, folder


def test_the_studys_run_holds_its_table_its_best_so_far_and_its_plots(small_study, monkeypatch):
    study, folder = small_study
    monkeypatch.setattr("kdexp.sweeps.charts.N_CONTOUR_PARAMETERS", 2)
    plots = draw_plots(study, folder)
    run_id = log_study(folder, project="kd", mode="offline")
    records = written(folder)
    run = only(records, "run")
    assert (run.run_id, run.project, run.run_group, run.job_type) == (run_id, "kd", "toy", "study")
    assert (run.display_name, list(run.tags)) == ("toy", ["SYNTHETIC"])
    rows = history(records)
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    values = [trial.value for trial in complete]
    curve = [row for row in rows if "study/trial" in row]
    assert [row["study/trial"] for row in curve] == [0, 1, 3, 4]
    assert [row["study/val/score"] for row in curve] == values
    assert [row["study/best val/score"] for row in curve] == [max(values[: n + 1]) for n in range(4)]
    steps = {record.metric.name: record.metric.step_metric for record in records if record.HasField("metric")}
    assert steps["study/best val/score"] == "study/trial"
    media = folder.glob("wandb/offline-run-*/files/media/images/plots/*.png")
    assert {path.name.rsplit("_", 2)[0] for path in media} == {plot.name for plot in plots.plots}
    (path,) = folder.glob("wandb/offline-run-*/files/media/table/study/*.table.json")
    table = json.loads(path.read_text())
    assert len(table["data"]) == 6
    assert table["data"][2][table["columns"].index("state")] == "pruned"
    assert table["data"][1][table["columns"].index("value")] == values[1]
    summary = summary_of(records)
    assert summary["study/n_trials"]["pruned"] == 1
    assert summary["study/best_trial"]["number"] == study.best_trial.number
    assert summary["status"] == "done"


def test_nothing_about_the_machine_and_no_secret_is_in_the_run(small_study):
    folder = small_study[1]
    log_study(folder, mode="offline")
    written(folder)
    sent = [path for path in folder.glob("wandb/offline-run-*/**/*") if path.is_file() and "logs" not in path.parts]
    assert len(sent) >= 2
    for path in sent:
        for private in (str(folder), "hunter2", "/home/ada"):
            assert private.encode() not in path.read_bytes(), (path, private)


def test_the_same_results_are_logged_once(small_study):
    folder = small_study[1]
    assert log_study(folder, mode="offline", group="of my own") is not None
    assert log_study(folder, mode="offline") is None
    assert only(written(folder), "run").run_group == "of my own"


def test_a_study_that_goes_on_goes_on_with_its_run(small_study):
    study, folder = small_study
    first = log_study(folder, mode="offline")
    run_trial(study, folder, source="synthetic")
    write_results(study, folder)
    time.sleep(1)  # wandb names a run's folder by the second
    assert log_study(folder, mode="offline") == first
    before, after = map(closed, wandb_files(folder))
    for records in (before, after):
        assert (only(records, "run").run_id, only(records, "run").resume) == (first, True)
    # Each file holds the whole curve, for a sync replaces what the run held.
    n_complete = [sum("study/trial" in row for row in history(records)) for records in (before, after)]
    assert n_complete == [4, 5]


def test_another_study_of_the_same_name_is_another_run(tmp_path):
    ids = set()
    for folder in (tmp_path / "one", tmp_path / "two"):
        run_trial(new_study(folder), folder)
        time.sleep(1)  # a study begins with its first trial, by the second
        write_results(optuna.load_study(study_name="toy", storage=f"sqlite:///{folder / 'study.db'}"), folder)
        ids.add(log_study(folder, mode="offline"))
    assert len(ids) == 2


class ResumedRun:
    """An online run that holds trials 0 to 1 already; it notes what is logged."""

    resumed = True

    def __init__(self):
        self.summary, self.logged = {"study/trial": 1}, []

    def define_metric(self, name, **settings):
        pass

    def log(self, values):
        self.logged.append(values)


def test_a_run_that_is_gone_on_with_takes_only_new_trials(small_study):
    folder = small_study[1]
    run = ResumedRun()
    summary, rows = read_json(folder / SUMMARY), _read_rows(folder / TRIALS)
    _log(run, summary, rows, [])
    assert [row["study/trial"] for row in run.logged if "study/trial" in row] == [3, 4]
    assert len(run.logged[-1]["study/trials"].data) == 6


def test_several_objectives_have_a_curve_each_in_their_own_direction(tmp_path):
    study = new_study(tmp_path, directions=["maximize", "minimize"])
    for _ in range(4):
        run_trial(study, tmp_path)
    write_results(study, tmp_path)
    log_study(tmp_path, mode="offline")
    rows = history(written(tmp_path))
    latency = [trial.values[1] for trial in study.trials]
    best = [row["study/best latency_ms"] for row in rows if "study/best latency_ms" in row]
    assert best == [min(latency[: n + 1]) for n in range(4)]
    assert len([row for row in rows if "study/best val/score" in row]) == 4


def test_a_study_without_results_is_a_sentence(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        log_study(tmp_path, mode="offline")
    write_results(new_study(tmp_path), tmp_path)
    with pytest.raises(StudyError, match="no trial is finished, so there is nothing to log"):
        log_study(tmp_path, mode="offline")
    assert not (tmp_path / "wandb").exists()
