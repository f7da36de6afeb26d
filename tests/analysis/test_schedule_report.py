"""The report of schedules through the command, on small real studies: which view, what chose, where the time went."""

import csv
import json
import re
import shutil

import pytest

from kdexp.records import RunFolder, read_json

SEARCH = (
    "-m", "hparams_search=toptagging_grid_smoke", "hydra/sweeper/sampler=grid", "hydra.sweeper.enqueue=null",
    "hydra.sweeper.without=[schedule@distill.temperature,schedule@distill.alpha,distill.temperature.end,distill.alpha.end,"
    "distill.alpha.start]",
    "distill.temperature.start=choice(3.0,7.0)", "distill.alpha.start=0.5",
    "hydra.sweeper.n_trials=2", "hydra.sweeper.keep_checkpoints=2", "trainer.accelerator=cpu", "student.width=8",
)  # fmt: skip
FALLING = ("schedule@distill.temperature=linear", "distill.temperature.end=1.0")
STUDIES = {
    "nominal": FALLING,
    "by_option": (*FALLING, "dataset/view=seed_wiring"),
    "by_setting": (*FALLING, "dataset.view.wiring=seed"),
    "constant": (),
}
LOG_STOOD_FOR_PT = (
    "The published study's wiring (dataset.view.wiring=seed, whatever dataset/view is called): ln(pT/MeV)"
)


@pytest.fixture(scope="module")
def cwd(tmp_path_factory, run_main):
    """A working directory with a study of two trials for each view, and one whose schedules stand still."""
    folder = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdexp.sweeps.loop.draw_plots", lambda study, folder: None)
        for name, words in STUDIES.items():
            done = run_main(folder, *SEARCH, *words, f"hydra.sweeper.study_name={name}")
            assert done.code == 0, done.text
    return folder


def copied(cwd, tmp_path):
    return shutil.copytree(cwd, tmp_path / "copy", symlinks=True)


def study(cwd, name):
    return cwd / "outputs/studies" / name


def summary(cwd, name):
    return (study(cwd, name) / "schedules/summary.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "option", "said"),
    [
        ("nominal", "hlt_nominal", "HLT view: pT in GeV, threshold 1.5 GeV (offline 0.5), merged within 0.01, "),
        ("by_option", "seed_wiring", LOG_STOOD_FOR_PT),
        ("by_setting", "hlt_nominal", LOG_STOOD_FOR_PT),
    ],
)
def test_the_first_lines_say_which_view_was_used(name, option, said, cwd, run_main):
    done = run_main(cwd, "report", f"study={name}")
    assert done.code == 0, done.text
    head = " ".join(summary(cwd, name).partition("\n\n")[0].split())
    assert f"Data options: dataset/view={option}." in head and said in head
    assert ("ln(pT/MeV)" in head) == (said == LOG_STOOD_FOR_PT)
    page = (study(cwd, name) / "report.html").read_text(encoding="utf-8")
    notes = read_json(RunFolder(study(cwd, name) / "trials/trial_00000").record)["data"]["notes"]
    assert notes[0].startswith(said) and notes[0].replace("'", "&#x27;") in page
    # The view first, then whatever else the data say of themselves: that jets are weighted is among it.
    assert any("training weights" in note for note in notes[1:])
    assert all(" ".join(note.split()) in head for note in notes)


def test_both_ways_of_asking_for_the_published_wiring_are_one_data_set(cwd):
    found = [
        read_json(RunFolder(study(cwd, name) / "trials/trial_00000").record)["data"]
        for name in ("by_option", "by_setting", "nominal")
    ]
    assert found[0] == found[1] and found[0]["fingerprint"] != found[2]["fingerprint"]


def test_test_may_choose_where_all_were_measured_on_it_and_the_page_says_so(cwd, run_main, tmp_path):
    there = copied(cwd, tmp_path)
    refused = run_main(there, "report", "study=nominal", "chosen_on=test")
    assert refused.code == 2 and "2 of 2 configurations have no AUC on test" in refused.text
    (way_out,) = re.findall(r"`python -m kdexp (report [^`]*)`", refused.err)
    assert way_out == "report study=nominal split=test top=2 chosen_on=test"
    done = run_main(there, *way_out.split())
    assert done.code == 0 and "SELECTED ON TEST, as asked" in done.text
    assert "SELECTED ON TEST" in (study(there, "nominal") / "report.html").read_text(encoding="utf-8")
    with (study(there, "nominal") / "schedules/top.csv").open(encoding="utf-8", newline="") as stream:
        values = [float(row["test/score"]) for row in csv.DictReader(stream)]
    assert values == sorted(values, reverse=True)
    # By itself val chooses again.
    again = run_main(there, "report", "study=nominal")
    assert again.code == 0 and "SELECTED ON TEST" not in again.out + summary(there, "nominal")


def test_a_configuration_without_its_checkpoint_cannot_be_chosen_on_test(cwd, run_main, tmp_path):
    there = copied(cwd, tmp_path)
    RunFolder(study(there, "nominal") / "trials/trial_00001").best_checkpoint.unlink()
    ended = run_main(there, "report", "study=nominal", "split=test", "chosen_on=test")
    assert ended.code == 2
    assert "1 of 2 configurations have no AUC on test (trial 1)" in ended.text
    assert "val has to choose (chosen_on=val)" in ended.text
    assert not (study(there, "nominal") / "schedules/schedules.json").exists() or "SELECTED ON TEST" not in summary(
        there, "nominal"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("study=constant", "chosen_on=test"), "chosen_on=test: has no effect on constant, in which no schedule moves"),
        (("runs=outputs/studies/constant/trials/*", "chosen_on=test"), "chosen_on=test: has no effect with runs="),
        (("study=nominal", "chosen_on=train"), "chosen_on"),
    ],
)
def test_a_choice_without_effect_is_refused(words, said, cwd, run_main):
    ended = run_main(cwd, "report", *words)
    assert ended.code == 2 and said in ended.text
    assert not (cwd / "outputs/reports").exists() and not (study(cwd, "constant") / "comparison").exists()


def test_the_time_of_all_trials_is_split_to_the_last_second(cwd, run_main):
    assert run_main(cwd, "report", "study=nominal").code == 0
    with (study(cwd, "nominal") / "schedules/time.csv").open(encoding="utf-8", newline="") as stream:
        found = {row["stage"]: row for row in csv.DictReader(stream)}
    with (study(cwd, "nominal") / "trials.csv").open(encoding="utf-8", newline="") as stream:
        taken = [float(row["seconds"]) for row in csv.DictReader(stream)]
    stages = {"data", "teacher", "teacher outputs", "training students", "evaluation", "set-up, features, records"}
    assert set(found) == stages and all(float(row["seconds"]) > 0 for row in found.values())
    assert sum(float(row["seconds"]) for row in found.values()) == pytest.approx(sum(taken))
    assert sum(float(row["share"]) for row in found.values()) == pytest.approx(1)
    record = json.loads((study(cwd, "nominal") / "trials/trial_00000/run.json").read_text())
    assert float(found["teacher"]["most"]) == record["durations_seconds"]["teacher"]
    text = summary(cwd, "nominal")
    assert "Wall-clock from the first trial's start to the last one's end: " in " ".join(text.split())
    assert "Where the time went" in (study(cwd, "nominal") / "report.html").read_text(encoding="utf-8")
