"""Background rejection: by hand, against torchmetrics, on resamples, and where no background passes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_specificity_at_sensitivity

from kdexp.bootstrap import cluster_bootstrap, metrics
from kdexp.contracts import TaskSpec
from kdexp.predictions import Predictions
from kdexp.ranking import REJECTIONS, background_rejections
from kdexp.training.metrics import split_metrics

NAMES = ("rejection_30", "rejection_50", "rejection_80")
TASK = TaskSpec(name="top", kind="binary", metrics=(*NAMES, "auc"))
SCORE = ("top/auc",)


def rejections(
    score: list[float], signal: list[int], weights: list[list[float]] | None = None
) -> dict[str, np.ndarray]:
    ones = np.ones((1, len(score)))
    return background_rejections(np.array(score), np.array(signal) == 1, ones if weights is None else np.array(weights))


def drawn(n: int, seed: int, decimals: int = 9) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    signal = random.integers(0, 2, n)
    return (random.normal(0, 1, n) + signal).round(decimals), signal


def test_rejection_by_hand() -> None:
    # By falling score: s b s b b s s b b b, so TPR 1/4 at FPR 0, 1/2 at 1/6, 3/4 at 3/6, 1 at 3/6.
    found = rejections([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], [1, 0, 1, 0, 0, 1, 1, 0, 0, 0])
    assert {name: found[name][0] for name in NAMES} == pytest.approx(
        {"rejection_30": 6, "rejection_50": 6, "rejection_80": 2}
    )
    # Inside a segment FPR is linear in TPR; these segments are straight up.
    assert {name: found[f"{name}_interpolated"][0] for name in NAMES} == pytest.approx(
        {"rejection_30": 6, "rejection_50": 6, "rejection_80": 2}
    )


def test_equal_scores_are_one_vertex_and_can_be_interpolated() -> None:
    # One signal, then two and two backgrounds of one score, then the rest: vertices (1/4, 0), (3/4, 2/4), (1, 1).
    found = rejections([3, 2, 2, 2, 2, 1, 1, 1], [1, 1, 1, 0, 0, 1, 0, 0])
    assert [found[name][0] for name in NAMES] == pytest.approx([2, 2, 1])
    # At a TPR of 0.5, half of the way: FPR 1/4.
    assert found["rejection_50_interpolated"][0] == pytest.approx(4)
    assert found["rejection_80_interpolated"][0] == pytest.approx(1 / (0.5 + 0.2 * 0.5))


@pytest.mark.parametrize("decimals", [9, 1])
def test_rejection_is_that_of_torchmetrics(decimals: int) -> None:
    score, signal = drawn(700, 1, decimals)
    found = rejections(score.tolist(), signal.tolist())
    values, rank = np.unique(score, return_inverse=True)
    ranks = torch.tensor(rank / (len(values) - 1))
    for percent in (30, 50, 80):
        specificity, _ = binary_specificity_at_sensitivity(ranks, torch.tensor(signal), percent / 100)
        assert found[f"rejection_{percent}"][0] == pytest.approx(1 / (1 - specificity.item()), rel=1e-4)


def test_a_weight_of_two_is_the_sample_twice() -> None:
    score, signal = drawn(60, 2, 1)
    counts = np.random.default_rng(3).integers(0, 3, 60)
    weighted = rejections(score.tolist(), signal.tolist(), [np.ones(60).tolist(), counts.astype(float).tolist()])
    repeated = rejections(np.repeat(score, counts).tolist(), np.repeat(signal, counts).tolist())
    for name in REJECTIONS:
        assert weighted[name][1] == pytest.approx(repeated[name][0])


def test_where_no_background_passes_its_number_stands_for_the_rejection() -> None:
    found = rejections([5, 4, 3, 2, 1, 0], [1, 1, 0, 0, 0, 0])
    assert {name: value[0] for name, value in found.items()} == dict.fromkeys(REJECTIONS, 4.0)
    # So does a single background that passes: no value is greater.
    assert rejections([5, 4, 3, 2], [0, 1, 0, 0])["rejection_50"][0] == 3


@pytest.mark.parametrize("label", [0, 1])
def test_with_one_label_it_is_undefined(label: int) -> None:
    assert all(np.isnan(value).all() for value in rejections([1, 2, 3], [label] * 3).values())
    predictions = made([1.0, 2.0, 3.0], [label] * 3)
    assert not set(NAMES) & {
        name.removeprefix("top/") for name in split_metrics((TASK_ACC,), ("top/acc",), **tensors(predictions))
    }
    assert set(metrics(predictions, (TASK_ACC,), ("top/acc",))) == {"top/acc", "score"}


TASK_ACC = TaskSpec(name="top", kind="binary", metrics=("acc", "rejection_50"))


def made(score: list[float], signal: list[int]) -> Predictions:
    n = len(score)
    return Predictions(
        index=np.arange(n),
        cluster=np.array([str(place // 2) for place in range(n)]),
        logits={"top": np.array(score)},
        targets={"top": np.array(signal)},
    )


def tensors(predictions: Predictions) -> dict[str, dict[str, torch.Tensor]]:
    groups = {"logits": predictions.logits, "targets": predictions.targets}
    return {name: {task: torch.tensor(values) for task, values in group.items()} for name, group in groups.items()}


def test_training_and_saved_predictions_give_the_same_numbers_with_an_interval_around_them() -> None:
    score, signal = drawn(400, 4)
    predictions = made(score.tolist(), signal.tolist())
    saved = metrics(predictions, (TASK,), SCORE)
    trained = split_metrics((TASK,), SCORE, **tensors(predictions))
    assert set(saved) == {*(f"top/{name}" for name in TASK.metrics), "score"}
    assert trained == pytest.approx(saved)
    intervals = cluster_bootstrap(predictions, (TASK,), SCORE, n_resamples=300)
    for name in NAMES:
        interval = intervals[f"top/{name}"]
        assert interval.low <= saved[f"top/{name}"] <= interval.high and interval.low < interval.high


def test_a_perfect_tagger_has_a_record_of_plain_json() -> None:
    predictions = made([float(place >= 10) for place in range(20)], [int(place >= 10) for place in range(20)])
    found = metrics(predictions, (TASK,), SCORE)
    assert found["top/rejection_50"] == 10
    intervals = {
        name: one.as_dict() for name, one in cluster_bootstrap(predictions, (TASK,), SCORE, n_resamples=200).items()
    }
    json.dumps([found, intervals], allow_nan=False)


def test_training_and_saved_predictions_agree_with_weights_and_differ_from_those_without() -> None:
    score, signal = drawn(400, 4)
    plain = made(score.tolist(), signal.tolist())
    weights = np.random.default_rng(5).uniform(0.1, 3, 400)
    saved = metrics(replace(plain, weights=weights), (TASK,), SCORE)
    trained = split_metrics((TASK,), SCORE, **tensors(plain), weights=torch.tensor(weights))
    assert trained == pytest.approx(saved)
    assert all(abs(saved[name] - value) > 1e-4 for name, value in metrics(plain, (TASK,), SCORE).items())


def test_a_weight_common_to_all_background_changes_no_rejection() -> None:
    score, signal = drawn(300, 6)
    plain = made(score.tolist(), signal.tolist())
    scaled = replace(plain, weights=np.where(signal == 1, 1.0, 0.02))
    found, expected = (metrics(one, (TASK,), SCORE) for one in (scaled, plain))
    assert found == pytest.approx(expected)
    intervals = [cluster_bootstrap(one, (TASK,), SCORE, n_resamples=50)["top/rejection_50"] for one in (scaled, plain)]
    assert intervals[0].at_most == intervals[1].at_most == (signal == 0).sum()
    assert (intervals[0].low, intervals[0].high) == pytest.approx((intervals[1].low, intervals[1].high))
