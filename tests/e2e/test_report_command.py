"""`report` through the command: finished runs, a study's trials, the test pass, and bad input."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdexp import cli
from support import Finished

RunMain = Callable[..., Finished]
RINGS = ("-cd", "{outside}", "dataset=rings", "figures=false", "optimizer.lr=0.02", "interval.n_resamples=100")
GRID = (
    "-cd", "{outside}", "-m", "hparams_search=rings", "hydra/sweeper/sampler=grid", "hydra/sweeper/pruner=nop",
    "hydra.sweeper.without=[distill.weights.kl,distill.temperature,student.width]", "interval.n_resamples=100",
    "distill=choice(none,ce_lambda_kl)", "trainer.max_epochs=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, run_main: RunMain) -> Path:
    """A working directory with four runs, two of a kind; one of them with its no-KD student beside it."""
    cwd = tmp_path_factory.mktemp("trained")
    for distill, seed in (("none", 42), ("none", 43), ("ce_lambda_kl", 42), ("ce_lambda_kl", 43)):
        words = ("trainer.max_epochs=2", f"distill={distill}", f"seed={seed}", f"hydra.run.dir=runs/{distill}_{seed}")
        done = run_main(cwd, "train", *RINGS, *words)
        assert done.code == 0, done.text
    done = run_main(cwd, "train", *RINGS, "trainer.max_epochs=1", "with_no_kd=true", "hydra.run.dir=beside/both")
    assert done.code == 0, done.text
    return cwd


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, run_main: RunMain) -> tuple[Path, Finished]:
    """A grid over distillation and the seed, compared on test at its end."""
    cwd = tmp_path_factory.mktemp("searched")
    done = run_main(
        cwd, "train", *GRID, "seed=choice(42,43)", "hydra.sweeper.study_name=grid", "hydra.sweeper.comparison=test",
        "hydra.sweeper.keep_checkpoints=100",
    )  # fmt: skip
    assert done.code == 0, done.text
    return cwd, done


def comparison(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "comparison.json").read_text()))


def table(folder: Path) -> dict[str, Any]:
    (only,) = comparison(folder)["tables"]
    return dict(only)


# Runs


def test_runs_are_compared_in_pairs_with_their_no_kd_run(trained: Path, run_main: RunMain) -> None:
    done = run_main(trained, "report", "runs=runs/*")
    assert done.code == 0, done.text
    assert "SYNTHETIC DATA" in done.out and "Runs alike but for their seeds" in done.out
    folder = trained / "outputs" / "reports" / "runs"
    found = table(folder)
    assert found["settings"] == ["distill"] and found["split"] == "test"
    assert {row["name"]: row["reference"] for row in found["rows"]} == {
        "ce_lambda_kl_42": "none_42", "ce_lambda_kl_43": "none_43", "none_42": None, "none_43": None,
    }  # fmt: skip
    assert [group["seeds"] for group in found["groups"]] == [[42, 43], [42, 43]]
    for row in found["rows"]:
        record = json.loads((Path(trained, row["folder"]) / "run.json").read_text())
        assert row["test"]["value"] == record["metrics"]["test"]["score"]
        assert row["seconds"] == record["durations_seconds"]["student"]
    with (folder / "runs.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 4
    assert (folder / "groups.csv").exists()
    assert "SYNTHETIC DATA" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ("runs=runs/none_*",),
        ("runs=[runs/none_42,runs/none_43]",),
        ("runs=runs/none_42", "runs=runs/none_43"),
        ("runs/none_42", "runs/none_43"),
        ("runs=runs/none_4[23]",),
    ],
)
def test_folders_come_as_the_shell_leaves_them(trained: Path, run_main: RunMain, words: tuple[str, ...]) -> None:
    done = run_main(trained, "report", *words, "name=same")
    assert done.code == 0, done.text
    found = table(trained / "outputs" / "reports" / "same")
    assert {row["name"] for row in found["rows"]} == {"none_42", "none_43"}


@pytest.mark.parametrize(
    "name", ["a b, c", "x=1 [2] {3}", "it's (here)", 'say "so"', "back\\slash", "\\'end\\", "ünï~&;$HOME"]
)
def test_a_folder_may_be_called_anything(trained: Path, run_main: RunMain, tmp_path: Path, name: str) -> None:
    shutil.copytree(trained / "runs" / "none_42", tmp_path / "runs" / name)
    for words in (("runs=runs/*",), (f"runs=runs/{name}",)):
        done = run_main(tmp_path, "report", *words, "name=odd")
        assert done.code == 0, done.text
        assert [row["name"] for row in table(tmp_path / "outputs" / "reports" / "odd")["rows"]] == [name]


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["--help"], ["--help"]),
        (["runs=null", "study=a"], ["study=a", "runs=null"]),
        (["-cd", "conf", "a", "b", "top=3"], ["-cd", "conf", "top=3", "runs=['a','b']"]),
        (["runs='a b'"], ["runs='a b'"]),
        (["runs=a,b"], ["runs=['a,b']"]),
    ],
)
def test_words_become_one_list(words: list[str], given: list[str]) -> None:
    assert cli._with_runs(words) == given


def test_the_no_kd_student_inside_a_run_is_its_reference(trained: Path, run_main: RunMain) -> None:
    done = run_main(trained, "report", "runs=beside/both", "name=beside")
    assert done.code == 0, done.text
    rows = {row["name"]: row for row in table(trained / "outputs" / "reports" / "beside")["rows"]}
    assert set(rows) == {"both", "both no-KD"}
    assert rows["both"]["reference"] == "both no-KD" and rows["both no-KD"]["no_kd"]


def test_other_data_have_a_table_of_their_own(trained: Path, run_main: RunMain, tmp_path: Path) -> None:
    cwd = tmp_path / "copy"
    shutil.copytree(trained / "runs", cwd / "runs")
    done = run_main(cwd, "train", *RINGS, "trainer.max_epochs=1", "data.seed=7", "hydra.run.dir=runs/other")
    assert done.code == 0, done.text
    done = run_main(cwd, "report", "runs=runs/*", "name=all")
    assert done.code == 0 and "2 different data sets or splits: a table for each" in done.text
    found = comparison(cwd / "outputs" / "reports" / "all")
    assert [part["n_runs"] for part in found["tables"]] == [4, 1]
    refused = run_main(cwd, "report", "runs=runs/*", "reference=runs/other", "name=bad")
    assert refused.code == 2 and "other data or splits" in refused.text and "runs/other" in refused.text


def test_an_unfinished_run_is_passed_over_and_refused_as_the_reference(
    trained: Path, run_main: RunMain, tmp_path: Path
) -> None:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    (tmp_path / "runs" / "none_42" / "run.json").unlink()
    done = run_main(tmp_path, "report", "runs=runs/*", "name=some")
    assert done.code == 0
    assert "runs/none_42 is not finished and is left out" in done.text and "resume=runs/none_42" in done.text
    assert table(tmp_path / "outputs" / "reports" / "some")["n_runs"] == 3
    refused = run_main(tmp_path, "report", "runs=runs/*", "reference=runs/none_42")
    assert refused.code == 2 and "reference=runs/none_42" in refused.text and "not finished" in refused.text


BAD = {
    "nothing asked": ((), ["runs=FOLDERS", "study=NAME"]),
    "both asked": (("runs=runs/*", "study=x"), ["runs=FOLDERS", "not both"]),
    "no match": (("runs=nowhere/*",), ["runs=nowhere/*", "no such folder"]),
    "no run": (("runs=.",), ["not a run folder", "config.yaml"]),
    "one match is no run": (("runs=*",), ["runs=*", "beside, runs", "not a run folder"]),
    "no such reference": (("runs=runs/*", "reference=nowhere"), ["reference=nowhere", "not a run folder"]),
    "no such study": (("study=lost",), ["study=lost", "there are studies: none"]),
    "name of a study's": (("study=lost", "name=x"), ["name: has no effect with study=NAME"]),
    "name with a slash": (("runs=runs/*", "name=a/b"), ["name=a/b", "without a slash"]),
    "train split": (("runs=runs/*", "split=train"), ["split", "'val' or 'test'", "'train'"]),
    "no rows": (("study=x", "top=0"), ["top: must be greater than or equal to 1"]),
}


@pytest.mark.parametrize("mistake", BAD)
def test_bad_input_is_named_with_the_way_out(trained: Path, run_main: RunMain, tmp_path: Path, mistake: str) -> None:
    shutil.copytree(trained / "runs" / "none_42", tmp_path / "runs" / "none_42")
    (tmp_path / "beside").mkdir()
    given, words = BAD[mistake]
    ended = run_main(tmp_path, "report", *given)
    assert ended.code == 2, ended.text
    assert "Traceback" not in ended.text and ended.err.count("error: ") == 1
    for word in words:
        assert word in ended.text, ended.text
    assert not (tmp_path / "outputs").exists()


# The test pass


def test_runs_without_test_predictions_are_measured_where_no_search_reads(
    trained: Path, run_main: RunMain, tmp_path: Path
) -> None:
    cwd = tmp_path / "copy"
    shutil.copytree(trained / "runs", cwd / "runs")
    expected = {}
    for folder in (cwd / "runs").iterdir():
        record = json.loads((folder / "run.json").read_text())
        expected[folder.name] = record["metrics"]["test"]["score"]
        record["metrics"]["test"] = None  # as a trial leaves it
        (folder / "run.json").write_text(json.dumps(record))
        (folder / "predictions" / "test.npz").unlink()
    shutil.rmtree(cwd / "runs" / "none_43" / "checkpoints")
    before = {path: path.read_bytes() for path in (cwd / "runs").rglob("*") if path.is_file()}
    on_val = run_main(cwd, "report", "runs=runs/*", "name=val")
    assert on_val.code == 0 and "test pass" not in on_val.text
    assert table(cwd / "outputs" / "reports" / "val")["split"] == "val"
    done = run_main(cwd, "report", "runs=runs/*", "split=test", "name=test")
    assert done.code == 0, done.text
    assert "3 of 4 runs are measured on test now, 0 were before, 1 have no checkpoint any more" in done.text
    assert "No predictions on test: runs/none_43" in done.text and "hydra.sweeper.keep_checkpoints=N" in done.text
    rows = {row["name"]: row for row in table(cwd / "outputs" / "reports" / "test")["rows"]}
    assert rows.pop("none_43")["test"] is None
    assert {name: row["test"]["value"] for name, row in rows.items()} == pytest.approx(
        {name: value for name, value in expected.items() if name != "none_43"}
    )
    # What was there is as it was; what is new lies in evaluations/test.
    assert {path: path.read_bytes() for path in before} == before
    new = {path for path in (cwd / "runs").rglob("*") if path.is_file()} - set(before)
    assert len(new) == 6 and all("evaluations" in path.parts for path in new)
    again = run_main(cwd, "report", "runs=runs/*", "split=test", "name=test")
    assert "0 of 4 runs are measured on test now, 3 were before" in again.text


# A study


def test_a_grid_over_the_seed_trains_with_it_and_shares_one_teacher(searched: tuple[Path, Finished]) -> None:
    cwd, _ = searched
    trials = sorted((cwd / "outputs/studies/grid/trials").iterdir())
    assert len(trials) == 4
    with (cwd / "outputs/studies/grid/trials.csv").open() as stream:
        rows = {int(row["number"]): row for row in csv.DictReader(stream)}
    found = set()
    for number, trial in enumerate(trials):
        config = yaml.safe_load((trial / "config.yaml").read_text())
        assert str(config["seed"]) == rows[number]["params.seed"] == rows[number]["seed"]
        assert config["teacher"]["seed"] == 42 and config["figures"] is False
        found.add((config["choices"]["distill"], config["seed"]))
        assert (trial / "checkpoints" / "best.ckpt").exists()
    assert found == {(distill, seed) for distill in ("none", "ce_lambda_kl") for seed in (42, 43)}
    assert len([path for path in (cwd / "outputs" / "teachers").iterdir() if path.is_dir()]) == 1


def test_a_grid_ends_with_its_groups_on_test(searched: tuple[Path, Finished]) -> None:
    cwd, done = searched
    assert "4 of 4 runs are measured on test now" in done.text
    assert "Runs alike but for their seeds" in done.out and "give no p below" in done.text
    found = table(cwd / "outputs/studies/grid/comparison")
    assert found["split"] == "test" and [group["n_pairs"] for group in found["groups"]].count(2) == 1
    assert all(group["test"]["n"] == 2 for group in found["groups"])
    page = (cwd / "outputs/studies/grid/report.html").read_text()
    assert "Runs side by side" in page and "kdexp report study=grid split=test" in page
    # No trial learnt of it: what the study reads has no test metrics.
    for record in (cwd / "outputs/studies/grid/trials").rglob("run.json"):
        assert json.loads(record.read_text())["metrics"]["test"] is None


def test_a_studys_trials_are_rows_with_their_parameters_the_best_first(
    searched: tuple[Path, Finished], run_main: RunMain
) -> None:
    cwd, _ = searched
    done = run_main(cwd, "report", "study=grid", "top=3", "split=val")
    assert done.code == 0, done.text
    found = table(cwd / "outputs/studies/grid/comparison")
    summary = json.loads((cwd / "outputs/studies/grid/study_summary.json").read_text())
    assert found["rows"][0]["name"] == f"trial {summary['best_trial']['number']}"
    assert found["settings"] == ["distill"] and found["n_runs"] == 4 and len(found["rows"]) == 3
    values = [row["val"]["value"] for row in found["rows"]]
    assert values == sorted(values, reverse=True)
    assert found["told_apart"] in done.text and "other runs can be told apart on val" in done.text


def test_a_reference_from_elsewhere_stands_beside_the_trials(
    searched: tuple[Path, Finished], trained: Path, run_main: RunMain, tmp_path: Path
) -> None:
    cwd = tmp_path / "copy"
    shutil.copytree(searched[0], cwd, symlinks=True)
    done = run_main(cwd, "report", "study=grid", f"reference={trained / 'runs' / 'ce_lambda_kl_42'}", "top=1")
    assert done.code == 0, done.text
    rows = table(cwd / "outputs/studies/grid/comparison")["rows"]
    assert len(rows) == 2 and rows[0]["reference"] == rows[1]["name"]
    assert rows[1]["settings"] == {"distill": "ce_lambda_kl"}


def test_a_trial_whose_folder_is_gone_is_passed_over(
    searched: tuple[Path, Finished], run_main: RunMain, tmp_path: Path
) -> None:
    cwd = tmp_path / "copy"
    shutil.copytree(searched[0], cwd, symlinks=True)
    shutil.rmtree(cwd / "outputs/studies/grid/trials/trial_00002")
    done = run_main(cwd, "report", "study=grid")
    assert done.code == 0 and "trial 2 is left out" in done.text and "trial_00002" in done.text
    shutil.rmtree(cwd / "outputs/studies/grid/trials")
    ended = run_main(cwd, "report", "study=grid")
    assert ended.code == 2 and "has no complete trial to compare" in ended.text


def test_pruned_trials_are_no_rows(run_main: RunMain, tmp_path: Path) -> None:
    done = run_main(
        tmp_path, "train", *GRID, "hydra/sweeper/pruner=threshold", "hydra.sweeper.pruner.lower=0.99",
        "hydra.sweeper.study_name=harsh",
    )  # fmt: skip
    assert done.code == 0, done.text
    ended = run_main(tmp_path, "report", "study=harsh")
    assert ended.code == 2 and "has no complete trial to compare" in ended.text
    ended = run_main(tmp_path, "report", "runs=outputs/studies/harsh/trials/*")
    assert ended.code == 2 and "trial_00000 was pruned" in ended.text


def test_an_unknown_kind_of_comparison_is_refused_before_the_first_trial(run_main: RunMain, tmp_path: Path) -> None:
    ended = run_main(tmp_path, "train", *GRID, "hydra.sweeper.comparison=train")
    assert ended.code == 2 and "hydra.sweeper.comparison: must be val, test or null" in ended.text
    assert not (tmp_path / "outputs").exists()


# The objective


@pytest.mark.parametrize(
    ("objective", "unknown"),
    [("val/ring/f2", "val/ring/f2"), ("val/rnig/f1", "val/rnig/f1"), ("[val/score,student/weight]", "student/weight")],
)
def test_an_objective_that_nothing_measures_is_named_before_the_training(
    run_main: RunMain, tmp_path: Path, objective: str, unknown: str
) -> None:
    ended = run_main(tmp_path, "train", *RINGS, f"objective={objective}")
    assert ended.code == 2
    assert f"objective: there is no {unknown}; there are: val/ring/acc, val/ring/f1, val/score" in ended.text
    assert "student/latency_ms_per_sample" in ended.text
    assert not list((tmp_path / "outputs").rglob("*.*"))  # no teacher was trained
