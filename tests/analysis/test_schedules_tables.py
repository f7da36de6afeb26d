"""The tables of the analysis of schedules against plain computations, on the grid of 132 runs and on small cases."""

import math
from statistics import mean, stdev

import numpy as np
import pytest
from made_schedules import AUC, BR50, configuration, frame, grid, made_grid
from scipy import stats

from kdexp.analysis.compared import Sampling
from kdexp.analysis.schedules_advice import balanced, trade_off, winners, winners_table
from kdexp.analysis.schedules_groups import (
    correlations_table,
    interaction_table,
    levels,
    levels_table,
    pairs_table,
    ranges_table,
    strategies_table,
)
from kdexp.analysis.schedules_rows import ANNEALING, COMBINED, CONSTANT, SCHEDULING, STRATEGIES, Metric, Reference, Span
from kdexp.analysis.schedules_statistics import (
    consistency,
    correlation,
    correlation_p,
    described,
    paired_difference,
    scaled,
    spread_difference,
)
from kdexp.analysis.schedules_tables import counts_table, distribution_table, quartile_table, runs_table, top_table

SAMPLING = Sampling(n_resamples=400, level=0.95, seed=3)
NO_KD = Reference("no-KD", {"test": {"score": 0.8, BR50.key: 8.0}, "val": {"score": 0.79}}, 1)
FIXED, FALLING = Span(3, 3), Span(3, 1, "linear")


@pytest.fixture(scope="module")
def runs():
    return made_grid()


@pytest.fixture(scope="module")
def whole(runs):
    return frame(runs)


def auc(runs, split="test"):
    return [c.values[split]["score"] for c in runs]


def rows_by(table, key):
    return {row[key]: row for row in table["rows"]}


def few(*values: float, second: tuple[float, ...] = ()):
    """Constant configurations T = 1, 2, … with these values of the first metric, on val and on test."""
    made = []
    for number, value in enumerate(values):
        found = {"score": value} | ({BR50.key: second[number]} if second else {})
        made.append(configuration(number, Span(number + 1, number + 1), Span(0.5, 0.5), found, found))
    return made


def crossed():
    """Two configurations that differ in both start values, measured on val alone."""
    made = [configuration(0, Span(1, 1), Span(0.5, 0.5), {"score": 0.8})]
    made.append(configuration(1, Span(2, 2), Span(0.7, 0.7), {"score": 0.9}))
    return frame(made, split="val", second=None)


# The grid


def test_the_grid_has_the_132_runs_of_the_study(whole):
    assert len({c.name for c in whole.configurations}) == 132
    assert "combined_T10.0to1.0_A0.9to0.3" in {c.name for c in whole.configurations}
    counted = rows_by(counts_table(whole), "strategy")
    assert {name: row["n"] for name, row in counted.items()} == {
        CONSTANT: 16,
        ANNEALING: 32,
        SCHEDULING: 28,
        COMBINED: 56,
    }
    assert counted[COMBINED]["share"] == pytest.approx(56 / 132)


def test_the_margins_of_the_grid(whole):
    assert [row["n"] for row in levels_table(whole, "temperature", 0.95)["rows"]] == [33] * 4
    assert [row["n"] for row in levels_table(whole, "weight", 0.95)["rows"]] == [24, 36, 36, 36]
    assert [row["n"] for row in ranges_table(whole, "temperature")["rows"]] == [11] * 8
    assert [row["n"] for row in ranges_table(whole, "weight")["rows"]] == [12] * 7


def test_a_level_holds_all_strategies_and_its_plain_statistics(whole, runs):
    for factor, of in (("temperature", lambda c: c.temperature.start), ("weight", lambda c: c.weight.start)):
        table = levels_table(whole, factor, 0.95)
        assert len(table["rows"]) == 4
        for row in table["rows"]:
            members = [c for c in runs if of(c) == float(row["level"])]
            assert row["mean/score"] == pytest.approx(mean(auc(members)))
            assert row["std/score"] == pytest.approx(stdev(auc(members)))
            assert row["best/score"] == max(auc(members))
            assert row[f"mean/{BR50.key}"] == pytest.approx(mean(c.values["test"][BR50.key] for c in members))
            assert row[f"best/{BR50.key}"] == max(c.values["test"][BR50.key] for c in members)
            assert row["chosen"] == pytest.approx(mean(auc(members, "val")))


def test_a_level_is_set_against_the_best_in_pairs_that_differ_in_it_alone(whole, runs):
    rows = levels_table(whole, "temperature", 0.95)["rows"]
    best = max(rows, key=lambda row: row["chosen"])
    assert best["standing"] == "best"
    by_name = {c.name: c.values["test"]["score"] for c in runs}
    for row in (row for row in rows if row is not best):
        own, other = f"_T{float(row['level']):.1f}", f"_T{float(best['level']):.1f}"
        gaps = [value - by_name[name.replace(own, other)] for name, value in by_name.items() if own in name]
        low, high = stats.t.interval(0.95, len(gaps) - 1, mean(gaps), stats.sem(gaps))
        assert row["pairs"] == len(gaps) == 33
        assert row["difference"] == pytest.approx(mean(gaps))
        assert (row["low"], row["high"]) == pytest.approx((low, high))
        assert row["standing"] == ("tied" if low <= 0 <= high else "apart")


def test_levels_without_partners_are_not_called_tied():
    rows = rows_by(levels_table(crossed(), "temperature", 0.95), "level")
    assert rows["2"]["standing"] == "best"
    assert rows["1"]["standing"] == "not paired"
    assert rows["1"]["pairs"] == 0


def test_configurations_with_seeds_of_their_own_are_paired_by_their_settings():
    made = [
        configuration(n, Span(start, start), weight, {"score": 0.8 + 0.01 * n}, seeds=(1000 + n,))
        for n, (start, weight) in enumerate((s, w) for s in (3, 7) for w in (Span(0.5, 0.5), Span(0.9, 0.9)))
    ]
    found = levels_table(frame(made, split="val", second=None), "temperature", 0.95)
    assert rows_by(found, "level")["3"]["pairs"] == 2
    assert "does not allow for other samples" in found["notes"][0]
    shared = levels_table(frame(made_grid()), "temperature", 0.95)
    assert "does not allow for other seeds or other samples" in shared["notes"][0]


def test_strategies_with_their_difference_to_constant(whole, runs):
    rows = rows_by(strategies_table(whole), "strategy")
    constant = mean(auc([c for c in runs if c.strategy == CONSTANT]))
    assert set(rows) == set(STRATEGIES)
    for name, row in rows.items():
        members = [c for c in runs if c.strategy == name]
        assert row["mean/score"] == pytest.approx(mean(auc(members)))
        assert row["consistency"] == pytest.approx(1 / (stdev(auc(members)) + 0.001))
        assert row["best_run"] == max(members, key=lambda c: c.values["val"]["score"]).name
        if name == CONSTANT:
            assert row["difference/score"] is None
        else:
            assert row["difference/score"] == pytest.approx(mean(auc(members)) - constant)
            assert row["percent/score"] == pytest.approx(100 * (mean(auc(members)) / constant - 1))
    order = [row["chosen"] for row in strategies_table(whole)["rows"]]
    assert order == sorted(order, reverse=True)


def test_consistency_is_the_published_formula():
    # The four that the study prints follow from these spreads.
    for std, printed in ((0.0027, 270.25), (0.003266, 234.42), (0.0038, 208.34), (0.004201, 192.28)):
        assert consistency(std) == pytest.approx(printed, abs=0.1)
    assert consistency(None) is None


def test_a_slope_follows_from_the_means_of_levels():
    """The study says of its own level means that one unit of T adds 0.002 to 0.003; they say a tenth of that."""
    published = {3: 0.8167, 5: 0.8176, 7: 0.8181, 10: 0.8187}
    starts = np.repeat(list(published), 33)
    found = correlation(starts.astype(float), np.repeat(list(published.values()), 33), SAMPLING)
    centred = {start: start - 6.25 for start in published}
    by_hand = sum(centred[s] * m for s, m in published.items()) / sum(c**2 for c in centred.values())
    assert found["slope"] == pytest.approx(by_hand)
    assert found["slope"] < 0.0005


def test_ranges_are_over_what_moves(whole, runs):
    for factor in ("temperature", "weight"):
        for row in ranges_table(whole, factor)["rows"]:
            start, end = map(float, row["way"].split("→"))
            spans = [(c, c.temperature if factor == "temperature" else c.weight) for c in runs]
            members = [c for c, span in spans if span.moves and (span.start, span.end) == (start, end)]
            assert row["n"] == len(members) > 0
            assert row["mean/score"] == pytest.approx(mean(auc(members)))
    assert "0.3→0.3" not in rows_by(ranges_table(whole, "weight"), "way")


def test_start_values_together(whole, runs):
    table = rows_by(interaction_table(whole, BR50), "alpha0")
    pairs = pairs_table(whole)["rows"]
    assert len(table) == 4 and len(pairs) == 16
    for row in pairs:
        members = [c for c in runs if (c.temperature.start, c.weight.start) == (float(row["T0"]), float(row["alpha0"]))]
        assert row["mean/score"] == pytest.approx(mean(auc(members)))
        cell = table[row["alpha0"]]
        assert cell[f"T0={row['T0']}"] == pytest.approx(mean(c.values["test"][BR50.key] for c in members))
        assert cell[f"n/T0={row['T0']}"] == len(members)


def test_an_empty_cell_is_left_empty():
    rows = rows_by(interaction_table(crossed(), AUC), "alpha0")
    assert rows["0.5"]["T0=2"] is None and rows["0.5"]["n/T0=2"] == 0
    assert rows["0.7"]["T0=2"] == 0.9


def test_correlations_of_start_values(whole, runs):
    rows = {(row["of"], row["with"]): row for row in correlations_table(whole, SAMPLING)["rows"]}
    assert len(rows) == 4
    for symbol, of in (("T₀", lambda c: c.temperature.start), ("α₀", lambda c: c.weight.start)):
        for metric in (AUC, BR50):
            row = rows[symbol, f"test {metric.label}"]
            expected = stats.linregress([of(c) for c in runs], [c.values["test"][metric.key] for c in runs])
            assert row["r"] == pytest.approx(expected.rvalue)
            assert row["p"] == pytest.approx(expected.pvalue, rel=1e-6)
            assert row["slope"] == pytest.approx(expected.slope)
            assert row["low"] < row["r"] < row["high"]


def test_distribution(whole, runs):
    first, second = distribution_table(whole)["rows"]
    assert first["std"] == pytest.approx(stdev(auc(runs)))
    assert first["variance"] == pytest.approx(stdev(auc(runs)) ** 2)
    assert (first["min"], first["max"]) == (min(auc(runs)), max(auc(runs)))
    assert second["mean"] == pytest.approx(mean(c.values["test"][BR50.key] for c in runs))


def test_the_best_quarter_stands_beside_all(whole, runs):
    table = quartile_table(whole)
    best = sorted(runs, key=lambda c: -c.values["val"]["score"])[:33]
    assert "33 of 132" in table["title"]
    rows = rows_by(table, "what")
    assert rows["mean T₀"]["quarter"] == pytest.approx(mean(c.temperature.start for c in best))
    assert rows["mean T₀"]["all"] == pytest.approx(6.25)
    assert rows["α₀ ≥ 0.7"]["quarter"] == pytest.approx(sum(c.weight.start >= 0.7 for c in best) / 33)
    assert rows["α₀ ≥ 0.7"]["all"] == pytest.approx(72 / 132)
    assert rows["T₀ ≥ 7"]["all"] == pytest.approx(66 / 132)
    assert rows[COMBINED]["quarter"] == pytest.approx(sum(c.strategy == COMBINED for c in best) / 33)
    assert rows[COMBINED]["all"] == pytest.approx(56 / 132)


def test_three_runs_have_no_quarter():
    assert quartile_table(frame(few(0.1, 0.2, 0.3), second=None))["rows"] == []


def test_the_top_and_all_runs_with_what_no_kd_makes_of_them(whole, runs):
    top = top_table(whole, NO_KD)["rows"]
    assert [row["rank"] for row in top] == list(range(1, 31))
    expected = sorted(runs, key=lambda c: -c.values["val"]["score"])[:30]
    assert [row["name"] for row in top] == [c.name for c in expected]
    first = expected[0].values["test"]
    assert top[0]["difference/score"] == pytest.approx(first["score"] - 0.8)
    assert top[0][f"percent/{BR50.key}"] == pytest.approx(100 * (first[BR50.key] - 8) / 8)
    every = runs_table(whole, None)
    assert [row["name"] for row in every["rows"]] == [c.name for c in runs]
    assert not any(key.startswith("difference") for key, _, _ in every["columns"])
    assert every["rows"][0]["difference/score"] is None


# Winners


def test_winners_are_chosen_on_val_and_told_on_test():
    a = configuration(0, FIXED, Span(0.5, 0.5), {"score": 0.9, BR50.key: 8.0}, {"score": 0.7, BR50.key: 9.0})
    b = configuration(1, FALLING, Span(0.5, 0.5), {"score": 0.8, BR50.key: 9.0}, {"score": 0.95, BR50.key: 7.0})
    rows = rows_by(winners_table(frame([a, b]), NO_KD), "winner")
    assert rows["best AUC"]["name"] == a.name and rows["best AUC"]["score"] == 0.7
    assert rows["best AUC"]["difference/score"] == pytest.approx(-0.1)
    assert rows["best AUC"]["percent/score"] == pytest.approx(-12.5)
    assert rows["best BR50"]["name"] == b.name
    on_test = rows_by(winners_table(frame([a, b], chosen_on="test"), NO_KD), "winner")
    assert on_test["best AUC"]["name"] == b.name


def test_a_winner_that_was_not_measured_on_test_is_told_on_val():
    made = few(0.8, 0.9)
    made[1] = configuration(1, Span(2, 2), Span(0.5, 0.5), {"score": 0.9})
    rows = rows_by(winners_table(frame(made, split="val", second=None), NO_KD), "winner")
    assert rows["best AUC"]["on"] == "val"
    assert rows["best AUC"]["difference/score"] == pytest.approx(0.9 - 0.79)


def test_ties_go_by_the_other_metric_and_then_by_order():
    tied = frame(few(0.9, 0.9, 0.9, 0.8, second=(5.0, 7.0, 7.0, 9.0)))
    assert [c.order for c in tied.ranked(AUC)] == [1, 2, 0, 3]
    assert winners(tied)["best AUC"].order == 1
    assert winners(tied)["best BR50"].order == 3


def test_the_balanced_winner_has_the_best_mean_of_scaled_metrics():
    made = few(0.80, 0.90, 0.88, second=(10.0, 6.0, 9.5))
    assert balanced(frame(made)) == pytest.approx([0.5, 0.5, (0.8 + 0.875) / 2])
    assert winners(frame(made))["best balanced"].order == 2
    assert "best balanced" not in winners(frame(made, second=None))


def test_where_smaller_is_better_the_smallest_wins():
    error = Metric("score", "mae", sign=-1)
    made = frame(few(0.3, 0.1, 0.2), primary=error, second=None)
    assert winners(made)["best mae"].order == 1
    assert levels_table(made, "temperature", 0.95)["rows"][1]["standing"] == "best"
    assert described(np.array([0.3, 0.1]), sign=-1)["best"] == 0.1


def test_the_trade_off_is_told_where_the_winners_differ():
    apart = frame(few(0.9, 0.8, second=(8.0, 9.5)))
    found = trade_off(apart)
    assert found["changes"] == pytest.approx({"score": -0.1, BR50.key: 1.5})
    assert found["sentence"].endswith("-0.1000 AUC and +1.50 BR50 on test.")
    assert trade_off(frame(few(0.9, 0.8, second=(9.0, 8.5)))) is None
    assert trade_off(frame(few(0.9, 0.8), second=None)) is None


def test_a_missing_or_infinite_second_metric_is_left_out():
    made = few(0.9, 0.8, 0.7, second=(math.inf, 9.0, 8.0))
    made[2] = configuration(2, Span(3, 3), Span(0.5, 0.5), {"score": 0.7}, {"score": 0.7})
    there = frame(made)
    assert winners(there)["best BR50"].order == 1
    row = strategies_table(there)["rows"][0]
    assert (row["n"], row[f"mean/{BR50.key}"], row[f"std/{BR50.key}"]) == (3, 9.0, None)
    assert "best balanced" in winners(there)
    none = frame(few(0.9, 0.8))
    assert list(winners(none)) == ["best AUC"]


# The arithmetic


def test_an_interval_of_r_is_that_of_a_plain_bootstrap():
    generator = np.random.default_rng(0)
    x = generator.normal(size=40)
    y = 0.5 * x + generator.normal(size=40)
    found = correlation(x, y, Sampling(n_resamples=300, level=0.9, seed=7))
    draws = np.random.default_rng(7).integers(0, 40, size=(300, 40))
    expected = np.quantile([np.corrcoef(x[i], y[i])[0, 1] for i in draws], [0.05, 0.95])
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected))


@pytest.mark.parametrize(("x", "y"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, np.nan], [1, 2, 3])])
def test_no_correlation_is_told_of_too_few_or_of_constants(x, y):
    found = correlation(np.array(x, dtype=float), np.array(y, dtype=float), SAMPLING)
    assert found["r"] is found["p"] is found["slope"] is None


def test_draws_that_are_constant_do_not_disturb_an_interval():
    found = correlation(np.array([0.3, 0.3, 0.9]), np.array([0.1, 0.2, 0.4]), SAMPLING)
    assert -1 <= found["low"] <= found["high"] <= 1


@pytest.mark.parametrize(("r", "n"), [(0.199, 132), (-0.62, 10), (0.0, 5), (1.0, 8)])
def test_p_of_r_is_students(r, n):
    expected = stats.beta(n / 2 - 1, n / 2 - 1, loc=-1, scale=2).cdf(-abs(r)) * 2
    assert correlation_p(r, n) == pytest.approx(expected, abs=1e-12)


def test_paired_differences_at_the_edges():
    one, none = np.array([0.5]), np.array([])
    assert paired_difference(one, one - 0.1, 0.95) == {
        "pairs": 1,
        "difference": pytest.approx(0.1),
        "low": None,
        "high": None,
    }
    assert paired_difference(none, none, 0.95)["difference"] is None
    known = paired_difference(np.array([0.5, np.nan, 0.7]), np.array([0.4, 0.1, 0.4]), 0.95)
    assert known["pairs"] == 2 and known["difference"] == pytest.approx(0.2)


def test_a_difference_of_spreads_lies_in_its_interval():
    generator = np.random.default_rng(1)
    one, other = generator.normal(0, 1, 40), generator.normal(0, 3, 40)
    found = spread_difference(one, other, SAMPLING)
    assert found["difference"] == pytest.approx(stdev(one) - stdev(other))
    assert found["low"] < found["difference"] < found["high"] < 0


def test_scaling_of_equal_values_is_zero():
    assert scaled(np.array([2.0, 2.0])) == pytest.approx([0.0, 0.0])
    assert np.isnan(scaled(np.array([1.0, np.nan, 3.0]))[1])


def test_values_drawn_at_random_are_taken_together_in_quarters():
    values = [float(value) for value in np.random.default_rng(2).uniform(1, 10, 40)]
    bins = levels(values)
    sizes = [sum(map(inside, values)) for inside in bins.values()]
    assert sizes == [10, 10, 10, 10]
    assert list(levels([3.0, 7.0, 3.0])) == ["3", "7"]
    # Many equal values make quarters fall together; everything still has its place once.
    crowded = [5.0] * 30 + values[:14]
    assert sum(sum(map(inside, crowded)) for inside in levels(crowded).values()) == len(crowded)


CONVERGED = [1.5, 4.0, 7.5, *np.linspace(9.986, 9.994, 40).tolist()]
ALMOST_ALIKE = [0.1234561, 0.1234562, 0.1234562, 0.3, 0.1 + 0.2]


@pytest.mark.parametrize("starts", [CONVERGED, ALMOST_ALIKE])
def test_every_configuration_is_in_one_level_where_a_search_converges(starts):
    bins = levels(starts)
    assert all(sum(inside(value) for inside in bins.values()) == 1 for value in starts)
    assert len(bins) == 4
    made = [
        configuration(n, Span(start, 1, "linear"), Span(0.5, 0.5), {"score": 0.8}, {"score": 0.8})
        for n, start in enumerate(starts)
    ]
    there = frame(made, second=None)
    for table in (levels_table(there, "temperature", 0.95), ranges_table(there, "temperature"), pairs_table(there)):
        assert [row["n"] for row in table["rows"] if row["n"] == 0] == []
        assert sum(row["n"] for row in table["rows"]) == len(starts)
        assert len(table["rows"]) == 4
    (row,) = interaction_table(there, AUC)["rows"]
    assert sum(row[f"n/T0={name}"] for name in bins) == len(starts)


def test_levels_have_no_more_digits_than_keep_them_apart():
    assert list(levels([0.1234561, 0.1234562, 3.0])) == ["0.1234561", "0.1234562", "3"]
    assert list(levels([0.3, 0.1 + 0.2])) == ["0.3", "0.30000000000000004"]
    assert next(iter(levels(CONVERGED))) == "1.5–9.988"


def test_every_strategy_has_its_name():
    assert {configuration(0, temperature, weight, {}).strategy for temperature, weight in grid()} == set(STRATEGIES)
    assert configuration(0, FALLING, Span(0.5, 0.5), {}).strategy == ANNEALING
    assert configuration(0, FIXED, Span(0.5, 0.1, "cosine"), {}).strategy == SCHEDULING
