"""A run's figures: what they say about themselves, what they mark, and when they refuse."""

from itertools import pairwise

import numpy as np
import pytest
from made_run import LOCATION, MODALITY, change_record, made_predictions, make_run
from matplotlib.image import imread

from kdexp.analysis.calibration import confidence_and_hits, reliability
from kdexp.analysis.figures import confusion, draw_run, learning_curves, reliability_diagram
from kdexp.analysis.run import Run
from kdexp.contracts import TaskSpec
from kdexp.errors import DataError
from kdexp.predictions import Predictions
from kdexp.records import keep_lines, read_lines

FILES = [
    "learning_curves.png",
    "confusion_modality.png",
    "reliability_modality.png",
    "confusion_location.png",
    "reliability_location.png",
]


def texts(figure) -> str:
    """Everything written on a figure: head, titles, labels, legends."""
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel(), *(t.get_text() for t in axes.texts)]
        found += [label.get_text() for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
        if axes.get_legend():
            found += [text.get_text() for text in axes.get_legend().get_texts()]
    return "\n".join(found)


def figures_of(run: Run) -> list:
    predictions = run.predictions(run.evaluated_split)
    return [
        learning_curves(run),
        confusion(run, predictions, LOCATION, run.evaluated_split),
        reliability_diagram(run, predictions, LOCATION, run.evaluated_split),
    ]


def test_a_run_gets_its_learning_curves_and_two_figures_a_task(tmp_path):
    drawn = draw_run(make_run(tmp_path / "run"))
    assert [path.name for path in drawn] == FILES
    for path in drawn:
        assert path.parent == tmp_path / "run" / "figures"
        picture = imread(path)
        assert min(picture.shape[:2]) > 500
        # Something is drawn: more than the page and one colour of ink.
        assert len(np.unique(picture[::4, ::4].reshape(-1, picture.shape[-1]), axis=0)) > 50


@pytest.mark.parametrize("source", ["real", "synthetic"])
def test_every_figure_says_data_split_counts_source_and_seed(tmp_path, source):
    run = Run.read(make_run(tmp_path / "run", source=source))
    for figure, split in zip(figures_of(run), ("val: 197", "test: 200", "test: 200"), strict=True):
        said = texts(figure)
        assert "medpix" in said and "seed 42" in said and "config 9f8e7d6c5b4a" in said
        assert f"{split} samples of {67 if split.startswith('val') else 69} cases" in said
        assert ("SYNTHETIC DATA" in said.split("\n")) == (source == "synthetic")
        assert ("real data" in said) == (source == "real")


def test_the_learning_curves_mark_the_best_epoch_and_the_scores_to_compare_with(tmp_path):
    run = Run.read(make_run(tmp_path / "run"))
    figure = learning_curves(run)
    said = texts(figure)
    best = run.record["metrics"]["val"]["best"]["score"]
    assert f"best: {best:.3f}, epoch 7" in said
    assert f"teacher: {run.record['teacher']['metrics']['val']['score']:.3f}" in said
    assert f"no-KD student, best epoch: {run.record['no_kd']['metrics']['val']['best']['score']:.3f}" in said
    (star,) = [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (7, pytest.approx(best))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert len(titles) == 4 and titles[2] == "temperature T"


def test_lines_and_panels_of_what_a_run_does_not_have_are_left_out(tmp_path):
    run = Run.read(make_run(tmp_path / "run", with_teacher=False, with_no_kd=False, n_epochs=1))
    figure = learning_curves(run)
    assert len(figure.axes) == 2
    assert "teacher" not in texts(figure) and "no-KD" not in texts(figure)


def test_a_run_without_test_metrics_is_drawn_on_val_and_says_so(tmp_path):
    path = make_run(tmp_path / "run", with_test=False)
    assert [file.name for file in draw_run(path)] == FILES
    said = texts(figures_of(Run.read(path))[1])
    assert "val: 197 samples" in said and "test" not in said


def test_the_confusion_matrix_keeps_the_order_of_the_classes_even_if_one_never_occurs(tmp_path):
    run = Run.read(make_run(tmp_path / "run"))
    # Truth 0 0 3, predicted 0 3 3; classes 1, 2 and 4 do not occur.
    predictions = Predictions(
        index=np.arange(3),
        cluster=np.array(["a", "b", "c"]),
        logits={"location": np.eye(5)[[0, 3, 3]]},
        targets={"location": np.array([0, 0, 3])},
    )
    figure = confusion(run, predictions, LOCATION, "test")
    axes = figure.axes[0]
    labels = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
    assert labels == [
        "Abdomen n = 2",
        "Head n = 0",
        "Reproductive and Urinary System n = 0",
        "Spine and Muscles n = 1",
        "Thorax n = 0",
    ]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "1\n50%", (3, 0): "1\n50%", (3, 3): "1\n100%"}


@pytest.mark.parametrize("n_classes", [2, 11, 24, 36])
def test_long_class_names_lie_on_the_page_and_off_each_other(tmp_path, n_classes):
    run = Run.read(make_run(tmp_path / "run", source="synthetic"))
    names = tuple(f"Reproductive and Urinary System $n_{number}$" for number in range(n_classes))
    task = TaskSpec(name="organ", kind="multiclass", classes=names)
    generator = np.random.default_rng(0)
    predictions = Predictions(
        index=np.arange(100),
        cluster=np.arange(100).astype(str),
        logits={"organ": generator.normal(size=(100, n_classes))},
        targets={"organ": generator.integers(0, n_classes, 100)},
    )
    figure = confusion(run, predictions, task, "test")
    figure.canvas.draw()
    page = figure.bbox
    axes = figure.axes[0]
    rows = [label.get_window_extent() for label in axes.get_yticklabels()]
    for box in (*rows, *(label.get_window_extent() for label in axes.get_xticklabels())):
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
    assert len(rows) == n_classes
    for above, below in pairwise(rows):
        assert above.y0 >= below.y1
    head = [text.get_window_extent() for text in figure.texts]
    assert min(box.y0 for box in head) >= axes.get_window_extent().y1
    assert max(box.x1 for box in head) <= page.x1


def test_the_expected_calibration_error_equals_one_worked_by_hand():
    # Bin (0.5, 0.6]: confidences 0.55 and 0.6, one of two right; bin (0.8, 0.9]: 0.9, right.
    table = reliability(np.array([0.55, 0.6, 0.9]), np.array([True, False, True]))
    assert table.n_B.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 1, 0]
    assert table.ece == pytest.approx(2 / 3 * abs(0.5 - 0.575) + 1 / 3 * 0.1)
    with pytest.raises(ValueError, match="no prediction to bin"):
        reliability(np.array([]), np.array([]))


def test_a_model_that_means_what_it_says_has_almost_no_calibration_error():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1, size=200_000)
    assert reliability(confidence, generator.random(200_000) < confidence).ece < 0.005
    assert reliability(np.ones(10), np.zeros(10, dtype=bool)).ece == 1.0


def test_confidence_is_the_probability_of_the_prediction_for_every_kind_of_task():
    data = Predictions(
        index=np.arange(2),
        cluster=np.array(["a", "b"]),
        logits={
            "two": np.log([[0.8, 0.2], [0.3, 0.7]]),
            "one": np.array([np.log(0.2 / 0.8), np.log(0.7 / 0.3)]),
            "choice": np.array([[[0.0, 0.0, 9.0]], [[0.0, 5.0, 9.0]]]),
        },
        targets={"two": np.array([0, 0]), "one": np.array([0, 0]), "choice": np.array([[0], [-1]])},
        masks={"choice": np.array([[[True, True, False]], [[True, True, True]]])},
    )
    for task in (
        TaskSpec(name="two", kind="multiclass", classes=("a", "b")),
        TaskSpec(name="one", kind="binary", classes=("a", "b")),
    ):
        confidence, hit = confidence_and_hits(data, task)
        assert confidence == pytest.approx([0.8, 0.7]) and hit.tolist() == [True, False]
    # The masked candidate takes no probability, and the position that does not count gives no row.
    confidence, _ = confidence_and_hits(data, TaskSpec(name="choice", kind="candidates", metrics=("acc",)))
    assert confidence == pytest.approx([0.5])


def test_the_reliability_diagram_says_its_error_and_on_how_many(tmp_path):
    run = Run.read(make_run(tmp_path / "run"))
    predictions = made_predictions("test", 1.6, 2)
    ece = reliability(*confidence_and_hits(predictions, MODALITY)).ece
    said = texts(reliability_diagram(run, predictions, MODALITY, "test"))
    assert f"Reliability: modality, ECE {ece:.3f} (n = 200)" in said


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"is not a finished run: it holds no run\.json"):
        draw_run(tmp_path)


def test_an_empty_figure_is_an_error_with_its_reason(tmp_path):
    path = make_run(tmp_path / "run")
    metrics = path / "metrics.jsonl"
    rows = read_lines(metrics)
    for kept, said in (
        ([], "holds no epoch"),
        ([{"epoch": row["epoch"], "train/loss": 1.0} for row in rows], "holds no val/score"),
        ([{**row, "val/score": None} for row in rows], "holds no val/score"),
        ([{"epoch": row["epoch"], "val/score": row["val/score"]} for row in rows], "holds no loss"),
        (rows[:3], "no val/score for epoch 7, which the record calls the best"),
    ):
        keep_lines(metrics, kept)
        with pytest.raises(DataError, match=said):
            learning_curves(Run.read(path))


def test_a_missing_predictions_file_is_named(tmp_path):
    path = make_run(tmp_path / "run")
    (path / "predictions" / "test.npz").unlink()
    with pytest.raises(DataError, match=r"test\.npz does not exist"):
        draw_run(path)


def test_classes_that_do_not_fit_the_predictions_are_refused(tmp_path):
    path = make_run(tmp_path / "run")
    task = {"name": "location", "kind": "multiclass", "classes": ["only", "two"], "metrics": ["f1"]}
    change_record(path, tasks=[task])
    with pytest.raises(DataError, match="the task has 2 classes, the logits say 5"):
        draw_run(path)
