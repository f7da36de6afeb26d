"""The statistics of a comparison in pairs, against values worked out by hand and against tables."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from kdexp.analysis.paired import (
    compare,
    holm,
    least_p,
    seeds_for_a_verdict,
    seeds_needed,
    sign_flip_p,
    student_t,
)


def test_sign_flip_p_is_the_share_of_all_sign_patterns() -> None:
    difference_S = np.array([0.4, -0.1, 0.3, 0.25, 0.05])
    seen = abs(difference_S.mean())
    patterns = [np.mean(np.array(signs) * difference_S) for signs in itertools.product((1, -1), repeat=5)]
    share = np.mean([abs(mean) >= seen - 1e-12 for mean in patterns])
    assert sign_flip_p(difference_S) == pytest.approx(share)


@pytest.mark.parametrize(("n_seeds", "p"), [(5, 0.0625), (6, 0.03125), (8, 0.0078125)])
def test_seeds_that_all_agree_give_the_least_p(n_seeds: int, p: float) -> None:
    assert sign_flip_p(np.linspace(0.01, 0.02, n_seeds)) == pytest.approx(p) == least_p(n_seeds)


def test_a_difference_of_zero_everywhere_is_no_evidence() -> None:
    assert sign_flip_p(np.zeros(8)) == 1.0


def test_too_many_seeds_for_the_exact_test_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 24"):
        sign_flip_p(np.ones(25))


@pytest.mark.parametrize(("n_contenders", "n_seeds"), [(1, 6), (2, 7), (3, 7), (4, 8)])
def test_how_many_seeds_a_verdict_takes(n_contenders: int, n_seeds: int) -> None:
    assert seeds_for_a_verdict(n_contenders) == n_seeds
    assert least_p(n_seeds, n_contenders) < 0.05 <= least_p(n_seeds - 1, n_contenders)


def test_holm_multiplies_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("share", "freedom", "t"),
    [(0.975, 7, 2.3646), (0.975, 1, 12.7062), (0.95, 30, 1.6973), (0.975, 1e9, 1.9600)],
)
def test_student_t_as_in_tables(share: float, freedom: float, t: float) -> None:
    assert student_t(share, freedom) == pytest.approx(t, abs=1e-4)


def test_with_clusters_that_never_matter_the_interval_is_that_of_the_t_test() -> None:
    difference_S = np.array([0.02, 0.05, -0.01, 0.03, 0.04, 0.00])
    drawn_SR = np.repeat(difference_S[:, None], 50, axis=1)
    found = compare(difference_S, drawn_SR, n_clusters=40, level=0.95)
    half = 2.5706 * difference_S.std(ddof=1) / np.sqrt(6)
    assert found.degrees_of_freedom == pytest.approx(5)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=1e-5)


def test_with_seeds_that_never_matter_the_interval_is_that_of_the_clusters() -> None:
    generator = np.random.default_rng(0)
    drawn_R = 0.1 + 0.02 * generator.standard_normal(4000)
    found = compare(np.full(8, 0.1), np.tile(drawn_R, (8, 1)), n_clusters=50, level=0.95)
    assert found.standard_error == pytest.approx(drawn_R.std(ddof=1))
    assert found.degrees_of_freedom == pytest.approx(49)
    assert found.effect_size is None


def test_what_a_seed_makes_of_a_cluster_counts_once() -> None:
    """Pure interaction: with S seeds and G clusters the mean varies by its variance over S·G, and no more."""
    generator = np.random.default_rng(1)
    n_seeds, n_clusters = 8, 60
    values_SG = generator.standard_normal((200, n_seeds, n_clusters))
    errors = []
    for one_SG in values_SG:
        counts_RG = generator.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=400)
        found = compare(one_SG.mean(1), one_SG @ counts_RG.T / n_clusters, n_clusters, 0.95)
        errors.append(found.standard_error**2)
    assert np.mean(errors) == pytest.approx(1 / (n_seeds * n_clusters), rel=0.15)


def test_draws_on_which_a_metric_is_undefined_are_left_out() -> None:
    drawn_SR = np.tile(np.array([0.1, 0.2, np.nan, 0.3]), (3, 1))
    found = compare(np.array([0.1, 0.2, 0.3]), drawn_SR, n_clusters=5, level=0.95)
    assert np.isfinite([found.low, found.high]).all()


def test_fewer_seeds_find_a_larger_difference() -> None:
    assert seeds_needed(0.02, 0.02) == 10  # (1.960 + 0.842)² + 1.92 = 9.77
    assert seeds_needed(0.01, 0.02) > seeds_needed(0.02, 0.02) > seeds_needed(0.05, 0.02) == 6
    with pytest.raises(ValueError, match="difference of 0"):
        seeds_needed(0.0, 0.02)
