"""What a study leaves, from real studies in SQLite: counts, the best configuration, the table, and every odd case."""

import csv
import json
import pickle
import shlex
from pathlib import Path

import optuna
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from kdexp.errors import StudyError
from kdexp.records import read_json, write_json
from kdexp.saved import load_saved
from kdexp.sweeps.results import write_results
from made_study import MAX_EPOCHS, N, new_study, night, run_trial


def rows(folder) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A night's study and what was written of it."""
    folder = tmp_path_factory.mktemp("night")
    study = night(folder)
    return study, folder, write_results(study, folder)


def test_trials_are_counted_by_state(finished):
    _, folder, results = finished
    expected = {"total": 35, "complete": 24, "pruned": 7, "fail": 2, "running": 1, "waiting": 1}
    assert results.summary["n_trials"] == expected
    assert results.summary["share_pruned"] == pytest.approx(7 / 31)
    assert results.summary["failures"] == {"error": 1, "interrupted": 1}
    assert read_json(folder / "study_summary.json") == json.loads(json.dumps(results.summary))


def test_epochs_saved_are_those_that_pruned_trials_did_not_run(finished):
    epochs = finished[2].summary["epochs"]
    # 24 complete trials of 8 epochs, 7 pruned ones of 3; the failed ones ran 1 and 2.
    assert epochs["run"] == 24 * 8 + 7 * 3
    assert epochs["saved"] == 7 * 5
    assert epochs["without_pruning"] == 31 * 8
    assert epochs["share_saved"] == pytest.approx(35 / 248)
    assert epochs["in_failed"] == 3


def test_the_table_holds_every_trial_in_order_and_to_the_last_digit(finished):
    study, folder, _ = finished
    table, trials = rows(folder), study.trials
    assert [int(row["number"]) for row in table] == list(range(35))
    for row, trial in zip(table, trials, strict=True):
        assert row["state"] == trial.state.name.lower()
        assert (float(row["value"]) if row["value"] else None) == trial.value
        for name, value in trial.params.items():
            assert row[f"params.{name}"] == value or float(row[f"params.{name}"]) == value
    # A parameter that a trial did not have is empty.
    constant = next(row for row in table if row["params.schedule@distill.weights.kl"] == "constant")
    assert constant["params.distill.weights.kl.end"] == ""
    assert (table[5]["seed"], table[5]["slot"], table[5]["epochs"]) == ("1005", "5", "8")
    assert (table[32]["name"], table[32]["retry_of"]) == ("again", "31")
    assert table[30]["error"] == "RuntimeError: <script>alert(1)</script> & co"
    assert (table[33]["epochs"], table[33]["seconds"], table[34]["started"]) == ("4", "", "")


def test_the_best_configuration_is_the_best_trials_own_and_its_command_finds_it(finished):
    study, folder, results = finished
    best = study.best_trial
    facts = results.summary["best_trial"]
    assert (facts["number"], facts["values"], facts["params"]) == (best.number, {"val/score": best.value}, best.params)
    assert facts["seed"] == 1000 + best.number
    saved = folder / "trials" / f"trial_{best.number:05d}" / "config.yaml"
    assert (folder / "best_config.yaml").read_bytes() == saved.read_bytes()
    *words, last = shlex.split(results.winner_command())
    assert words == ["python", "-m", "kdexp", "train"]
    assert last.startswith("from_run=")
    assert load_saved(Path(last.removeprefix("from_run="))).seed == 1000 + best.number


def test_a_folder_with_a_blank_is_one_word_that_hydra_reads(tmp_path):
    folder = tmp_path / "my studies"
    study = new_study(folder)
    run_trial(study, folder)
    *_, word = shlex.split(write_results(study, folder).winner_command())
    (override,) = OverridesParser.create().parse_overrides([word])
    assert override.value() == str(folder / "trials" / "trial_00000")


def test_data_and_settings_are_told(finished):
    summary = finished[2].summary
    assert summary["data"]["n"] == N
    assert (summary["data"]["name"], summary["data"]["source"]) == ("medpix", "real")
    assert summary["warnings"] == []
    assert summary["problems"] == []
    assert summary["sampler"]["_target_"] == "optuna.samplers.TPESampler"
    assert summary["base_overrides"] == ["dataset=medpix", "trainer.max_epochs=8"]
    assert summary["durations_seconds"]["from_first_start_to_last_end"] > 0
    # Four parameters in each of the 32 trials that were drawn and did not fail, one more under one choice.
    conditional = summary["drawn_by"]["by_parameter"]["distill.weights.kl.end"]["TPESampler"]
    assert 0 < conditional < 32
    assert summary["drawn_by"]["by_sampler"] == {"TPESampler": 4 * 32 + conditional}


def test_no_temporary_file_stays(finished):
    assert [path.name for path in finished[1].iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((), "the study has no complete trial (no trials)"),
        (("pruned",), "the study has no complete trial (1 pruned)"),
        (("fail", "fail"), "the study has no complete trial (2 fail)"),
        (("running",), "the study has no complete trial (1 running)"),
        (("pruned", "fail", "running"), "the study has no complete trial (1 pruned, 1 fail, 1 running)"),
    ],
)
def test_a_study_without_a_winner_says_why(tmp_path, ends, said):
    study = new_study(tmp_path)
    for end in ends:
        run_trial(study, tmp_path, end, epochs=2)
    results = write_results(study, tmp_path)
    assert results.problems == [f"best_config.yaml: {said}"]
    assert results.summary["best_trial"] is None
    assert len(rows(tmp_path)) == len(ends)
    assert not (tmp_path / "best_config.yaml").exists()
    with pytest.raises(StudyError, match=r"best_config\.yaml: the study has no complete trial"):
        results.winner_command()


def test_one_complete_trial_is_the_winner(tmp_path):
    study = new_study(tmp_path)
    run_trial(study, tmp_path)
    results = write_results(study, tmp_path)
    assert results.summary["best_trial"]["number"] == 0
    assert results.summary["epochs"]["share_saved"] == 0
    assert results.problems == []


def test_the_best_configuration_follows_the_study_and_goes_when_its_trial_is_gone(tmp_path):
    study = new_study(tmp_path, directions=["minimize"])
    for _ in range(4):
        run_trial(study, tmp_path)
        best = write_results(study, tmp_path).summary["best_trial"]["number"]
        assert best == min(study.trials, key=lambda trial: trial.value).number
        assert yaml.safe_load((tmp_path / "best_config.yaml").read_text())["seed"] == 1000 + best
    config = tmp_path / "trials" / f"trial_{best:05d}" / "config.yaml"
    config.unlink()
    results = write_results(study, tmp_path)
    assert not (tmp_path / "best_config.yaml").exists()
    assert results.problems == [
        f"best_config.yaml: the best trial is {best}, but {config} is missing; its parameters are in trials.csv, and "
        "`enqueue` runs them again"
    ]
    with pytest.raises(StudyError, match="is missing; its parameters are in"):
        results.winner_command()


def test_several_objectives_leave_the_set_that_nothing_dominates(tmp_path):
    study = new_study(tmp_path, directions=["maximize", "minimize"])
    for _ in range(12):
        run_trial(study, tmp_path)
    results = write_results(study, tmp_path)
    points = {trial.number: trial.values for trial in study.trials}

    def dominated(number: int) -> bool:
        score, latency = points[number]
        return any(s >= score and t <= latency and (s, t) != (score, latency) for s, t in points.values())

    expected = [number for number in points if not dominated(number)]
    assert 0 < len(expected) < 12
    assert [one["number"] for one in results.summary["pareto_set"]] == expected
    assert results.summary["best_trial"] is None
    assert results.problems == []
    assert list(rows(tmp_path)[0])[2:4] == ["value.val/score", "value.latency_ms"]
    with pytest.raises(StudyError, match="no single winner; choose from the Pareto set"):
        results.winner_command()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_trial_that_breaks_a_constraint_does_not_win(tmp_path):
    def add(study: optuna.Study, value: float, memory: float) -> None:
        space = {"x": FloatDistribution(0, 1)}
        study.add_trial(
            create_trial(params={"x": value}, distributions=space, value=value, constraints={"memory": memory})
        )

    study = new_study(tmp_path / "one")
    add(study, 0.9, 1.0)
    add(study, 0.5, -1.0)
    assert write_results(study, tmp_path / "one").summary["best_trial"]["number"] == 1
    none = new_study(tmp_path / "none")
    add(none, 0.9, 1.0)
    problems = write_results(none, tmp_path / "none").problems
    assert "best_config.yaml: no complete trial keeps the study's constraints" in problems


def test_synthetic_data_is_the_first_warning(tmp_path):
    study = new_study(tmp_path)
    run_trial(study, tmp_path, source="synthetic")
    assert write_results(study, tmp_path).warnings[0].startswith("SYNTHETIC: ")


def test_trials_on_different_data_are_not_passed_over(tmp_path):
    study = new_study(tmp_path)
    for source in ("real", "real", "synthetic"):
        run_trial(study, tmp_path, source=source)
    warnings = write_results(study, tmp_path).warnings
    assert warnings[0].startswith("SYNTHETIC: ")
    assert warnings[1] == (
        "the trials ran on different data files or data settings: 2 trials on medpix, real, fingerprint "
        "0123456789abcdef; 1 trials on medpix, synthetic, fingerprint 0123456789abcdef"
    )


def test_what_the_trials_ran_on_is_unknown_without_a_record(tmp_path):
    study = new_study(tmp_path)
    run_trial(study, tmp_path, with_folder=False)
    results = write_results(study, tmp_path)
    assert results.summary["data"] is None
    assert results.warnings == ["no trial left a record, so what data they ran on is unknown"]
    assert "best_config.yaml: the best trial is 0, but" in results.problems[0]


CMA = "optuna.samplers.CmaEsSampler"


@pytest.mark.parametrize(
    ("asked", "drew", "said"),
    [
        (CMA, "CmaEsSampler", None),
        (
            CMA,
            "RandomSampler (independent)",
            "CMA-ES drew nothing, all came from RandomSampler (independent) (4 values)",
        ),
        ({"_target_": CMA}, "RandomSampler (independent)", "CMA-ES drew nothing"),
        ("optuna.samplers.TPESampler", "RandomSampler (independent)", "TPESampler drew nothing"),
        ("optuna.samplers.TPESampler", "TPESampler", None),
        # Values that were given to a trial say nothing about the sampler.
        (CMA, "given", None),
        (None, "RandomSampler", None),
    ],
)
def test_a_sampler_that_drew_nothing_is_named(tmp_path, asked, drew, said):
    study = new_study(tmp_path, sampler=asked)
    four = {"optimizer.lr": drew, "distill.temperature": drew, "student.hidden": drew, "kl": drew}
    run_trial(study, tmp_path, drawn_by=four)
    warnings = write_results(study, tmp_path).warnings
    assert [text for text in warnings if said and text.startswith(said)] == warnings
    assert len(warnings) == (said is not None)


def test_warnings_that_the_sweep_noted_are_passed_on(tmp_path):
    study = new_study(tmp_path, warnings=["x: drawn by RandomSampler"])
    assert write_results(study, tmp_path).warnings == ["x: drawn by RandomSampler"]


def test_a_trials_own_number_of_epochs_counts(tmp_path):
    study = new_study(tmp_path)
    run_trial(study, tmp_path, "pruned", epochs=3)
    config = tmp_path / "trials" / "trial_00000" / "config.yaml"
    config.write_text("trainer: {max_epochs: 20}")
    assert write_results(study, tmp_path).summary["epochs"]["saved"] == 17
    # Without its configuration, the study's base says it.
    config.unlink()
    assert write_results(study, tmp_path).summary["epochs"]["saved"] == MAX_EPOCHS - 3


@pytest.mark.parametrize("written", ["trainer: [", "trainer: {max_epochs: '${n}'}", "nothing"])
def test_where_nobody_knows_the_planned_epochs_nothing_is_made_up(tmp_path, written):
    study = new_study(tmp_path)
    run_trial(study, tmp_path, "pruned", epochs=3)
    (tmp_path / "trials" / "trial_00000" / "config.yaml").write_text(written)
    results = write_results(study, tmp_path)
    assert results.summary["epochs"]["saved"] is None
    assert "epochs: of trials 0 it is not known how far they ran or would have run" in results.problems


def test_a_record_says_the_epochs_of_a_trial_that_reported_none(tmp_path):
    study = new_study(tmp_path, directions=["maximize", "minimize"])  # Optuna takes no reports of several objectives
    run_trial(study, tmp_path, epochs=5)
    assert write_results(study, tmp_path).summary["epochs"]["run"] == 5
    assert rows(tmp_path)[0]["epochs"] == "5"


def test_a_broken_record_is_a_sentence(tmp_path):
    study = new_study(tmp_path)
    run_trial(study, tmp_path)
    path = tmp_path / "trials" / "trial_00000" / "run.json"
    path.write_text('{"status": "do')
    (problem,) = write_results(study, tmp_path).problems
    assert problem.startswith(f"trial 0: {path} is not whole JSON")


def test_secrets_are_in_no_file(tmp_path):
    secret = "hunter2"
    study = new_study(
        tmp_path,
        base_overrides=[f"logger.api_key={secret}", "seed=1"],
        sampler={"_target_": CMA, "url": f"postgresql://ada:{secret}@db/x"},
    )
    run_trial(study, tmp_path, "fail", error=f"lost postgresql://ada:{secret}@db/x", with_folder=False)
    results = write_results(study, tmp_path)
    assert results.summary["base_overrides"] == ["logger.api_key=***", "seed=1"]
    assert rows(tmp_path)[0]["error"] == "lost postgresql://***@db/x"
    for name in ("study_summary.json", "trials.csv"):
        assert secret not in (tmp_path / name).read_text()


def test_an_endless_error_is_cut(tmp_path):
    study = new_study(tmp_path)
    run_trial(study, tmp_path, "fail", error="x" * 100_000)
    write_results(study, tmp_path)
    assert rows(tmp_path)[0]["error"] == "x" * 2000 + "…"


def test_none_and_words_and_truth_are_told_apart_in_the_table(tmp_path):
    study = new_study(tmp_path)

    def draw(trial):
        chosen = {"a": None, "b": True, "c": "word, with comma\nand line", "d": 3}
        values = {name: trial.suggest_categorical(name, [value, 0]) for name, value in chosen.items()}
        return values | {"optimizer.lr": 0.01, "distill.temperature": 4.0}

    study.enqueue_trial({"a": None, "b": True, "c": "word, with comma\nand line", "d": 3})
    run_trial(study, tmp_path, draw=draw)
    write_results(study, tmp_path)
    (row,) = rows(tmp_path)
    found = {name: row[f"params.{name}"] for name in "abcd"}
    assert found == {"a": "null", "b": "true", "c": "word, with comma\nand line", "d": "3"}


def test_a_strangers_study_is_read_without_unpickling(tmp_path, monkeypatch):
    study = optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}", study_name="foreign")
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    study.tell(trial, 0.5)
    study._storage.set_study_system_attr(study._study_id, "cma:optimizer", "80049503")

    def refuse(*_):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    results = write_results(study, tmp_path)
    assert results.summary["objectives"] == ["objective"]
    assert results.summary["best_trial"]["values"] == {"objective": 0.5}


def test_a_metric_list_of_another_length_is_refused(tmp_path):
    study = new_study(tmp_path, metric=["val/score", "latency_ms"])
    with pytest.raises(StudyError, match="names 2 objectives, it has 1"):
        write_results(study, tmp_path)


def test_the_reasons_of_plots_that_were_not_drawn_are_problems(tmp_path):
    study = new_study(tmp_path)
    run_trial(study, tmp_path)
    write_json(tmp_path / "plots" / "plots.json", {"plots": [], "problems": [{"name": "edf", "reason": "too few"}]})
    assert write_results(study, tmp_path).problems == ["plot edf: too few"]


def test_the_study_itself_is_left_as_it_is(finished):
    study = finished[0]
    states = [trial.state for trial in study.trials]
    write_results(study, finished[1])
    again = optuna.load_study(study_name="toy", storage=f"sqlite:///{finished[1] / 'study.db'}")
    assert [trial.state for trial in again.trials] == states
    assert states.count(TrialState.RUNNING) == 1
