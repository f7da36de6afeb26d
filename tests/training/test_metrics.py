"""Split metrics by torchmetrics agree with the ones that `kdexp.bootstrap` recomputes from saved predictions."""

import math
import warnings

import numpy as np
import pytest
import torch

from kdexp import bootstrap
from kdexp.contracts import TaskSpec
from kdexp.errors import ConfigError, DataError, RunFailed
from kdexp.predictions import Predictions
from kdexp.training.metrics import split_metrics

ALL = ("acc", "f1", "prec", "rec", "auc")


def recomputed(tasks, score, logits, targets, masks=None) -> dict[str, float]:
    n = len(next(iter(targets.values())))
    data = Predictions(
        index=np.arange(n),
        cluster=np.arange(n).astype(str),
        logits={name: value.numpy() for name, value in logits.items()},
        targets={name: value.numpy() for name, value in targets.items()},
        masks={name: value.numpy() for name, value in (masks or {}).items()},
    )
    return bootstrap.metrics(data, tasks, score)


def drawn(n_classes: int, n: int, seed: int, absent: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits rounded so that ties occur, and targets in which one class may be absent."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, n_classes, (n,), generator=generator)
    logits = torch.nn.functional.one_hot(target, n_classes) + torch.randn(n, n_classes, generator=generator)
    if absent is not None:
        target[target == absent] = (absent + 1) % n_classes
    return (logits * 4).round() / 4, target


@pytest.mark.parametrize(("n_classes", "absent"), [(2, None), (3, None), (6, None), (6, 2), (9, 0)])
@pytest.mark.parametrize("n", [12, 300])
def test_multiclass_metrics_agree_with_the_saved_predictions_even_with_an_absent_class(n_classes, absent, n):
    logits, target = drawn(n_classes, n, seed=n_classes, absent=absent)
    task = TaskSpec(name="t", kind="multiclass", classes=tuple("abcdefghi"[:n_classes]), metrics=ALL)
    arguments = ((task,), ("t/f1", "t/auc"), {"t": logits}, {"t": target})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = split_metrics(*arguments)
    assert set(ours) == {"score", *(f"t/{name}" for name in ALL)}
    assert ours == pytest.approx(recomputed(*arguments), abs=1e-6)


def test_binary_metrics_agree_with_the_saved_predictions_and_a_zero_logit_is_class_0():
    logits, target = drawn(2, 200, seed=0)
    logit = logits[:, 1] - logits[:, 0]
    assert (logit == 0).any()
    task = TaskSpec(name="t", kind="binary", classes=("no", "yes"), metrics=ALL)
    arguments = ((task,), ("t/auc",), {"t": logit}, {"t": target})
    ours = split_metrics(*arguments)
    assert ours == pytest.approx(recomputed(*arguments), abs=1e-6)
    # The same predictions written as two classes give the same numbers.
    two = TaskSpec(name="t", kind="multiclass", classes=("no", "yes"), metrics=ALL)
    as_two = split_metrics((two,), ("t/auc",), {"t": torch.stack([torch.zeros(200), logit], 1)}, {"t": target})
    assert ours == pytest.approx(as_two, abs=1e-6)


def test_macro_f1_equals_a_value_worked_by_hand():
    # Truth a a a b b c, predicted a a b b c c; class d occurs nowhere.
    logits = torch.eye(4)[[0, 0, 1, 1, 2, 2]]
    task = TaskSpec(name="t", kind="multiclass", classes=("a", "b", "c", "d"), metrics=("f1",))
    made = split_metrics((task,), ("t/f1",), {"t": logits}, {"t": torch.tensor([0, 0, 0, 1, 1, 2])})
    assert made["t/f1"] == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)


@pytest.mark.parametrize("shape", [(40, 5), (40, 3, 5)])
def test_candidate_accuracies_agree_with_the_saved_predictions(shape):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(shape, generator=generator)
    mask = torch.rand(shape, generator=generator) < 0.3
    mask[..., 0] = True
    target = torch.where(mask, torch.rand(shape, generator=generator), -1.0).argmax(-1)
    target[:7] = -1
    logits = logits.masked_fill(~mask, -torch.inf)
    task = TaskSpec(name="next", kind="candidates", metrics=("acc", "acc_decisions", "acc_inner"))
    arguments = ((task,), ("next/acc",), {"next": logits}, {"next": target}, {"next": mask})
    ours = split_metrics(*arguments)
    assert 0 < ours["next/acc"] < 1
    assert ours == pytest.approx(recomputed(*arguments), abs=1e-6)
    # Without a position axis each sample's only position is its last.
    assert ("next/acc_inner" in ours) == (len(shape) == 3)
    assert len({round(value, 6) for name, value in ours.items() if name != "score"}) == len(ours) - 1


def test_durations_agree_with_the_saved_predictions_and_what_does_not_count_is_never_read():
    generator = torch.Generator().manual_seed(1)
    predicted, true = torch.rand(30, 6, generator=generator) * 6 - 1, torch.rand(30, 6, generator=generator) * 5
    true[torch.arange(6) >= torch.randint(0, 7, (30, 1), generator=generator)] = torch.nan
    predicted[true.isnan()] = torch.nan
    task = TaskSpec(name="time", kind="duration", metrics=("mape_log", "mape_sec"))
    other = TaskSpec(name="a", kind="binary", metrics=("acc",))
    logits, targets = {"time": predicted, "a": torch.ones(30)}, {"time": true, "a": torch.ones(30).long()}
    ours = split_metrics((task, other), ("a/acc",), logits, targets)
    assert ours == pytest.approx(recomputed((task, other), ("a/acc",), logits, targets), rel=1e-6)
    # Trip by trip, position by position.
    gaps = [
        (abs(p - t) / max(t, 1), abs(max(math.expm1(p), 0) - math.expm1(t)) / max(math.expm1(t), 1))
        for p, t in zip(predicted.flatten().tolist(), true.flatten().tolist(), strict=True)
        if not math.isnan(t)
    ]
    assert (ours["time/mape_log"], ours["time/mape_sec"]) == pytest.approx(np.mean(gaps, axis=0), rel=1e-5)


def test_durations_without_a_position_that_counts_are_left_out():
    task = TaskSpec(name="time", kind="duration", metrics=("mape_log", "mape_sec"))
    other = TaskSpec(name="a", kind="binary", metrics=("acc",))
    logits = {"time": torch.zeros(2, 3), "a": torch.ones(2)}
    targets = {"time": torch.full((2, 3), torch.nan), "a": torch.ones(2).long()}
    made = split_metrics((task, other), ("a/acc",), logits, targets)
    assert made == recomputed((task, other), ("a/acc",), logits, targets) == {"a/acc": 1.0, "score": 1.0}


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, 1e4])
def test_a_duration_that_is_no_number_of_seconds_stops_the_run(broken):
    task = TaskSpec(name="time", kind="duration", metrics=("mape_sec",))
    other = TaskSpec(name="a", kind="binary", metrics=("acc",))
    logits = {"time": torch.tensor([[1.0, broken]]), "a": torch.ones(1)}
    with pytest.raises(RunFailed, match="task time: the logits hold NaN or infinity"):
        split_metrics((task, other), ("a/acc",), logits, {"time": torch.ones(1, 2), "a": torch.ones(1).long()})


def test_regression_metrics_agree_with_the_saved_predictions_and_the_score_is_the_mean_of_its_parts():
    generator = torch.Generator().manual_seed(1)
    logits = {"time": torch.randn(50, generator=generator) + 1e3}
    targets = {"time": torch.randn(50, generator=generator) + 1e3}
    logits["a"], targets["a"] = drawn(3, 50, seed=1)
    logits["b"], targets["b"] = drawn(4, 50, seed=2)
    tasks = (
        TaskSpec(name="time", kind="regression", metrics=("mae", "rmse")),
        TaskSpec(name="a", kind="multiclass"),
        TaskSpec(name="b", kind="multiclass"),
    )
    ours = split_metrics(tasks, ("a/f1", "b/f1"), logits, targets)
    assert ours == pytest.approx(recomputed(tasks, ("a/f1", "b/f1"), logits, targets), abs=1e-6)
    assert ours["score"] == pytest.approx((ours["a/f1"] + ours["b/f1"]) / 2)
    assert set(ours) == {"score", "time/mae", "time/rmse", "a/acc", "a/f1", "b/acc", "b/f1"}


def test_a_metric_without_a_value_is_left_out_and_stops_a_score_that_needs_it():
    task = TaskSpec(name="t", kind="binary", metrics=("acc", "auc"))
    logits, targets = {"t": torch.tensor([1.0, -1.0])}, {"t": torch.tensor([1, 1])}
    assert split_metrics((task,), ("t/acc",), logits, targets) == {"t/acc": 0.5, "score": 0.5}
    with pytest.raises(DataError, match="score needs t/auc"):
        split_metrics((task,), ("t/auc",), logits, targets)


def test_an_unknown_metric_is_refused_with_the_choices():
    task = TaskSpec(name="t", kind="regression", metrics=("f1",))
    with pytest.raises(ConfigError, match="unknown metric 'f1'; a regression task has mae, rmse"):
        split_metrics((task,), ("t/f1",), {"t": torch.zeros(2)}, {"t": torch.zeros(2)})


def test_logits_that_are_not_finite_stop_the_run_but_masked_candidates_may_be_infinite():
    task = TaskSpec(name="t", kind="multiclass", metrics=("acc",))
    with pytest.raises(RunFailed, match="task t: the logits hold NaN or infinity"):
        split_metrics((task,), ("t/acc",), {"t": torch.tensor([[0.0, torch.nan]])}, {"t": torch.tensor([0])})
