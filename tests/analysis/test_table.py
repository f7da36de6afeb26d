"""The closing table: its rows, its numbers, what it says they were measured on, and that it fits the terminal."""

import io
import re

import pytest
from made_run import change_record, make_run
from rich.console import Console

from kdexp.analysis.table import render
from kdexp.records import read_json


def shown(record, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    render(record, console)
    return console.export_text()


@pytest.fixture
def record(tmp_path):
    return read_json(make_run(tmp_path / "run") / "run.json")


def row(text: str, name: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(name + " ")]
    return line


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_cuts_nothing_off(record, width):
    text = shown(record, width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    for heading in ("val score", "test score", "modality", "location", "MB", "ms per"):
        assert heading in text
    # One line a model, and in the narrow table one more for its intervals.
    start = next(number for number, line in enumerate(text.splitlines()) if line.startswith("teacher "))
    models = [line.split()[0] for line in text.splitlines()[start : start + (3 if width == 120 else 6)]]
    assert [name for name in models if name.isidentifier() or name == "no-KD"] == ["teacher", "student", "no-KD"]


@pytest.mark.parametrize("width", [80, 120])
def test_every_number_is_the_records(record, width):
    text = shown(record, width)
    parts = {
        "teacher": record["teacher"]["metrics"]["val"],
        "student": record["metrics"]["val"]["best"],
        "no-KD": record["no_kd"]["metrics"]["val"]["best"],
    }
    measured = {"teacher": record["teacher"], "student": record, "no-KD": record["no_kd"]}
    for name, val in parts.items():
        test = measured[name]["metrics"]["test"]
        expected = [val["score"], test["score"], test["modality/f1"], test["location/f1"]]
        assert re.findall(r"0\.\d{3}", row(text, name))[0] == f"{val['score']:.3f}"
        for value in expected:
            assert f"{value:.3f}" in row(text, name)
        interval = measured[name]["intervals"]["test"]["score"]
        assert f"{interval['low']:.3f}–{interval['high']:.3f}" in text
    assert row(text, "teacher").split()[-4:] == ["197.1", "M", "788", "12.3"]
    assert row(text, "student").split()[-4:] == ["312", "k", "1.2", "0.84"]
    # The no-KD student is the same model.
    assert row(text, "no-KD").split()[-4:] == ["312", "k", "1.2", "0.84"]


def test_the_notes_say_what_was_measured_on_what(record):
    text = " ".join(shown(record, 120).split())
    assert "medpix, real data · seed 42 · config 9f8e7d6c5b4a" in text
    assert "val: 197 samples of 67 cases; test: 200 samples of 69 cases." in text
    assert "95% percentile interval, 200 resamples of whole cases; one training run each" in text
    assert "Score: mean of modality/f1 and location/f1." in text
    assert "best epoch on val (here 7)" in text
    assert "in batches of 32 (student) and 32 (teacher); the teacher's when it was trained." in text
    assert "SYNTHETIC" not in text


def test_no_claim_is_made_only_where_there_are_two_students_to_compare(tmp_path, record):
    said = "One seed: no claim that one student is better than the other"
    assert said in shown(record, 120)
    alone = read_json(make_run(tmp_path / "alone", with_no_kd=False) / "run.json")
    assert said not in shown(alone, 120)
    assert "no-KD" not in shown(alone, 120)


def test_synthetic_data_cannot_be_missed(tmp_path):
    text = shown(read_json(make_run(tmp_path / "made", source="synthetic") / "run.json"), 80)
    assert text.startswith(" SYNTHETIC DATA ")
    assert "medpix, SYNTHETIC data" in text


def test_a_trial_without_test_metrics_shows_its_tasks_on_val(tmp_path):
    path = make_run(tmp_path / "run", with_test=False, with_no_kd=False, with_teacher=False)
    record = read_json(path / "run.json")
    text = shown(record, 120)
    assert "test" not in text
    assert "val f1" in text
    assert f"{record['metrics']['val']['best']['location/f1']:.3f}" in row(text, "student")
    assert "teacher" not in text


def test_a_metric_that_is_undefined_is_a_dash_and_one_task_is_not_shown_twice(tmp_path):
    path = make_run(tmp_path / "run", with_no_kd=False, with_teacher=False)
    record = read_json(path / "run.json")
    record["metrics"]["test"].pop("location/f1")
    assert "–" in row(shown(record, 80), "student").split()
    change_record(
        path, score=["road/acc"], tasks=[{"name": "road", "kind": "candidates", "classes": [], "metrics": ["acc"]}]
    )
    text = shown(read_json(path / "run.json"), 120)
    assert "Score: road/acc." in text
    assert "test acc" not in text


@pytest.mark.parametrize(("n", "said"), [(999, "999"), (1_234, "1.2 k"), (312_407, "312 k"), (86_000_000, "86.0 M")])
def test_parameters_are_rounded_to_a_readable_unit(record, n, said):
    record["models"]["student"]["parameters"] = n
    assert f" {said} " in row(shown(record, 120), "student")


def test_a_task_name_with_brackets_is_printed_as_it_is(record):
    record["tasks"][0]["name"] = "[bold]x"
    assert "[bold]x" in shown(record, 120)
