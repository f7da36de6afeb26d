"""Where a study's time went: stages summed over trials, wall-clock, and what pauses and cut-off trials do to both."""

import pytest
from made_schedules import NO_KD, distillation, grid_trials, make_study

from kdexp.analysis.compared import Sampling
from kdexp.analysis.schedules import analyse
from kdexp.analysis.schedules_page import summary_text
from kdexp.analysis.schedules_reading import read_study
from kdexp.analysis.schedules_rows import Span
from kdexp.analysis.study_time import NO_RECORD, REST, Spent, at_once, pauses, stages_table, study_time

DISTILLED = distillation(Span(3, 1, "linear"), Span(0.5, 0.5))
FIRST = {"data": 1.0, "teacher": 30.0, "teacher_outputs": 2.0, "student": 10.0, "evaluation": 1.0}
SECOND = FIRST | {"teacher": 5.0, "teacher_outputs": 0.0}


def trial(clock: str, seconds: float, durations=None, **more):
    return {"distill": DISTILLED, "started": f"2026-01-10T{clock}+00:00", "seconds": seconds} | (
        {"durations": durations} if durations else {} | more
    )


def ran(start: float, seconds: float) -> Spent:
    return Spent(seconds=seconds, start=start, stages={})


def rows(table):
    return {row["stage"]: row for row in table["rows"]}


@pytest.fixture
def paused(tmp_path):
    """Two trials side by side, a pause of an hour in which one was cut off, one more, and one that failed."""
    trials = [
        trial("10:00:00", 50.0, FIRST),
        trial("10:00:01", 30.0, SECOND),
        trial("10:01:00", 3540.0, state="fail", reason="interrupted"),
        trial("11:00:00", 20.0, SECOND),
        trial("11:00:20", 4.0, state="fail", reason="error"),
    ]
    return make_study(tmp_path, trials)


def test_stages_are_summed_over_trials(paused):
    _, table = study_time(paused)
    found = rows(table)
    assert {name: (row["trials"], row["seconds"], row["most"]) for name, row in found.items()} == {
        "data": (3, 3.0, 1.0),
        "teacher": (3, 40.0, 30.0),
        "teacher outputs": (3, 2.0, 2.0),
        "training students": (3, 30.0, 10.0),
        "evaluation": (3, 3.0, 1.0),
        REST: (3, 22.0, 13.0),
        NO_RECORD: (1, 4.0, 4.0),
    }
    assert sum(row["seconds"] for row in found.values()) == 50 + 30 + 20 + 4
    assert sum(row["share"] for row in found.values()) == pytest.approx(1)
    assert found["teacher"]["share"] == pytest.approx(40 / 104)


def test_the_sentence_tells_the_longest_stage_first_and_the_pause(paused):
    split, wall, cut = study_time(paused)[0]
    assert split.startswith("Of 2 min that trials took on the workers: teacher 38%, training students 29%, ")
    assert "first trial's start to the last one's end: 60 min, with at least 2 of them at once at times" in wall
    assert "in 59 min of it none ran to an end (pauses of more than a minute: 1)" in wall
    assert wall.endswith("A pause (kill and resume) lengthens the wall-clock and no row of the table.")
    assert cut.startswith("Trials cut off (Ctrl-C, kill, power cut): 1; ") and "in no row of the table" in cut


def test_a_first_trial_that_was_cut_off_begins_the_wall_clock_and_the_pause(tmp_path):
    trials = [trial("10:00:00", 600.0, state="fail", reason="interrupted"), trial("10:10:00", 60.0, FIRST)]
    _, wall, _ = study_time(make_study(tmp_path, trials))[0]
    assert "last one's end: 11 min; in 10 min of it none ran to an end" in wall


def test_without_pauses_nothing_is_said_of_any(tmp_path):
    make_study(tmp_path, [trial("10:00:00", 50.0, FIRST), trial("10:01:00", 30.0, SECOND)])
    _, wall = study_time(tmp_path)[0]
    assert "90 s" not in wall and ": 2 min." in wall and "at once" not in wall and "pauses" not in wall


def test_where_the_table_tells_no_times_only_what_was_recorded_is_told(tmp_path):
    make_study(tmp_path, [{"distill": DISTILLED, "durations": FIRST}, {"distill": NO_KD, "state": "fail"}])
    sentences, table = study_time(tmp_path)
    assert [one.split(":")[0] for one in sentences] == ["Of 44 s that trials took on the workers"]
    assert REST not in rows(table) and NO_RECORD not in rows(table)


def test_a_study_that_ran_nothing_has_no_rows(tmp_path):
    sentences, table = study_time(make_study(tmp_path, [{"distill": NO_KD, "state": "waiting"}]))
    assert sentences == [] and table["rows"] == []


def test_a_stage_that_is_not_known_keeps_its_name():
    found = rows(stages_table([Spent(seconds=5.0, start=None, stages={"student": 2.0, "export": 1.0})]))
    assert (found["export"]["seconds"], found[REST]["seconds"]) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("spent", "most"),
    [
        ([], 0),
        ([ran(0, 0.8), ran(0, 0.8)], 0),  # within a second it is not known which was first
        ([ran(0, 10), ran(10, 10)], 1),
        ([ran(0, 10.9), ran(10, 10)], 1),  # one after the other on one worker, the start cut to its second
        ([ran(0, 10), ran(5, 10), ran(6, 2.5), ran(20, 5)], 3),
    ],
)
def test_trials_at_once_are_those_that_surely_overlap(spent, most):
    assert at_once(spent) == most


@pytest.mark.parametrize(
    ("spent", "expected"),
    [
        ([], []),
        ([ran(0, 10), ran(60, 10)], []),
        ([ran(200, 10), ran(0, 10), ran(5, 100)], [95]),
        ([ran(0, 500), ran(5, 1), ran(400, 10)], []),
        ([ran(0, 10), ran(110, 10), ran(300, 10)], [100, 180]),
    ],
)
def test_a_pause_is_a_time_in_which_no_trial_ran(spent, expected):
    assert pauses(spent) == expected


def test_the_analysis_of_schedules_holds_the_table_and_its_sentences(tmp_path):
    trials = [
        one | {"started": "2026-01-10T10:00:00+00:00", "seconds": 60.0, "durations": FIRST} for one in grid_trials()
    ]
    analysis = analyse(read_study(make_study(tmp_path, trials)), Sampling(n_resamples=100, level=0.95, seed=1))
    (table,) = [one for one in analysis["tables"] if one["name"] == "time"]
    assert rows(table)["training students"]["trials"] == 16
    assert analysis["time"][0].startswith("Of 16 min")
    text = " ".join(summary_text(analysis).split())
    assert "Where the time went" in text and "time.csv" in text and all(one in text for one in analysis["time"])
