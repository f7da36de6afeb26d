"""Finished runs compared: what differs, who is compared with whom, and sentences that follow from numbers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from kdexp.analysis.compared import Entry, Sampling
from kdexp.analysis.comparison import Question, compare_runs, separate
from kdexp.analysis.comparison_table import comparison_section, render_comparison, write_tables
from kdexp.analysis.settings import Settings, differing
from kdexp.analysis.verdict import Arm, Rules, judge
from kdexp.bootstrap import cluster_draws
from kdexp.errors import DataError
from kdexp.predictions import Predictions
from kdexp.records import RunFolder, write_json

SAMPLING = Sampling(n_resamples=300, level=0.95, seed=0)
KL, NONE = "kdexp.distill.objective.ce_lambda_kl", "kdexp.distill.objective.none"
N, N_CASES = 120, 40
CLUSTER = np.repeat(np.arange(N_CASES), N // N_CASES).astype(str)
TARGET = np.random.default_rng(7).integers(0, 3, size=N)
Make = Callable[..., Entry]


def config(seed: int, distill: str, **more: Any) -> dict[str, Any]:
    """A configuration as a run keeps it, with what no comparison should show."""
    no_kd = distill == NONE
    return {
        "seed": seed,
        "distill": {"_target_": distill, "temperature": None if no_kd else {"start": more.get("temperature", 2.0)}},
        "student": {"width": more.get("width", 8)},
        "teacher": {"seed": more.get("teacher_seed", 42), "model": {"width": 32}},
        "dataset": {"root": f"/somewhere/{seed}", "name": "made"},
        "paths": {"output_root": f"/out/{seed}"},
        "figures": bool(seed % 2),
        "choices": {"distill": "none" if no_kd else "ce_lambda_kl", "student": more.get("student", "small")},
    }


def right_in(accuracy: float, seed: int) -> np.ndarray:
    """Which samples are right: the first ones of a fixed order, and a few that the seed draws anew."""
    order = np.random.default_rng(3).permutation(N)
    right = np.zeros(N, dtype=bool)
    right[order[: round(accuracy * N)]] = True
    flipped = np.random.default_rng(seed).choice(N, 6, replace=False)
    right[flipped] = ~right[flipped]
    return right


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A finished run whose answers are right in a share of `accuracy` of its samples."""

    def made(name: str, accuracy: float, seed: int = 42, distill: str = KL, **more: Any) -> Entry:
        folder = RunFolder(tmp_path / name)
        right = right_in(accuracy, seed)
        target = more.get("target", TARGET)
        said = np.where(right, target, (target + 1) % 3)
        for split in more.get("splits", ("val", "test")):
            Predictions(
                index=np.arange(N), cluster=CLUSTER, logits={"kind": np.eye(3)[said]}, targets={"kind": target}
            ).save(folder.predictions(split))
        value = more.get("val", float(right.mean()))
        measured = {"score": value, "kind/acc": value}
        interval = {"score": {"low": value - 0.05, "high": value + 0.05}}
        data = {
            "name": "made", "source": more.get("source", "real"), "fingerprint": more.get("fingerprint", "abc"),
            "cluster": "case",
        }  # fmt: skip
        record = {
            "status": "done",
            "finished": more.get("finished", "2026-01-01T00:00:00+00:00"),
            "seed": seed,
            "data": data,
            "tasks": [{"name": "kind", "kind": "multiclass", "classes": ["a", "b", "c"], "metrics": ["acc", "f1"]}],
            "score": ["kind/acc"],
            "metrics": {"val": {"best": measured}, "test": measured if "splits" not in more else None},
            "intervals": {"val": interval, "test": interval},
            "models": {"student": {"parameters": 12_345}},
            "durations_seconds": {"student": 61.0},
        }
        write_json(folder.record, record)
        folder.config.write_text(yaml.safe_dump(config(seed, distill, **more)))
        return Entry.read(folder.path, name)

    return made


def compared(entries: Sequence[Entry], **asked: Any) -> dict[str, Any]:
    """The table of these runs, with the settings told in which they differ."""
    told = differing([entry.settings for entry in entries])
    shown = [replace(entry, shown=one) for entry, one in zip(entries, told, strict=True)]
    return compare_runs(shown, Question(sampling=SAMPLING, **asked))


def by_name(table: dict[str, Any]) -> dict[str, Any]:
    return {row["name"]: row for row in table["rows"]}


# What differs


def test_an_option_tells_what_follows_from_it_and_seeds_and_places_are_left_out(make: Make) -> None:
    runs = [make("a", 0.8), make("b", 0.8, seed=43, distill=NONE), make("c", 0.8, seed=44, teacher_seed=7)]
    told = differing([run.settings for run in runs])
    assert told == [{"distill": "ce_lambda_kl"}, {"distill": "none"}, {"distill": "ce_lambda_kl"}]


def test_a_setting_that_an_option_does_not_explain_has_a_column_of_its_own(make: Make) -> None:
    runs = [make("a", 0.8), make("b", 0.8, temperature=4.0), make("c", 0.8, distill=NONE, width=16, student="large")]
    assert differing([run.settings for run in runs]) == [
        {"distill": "ce_lambda_kl", "distill.temperature.start": 2.0, "student": "small"},
        {"distill": "ce_lambda_kl", "distill.temperature.start": 4.0, "student": "small"},
        {"distill": "none", "distill.temperature.start": None, "student": "large"},
    ]


def test_runs_are_alike_where_only_seeds_and_places_differ(make: Make) -> None:
    one, other = make("a", 0.8).settings, make("b", 0.8, seed=43, teacher_seed=3).settings
    assert one.alike() == other.alike()
    assert one.alike() != make("c", 0.8, temperature=4.0).settings.alike()
    plain = make("d", 0.8, distill=NONE).settings
    assert one.alike(but_for_distillation=True) == plain.alike(but_for_distillation=True)
    assert one.without_distillation().alike() == plain.alike()


@pytest.mark.parametrize(
    ("text", "said"), [(None, "holds no config.yaml"), ("a: [", "is not whole YAML"), ("3", "no c")]
)
def test_a_broken_configuration_is_named(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        Settings.read(tmp_path)
    assert str(tmp_path) in str(caught.value)


# Rows


def test_rows_are_ordered_by_val_and_quote_test(make: Make) -> None:
    table = compared([make("low", 0.9, val=0.2), make("high", 0.5, val=0.7)])
    assert [row["name"] for row in table["rows"]] == ["high", "low"]
    assert table["split"] == "test"
    assert table["rows"][0]["val"] == pytest.approx({"value": 0.7, "low": 0.65, "high": 0.75})
    assert by_name(table)["low"]["difference_to_best"]["value"] > 0.2


def test_a_difference_is_of_the_same_draws_of_whole_cases(make: Make) -> None:
    one, other = make("one", 0.9), make("other", 0.6, seed=43)
    table = compared([one, other])
    right = [right_in(0.9, 42).astype(float), right_in(0.6, 43).astype(float)]
    # Worked out by hand: the share of right answers, each sample as often as its case was drawn. Cases are numbered in
    # the order of their sorted names.
    counts = cluster_draws(N_CASES, 300, 0)[:, np.unique(CLUSTER, return_inverse=True)[1]]
    drawn = [counts @ answers / counts.sum(axis=1) for answers in right]
    low, high = np.quantile(drawn[1] - drawn[0], [0.025, 0.975])
    found = by_name(table)["other"]["difference_to_best"]
    assert found["value"] == pytest.approx(right[1].mean() - right[0].mean())
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    assert found["told_apart"] is True


def test_the_sentence_counts_who_can_be_told_apart_from_the_best(make: Make) -> None:
    runs = [
        make("best", 0.9),
        make("twin", 0.9, width=16),
        make("low", 0.4, width=4),
        make("up", 0.99, val=0.1, width=2),
    ]
    said = compared(runs)["told_apart"]
    assert said.startswith("2 of 3 other runs can be told apart on test from best, the best by val/score")
    assert "(1 lower, 1 higher), and 1 cannot" in said and "over 40 cases" in said


def test_one_run_has_nothing_to_be_told_apart_from(make: Make) -> None:
    table = compared([make("alone", 0.9)])
    assert table["told_apart"].startswith("There is one run")
    assert table["groups"] == []


def test_top_leaves_rows_out_and_groups_in(make: Make) -> None:
    runs = [make(f"{width}_{seed}", 0.9 - width / 100, seed, width=width) for width in (4, 8) for seed in (42, 43)]
    table = compared(runs, top=1)
    assert len(table["rows"]) == 1 and table["n_runs"] == 4
    assert [len(group["seeds"]) for group in table["groups"]] == [2, 2]


@pytest.mark.parametrize(("splits", "split"), [((("val", "test"),) * 2, "test"), ((("val", "test"), ("val",)), "val")])
def test_differences_are_on_test_where_every_run_was_measured_there(make: Make, splits: Any, split: str) -> None:
    table = compared([make(str(number), 0.8, width=number, splits=one) for number, one in enumerate(splits)])
    assert table["split"] == split


def test_predictions_of_a_later_evaluation_count(make: Make) -> None:
    entry = make("late", 0.8, splits=("val",))
    assert entry.predictions_file("test") is None and entry.values("test") is None
    home = RunFolder(entry.folder / "evaluations" / "test")
    home.predictions("test").parent.mkdir(parents=True)
    entry.home.predictions("val").rename(home.predictions("test"))
    assert entry.predictions_file("test") is None  # the evaluation was cut off before its last file
    write_json(
        home.path / "evaluation.json", {"metrics": {"score": 0.5}, "intervals": {"score": {"low": 0, "high": 1}}}
    )
    assert entry.predictions_file("test") == home.predictions("test")
    assert entry.values("test") == {"score": 0.5}
    assert compared([entry, make("other", 0.7, width=3)], split="test")["rows"][0]["test"]["value"] == 0.5


# What is compared with what


def test_the_no_kd_run_with_the_same_seed_is_the_reference(make: Make) -> None:
    runs = [
        make(f"{name}_{seed}", 0.8, seed, distill) for name, distill in (("kd", KL), ("no", NONE)) for seed in (1, 2)
    ]
    rows = by_name(table := compared([*runs, make("kd_3", 0.8, 3)]))
    assert table["reference"]["kind"] == "no-KD"
    assert {name: row["reference"] for name, row in rows.items()} == {
        "kd_1": "no_1", "kd_2": "no_2", "kd_3": None, "no_1": None, "no_2": None,
    }  # fmt: skip


def test_of_several_no_kd_runs_the_one_that_is_alike_otherwise(make: Make) -> None:
    runs = [
        make(f"{name}_{width}", 0.8, 1, distill, width=width)
        for name, distill in (("kd", KL), ("no", NONE))
        for width in (4, 8)
    ]
    rows = by_name(compared([*runs, make("kd_16", 0.8, 1, width=16)]))
    assert (rows["kd_4"]["reference"], rows["kd_8"]["reference"]) == ("no_4", "no_8")
    assert rows["kd_16"]["reference"] is None  # neither is its own


def test_without_a_partner_the_best_is_the_reference_and_the_sentence_says_so(make: Make) -> None:
    table = compared([make("kd", 0.9, 1), make("no", 0.7, 2, NONE)])
    assert table["reference"]["kind"] == "best"
    assert "are to kd, the best by val/score" in table["reference"]["sentence"]
    assert table["reference"]["sentence"].endswith(": no run has a no-KD partner with its seed here.")
    assert by_name(table)["no"]["difference"] == by_name(table)["no"]["difference_to_best"]


def test_a_reference_that_was_asked_for_wins(make: Make) -> None:
    runs = [make("kd", 0.9, 1), make("mine", 0.5, 1, width=2), make("no", 0.7, 1, NONE)]
    told = differing([run.settings for run in runs])
    shown = [replace(run, shown=one) for run, one in zip(runs, told, strict=True)]
    table = compare_runs(shown, Question(sampling=SAMPLING, reference=shown[1], top=1))
    assert [row["name"] for row in table["rows"]] == ["kd", "mine"]  # shown, whatever its place
    assert by_name(table)["kd"]["reference"] == "mine" and by_name(table)["mine"]["reference"] is None


def with_no_kd_beside(make: Make, name: str, accuracy: float, no_kd: float, seed: int = 42, **more: Any) -> Entry:
    """A run with the student that `with_no_kd` trained beside it."""
    entry = make(name, accuracy, seed, **more)
    record = json.loads(entry.run.folder.record.read_text())
    other = make(f"{name}/no_kd", no_kd, seed, NONE, **more)
    part = {key: other.run.record[key] for key in ("metrics", "intervals")}
    other.run.folder.record.unlink()
    record |= {"no_kd": {**part, "folder": "no_kd"}}
    record["durations_seconds"]["no_kd"] = 5.0
    write_json(entry.run.folder.record, record)
    return Entry.read(entry.folder, name)


def test_the_student_that_with_no_kd_trained_is_a_run_of_its_own(make: Make) -> None:
    entry = with_no_kd_beside(make, "both", 0.9, 0.6)
    beside = entry.without_distillation
    assert beside is not None and beside.settings.is_no_kd and not beside.has_checkpoint
    rows = by_name(compared([entry, beside]))
    assert rows["both"]["reference"] == "both no-KD" and rows["both"]["difference"]["value"] > 0.2
    assert rows["both no-KD"]["seconds"] == 5.0
    assert rows["both no-KD"]["settings"] == {"distill": "none"}


def test_each_trial_is_compared_with_the_no_kd_student_beside_it(make: Make) -> None:
    runs = [with_no_kd_beside(make, f"trial {width}", 0.8, 0.8 - width / 20, width=width) for width in (2, 4, 6)]
    table = compared(runs, order="val/score", top=2)
    assert table["reference"] == {
        "kind": "no-KD", "sentence": "Differences on test are to the no-KD run with the same seed.",
    }  # fmt: skip
    assert table["n_runs"] == 3  # those beside them are no rows
    assert {row["name"]: row["reference"] for row in table["rows"]} == {
        "trial 2": "trial 2 no-KD", "trial 4": "trial 4 no-KD",
    }  # fmt: skip
    for row, entry in zip(table["rows"], runs, strict=False):
        no_kd = entry.without_distillation.values("test")["score"]
        assert row["difference"]["value"] == pytest.approx(entry.values("test")["score"] - no_kd)


def test_of_two_trials_with_one_seed_each_has_its_own_no_kd_student(make: Make) -> None:
    runs = [with_no_kd_beside(make, name, 0.8, 0.6) for name in ("one", "twin")]
    rows = by_name(compared(runs, order="val/score"))
    assert {name: row["reference"] for name, row in rows.items()} == {"one": "one no-KD", "twin": "twin no-KD"}


def test_groups_of_trials_are_paired_with_the_no_kd_students_beside_them(make: Make) -> None:
    runs = [with_no_kd_beside(make, f"trial {seed}", 0.8, 0.6, seed) for seed in (1, 2, 3)]
    (group,) = compared(runs, order="val/score")["groups"]
    assert (group["reference"], group["n_pairs"]) == ("no-KD", 3)
    gaps = [e.values("test")["score"] - e.without_distillation.values("test")["score"] for e in runs]
    assert group["difference"]["mean"] == pytest.approx(np.mean(gaps))


def test_no_kd_students_that_were_not_measured_on_test_are_said_to_be_there(make: Make) -> None:
    runs = [with_no_kd_beside(make, f"trial {width}", 0.8, 0.6, width=width) for width in (2, 4)]
    for run in runs:
        run.without_distillation.home.predictions("test").unlink()
    on_test, on_val = (compared(runs, order="val/score", split=split) for split in ("test", "val"))
    assert on_test["reference"]["kind"] == "best"
    said = on_test["reference"]["sentence"]
    assert said.endswith(": the no-KD students beside the runs have no predictions there, but on val.")
    assert on_val["reference"]["kind"] == "no-KD"
    assert on_val["rows"][0]["difference"]["value"] == pytest.approx(
        runs[0].values("val")["score"] - runs[0].without_distillation.values("val")["score"]
    )


# Groups


def arms(make: Make, seeds: Sequence[int], gain: float = 0.25) -> list[Entry]:
    return [
        make(f"{name}_{seed}", accuracy, seed, distill)
        for name, accuracy, distill in (("kd", 0.6 + gain, KL), ("no", 0.6, NONE))
        for seed in seeds
    ]


def test_a_group_is_compared_as_confirm_compares_it(make: Make) -> None:
    seeds = range(42, 50)
    runs = arms(make, seeds)
    (kd, no_kd) = compared(runs)["groups"]
    folders = {name: {seed: run.folder for seed, run in zip(seeds, part, strict=True)}
               for name, part in (("kd", runs[:8]), ("no", runs[8:]))}  # fmt: skip
    rules = Rules(level=0.95, margin=0.01, n_resamples=300, resample_seed=0)
    verdict = judge([Arm(name="kd", folders=folders["kd"])], Arm(name="no", folders=folders["no"]), rules)
    expected = verdict["contenders"][0]
    theirs = expected["difference"]["score"]
    assert kd["difference"].pop("per_seed") == pytest.approx(theirs.pop("per_seed"))
    assert kd["difference"] == pytest.approx(theirs)
    assert kd["p_holm"] == expected["p_holm"] == pytest.approx(2 / 2**8)
    assert (kd["name"], kd["reference"], no_kd["difference"]) == ("distill=ce_lambda_kl", "distill=none", None)
    values = [run.values("val")["score"] for run in runs[:8]]
    assert kd["val"] == pytest.approx({"n": 8, "mean": np.mean(values), "spread": np.std(values, ddof=1)})


@pytest.mark.parametrize(
    ("n_seeds", "gain", "said"),
    [
        (3, 0.25, "3 paired seeds and 1 comparison give no p below 0.25"),
        (3, 0.25, "6 seeds could"),
        (8, 0.25, "1 of 1 group can be told apart from the reference"),
        (8, 0.0, "0 of 1 group can be told apart from the reference"),
    ],
)
def test_the_sentence_on_groups_follows_from_the_number_of_seeds(
    make: Make, n_seeds: int, gain: float, said: str
) -> None:
    assert any(said in sentence for sentence in compared(arms(make, range(n_seeds), gain))["sentences"])


def test_more_comparisons_ask_for_more_seeds(make: Make) -> None:
    runs = [make(f"{w}_{seed}", 0.8 - w / 100, seed, width=w) for w in range(2, 12) for seed in (1, 2, 3)]
    table = compared(runs)
    assert any("3 paired seeds and 9 comparisons give no p below 1" in one for one in table["sentences"])
    assert any("9 seeds could" in one for one in table["sentences"])
    assert sum(group["difference"] is not None for group in table["groups"]) == 9


def test_of_two_runs_with_one_seed_the_newer_counts(make: Make) -> None:
    runs = [make("old", 0.5), make("new", 0.8, finished="2026-02-01T00:00:00+00:00"), make("more", 0.8, seed=43)]
    table = compared(runs)
    assert table["groups"][0]["runs"] == ["new", "more"]
    assert any("left out of its group: old" in sentence for sentence in table["sentences"])


# Bad input


def test_other_data_are_kept_apart_and_refused_beside_a_reference(make: Make) -> None:
    runs = [make("one", 0.8), make("other", 0.8, fingerprint="xyz"), make("third", 0.7, width=3)]
    assert [[entry.name for entry in part] for part in separate(runs)] == [["one", "third"], ["other"]]
    with pytest.raises(DataError, match=r"other was trained on other data or splits .*xyz.* than .*one"):
        compared(runs)


def test_other_samples_are_refused(make: Make) -> None:
    with pytest.raises(DataError, match="hold different samples"):
        compared([make("one", 0.8), make("other", 0.8, target=np.zeros(N, dtype=int), width=3)])


def test_a_run_without_predictions_is_named_with_the_way_out(make: Make) -> None:
    runs = [make("one", 0.9), make("bare", 0.8, width=3, splits=("val",))]
    table = compared(runs, split="test")
    assert by_name(table)["bare"]["difference_to_best"] is None
    (said,) = [one for one in table["sentences"] if one.startswith("No predictions on test")]
    assert str(runs[1].folder) in said and "hydra.sweeper.keep_checkpoints" in said
    runs[1].home.best_checkpoint.parent.mkdir()
    runs[1].home.best_checkpoint.touch()
    (said,) = [one for one in compared(runs, split="test")["sentences"] if one.startswith("No predictions on test")]
    assert "kdexp evaluate run=RUN_DIR split=test" in said
    with pytest.raises(DataError, match=r"No predictions on test: .*bare"):
        compared(runs[1:], split="test")


def test_torn_predictions_and_unknown_metrics_are_named(make: Make) -> None:
    run = make("torn", 0.8)
    with pytest.raises(DataError, match=r"torn: its record has no kind/auc on val; there are: score, kind/acc"):
        compared([run], metric="kind/auc")
    run.home.predictions("test").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"torn/predictions/test\.npz is not a predictions file"):
        compared([run])


# How it is shown


@pytest.mark.parametrize("width", [80, 200])
def test_tables_say_what_was_measured_on_what(make: Make, width: int) -> None:
    table = compared(arms(make, (1, 2, 3)))
    console = Console(width=width, record=True, file=io.StringIO())
    render_comparison([table], console)
    text = console.export_text()
    assert "made, real data · 6 runs · test: 120 samples of 40 cases" in text
    for word in (
        "kd_1",
        "ce_lambda_kl",
        "12.3 k",
        "1 min",
        "test minus",
        "reference",
        "Runs alike but for their seeds",
    ):
        assert word in text
    assert table["told_apart"] in " ".join(text.split()) and "SYNTHETIC" not in text
    assert "…" not in text  # nothing is cut off


def test_synthetic_data_are_called_so_everywhere(make: Make) -> None:
    table = compared([make("a", 0.8, source="synthetic"), make("b", 0.7, width=3, source="synthetic")])
    console = Console(width=120, record=True, file=io.StringIO())
    render_comparison([table], console)
    assert "SYNTHETIC DATA" in console.export_text()
    assert "SYNTHETIC DATA" in comparison_section([table])


def test_files_hold_full_numbers_and_pages_hold_no_tags_of_others(make: Make, tmp_path: Path) -> None:
    runs = [replace(run, name=f"<b>{run.name}") for run in arms(make, (1, 2))]
    table = compared(runs)
    write_tables([table], tmp_path)
    with (tmp_path / "runs.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == [row["name"] for row in table["rows"]]
    assert float(rows[0]["val/score"]) == table["rows"][0]["val"]["value"]
    assert float(rows[0]["difference.low"]) == table["rows"][0]["difference"]["low"]
    assert rows[-1]["difference"] == ""
    with (tmp_path / "groups.csv").open() as stream:
        groups = list(csv.DictReader(stream))
    assert [group["seeds"] for group in groups] == ["1 2", "1 2"]
    assert float(groups[0]["difference.high"]) == table["groups"][0]["difference"]["high"]
    section = comparison_section([table])
    assert "<b>" not in section and "&lt;b&gt;kd_1" in section
    assert json.loads(json.dumps(table)) == table
    write_tables([compared(runs[:1])], tmp_path)
    assert not (tmp_path / "groups.csv").exists()


def test_many_settings_are_left_to_the_files_instead_of_squeezing_the_numbers(make: Make) -> None:
    table = compared([make("a", 0.9), make("b", 0.6)])
    table["settings"] = ["teacher.model.fusion.heads", "teacher.model.dropout", "student.width", "student.dropout"]
    console = Console(width=80, record=True, file=io.StringIO())
    render_comparison([table], console)
    shown = console.export_text()
    assert "differ in 4 settings, which runs.csv and the report list" in shown
    assert "heads" not in shown and "0.900" in shown
