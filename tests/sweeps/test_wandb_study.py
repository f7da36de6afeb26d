"""A study's own W&B run, written offline by the real client and read back from its file."""

import json
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdexp.errors import DataError, StudyError
from kdexp.sweeps.plots import draw_plots
from kdexp.sweeps.results import write_results
from kdexp.sweeps.wandb_study import log_study
from made_study import new_study, run_trial


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """A machine without a W&B key."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def read_records(path: Path) -> Iterator:
    """The records of a .wandb file: a 7-byte header, then LevelDB log blocks of 32 KiB whose entries are
    (crc32, uint16 length, type full/first/middle/last = 1/2/3/4, data). A torn tail ends the reading."""
    from wandb.proto import wandb_internal_pb2

    content = path.read_bytes()
    position, payload = 7, b""
    while position + 7 <= len(content):
        left_in_block = 32768 - position % 32768
        if left_in_block < 7:
            position += left_in_block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        piece = content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind not in (1, 2, 3, 4) or len(piece) < length:
            return
        payload = piece if kind in (1, 2) else payload + piece
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(payload)
            yield record


def written(folder: Path) -> list:
    """The records of the one run, once wandb's process has written its end."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    for _ in range(500):
        records = list(read_records(path))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.02)
    raise AssertionError(f"{path} was not closed within ten seconds")


def history(records) -> list[dict]:
    return [
        {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]


def summary_of(records) -> dict:
    return {
        "/".join([*item.nested_key] or [item.key]): json.loads(item.value_json)
        for record in records
        for item in record.summary.update
    }


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
    (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
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


def test_the_same_results_are_one_run_and_new_ones_another(small_study):
    study, folder = small_study
    first = log_study(folder, mode="offline", group="of my own")
    assert first is not None
    assert log_study(folder, mode="offline") is None
    (run,) = [record.run for record in written(folder) if record.WhichOneof("record_type") == "run"]
    assert run.run_group == "of my own"
    run_trial(study, folder, source="synthetic")
    write_results(study, folder)
    assert log_study(folder, mode="offline") not in (None, first)
    assert len(list(folder.glob("wandb/offline-run-*"))) == 2


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
