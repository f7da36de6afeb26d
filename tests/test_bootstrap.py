"""Metrics of saved predictions and the cluster bootstrap, against values worked by hand and slow loops."""

import time

import numpy as np
import pytest

from kdexp.bootstrap import check_metrics, cluster_bootstrap, metrics
from kdexp.contracts import TaskSpec
from kdexp.errors import ConfigError, DataError
from kdexp.predictions import Predictions, task_arrays

ALL = ("acc", "f1", "prec", "rec", "auc")


def predictions(logits, target, cluster=None, mask=None, task="t") -> Predictions:
    n = len(target)
    cluster = np.arange(n) if cluster is None else cluster
    return Predictions(
        index=np.arange(n),
        cluster=np.asarray(cluster).astype(str),
        logits={task: np.asarray(logits, dtype=np.float32)},
        targets={task: np.asarray(target)},
        masks={} if mask is None else {task: np.asarray(mask)},
    )


def one_hot(labels, n_classes) -> np.ndarray:
    return np.eye(n_classes)[labels] * 5


def multiclass(n_classes=3, names=ALL) -> TaskSpec:
    return TaskSpec(name="t", kind="multiclass", classes=tuple("abcdefgh"[:n_classes]), metrics=names)


def test_macro_metrics_equal_values_worked_by_hand():
    # Truth a a a b b c, predicted a a b b c c:
    # a: precision 2/2, recall 2/3, F1 4/5; b: 1/2, 1/2, 1/2; c: 1/2, 1/1, 2/3.
    made = metrics(predictions(one_hot([0, 0, 1, 1, 2, 2], 3), [0, 0, 0, 1, 1, 2]), (multiclass(),), ("t/f1",))
    assert made["t/acc"] == pytest.approx(4 / 6)
    assert made["t/prec"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert made["t/rec"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert made["t/f1"] == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    assert made["score"] == made["t/f1"]


def test_a_class_in_neither_truth_nor_prediction_is_left_out_and_one_that_is_only_predicted_counts_zero():
    absent = metrics(predictions(one_hot([0, 0, 1], 4), [0, 0, 1]), (multiclass(4),), ("t/f1",))
    assert absent["t/f1"] == 1.0
    # b is predicted once and never true: F1 of a is 4/5, of b 0; c and d do not occur.
    wrong = metrics(predictions(one_hot([0, 0, 1], 4), [0, 0, 0]), (multiclass(4),), ("t/f1",))
    assert wrong["t/f1"] == pytest.approx((4 / 5 + 0) / 2)


def test_auc_counts_ties_one_half_and_ignores_absent_classes():
    logit = [0.0, 1.0, 1.0, 2.0]
    # Positives 1 (tied with the negative 1) and 2; negatives 0 and 1: pairs 1>0, 1=1, 2>0, 2>1.
    task = TaskSpec(name="t", kind="binary", classes=("no", "yes"), metrics=ALL)
    assert metrics(predictions(logit, [0, 0, 1, 1]), (task,), ("t/auc",))["t/auc"] == pytest.approx(3.5 / 4)
    three = np.stack([np.zeros(4), logit, np.full(4, -50.0)], 1)
    made = metrics(predictions(three, [0, 0, 1, 1]), (multiclass(),), ("t/auc",))
    assert made["t/auc"] == pytest.approx(3.5 / 4)


def test_auc_is_not_flattened_by_probabilities_that_round_to_one():
    # softmax(800) and softmax(900) are both exactly 1.0, but they rank.
    logits = np.array([[0, 800.0], [0, 900.0]])
    made = metrics(predictions(logits, [0, 1]), (multiclass(2),), ("t/auc",))
    assert made["t/auc"] == 1.0


def test_an_auc_without_a_second_class_is_left_out_and_stops_a_score_that_needs_it():
    one_class = predictions(one_hot([0, 1], 3), [0, 0])
    assert "t/auc" not in metrics(one_class, (multiclass(),), ("t/f1",))
    with pytest.raises(DataError, match="score needs t/auc, undefined on these 2 samples"):
        metrics(one_class, (multiclass(),), ("t/auc",))


def test_candidate_accuracy_counts_positions_and_never_picks_a_masked_candidate():
    logits = np.zeros((2, 2, 3))
    logits[..., 2] = 9.0
    logits[:, :, 1] = 1.0
    mask = np.ones((2, 2, 3), dtype=bool)
    mask[0, 0, 2] = False
    # Position (0,0) picks 1, the others 2; (1,1) does not count.
    data = predictions(logits, [[1, 1], [2, -1]], mask=mask)
    task = TaskSpec(name="t", kind="candidates", metrics=("acc",))
    assert metrics(data, (task,), ("t/acc",))["t/acc"] == pytest.approx(2 / 3)


def test_accuracy_over_decisions_and_over_all_but_the_last_by_hand():
    # A trip of three positions with 2, 1 and 2 candidates: right, right, wrong. One of a single position, right, with
    # two candidates. One of two, of which only the first counts: wrong, with two candidates.
    logits = np.zeros((3, 3, 2))
    logits[..., 1] = 1.0
    mask = np.array([[[1, 1], [1, 0], [1, 1]], [[1, 1], [0, 0], [0, 0]], [[1, 1], [1, 1], [0, 0]]], dtype=bool)
    target = [[1, 0, 0], [1, -1, -1], [0, -1, -1]]
    task = TaskSpec(name="t", kind="candidates", metrics=("acc", "acc_decisions", "acc_inner"))
    made = metrics(predictions(logits, target, mask=mask), (task,), ("t/acc",))
    assert made["t/acc"] == pytest.approx(3 / 5)
    assert made["t/acc_decisions"] == pytest.approx(2 / 4)
    # The first two positions of the first trip; every other is its trip's last that counts.
    assert made["t/acc_inner"] == pytest.approx(2 / 2)


def test_durations_equal_values_worked_by_hand():
    # Logs of 1 + seconds: 3 said where it was 4, 0.5 where it was 0, and -1 (less than no time) where it was 0.5.
    data = predictions([[3.0, 0.5], [-1.0, 7.0]], [[4.0, 0.0], [0.5, np.nan]])
    data.logits["c"], data.targets["c"] = np.array([1.0, 1.0]), np.array([1, 1])
    tasks = (
        TaskSpec(name="t", kind="duration", metrics=("mape_log", "mape_sec")),
        TaskSpec(name="c", kind="binary", metrics=("acc",)),
    )
    made = metrics(data, tasks, ("c/acc",))
    assert made["t/mape_log"] == pytest.approx((1 / 4 + 0.5 / 1 + 1.5 / 1) / 3)
    seconds = [np.e**4 - 1, 0.0, np.e**0.5 - 1]
    said = [np.e**3 - 1, np.e**0.5 - 1, 0.0]
    gaps = [abs(p - s) / max(s, 1) for p, s in zip(said, seconds, strict=True)]
    assert made["t/mape_sec"] == pytest.approx(np.mean(gaps))


def test_means_over_positions_agree_with_a_slow_loop_over_the_same_draws():
    generator = np.random.default_rng(3)
    n, longest = 40, 6
    counts = np.arange(longest) < generator.integers(1, longest + 1, (n, 1))
    mask = np.arange(4) < (generator.integers(1, 5, (n, longest)) * counts)[..., None]
    target = np.where(counts, np.where(mask, generator.random(mask.shape), -1).argmax(-1), -1)
    data = predictions(generator.normal(size=mask.shape), target, generator.integers(0, 15, n), mask)
    data.logits["s"] = generator.normal(size=counts.shape) + 2
    data.targets["s"] = np.where(counts, generator.random(counts.shape) * 4, np.nan)
    tasks = (
        TaskSpec(name="t", kind="candidates", metrics=("acc", "acc_decisions", "acc_inner")),
        TaskSpec(name="s", kind="duration", metrics=("mape_log", "mape_sec")),
    )
    slow = slow_bootstrap(data, tasks, ("t/acc",), 50, seed=5)
    fast = cluster_bootstrap(data, tasks, ("t/acc",), n_resamples=50, level=0.9, seed=5)
    assert set(fast) == set(slow) and len(fast) == 6
    for name, values in slow.items():
        assert fast[name].low == pytest.approx(np.quantile(values, 0.05), abs=1e-12), name
        assert fast[name].high == pytest.approx(np.quantile(values, 0.95), abs=1e-12), name


def test_regression_metrics_equal_values_worked_by_hand():
    data = predictions([1.0, 2.0, 3.0], [1.0, 4.0, 2.0])
    other = TaskSpec(name="c", kind="binary", metrics=("acc",))
    data.logits["c"], data.targets["c"] = np.array([1.0, 1.0, -1.0]), np.array([1, 0, 0])
    made = metrics(data, (TaskSpec(name="t", kind="regression", metrics=("mae", "rmse")), other), ("c/acc",))
    assert made["t/mae"] == pytest.approx(1.0)
    assert made["t/rmse"] == pytest.approx((5 / 3) ** 0.5)


def test_the_score_is_the_mean_of_its_metrics_over_tasks():
    data = predictions(one_hot([0, 1, 1], 2), [0, 1, 0])
    data.logits["u"], data.targets["u"] = np.array([1.0, 1.0, -1.0]), np.array([1, 1, 0])
    tasks = (multiclass(2, ("acc",)), TaskSpec(name="u", kind="binary", metrics=("acc",)))
    assert metrics(data, tasks, ("t/acc", "u/acc"))["score"] == pytest.approx((2 / 3 + 1) / 2)


def slow_bootstrap(data, tasks, score, n_resamples, seed) -> dict[str, np.ndarray]:
    """The same draws, each made into a data set of its own and measured alone."""
    generator = np.random.default_rng(seed)
    names = np.unique(data.cluster)
    rows = []
    for _ in range(n_resamples):
        drawn = names[generator.integers(0, len(names), size=len(names))]
        position = np.concatenate([np.flatnonzero(data.cluster == name) for name in drawn])
        taken = Predictions(
            index=position,
            cluster=data.cluster[position],
            logits={name: value[position] for name, value in data.logits.items()},
            targets={name: value[position] for name, value in data.targets.items()},
            masks={name: value[position] for name, value in data.masks.items()},
        )
        rows.append(metrics(taken, tasks, score))
    return {name: np.array([row[name] for row in rows if name in row]) for name in rows[0]}


def noisy(n, n_classes, n_clusters, seed) -> Predictions:
    generator = np.random.default_rng(seed)
    target = generator.choice(n_classes, size=n, p=np.arange(n_classes, 0, -1) / np.arange(n_classes + 1).sum())
    logits = np.eye(n_classes)[target] + generator.normal(size=(n, n_classes))
    return predictions(logits, target, generator.integers(0, n_clusters, size=n))


def test_resampled_metrics_equal_a_plain_slow_loop_even_where_a_draw_lacks_a_class():
    data, tasks = noisy(30, 4, 12, seed=3), (multiclass(4),)
    slow = slow_bootstrap(data, tasks, ("t/f1", "t/auc"), 60, seed=5)
    fast = cluster_bootstrap(data, tasks, ("t/f1", "t/auc"), n_resamples=60, level=0.9, seed=5)
    assert set(fast) == set(slow) == {"score", *(f"t/{name}" for name in ALL)}
    for name, values in slow.items():
        assert fast[name].low == pytest.approx(np.quantile(values, 0.05), abs=1e-12), name
        assert fast[name].high == pytest.approx(np.quantile(values, 0.95), abs=1e-12), name
    # The check is only worth something if some draws really lack a class.
    n_classes_drawn = [
        len(set(data.targets["t"][np.isin(data.cluster, draw)]))
        for draw in np.random.default_rng(5).integers(0, 12, size=(60, 12)).astype(str)
    ]
    assert min(n_classes_drawn) < 4


def test_draws_on_which_a_metric_is_undefined_are_left_out_of_its_interval_and_counted():
    data = predictions(one_hot([0, 0, 0, 1], 2), [0, 0, 0, 1])
    intervals = cluster_bootstrap(data, (multiclass(2),), ("t/f1",), n_resamples=400, seed=0)
    # The chance that the one positive of four is not drawn is (3/4)^4 = 0.32, and that only it is drawn 1/256.
    assert 0.6 < intervals["t/auc"].n_resamples / 400 < 0.76
    assert intervals["t/f1"].n_resamples == 400


def test_the_cluster_interval_is_wider_than_the_sample_interval_on_clustered_data():
    # 40 clusters of 10 samples each; a cluster is right or wrong as a whole.
    right = np.random.default_rng(0).random(40).repeat(10) < 0.7
    target = np.tile([0, 1], 200)
    labels = np.where(right, target, 1 - target)
    task = (multiclass(2, ("acc", "f1")),)
    clustered = predictions(one_hot(labels, 2), target, np.arange(40).repeat(10))
    by_sample = predictions(one_hot(labels, 2), target)
    wide = cluster_bootstrap(clustered, task, ("t/f1",), n_resamples=1000, seed=1)["score"]
    narrow = cluster_bootstrap(by_sample, task, ("t/f1",), n_resamples=1000, seed=1)["score"]
    # Ten perfectly dependent samples a cluster: the interval is about sqrt(10) = 3.2 times as wide.
    assert 2.5 < (wide.high - wide.low) / (narrow.high - narrow.low) < 4
    assert (wide.n, wide.n_clusters, narrow.n_clusters) == (400, 40, 400)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # 200 data sets of 60 clusters of 3; accuracy per cluster is 0 or 1 with mean 0.6.
    generator = np.random.default_rng(8)
    covered = 0
    for _ in range(200):
        right = (generator.random(60) < 0.6).repeat(3)
        data = predictions(one_hot(np.where(right, 0, 1), 2), np.zeros(180, dtype=int), np.arange(60).repeat(3))
        found = cluster_bootstrap(data, (multiclass(2, ("acc",)),), ("t/acc",), n_resamples=300, seed=0)["score"]
        covered += found.low <= 0.6 <= found.high
    # 95 % of 200 is 190; a percentile interval of 60 clusters runs a little short.
    assert 180 <= covered <= 199


def test_the_same_seed_draws_the_same_interval_and_another_seed_another():
    data, tasks = noisy(80, 3, 40, seed=1), (multiclass(),)
    first = cluster_bootstrap(data, tasks, ("t/f1",), n_resamples=200, seed=4)
    assert first == cluster_bootstrap(data, tasks, ("t/f1",), n_resamples=200, seed=4)
    other = cluster_bootstrap(data, tasks, ("t/f1",), n_resamples=200, seed=5)
    assert (first["score"].low, first["score"].high) != (other["score"].low, other["score"].high)


def test_the_point_estimate_lies_inside_and_a_higher_level_is_wider():
    data, tasks = noisy(200, 3, 90, seed=2), (multiclass(),)
    point = metrics(data, tasks, ("t/f1",))
    narrow = cluster_bootstrap(data, tasks, ("t/f1",), level=0.8, seed=0)
    wide = cluster_bootstrap(data, tasks, ("t/f1",), level=0.99, seed=0)
    for name, value in point.items():
        assert wide[name].low < narrow[name].low < value < narrow[name].high < wide[name].high


def test_chunks_do_not_change_the_draws(monkeypatch):
    data, tasks = noisy(50, 3, 20, seed=2), (multiclass(),)
    whole = cluster_bootstrap(data, tasks, ("t/f1",), n_resamples=100, seed=0)
    monkeypatch.setattr("kdexp.bootstrap._CHUNK_ELEMENTS", 50 * 7)
    assert cluster_bootstrap(data, tasks, ("t/f1",), n_resamples=100, seed=0) == whole


def test_two_thousand_draws_of_two_hundred_samples_take_no_loop_in_python():
    data, tasks = noisy(200, 8, 150, seed=2), (multiclass(8),)
    start = time.process_time()
    cluster_bootstrap(data, tasks, ("t/f1",), n_resamples=2000, seed=0)
    # A loop over draws takes several seconds; this takes a tenth of one.
    assert time.process_time() - start < 2


def test_one_cluster_and_no_samples_are_refused_with_the_reason():
    with pytest.raises(DataError, match=r"all 3 samples belong to one cluster \(case-1\)"):
        cluster_bootstrap(predictions(one_hot([0, 1, 1], 2), [0, 1, 0], ["case-1"] * 3), (multiclass(2),), ("t/f1",))
    with pytest.raises(DataError, match="holds no samples"):
        predictions(np.zeros((0, 2)), [])


@pytest.mark.parametrize("settings", [{"level": 1.0}, {"level": 0.0}, {"n_resamples": 0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        cluster_bootstrap(noisy(20, 2, 10, seed=0), (multiclass(2),), ("t/f1",), **settings)


@pytest.mark.parametrize(
    ("metrics_of_task", "score", "said"),
    [
        (("f2",), ("t/f2",), "task t: unknown metric 'f2'; a multiclass task has acc, f1, prec, rec, auc"),
        (("acc",), ("t/f1",), "score: unknown metric 't/f1'; the tasks report t/acc"),
        (("acc",), (), "score: names no metric"),
    ],
)
def test_an_unknown_metric_is_named_with_the_choices(metrics_of_task, score, said):
    with pytest.raises(ConfigError) as caught:
        check_metrics((multiclass(2, metrics_of_task),), score)
    assert said in str(caught.value)


def test_a_duration_error_cannot_be_a_score_to_maximise():
    task = TaskSpec(name="t", kind="duration", metrics=("mape_log", "mape_sec"))
    with pytest.raises(ConfigError, match="t/mape_sec is an error, smaller is better"):
        check_metrics((task,), ("t/mape_sec",))


def test_an_error_metric_cannot_be_a_score_to_maximise():
    with pytest.raises(ConfigError, match="t/mae is an error, smaller is better"):
        check_metrics((TaskSpec(name="t", kind="regression", metrics=("mae",)),), ("t/mae",))


def test_a_saved_file_reads_back_as_it_was(tmp_path):
    data = predictions(np.zeros((2, 3)), [0, 1], ["Fall Ä", "b"], np.array([[1, 1, 0], [1, 1, 1]], dtype=bool))
    data.save(tmp_path / "predictions" / "val.npz")
    read = Predictions.load(tmp_path / "predictions" / "val.npz")
    assert read.cluster.tolist() == ["Fall Ä", "b"]
    assert read.masks["t"].dtype == bool and (read.masks["t"] == data.masks["t"]).all()
    assert read.logits["t"].dtype == np.float32 and (read.targets["t"] == [0, 1]).all()
    with np.load(tmp_path / "predictions" / "val.npz", allow_pickle=False) as file:
        assert sorted(file.files) == ["cluster", "index", "logits.t", "mask.t", "target.t"]


def test_a_missing_broken_or_pickled_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.npz does not exist"):
        Predictions.load(tmp_path / "none.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(DataError, match=r"broken\.npz is not a predictions file"):
        Predictions.load(tmp_path / "broken.npz")
    np.savez(tmp_path / "pickled.npz", index=np.array([{"a": 1}], dtype=object), cluster=np.array(["a"]))
    with pytest.raises(DataError, match="not a predictions file"):
        Predictions.load(tmp_path / "pickled.npz")
    np.savez(tmp_path / "short.npz", index=np.arange(2))
    with pytest.raises(DataError, match="lacks cluster"):
        Predictions.load(tmp_path / "short.npz")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"logits": {"t": np.array([[0.0, 1.0], [np.nan, 1.0]])}}, "logits.t is not finite at sample 11"),
        ({"targets": {"t": np.array([0])}}, "target.t has 1 samples, index has 2"),
        ({"targets": {"u": np.array([0, 1])}}, r"logits for \['t'\] but targets for \['u'\]"),
        ({"masks": {"t": np.ones((2, 3), bool)}}, r"mask.t has the shape \(2, 3\)"),
    ],
)
def test_predictions_that_do_not_fit_together_are_refused(change, said):
    fitting = {
        "index": np.array([10, 11]),
        "cluster": np.array(["a", "b"]),
        "logits": {"t": np.zeros((2, 2))},
        "targets": {"t": np.array([0, 1])},
    }
    Predictions(**fitting)
    with pytest.raises(DataError, match=said):
        Predictions(**(fitting | change))


@pytest.mark.parametrize(
    ("data", "task", "said"),
    [
        (predictions(np.zeros((2, 3)), [0, 3]), multiclass(), "target.t 3 is no class from 0 to 2 at sample 1"),
        (predictions(np.zeros((2, 3)), [0, 1]), multiclass(4), "the task has 4 classes, the logits say 3"),
        (predictions(np.zeros(2), [0, 1]), multiclass(2), "does not fit logits.t"),
        (predictions(np.zeros((2, 2)), [0, 1], task="u"), multiclass(2), "holds no task 't', only u"),
        (
            predictions(np.zeros((1, 2)), [1], mask=[[True, False]]),
            TaskSpec(name="t", kind="candidates", metrics=("acc",)),
            "target.t 1 is no real candidate at sample 0",
        ),
        (
            predictions(np.zeros((1, 2)), [1]),
            TaskSpec(name="t", kind="candidates", metrics=("acc",)),
            "lacks mask.t",
        ),
    ],
)
def test_predictions_that_do_not_fit_the_task_are_refused(data, task, said):
    with pytest.raises(DataError, match=said):
        metrics(data, (task,), (f"t/{task.metrics[0]}",))


def test_durations_that_do_not_fit_the_task_are_refused():
    task = TaskSpec(name="t", kind="duration", metrics=("mape_log",))
    with pytest.raises(DataError, match=r"target\.t is not finite at sample 0"):
        task_arrays(predictions(np.zeros((1, 2)), [[1.0, np.inf]]), task)
    with pytest.raises(DataError, match=r"a duration task does not fit logits\.t \(2,\)"):
        task_arrays(predictions(np.zeros(2), [1.0, 2.0]), task)
    with pytest.raises(DataError, match=r"logits\.t is not finite at sample 1"):
        predictions([[0.0, np.nan], [np.nan, 0.0]], [[1.0, np.nan], [1.0, 1.0]])


@pytest.mark.parametrize("kind", ["multiclass", "binary", "candidates", "regression", "duration"])
def test_a_weight_of_two_is_the_sample_twice_in_its_cluster(kind):
    random = np.random.default_rng(7)
    n, twice = 40, np.random.default_rng(8).integers(1, 3, 40)
    cluster, mask = np.arange(n) // 2, None
    if kind == "multiclass":
        task, logits, target = multiclass(), random.normal(size=(n, 3)), random.integers(0, 3, n)
    elif kind == "binary":
        names = (*ALL, "rejection_80", "rejection_80_interpolated")
        task = TaskSpec(name="t", kind="binary", metrics=names)
        target = random.integers(0, 2, n)
        logits = (random.normal(size=n) + target).round(1)
    elif kind == "candidates":
        task = TaskSpec(name="t", kind="candidates", metrics=("acc", "acc_decisions", "acc_inner"))
        logits, target, mask = random.normal(size=(n, 3, 2)), random.integers(-1, 2, (n, 3)), np.ones((n, 3, 2), bool)
    else:
        names = ("mae", "rmse") if kind == "regression" else ("mape_log", "mape_sec")
        task = TaskSpec(name="t", kind=kind, metrics=names)
        logits, target = random.uniform(1, 3, (2, n) if kind == "regression" else (2, n, 2))
    other = multiclass(names=("acc",))
    other = TaskSpec(name="o", kind="multiclass", classes=other.classes, metrics=("acc",))
    classes, truth = one_hot(random.integers(0, 3, n), 3), random.integers(0, 3, n)

    def both(picked, weights=None) -> Predictions:
        return Predictions(
            index=np.arange(len(picked)),
            cluster=cluster[picked].astype(str),
            logits={"t": logits[picked], "o": classes[picked]},
            targets={"t": target[picked], "o": truth[picked]},
            masks={} if mask is None else {"t": mask[picked]},
            weights=weights,
        )

    # Weights count among each other alone: 0.3 and 0.6 are as 1 and 2.
    weighted, repeated = both(np.arange(n), 0.3 * twice), both(np.repeat(np.arange(n), twice))
    said = metrics(weighted, (task, other), ("o/acc",)), metrics(repeated, (task, other), ("o/acc",))
    assert set(said[0]) == {*(f"t/{name}" for name in task.metrics), "o/acc", "score"}
    assert said[0] == pytest.approx(said[1])
    assert said[0] != pytest.approx(metrics(both(np.arange(n)), (task, other), ("o/acc",)))
    drawn = [cluster_bootstrap(one, (task, other), ("o/acc",), n_resamples=50, seed=3) for one in (weighted, repeated)]
    for name in {*drawn[0]} - {"t/rejection_80", "t/rejection_80_interpolated"}:  # whose bound is the number of samples
        interval = drawn[0][name]
        assert (interval.low, interval.high) == pytest.approx((drawn[1][name].low, drawn[1][name].high)), name


def test_weights_and_covariates_come_back_from_the_file(tmp_path):
    there = Predictions(
        index=np.arange(4),
        cluster=np.array(list("abcd")),
        logits={"t": np.array([2.0, -1.0, 1.0, 3.0])},
        targets={"t": np.array([1, 0, 0, 1])},
        weights=np.array([1.0, 3.0, 1.0, 0.0]),
        covariates={"jet pT [GeV]": np.array([400.0, 500.0, 600.0, 700.0])},
    )
    there.save(tmp_path / "test.npz")
    back = Predictions.load(tmp_path / "test.npz")
    assert back.weights.tolist() == there.weights.tolist()
    assert back.covariates["jet pT [GeV]"].tolist() == [400.0, 500.0, 600.0, 700.0]
    half = back.at(np.array([True, True, False, False]))
    assert (
        len(half) == 2
        and half.weights.tolist() == [1.0, 3.0]
        and half.covariates["jet pT [GeV]"].tolist() == [400, 500]
    )
    assert metrics(back, (TaskSpec(name="t", kind="binary"),), ("t/acc",))["t/acc"] == pytest.approx(4 / 5)


@pytest.mark.parametrize("weights", [[1.0, -1.0], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(DataError, match="a weight is negative or no number, or all are 0"):
        Predictions(
            index=np.arange(2),
            cluster=np.array(["a", "b"]),
            logits={"t": np.zeros(2)},
            targets={"t": np.array([0, 1])},
            weights=np.array(weights),
        )


def test_a_rejection_says_the_greatest_that_its_samples_can_show():
    task = TaskSpec(name="t", kind="binary", metrics=("acc", "auc", "rejection_50"))
    found = cluster_bootstrap(predictions([5, 4, 3, 2, 1, 0], [1, 1, 0, 0, 0, 0]), (task,), ("t/auc",), n_resamples=20)
    assert found["t/rejection_50"].as_dict()["at_most"] == 4
    assert "at_most" not in found["t/auc"].as_dict()
