"""A study with schedules from its folder to its files: what is read, what is said, and what is not."""

import csv
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import yaml
from made_schedules import (
    AUC,
    BR50,
    MIX,
    NO_KD,
    SCORE,
    TASK,
    configuration,
    distillation,
    frame,
    grid_trials,
    make_study,
)
from scipy import stats

from kdexp.analysis.compared import Entry, Sampling
from kdexp.analysis.paired import compare, seeds_needed, sign_flip_p
from kdexp.analysis.schedules import analyse, write
from kdexp.analysis.schedules_advice import recommend
from kdexp.analysis.schedules_groups import correlations_table, levels_table, strategies_table
from kdexp.analysis.schedules_page import FOLDER, schedules_section, summary_text
from kdexp.analysis.schedules_reading import choose_metrics, is_scheduled, make_frame, read_study, span, weight_key
from kdexp.analysis.schedules_rows import ANNEALING, COMBINED, CONSTANT, SCHEDULING, Span
from kdexp.analysis.schedules_sentences import effects
from kdexp.analysis.schedules_verdicts import (
    DISTINGUISHABLE,
    NOT_SHOWN,
    WITHIN_NOISE,
    Evidence,
    confirm_command,
    seeds_to_show,
    told_on,
    weigh,
    word,
)
from kdexp.analysis.settings import Settings
from kdexp.bootstrap import cluster_draws, metrics_on_draws
from kdexp.errors import StudyError
from kdexp.predictions import Predictions
from kdexp.records import read_json, write_json

SAMPLING = Sampling(n_resamples=120, level=0.95, seed=1)
FIXED, FALLING = Span(3, 3), Span(3, 1, "linear")
HALF = Span(0.5, 0.5)


def settings(distill) -> Settings:
    values = {f"distill.{key}": value for key, value in distill.items()}
    return Settings({"distill._target_": MIX, **values}, {})


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory):
    """Sixteen configurations on one seed, a run without distillation, a failed trial and a pruned one."""
    folder = tmp_path_factory.mktemp("one") / "jets"
    folder.mkdir()
    others = [
        {"distill": NO_KD, "quality": 0.3},
        {"distill": NO_KD, "state": "fail"},
        {"distill": NO_KD, "state": "pruned"},
    ]
    return make_study(folder, grid_trials() + others)


@pytest.fixture(scope="module")
def analysis(one_seed):
    return analyse(read_study(one_seed), SAMPLING)


@pytest.fixture(scope="module")
def several_seeds(tmp_path_factory):
    """Four configurations on eight seeds: two alike, one far below, one between."""
    folder = tmp_path_factory.mktemp("several") / "jets"
    folder.mkdir()
    qualities = (
        (FALLING, HALF, 2.0),
        (FIXED, HALF, 1.0),
        (FALLING, Span(0.9, 0.9), 2.001),
        (FIXED, Span(0.9, 0.9), 1.1),
    )
    trials = [
        {"distill": distillation(temperature, weight), "quality": quality, "seed": seed}
        for temperature, weight, quality in qualities
        for seed in range(1000, 1008)
    ]
    return make_study(folder, trials)


@pytest.fixture(scope="module")
def home(analysis, tmp_path_factory):
    """The folder that holds the files of the study with one seed."""
    folder = tmp_path_factory.mktemp("written")
    paths = write(analysis, folder)
    assert all(path.is_file() for path in paths)
    assert {path.suffix for path in paths} == {".txt", ".csv", ".svg", ".json"}
    return folder / FOLDER


def said(analysis) -> str:
    return " ".join(
        [*analysis["head"], *analysis["cautions"], *analysis["ranges"], *analysis["effects"]]
        + [one["sentence"] for one in analysis["recommendations"]]
    )


def table(analysis, name):
    return next(one for one in analysis["tables"] if one["name"] == name)


def by_scenario(analysis):
    return {one["scenario"]: one for one in analysis["recommendations"]}


# Reading


@pytest.mark.parametrize(
    ("distill", "key", "expected"),
    [
        ({"temperature.start": 3.0, "temperature.name": "constant", "alpha": 0.5}, "distill.alpha", Span(0.5, 0.5)),
        ({"alpha.start": 0.9, "alpha.name": "linear", "alpha.end": 0.1}, "distill.alpha", Span(0.9, 0.1, "linear")),
        ({"weights.kl.start": 2.0, "weights.ce": 1.0}, "distill.weights.kl", Span(2.0, 2.0)),
        # alpha_beta: alpha weighs the labels there, beta the distillation.
        ({"alpha.start": 1.0, "beta.start": 0.4}, "distill.beta", Span(0.4, 0.4)),
        ({"weights.crd": 1.0}, None, None),
    ],
)
def test_the_weight_of_distillation_is_found_in_every_preset(distill, key, expected):
    made = settings(distill)
    assert weight_key(made) == key
    assert (None if key is None else span(made, key)) == expected


def test_a_run_without_distillation_has_no_schedule():
    made = Settings({"distill._target_": "kdexp.distill.objective.none", "distill.temperature": 3.0}, {})
    assert span(made, "distill.temperature") is None
    assert not is_scheduled(made)
    assert is_scheduled(
        settings({"temperature.start": 3.0, "temperature.name": "cosine", "temperature.end": 1.0, "alpha": 1})
    )


def test_a_study_is_read_with_names_strategies_and_what_was_reached(one_seed):
    study = read_study(one_seed)
    assert study.counts == {"complete": 17, "fail": 1, "pruned": 1}
    assert study.weight_key == "distill.alpha"
    counted = [c.strategy for c in study.configurations]
    assert [counted.count(name) for name in (CONSTANT, ANNEALING, SCHEDULING, COMBINED)] == [4, 4, 4, 4]
    found = next(c for c in study.configurations if c.name == "combined_T7.0to1.0_A0.9to0.1")
    assert (found.temperature, found.weight) == (Span(7, 1, "linear"), Span(0.9, 0.1, "linear"))
    assert (found.best_epoch, found.reached_temperature, found.reached_weight) == pytest.approx((4, 1.0, 0.1))
    record = read_json(one_seed / "trials/trial_00000/run.json")
    assert study.configurations[0].values["val"] == record["metrics"]["val"]["best"]
    evaluation = read_json(one_seed / "trials/trial_00000/evaluations/test/evaluation.json")
    assert study.configurations[0].values["test"] == evaluation["metrics"]
    assert study.teacher.values["test"]["score"] == 0.95
    assert study.no_kd.n_seeds == 1
    assert study.no_kd.values["val"] == read_json(one_seed / "trials/trial_00016/run.json")["metrics"]["val"]["best"]


def test_a_run_beside_the_study_is_its_no_kd_run_where_it_does_not_distil(one_seed, tmp_path):
    alone = make_study(tmp_path, grid_trials())
    without, with_kd = (Entry.read(one_seed / f"trials/trial_{n:05d}", "beside") for n in (16, 0))
    assert read_study(alone).no_kd is None and read_study(alone, with_kd).no_kd is None
    study = read_study(alone, without)
    assert study.no_kd.values["val"] == without.values("val") and len(study.configurations) == 16


def test_a_level_pairs_runs_of_a_real_study(one_seed):
    rows = table(analyse(read_study(one_seed), SAMPLING), "levels_T0")["rows"]
    assert [row.get("pairs") for row in rows if row["standing"] != "best"] == [8]


def test_runs_alike_but_for_their_seeds_are_one_configuration(several_seeds):
    study = read_study(several_seeds)
    assert [c.seeds for c in study.configurations] == [tuple(range(1000, 1008))] * 4
    values = [
        read_json(several_seeds / f"trials/trial_{number:05d}/run.json")["metrics"]["val"]["best"]["score"]
        for number in range(8)
    ]
    assert study.configurations[0].values["val"]["score"] == pytest.approx(np.mean(values))


def test_a_study_without_schedules_is_refused(tmp_path):
    make_study(tmp_path, [{"distill": distillation(FIXED, HALF)}, {"distill": NO_KD}])
    with pytest.raises(StudyError, match=r"jets: none of its 2 complete runs has a schedule that moves"):
        read_study(tmp_path)


def test_a_study_without_complete_runs_is_refused(tmp_path):
    make_study(tmp_path, [{"distill": NO_KD, "state": "fail"}])
    with pytest.raises(StudyError, match="none of its 0 complete runs"):
        read_study(tmp_path)


def test_runs_on_different_data_are_refused(tmp_path):
    make_study(tmp_path, [{"distill": distillation(FALLING, HALF)}, {"distill": distillation(FIXED, HALF)}])
    path = tmp_path / "trials/trial_00001/run.json"
    record = read_json(path)
    write_json(path, {**record, "data": {**record["data"], "fingerprint": "beef"}})
    with pytest.raises(StudyError, match="different data or splits"):
        read_study(tmp_path)


def test_presets_that_weigh_differently_are_refused(tmp_path):
    lambda_kl = {"_target_": MIX, "temperature": {"start": 2.0}, "weights": {"ce": 1.0, "kl": {"start": 1.0}}}
    make_study(tmp_path, [{"distill": distillation(FALLING, HALF)}, {"distill": lambda_kl}])
    with pytest.raises(StudyError, match=r"distill.alpha, distill.weights.kl"):
        read_study(tmp_path)


def test_what_is_left_out_is_said(tmp_path):
    features = {"_target_": MIX, "weights": {"crd": 1.0}}
    make_study(tmp_path, [{"distill": distillation(FALLING, HALF)}, {"distill": features}, {"distill": NO_KD}])
    (tmp_path / "trials/trial_00002/run.json").unlink()
    problems = " ".join(read_study(tmp_path).problems)
    assert "1 complete runs that distil without a temperature and a weight" in problems
    assert "trial 2, whose folder holds no run.json" in problems


def test_several_teachers_are_told_as_such(tmp_path):
    make_study(
        tmp_path,
        [
            {"distill": distillation(FALLING, HALF), "teacher": "a"},
            {"distill": distillation(FIXED, HALF), "teacher": "b"},
        ],
    )
    study = read_study(tmp_path)
    assert study.teacher is None
    assert "2 different teachers" in " ".join(study.problems)


def test_other_settings_that_differ_are_named(tmp_path):
    trials = [
        {"distill": distillation(FALLING, HALF), "more": {"optimizer": {"lr": 0.1}}},
        {"distill": distillation(FIXED, HALF), "more": {"optimizer": {"lr": 0.2}}},
    ]
    found = analyse(read_study(make_study(tmp_path, trials)), SAMPLING)
    assert "Other settings differ too, and tables average over them: optimizer.lr." in found["cautions"]


@pytest.mark.parametrize(
    ("metrics", "score", "expected"),
    [
        (["auc", "acc", "rejection_50"], ["jet/auc"], ("AUC", "jet/rejection_50", "BR50")),
        (["auc", "f1"], ["jet/auc"], ("AUC", "jet/f1", "F1")),
        (["auc"], ["jet/auc"], ("AUC", None, None)),
    ],
)
def test_the_second_metric_comes_from_the_tasks(metrics, score, expected):
    record = {"score": score, "tasks": [{"name": "jet", "metrics": metrics}]}
    first, second = choose_metrics(record, [configuration(0, FIXED, HALF, {"score": 0.8, "jet/rejection_50": 9.0})])
    assert first.key == "score"
    found = (None, None) if second is None else (second.key, second.label)
    assert (first.label, *found) == expected
    assert second is None or second.digits == (2 if second.label == "BR50" else 4)


def test_of_several_tasks_labels_are_whole():
    tasks = [{"name": "modality", "metrics": ["f1", "mae"]}, {"name": "location", "metrics": ["f1"]}]
    first, second = choose_metrics({"score": ["modality/f1", "location/f1"], "tasks": tasks}, [])
    assert (first.label, second.label) == ("score", "modality/f1")


# Which split


def test_tables_quote_val_where_not_all_were_measured_on_test(tmp_path):
    trials = grid_trials()
    trials[0]["with_test"] = False
    study = read_study(make_study(tmp_path, trials))
    found = analyse(study, SAMPLING)
    assert found["split"] == "val"
    assert "15 of 16 configurations were measured on test, so tables quote val" in said(found)
    assert {row["on"] for row in table(found, "winners")["rows"]} == {"test"}
    with pytest.raises(StudyError, match="1 of 16 configurations have no AUC on test"):
        make_frame(study, "test")


def test_a_mean_over_seeds_needs_all_seeds(tmp_path):
    trials = [{"distill": distillation(FALLING, HALF), "seed": s, "with_test": s == 1000} for s in (1000, 1001)]
    study = read_study(make_study(tmp_path, trials))
    assert study.configurations[0].values["test"] == {}
    assert make_frame(study).split == "val"


def test_choosing_on_test_is_said_first(one_seed):
    found = analyse(read_study(one_seed), SAMPLING, chosen_on="test")
    assert any(sentence.startswith("SELECTED ON TEST") for sentence in found["cautions"])
    best = max(table(found, "runs")["rows"], key=lambda row: row["test/score"])
    assert table(found, "winners")["rows"][0]["score"] == best["test/score"]


# What is said


def test_with_one_seed_nothing_is_shown_and_what_would_show_it_is_said(analysis):
    found = by_scenario(analysis)
    assert list(found) == ["highest AUC", "highest acc", "no schedule", "most consistent strategy"]
    for one in found.values():
        assert one["verdict"] == NOT_SHOWN
        assert ": not shown." in one["sentence"]
        assert "paired seeds or more" in one["sentence"] or "No number of seeds" in one["sentence"]
        assert one["command"].startswith("python -m kdexp confirm study=jets top=1")
        assert one["n_compared"] == 16 and one["seeds"] == [1000]
    assert "One seed per configuration" in said(analysis)
    assert all(sentence.endswith("One seed: not shown for others.") for sentence in analysis["effects"])
    assert "distinguishable" not in said(analysis)


def test_the_numbers_in_a_recommendation_are_those_of_the_records(analysis, one_seed):
    one = by_scenario(analysis)["highest AUC"]
    rows = sorted(table(analysis, "runs")["rows"], key=lambda row: -row["val/score"])
    assert (one["name"], one["against"]) == (rows[0]["name"], rows[1]["name"])
    assert one["evidence"]["difference"] == pytest.approx(rows[0]["test/score"] - rows[1]["test/score"])
    assert f"test AUC {rows[0]['test/score']:.4f}" in one["sentence"]
    low, high = one["sampling_error"]["low"], one["sampling_error"]["high"]
    assert f"[{low:.4f}, {high:.4f}]" in one["sentence"]
    assert low < rows[0]["test/score"] < high


def test_the_interval_of_one_pair_is_a_paired_bootstrap_of_its_events(analysis, one_seed):
    one = by_scenario(analysis)["highest AUC"]["evidence"]
    study = read_study(one_seed)
    pair = make_frame(study).ranked(AUC)[:2]
    counts = cluster_draws(60, SAMPLING.n_resamples, SAMPLING.seed)
    drawn = [
        metrics_on_draws(Predictions.load(c.entries[1000].predictions_file("test")), (TASK,), SCORE, counts)["score"]
        for c in pair
    ]
    assert (one["low"], one["high"]) == pytest.approx(tuple(np.quantile(drawn[0] - drawn[1], [0.025, 0.975])))
    assert one["interval_of"] == "clusters" and one["n_clusters"] == 60


def test_the_constant_winner_has_its_true_rank(analysis):
    one = by_scenario(analysis)["no schedule"]
    rows = sorted(table(analysis, "runs")["rows"], key=lambda row: -row["val/score"])
    constant = next(place for place, row in enumerate(rows) if row["strategy"] == CONSTANT)
    gap = rows[0]["val/score"] - rows[constant]["val/score"]
    assert one["name"] == rows[constant]["name"]
    assert f"rank {constant + 1} of 16 by val AUC, {gap:.4f} behind the best there" in one["sentence"]


def test_the_most_consistent_strategy_scatters_least(analysis):
    one = by_scenario(analysis)["most consistent strategy"]
    runs, rows = table(analysis, "runs")["rows"], table(analysis, "strategies")["rows"]
    scatter = {
        row["strategy"]: stats.tstd([run["val/score"] for run in runs if run["strategy"] == row["strategy"]])
        for row in rows
    }
    rows = sorted(rows, key=lambda row: scatter[row["strategy"]])
    assert (one["strategy"], one["against"]) == (rows[0]["strategy"], rows[1]["strategy"])
    assert one["name"] == rows[0]["best_run"]
    assert one["evidence"]["difference"] == pytest.approx(rows[0]["std/score"] - rows[1]["std/score"])


@pytest.mark.parametrize(("chosen_on", "calm", "other"), [("val", CONSTANT, ANNEALING), ("test", ANNEALING, CONSTANT)])
def test_the_most_consistent_strategy_is_chosen_on_the_split_that_chooses(chosen_on, calm, other, one_seed):
    """Constant runs scatter less on val and more on test; the spread that is told is that on test either way."""
    steps = {CONSTANT: {"val": 0.01, "test": 0.03}, ANNEALING: {"val": 0.04, "test": 0.02}}
    made = []
    for strategy, step in steps.items():
        members = [c for c in read_study(one_seed).configurations if c.strategy == strategy][:3]
        for n, c in enumerate(members):
            made.append(replace(c, values={split: {"score": 0.8 + n * size} for split, size in step.items()}))
    found = recommend(frame(made, second=None, chosen_on=chosen_on), SAMPLING, "jets", "val/score")
    (one,) = [one for one in found if one["scenario"] == "most consistent strategy"]
    best = made[2 if calm == CONSTANT else 5]
    assert (one["strategy"], one["against"], one["name"]) == (calm, other, best.name)
    spread = {strategy: step["test"] for strategy, step in steps.items()}
    assert one["evidence"]["difference"] == pytest.approx(spread[calm] - spread[other])
    assert f"scatter least on {chosen_on} (test std {spread[calm]:.2g}" in one["facts"]
    assert f"{other}: std {spread[other]:.2g})" in one["facts"]


def test_the_best_level_by_val_is_told_with_its_place_on_test():
    """3 leads on val; on test, in pairs, 5 is behind it, 7 level with it and 10 ahead; 12 has no partner."""
    gaps = {3: (0, 0), 5: (-0.02, -0.03), 7: (-0.01, 0.01), 10: (0.02, 0.03)}
    made = [
        configuration(0, Span(start, start), weight, {"score": 0.9 - 0.01 * start}, {"score": 0.8 + gap})
        for start, pair in gaps.items()
        for weight, gap in zip((HALF, Span(0.9, 0.9)), pair, strict=True)
    ]
    made.append(configuration(8, Span(12, 12), Span(0.3, 0.3), {"score": 0.5}, {"score": 0.5}))
    made = [replace(c, order=order) for order, c in enumerate(made)]
    there = frame(made, second=None)
    tables = [
        correlations_table(there, SAMPLING), strategies_table(there),
        *(levels_table(there, factor, 0.8) for factor in ("temperature", "weight")),
    ]  # fmt: skip
    (line,) = [one for one in effects(there, {t["name"]: t for t in tables}) if one.startswith("Best level of T₀")]
    assert line == (
        "Best level of T₀ by val: 3. On test, paired by all other settings: ahead of 5 (interval without 0); "
        "behind 10 (interval without 0); tied with 7 (interval with 0); too few pairs with 12. "
        "One seed: not shown for others."
    )


def test_with_several_seeds_verdicts_are_given(several_seeds):
    found = analyse(read_study(several_seeds), SAMPLING)
    first, plain = by_scenario(found)["highest AUC"], by_scenario(found)["no schedule"]
    # Nearly the same quality: no number of seeds would tell these two apart for certain.
    assert first["verdict"] == WITHIN_NOISE
    # A student much better on every seed.
    assert plain["verdict"] == DISTINGUISHABLE
    assert plain["evidence"]["interval_of"] == "seeds and clusters"
    assert plain["evidence"]["n_seeds"] == 8
    assert plain["evidence"]["high"] < 0 and plain["p_holm"] < 0.05
    assert "over 8 paired seeds and 60 events of test" in plain["sentence"]
    assert "not shown" not in said(found)
    assert "One seed" not in said(found)


def test_p_over_seeds_is_the_sign_flip_test(several_seeds):
    study = read_study(several_seeds)
    one, other = study.configurations[:2]
    found = weigh(one, other, AUC, SAMPLING)
    gaps = [one.entries[s].values("test")["score"] - other.entries[s].values("test")["score"] for s in one.seeds]
    assert found.p == sign_flip_p(np.array(gaps)) == 2 / 2**8
    assert found.difference == pytest.approx(np.mean(gaps))
    counts = cluster_draws(60, SAMPLING.n_resamples, SAMPLING.seed)
    drawn = [
        [metrics_on_draws(Predictions.load(e.predictions_file("test")), (TASK,), SCORE, counts)["score"] for e in side]
        for side in (one.entries.values(), other.entries.values())
    ]
    expected = compare(np.array(gaps), np.subtract(*drawn), 60, 0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_few_seeds_show_nothing_however_large_the_difference(tmp_path):
    trials = [
        {"distill": distillation(temperature, HALF), "quality": quality, "seed": seed}
        for temperature, quality in ((FALLING, 3.0), (FIXED, 0.1))
        for seed in (1000, 1001, 1002)
    ]
    found = by_scenario(analyse(read_study(make_study(tmp_path, trials)), SAMPLING))["highest AUC"]
    assert found["evidence"]["low"] > 0
    assert found["verdict"] == NOT_SHOWN
    assert "supposing the spread of the pairs seen" in found["sentence"]


def test_words_need_p_and_interval():
    apart = Evidence(metric="AUC", split="test", difference=0.1, low=0.05, high=0.15, n_seeds=8)
    assert word(apart, 0.01, 2) == DISTINGUISHABLE
    assert word(apart, 0.06, 2) == WITHIN_NOISE
    assert word(replace(apart, low=-0.01), 0.01, 2) == WITHIN_NOISE
    assert word(replace(apart, n_seeds=5), 0.01, 1) == NOT_SHOWN
    assert word(replace(apart, n_seeds=6), 0.04, 2) == NOT_SHOWN  # six seeds are enough for one comparison, not for two
    assert word(apart, None, 1) == NOT_SHOWN
    assert word(replace(apart, low=None), 0.01, 1) == NOT_SHOWN


def test_the_number_of_seeds_says_what_it_supposes():
    values = (0.80, 0.82, 0.85)
    made = frame([configuration(n, Span(n + 1, n + 1), HALF, {"score": v}, {"score": v}) for n, v in enumerate(values)])
    evidence = Evidence(metric="AUC", split="test", difference=0.01)
    found = seeds_to_show(evidence, made, 1)
    spread = stats.tstd(values)
    assert found["seeds"] == seeds_needed(0.01, spread, 1)
    assert "these 3 configurations" in found["supposing"]
    known = seeds_to_show(replace(evidence, spread=0.005), made, 1)
    assert known["seeds"] == seeds_needed(0.01, 0.005, 1)
    assert seeds_to_show(replace(evidence, difference=0.0), made, 1) is None


def test_runs_with_several_seeds_tell_the_spread_for_the_others(tmp_path):
    trials = [{"distill": distillation(FIXED, HALF), "seed": seed} for seed in (1000, 1001, 1002)]
    trials += [{"distill": distillation(FALLING, HALF), "seed": 1000, "quality": 1.4}]
    study = read_study(make_study(tmp_path, trials))
    values = [entry.values("test")["score"] for entry in study.configurations[0].entries.values()]
    one, other = study.configurations
    found = seeds_to_show(weigh(one, other, AUC, SAMPLING), make_frame(study), 1)
    assert found["spread"] == pytest.approx(math.sqrt(2) * stats.tstd(values))
    assert "spread between seeds of 1 configurations" in found["supposing"]


def test_runs_with_seeds_of_their_own_are_compared_on_the_same_events(tmp_path):
    trials = [{"distill": distillation(FIXED, HALF), "seed": 1000, "quality": 1.5}]
    trials += [{"distill": distillation(FALLING, HALF), "seed": 1001}]
    study = read_study(make_study(tmp_path, trials))
    found = weigh(*study.configurations, AUC, SAMPLING)
    assert found.n_seeds == 0 and found.n_clusters == 60
    assert found.low < found.difference < found.high
    assert word(found, None, 1) == NOT_SHOWN
    assert "each its own" in said(analyse(study, SAMPLING))


def test_without_predictions_there_is_no_interval(tmp_path):
    make_study(tmp_path, grid_trials())
    for path in tmp_path.rglob("*.npz"):
        path.unlink()
    found = analyse(read_study(tmp_path), SAMPLING)
    for one in found["recommendations"][:3]:
        assert one["evidence"]["low"] is None and one["sampling_error"] is None
        assert "without an interval" in one["sentence"]
    assert not any("carries ±" in sentence for sentence in found["ranges"])


def test_a_difference_that_is_not_finite_is_not_weighed():
    one = configuration(0, FIXED, HALF, {"score": 0.9, BR50.key: math.inf})
    other = configuration(1, FALLING, HALF, {"score": 0.8, BR50.key: 9.0})
    assert weigh(one, other, BR50, SAMPLING) is None
    assert told_on(BR50, one, other) == "val"
    assert weigh(one, other, AUC, SAMPLING).difference == pytest.approx(0.1)


def test_without_references_nothing_is_said_of_them(tmp_path):
    found = analyse(read_study(make_study(tmp_path, grid_trials())), SAMPLING)
    assert "No run without distillation is part of this study" in said(found)
    assert "from no-KD" not in " ".join(found["ranges"]).replace("From no-KD to", "")
    assert not any("no-KD" in heading for _, heading, _ in table(found, "top")["columns"])


def test_ranges_are_told_from_unrounded_values(analysis):
    values = [row["test/score"] for row in table(analysis, "runs")["rows"]]
    no_kd = next(sentence for sentence in analysis["ranges"] if sentence.startswith("no-KD"))
    assert re.search(r"AUC 0\.\d{4}", no_kd)
    plain = values[0] - table(analysis, "runs")["rows"][0]["difference/score"]
    gains = f"from no-KD {min(values) - plain:+.4f} to {max(values) - plain:+.4f}"
    assert f"test AUC: {min(values):.4f} to {max(values):.4f}, {gains}." in analysis["ranges"]


def test_a_schedule_that_was_not_walked_to_its_end_is_told(tmp_path):
    trials = grid_trials()
    for trial in trials[-3:]:
        trial["best_epoch"] = 2
    found = analyse(read_study(make_study(tmp_path, trials)), SAMPLING)
    assert "In 3 of 12 configurations with a schedule the best epoch came before the schedule's end" in said(found)
    last = table(found, "runs")["rows"][-1]
    assert last["reached_T"] == pytest.approx(7 - 6 / 3)


def test_a_confirmation_is_cited(tmp_path):
    make_study(tmp_path, grid_trials())
    write_json(tmp_path / "confirm/verdict.json", {"contenders": [{"sentence": "trial 3 is better than no-KD: +0.01"}]})
    found = analyse(read_study(tmp_path), SAMPLING)
    assert found["confirmation"] == ["trial 3 is better than no-KD: +0.01"]
    assert "trial 3 is better than no-KD: +0.01." in summary_text(found)


def test_the_command_names_what_is_not_there_by_itself(analysis, one_seed):
    rows = sorted(table(analysis, "runs")["rows"], key=lambda row: -row["val/score"])
    command = by_scenario(analysis)["highest AUC"]["command"]
    assert "chosen:" not in command  # the study's own best competes anyway
    other = next(c for c in read_study(one_seed).configurations if c.name == rows[1]["name"])
    assert f"'contenders={{other: {other.entries[1000].folder}}}'" in command
    assert "seeds=" not in confirm_command("jets", {}, 8)
    assert "seeds=[42,43,44,45,46,47,48,49,50,51]" in confirm_command("jets", {}, 10)
    assert confirm_command("jets", {}, 900).count(",") == 23


# Files


def test_every_table_has_a_csv_in_full_precision(analysis, home):
    assert len(analysis["tables"]) == 16
    for one in analysis["tables"]:
        with (home / f"{one['name']}.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert len(rows) == len(one["rows"])
        for written, row in zip(rows, one["rows"], strict=True):
            assert all(written[key] == ("" if value is None else str(value)) for key, value in row.items())
    assert read_json(home / "schedules.json")["recommendations"] == analysis["recommendations"]


def test_the_text_holds_every_sentence_and_its_files(analysis, home):
    text = (home / "summary.txt").read_text(encoding="utf-8")
    flat = " ".join(text.split())
    for one in analysis["recommendations"]:
        assert " ".join(one["sentence"].split()) in flat
    assert "The best quarter (4 of 16 by val AUC) and all" in text
    assert "recommendations.csv" in flat
    assert "nan" not in flat and "None" not in flat


def test_the_section_escapes_and_asks_for_nothing(analysis, tmp_path):
    strange = {
        **analysis,
        "study": "<script>",
        "cautions": ["<b>&"],
        "data": {**analysis["data"], "source": "synthetic"},
    }
    write(strange, tmp_path)
    page = schedules_section(tmp_path)
    assert "<script" not in page and "<b>&" not in page
    assert "&lt;b&gt;&amp;" in page
    assert "SYNTHETIC DATA" in page
    assert "<pre class=&#x27;" not in page and "<pre class='command'>python -m kdexp confirm" in page
    assert page.count("<figure>") == 3 and "data:image/svg+xml;base64," in page
    assert not re.search(r"(?:src|href)='(?!data:)", page)


def test_another_versions_analysis_is_passed_over_with_a_word(analysis, tmp_path):
    assert schedules_section(tmp_path) == ""
    write_json(tmp_path / FOLDER / "schedules.json", {**analysis, "schema": 0})
    assert "another version" in schedules_section(tmp_path)


def test_the_same_study_says_the_same_twice(one_seed, analysis):
    again = analyse(read_study(one_seed), SAMPLING)
    assert {**again, "written": ""} == {**analysis, "written": ""}


def test_data_options_are_named_in_the_head(tmp_path):
    make_study(tmp_path, grid_trials())
    for path in tmp_path.rglob("config.yaml"):
        saved = yaml.safe_load(path.read_text(encoding="utf-8"))
        path.write_text(
            yaml.safe_dump({**saved, "choices": {"dataset/view": "seed_wiring", "student": "small"}}), "utf-8"
        )
    found = analyse(read_study(tmp_path), SAMPLING)
    assert "Data options: dataset/view=seed_wiring." in found["head"]
