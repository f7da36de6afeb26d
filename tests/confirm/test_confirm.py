"""`confirm` through the command on the small system outside the package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kdexp.confirm.loop import refuse_shared_clusters
from kdexp.confirm.tuned import no_kd_words
from kdexp.errors import DataError, StudyError
from support import Finished
from wandb_files import only, written

RunMain = Callable[..., Finished]
OUTSIDE_CONF = ("-cd", "{outside}")
SMALL = ("trainer.max_epochs=2", "hydra.sweeper.n_trials=3", "hydra.sweeper.study_name=found")
SEEDS = "seeds=[42,43,44,45,46,47]"


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory, run_main: RunMain) -> Path:
    """A working directory that holds a finished study of three trials."""
    cwd = tmp_path_factory.mktemp("studied")
    done = run_main(cwd, "train", *OUTSIDE_CONF, "-m", "hparams_search=rings", *SMALL, "hydra/sweeper/pruner=nop")
    assert done.code == 0, done.text
    return cwd


@pytest.fixture(scope="module")
def confirmed(studied: Path, run_main: RunMain) -> Iterator[tuple[Path, Finished]]:
    """The study's winner confirmed on six seeds."""
    yield studied, run_main(studied, "confirm", *OUTSIDE_CONF, "study=found", "top=1", SEEDS)


def verdict_of(cwd: Path) -> dict[str, Any]:
    return dict(json.loads((cwd / "outputs/studies/found/confirm/verdict.json").read_text()))


def test_the_winner_is_compared_with_itself_without_distillation(confirmed: tuple[Path, Finished]) -> None:
    cwd, done = confirmed
    assert done.code == 0, done.text
    verdict = verdict_of(cwd)
    assert verdict["contenders"][0]["verdict"] in ("better", "worse", "equivalent", "no difference shown")
    assert verdict["contenders"][0]["sentence"] in done.text
    assert all(key == "distill" or key.startswith("distill.") for key in verdict["no_kd_differs_in"])
    assert verdict["no_kd_differs_in"]
    assert "conditional on this teacher" in verdict["condition"]
    assert len(verdict["teachers"]) == 1
    assert verdict["warnings"][0].startswith("SYNTHETIC")


def test_it_leaves_runs_in_pairs_a_picture_and_a_section(confirmed: tuple[Path, Finished]) -> None:
    cwd, _ = confirmed
    home = cwd / "outputs/studies/found/confirm"
    runs = verdict_of(cwd)["runs"]
    assert [list(by_seed) for by_seed in runs.values()] == [["42", "43", "44", "45", "46", "47"]] * 2
    for arm, by_seed in runs.items():
        for seed, folder in by_seed.items():
            config = yaml.safe_load((Path(folder) / "config.yaml").read_text())
            assert config["seed"] == int(seed)
            assert (config["distill"]["_target_"].endswith(".none")) is (arm == "no-KD")
    assert (home / "forest.svg").exists() and (home / "forest.png").exists()
    assert "Confirmation" in (cwd / "outputs/studies/found/report.html").read_text()


def test_the_same_command_again_trains_nothing_and_says_the_same(
    confirmed: tuple[Path, Finished], run_main: RunMain
) -> None:
    cwd, _ = confirmed
    before = verdict_of(cwd)
    times = {path: path.stat().st_mtime_ns for path in (cwd / "outputs").rglob("run.json")}
    done = run_main(cwd, "confirm", *OUTSIDE_CONF, "study=found", "top=1", SEEDS)
    assert done.code == 0 and "0 of them to train" in done.text
    assert times == {path: path.stat().st_mtime_ns for path in (cwd / "outputs").rglob("run.json")}
    after = verdict_of(cwd)
    assert after["contenders"] == before["contenders"]
    assert after["earlier"] == []


def test_more_seeds_keep_the_runs_and_name_the_earlier_verdict(
    confirmed: tuple[Path, Finished], run_main: RunMain, tmp_path: Path
) -> None:
    cwd = tmp_path / "copy"
    shutil.copytree(confirmed[0], cwd, symlinks=True)
    done = run_main(cwd, "confirm", *OUTSIDE_CONF, "study=found", "top=1", "seeds=[42,43,44,45,46,47,48]")
    assert done.code == 0 and "2 of them to train" in done.text
    (earlier,) = verdict_of(cwd)["earlier"]
    assert earlier["seeds"] == [42, 43, 44, 45, 46, 47]
    assert "not corrected for looking twice" in done.text


def test_overrides_contenders_and_fresh_teachers(studied: Path, run_main: RunMain, tmp_path: Path) -> None:
    cwd = tmp_path / "copy"
    shutil.copytree(studied, cwd, symlinks=True)
    done = run_main(
        cwd, "confirm", *OUTSIDE_CONF, "study=found", "top=1", "seeds=[42,43]", "overrides=[trainer.max_epochs=1]",
        "contenders={mild: [distill.temperature=1.5]}", "teacher_seeds=fresh",
    )  # fmt: skip
    assert done.code == 0, done.text
    verdict = verdict_of(cwd)
    assert [contender["name"] for contender in verdict["contenders"]][1:] == ["mild"]
    assert len(verdict["teachers"]) == 2 and "teacher of its own" in verdict["condition"]
    config = yaml.safe_load((Path(verdict["runs"]["mild"]["43"]) / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 1 and config["teacher"]["seed"] == 43
    assert config["distill"]["temperature"] in (1.5, {"start": 1.5}) or config["distill"]["temperature"]["start"] == 1.5
    assert "not enough seeds" in done.text


def test_a_tuned_opponent_is_found_by_a_study_of_equal_budget(
    studied: Path, run_main: RunMain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cwd = tmp_path / "copy"
    shutil.copytree(studied, cwd, symlinks=True)
    monkeypatch.setenv("PYTHONPATH", f"{Path('src').resolve()}:{Path('tests/e2e/outside').resolve()}")
    done = run_main(
        cwd,
        "confirm",
        *OUTSIDE_CONF,
        "study=found",
        "top=1",
        "seeds=[42,43]",
        "no_kd=tuned",
        "overrides=[trainer.max_epochs=1]",
    )
    assert done.code == 0, done.text
    summary = json.loads((cwd / "outputs/studies/found_no_kd/study_summary.json").read_text())
    assert summary["n_trials"]["complete"] == 3
    assert list(summary["space"]["parameters"]) == ["student.width"]
    assert verdict_of(cwd)["baseline"]["name"] == "tuned no-KD"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("study=lost",), "there is no outputs/studies/lost; there are studies: found"),
        (("study=found", "seeds=[42]"), "one seed makes one pair"),
        (("study=found", "seeds=[42,42,43]"), "42 is given twice"),
        (("study=found", "seeds=[42,1001]"), "trials of the study used 1001"),
        (("study=found", "seeds=[42,43]", "contenders={mine: nowhere}"), "contenders.mine: nowhere is no run folder"),
        (("study=found", "seeds=[42,43]", "overrides=[optimizer.speed=3]"), "optimizer.speed"),
        (("study=found", "seeds=[42,43]", "margin=0"), "margin"),
    ],
)
def test_bad_input_stops_with_a_sentence_and_trains_nothing(
    studied: Path, run_main: RunMain, words: tuple[str, ...], sentence: str
) -> None:
    before = sorted((studied / "outputs").rglob("run.json"))
    done = run_main(studied, "confirm", *OUTSIDE_CONF, *words)
    assert done.code == 2, done.text
    assert sentence in done.text and "Traceback" not in done.text
    assert sorted((studied / "outputs").rglob("run.json")) == before


def test_a_study_without_a_finished_trial_is_refused(studied: Path, run_main: RunMain, tmp_path: Path) -> None:
    cwd = tmp_path / "copy"
    shutil.copytree(studied, cwd, symlinks=True)
    table = cwd / "outputs/studies/found/trials.csv"
    table.write_text(table.read_text().replace(",complete,", ",pruned,"))
    done = run_main(cwd, "confirm", *OUTSIDE_CONF, "study=found")
    assert done.code == 2 and "has no finished trial to confirm" in done.text


def test_a_contender_on_other_data_is_refused(studied: Path, run_main: RunMain, tmp_path: Path) -> None:
    cwd = tmp_path / "copy"
    shutil.copytree(studied, cwd, symlinks=True)
    other = run_main(
        cwd, "train", *OUTSIDE_CONF, "dataset=rings", "data.seed=7", "trainer.max_epochs=1", "figures=false"
    )
    assert other.code == 0, other.text
    (run,) = (cwd / "outputs/rings").rglob("run.json")
    before = sorted((cwd / "outputs").rglob("run.json"))
    done = run_main(
        cwd, "confirm", *OUTSIDE_CONF, "study=found", "seeds=[42,43]", f"contenders={{mine: '{run.parent}'}}"
    )
    assert done.code == 2 and "was trained on other data or splits" in done.text
    assert sorted((cwd / "outputs").rglob("run.json")) == before


class _Split:
    def __init__(self, clusters: list[str]) -> None:
        self.clusters = np.array(clusters)


class _Crossing:
    name, cluster = "made", "case"

    def split(self, name: str) -> _Split:
        return _Split({"train": ["a", "b"], "val": ["c"], "test": ["d", "b"]}[name])


def test_clusters_that_cross_splits_are_refused() -> None:
    with pytest.raises(DataError, match="the cases b lie in both train and test"):
        refuse_shared_clusters(_Crossing())  # type: ignore[arg-type]


def test_a_secret_in_the_command_cannot_be_given_again() -> None:
    summary = {"base_overrides": ["hydra.sweeper.storage=postgresql://***@host/db"], "space": {"parameters": {}}}
    with pytest.raises(StudyError, match="held a secret"):
        no_kd_words(summary, "found_no_kd", 3, 1)


def test_a_study_that_logs_to_wandb_has_its_verdict_there(tmp_path: Path, run_main: RunMain) -> None:
    offline = ("logger=wandb", "logger.mode=offline", "logger.project=elsewhere")
    study = run_main(
        tmp_path, "train", *OUTSIDE_CONF, "-m", "hparams_search=rings", "trainer.max_epochs=1",
        "hydra.sweeper.n_trials=1", "hydra.sweeper.study_name=found", "hydra/sweeper/pruner=nop", *offline,
    )  # fmt: skip
    assert study.code == 0, study.text
    done = run_main(tmp_path, "confirm", *OUTSIDE_CONF, "study=found", "top=1", "seeds=[42,43]")
    assert done.code == 0, done.text
    run = only(written(tmp_path / "outputs/studies/found/confirm"), "run")
    assert (run.run_group, run.job_type, run.project) == ("found", "verdict", "elsewhere")
    for folder in verdict_of(tmp_path)["runs"]["no-KD"].values():
        run = only(written(Path(folder)), "run")
        assert (run.run_group, run.job_type) == ("found", "confirm")
