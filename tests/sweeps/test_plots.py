"""A study's plots: each is there, in both forms, with something on it; or there is a reason, and no picture."""

import dataclasses
import io
import json
import logging
import re
import sys
import warnings

import matplotlib
import numpy as np
import optuna
import pytest
from matplotlib import pyplot
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial
from PIL import Image

from kdexp.errors import StudyError
from kdexp.records import read_json
from kdexp.sweeps import plots as drawing
from kdexp.sweeps.charts import charts
from kdexp.sweeps.pictures import Facts, picture
from kdexp.sweeps.plots import draw_plots
from kdexp.sweeps.view import take_view
from made_study import new_study, night, run_trial

KINDS = [
    "optimization_history", "edf", "param_importances", "slice", "contour", "parallel_coordinate", "timeline",
    "intermediate_values",
]  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The plots of a night on synthetic data."""
    folder = tmp_path_factory.mktemp("night")
    return folder, draw_plots(night(folder, n=12, source="synthetic"), folder)


@pytest.fixture(autouse=True)
def small_contours(monkeypatch):
    """One pair of parameters instead of twelve, for speed."""
    monkeypatch.setattr("kdexp.sweeps.charts.N_CONTOUR_PARAMETERS", 2)


def reasons(plots) -> dict[str, str]:
    return {problem.name: problem.reason for problem in plots.problems}


def test_a_nights_study_has_every_plot_in_both_forms(drawn):
    folder, plots = drawn
    assert [plot.name for plot in plots.plots] == KINDS
    assert plots.problems == ()
    assert len(plots.paths) == 2 * len(KINDS)
    assert {path.name for path in (folder / "plots").iterdir()} == {
        *(path.name for path in plots.paths), "plotly.min.js", "plots.json",
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_shows_more_than_one_colour_below_its_head(drawn, kind):
    with Image.open(drawn[0] / "plots" / f"{kind}.png") as image:
        shown = np.asarray(image.convert("RGB"))
    assert min(shown.shape[:2]) > 200
    below = shown[shown.shape[0] // 3 :].reshape(-1, 3)
    assert len(np.unique(below, axis=0)) > 50


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_needs_one_script_beside_it_and_no_network(drawn, kind):
    page = (drawn[0] / "plots" / f"{kind}.html").read_text()
    assert re.findall(r'<script[^>]*\ssrc="([^"]*)"', page) == ["plotly.min.js"]
    assert re.findall(r"<(?:link|img|iframe)\b[^>]*", page) == []
    # What the numbers were measured on stands above them.
    assert "SYNTHETIC DATA" in page
    assert "study toy · val/score (maximize)" in json.loads('"' + page_title(page) + '"')
    assert "medpix, SYNTHETIC data, val: 197 samples · 10 complete, 3 pruned" in json.loads(
        '"' + page_title(page) + '"'
    )


def page_title(page: str) -> str:
    """The subtitle of a plotly page, as it stands in its JSON."""
    (found,) = re.findall(r'"subtitle":\{"text":"((?:[^"\\]|\\.)*)"', page)
    return found


def test_the_list_says_what_was_drawn_of_how_many_trials(drawn):
    listed = read_json(drawn[0] / "plots" / "plots.json")
    assert listed["n_trials"] == 17
    assert [plot["name"] for plot in listed["plots"]] == KINDS
    assert listed["plots"][2]["title"] == "Parameter importance (PED-ANOVA)"


NO_TRIAL = "no trial is complete (no trials)"
ONLY_PRUNED = "no trial is complete (2 pruned)"
ONLY_FAILED = "no trial is complete (1 fail)"
OF_VALUES = KINDS[:6]
VALUES = "it needs two complete trials with different values"
PAIR = "it needs two parameters that vary together among the complete trials"
UNREPORTED = "no trial reported a value while it ran"
TIMELESS = {"timeline": "no trial took any time", "intermediate_values": UNREPORTED}
"""For trials that were added as they are."""


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (
            (),
            dict.fromkeys(OF_VALUES, NO_TRIAL)
            | {"timeline": "no trial has started", "intermediate_values": UNREPORTED},
        ),
        (("pruned", "pruned"), dict.fromkeys(OF_VALUES, ONLY_PRUNED)),
        (("complete",), {"edf": VALUES, "param_importances": VALUES, "contour": PAIR}),
        (("fail",), dict.fromkeys(OF_VALUES, ONLY_FAILED) | {"intermediate_values": UNREPORTED}),
        (("running",), dict.fromkeys(OF_VALUES, "no trial is complete (1 running)")),
        (("complete", "complete"), {}),
    ],
    ids=lambda value: "+".join(value) or "zero" if isinstance(value, tuple) else "",
)  # fmt: skip
def test_a_plot_that_would_be_empty_is_a_reason_and_no_picture(tmp_path, ends, expected):
    study = new_study(tmp_path)
    for end in ends:
        run_trial(study, tmp_path, end, epochs=2)
    plots = draw_plots(study, tmp_path)
    assert reasons(plots) == expected
    files = {path.stem for path in (tmp_path / "plots").glob("*.png")}
    assert files == {path.stem for path in (tmp_path / "plots").glob("*.html")} == set(KINDS) - set(expected)


def foreseen(study, folder) -> dict[str, str]:
    """Why plots would be empty, without drawing the others."""
    return {chart.name: chart.empty for chart in charts(take_view(study, folder)) if chart.empty}


def test_equal_values_and_parameters_that_never_vary_are_reasons(tmp_path):
    study = new_study(tmp_path / "values")
    for x in (0.1, 0.2, 0.3):
        add(study, {"x": x, "y": 1 - x}, 0.5)
    assert foreseen(study, tmp_path / "values").keys() == {"edf", "param_importances", *TIMELESS}
    study = new_study(tmp_path / "params")
    for value in (0.1, 0.2, 0.3):
        add(study, {"x": 0.5, "y": 0.5}, value)
    found = foreseen(study, tmp_path / "params")
    assert found["param_importances"] == "it needs two complete trials with different parameters"
    assert found["contour"] == PAIR
    study = new_study(tmp_path / "none")
    for value in (0.1, 0.2):
        add(study, {}, value)
    found = foreseen(study, tmp_path / "none")
    without = dict.fromkeys(
        ("param_importances", "slice", "contour", "parallel_coordinate"), "the trials have no parameters"
    )
    assert found == without | TIMELESS


def add(study, params, value, choices=None):
    """A complete trial with these parameters between 0 and 1, or one of the choices."""
    space = {name: FloatDistribution(0, 1) for name in params}
    if choices:
        space = {name: CategoricalDistribution(choices) for name in params}
    study.add_trial(
        create_trial(params=params, distributions=space, values=value if isinstance(value, list) else [value])
    )


def test_several_objectives_are_drawn_one_by_one_with_their_front(tmp_path):
    study = new_study(tmp_path, directions=["maximize", "minimize"])
    for _ in range(14):
        run_trial(study, tmp_path)
    plots = draw_plots(study, tmp_path)
    each = [f"{kind}_{number}" for number in (0, 1) for kind in KINDS[:5]]
    assert [plot.name for plot in plots.plots] == [*each, "parallel_coordinate", "pareto_front", "timeline"]
    assert {plot.title for plot in plots.plots} >= {"Optimisation history: val/score", "Contours: latency_ms"}
    assert reasons(plots) == {"intermediate_values": UNREPORTED}
    # The best line of an objective follows its own direction: latency, which is minimised, never rises.
    history = next(chart for chart in charts(take_view(study, tmp_path)) if chart.name == "optimization_history_1")
    figure = optuna.visualization.plot_optimization_history(history.study, **history.arguments)
    (best,) = [trace for trace in figure.data if trace.name == "Best Value"]
    assert np.all(np.diff(np.asarray(best.y, dtype=float)) <= 0)


def test_four_objectives_have_no_front_to_draw(tmp_path):
    study = new_study(tmp_path, directions=["minimize"] * 4, metric=list("abcd"))
    for x in (0.1, 0.2):
        add(study, {"x": x}, [x, 1 - x, x, x])
    assert foreseen(study, tmp_path)["pareto_front"] == ("Optuna draws it for two or three objectives, the study has 4")


def test_importance_finds_the_parameter_that_decides(tmp_path):
    """Of fourteen trials five are set against all; with Optuna's tenth it would be two, and chance would decide."""
    study = new_study(tmp_path, directions=["minimize"])
    noise = np.random.default_rng(0)
    for _ in range(14):
        params = {name: float(noise.uniform()) for name in ("decides", "idle", "spare", "unused")}
        add(study, params, params["decides"])
    chart = next(chart for chart in charts(take_view(study, tmp_path)) if chart.kind == "param_importances")
    assert chart.note == "what sets the best 5 of 14 complete trials apart"
    figure = optuna.visualization.plot_param_importances(chart.study, **chart.arguments)
    assert figure.data[0].y[-1] == "decides"
    assert figure.data[0].x[-1] > 0.5


@pytest.mark.parametrize(("n", "n_best"), [(2, 1), (8, 4), (10, 5), (49, 5), (51, 6), (100, 10)])
def test_a_tenth_but_five_at_least_and_half_at_most_are_the_best(tmp_path, n, n_best):
    study = optuna.create_study(direction="maximize")
    for number in range(n):
        add(study, {"x": number / n}, number / n)
    chart = next(chart for chart in charts(take_view(study, tmp_path)) if chart.kind == "param_importances")
    hint = "" if n_best >= 5 else ", too few for more than a hint"
    assert chart.note == f"what sets the best {n_best} of {n} complete trials apart{hint}"
    top = chart.arguments["evaluator"]._get_top_quantile_trials(
        chart.study, chart.study.trials, chart.arguments["evaluator"]._target_quantile, None
    )
    assert len(top) == n_best


def test_contours_show_the_most_important_parameters_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr("kdexp.sweeps.charts.N_CONTOUR_PARAMETERS", 4)
    study = optuna.create_study(study_name="wide", direction="maximize")
    noise = np.random.default_rng(1)
    for _ in range(30):
        params = {f"p{number:02d}": float(noise.uniform()) for number in range(11)}
        add(study, params, params["p10"] + params["p07"])
    chart = next(chart for chart in charts(take_view(study, tmp_path)) if chart.kind == "contour")
    assert len(chart.arguments["params"]) == 4
    assert {"p07", "p10"} <= set(chart.arguments["params"])
    assert chart.note.endswith("the most important 4 of 11 parameters")


def chart_of(kind: str, folder, study=None):
    """A chart that claims to have something to show."""
    study = study or new_study(folder, metric="val/score")
    (chart,) = [chart for chart in charts(take_view(study, folder)) if chart.kind == kind]
    rows = chart.rows or ({"params": []},)
    return dataclasses.replace(chart, empty=None, rows=rows)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "param_importances"])
@pytest.mark.filterwarnings("ignore")
def test_a_blank_drawing_is_seen_even_where_no_reason_was_foreseen(tmp_path, kind):
    """Optuna's functions draw an empty frame for a study without trials: neither form lets it through."""
    chart = chart_of(kind, tmp_path)
    assert picture(chart, Facts(("a study",), False)) is None
    assert drawing._page(chart, Facts(("a study",), False)) is None


def test_a_plot_that_was_drawn_and_is_empty_now_is_taken_away(tmp_path):
    study = new_study(tmp_path)
    plots = tmp_path / "plots"
    plots.mkdir()
    (plots / "edf.png").write_bytes(b"old")
    (plots / "edf.html").write_bytes(b"old")
    assert "edf" in reasons(draw_plots(study, tmp_path))
    assert [path.name for path in plots.iterdir()] == ["plots.json"]


def test_a_plot_that_optuna_cannot_draw_costs_no_other(tmp_path, monkeypatch, caplog):
    def broken(*_, **__):
        raise IndexError("boom")

    monkeypatch.setattr(optuna.visualization.matplotlib, "plot_slice", broken)
    study = new_study(tmp_path)
    for _ in range(3):
        run_trial(study, tmp_path)
    plots = draw_plots(study, tmp_path)
    assert reasons(plots) == {"slice": "Optuna could not draw it: IndexError: boom"}
    assert len(plots.plots) == len(KINDS) - 1
    assert not (tmp_path / "plots" / "slice.html").exists()
    assert "plot slice: Optuna could not draw it" in caplog.text


HOSTILE = ["</script><script>alert(1)</script>", "${dataset} costs $5 and $6", "<img src=x onerror=alert(2)>"]


def test_names_from_a_study_are_text(tmp_path):
    """No word of a study becomes markup, a script or a formula."""
    study = new_study(tmp_path, name=HOSTILE[2])
    for number in range(6):
        add(study, {"a$b$c": HOSTILE[number % 3], "x": HOSTILE[number // 2]}, number / 6, choices=HOSTILE)
    plots = draw_plots(study, tmp_path)
    assert reasons(plots).keys() <= TIMELESS.keys()
    for plot in plots.plots:
        page = (tmp_path / "plots" / plot.html).read_text()
        assert page.count("</script>") == page.count("<script")
        assert "<img" not in page
        assert "alert(1)</script>" not in page


def test_drawing_leaves_matplotlib_warnings_and_logging_as_they_were(tmp_path):
    before = dict(matplotlib.rcParams)
    opened = pyplot.figure()
    level = logging.getLogger("optuna").level
    filters = list(warnings.filters)
    study = new_study(tmp_path)
    for _ in range(2):
        run_trial(study, tmp_path)
    draw_plots(study, tmp_path)
    assert pyplot.get_fignums() == [opened.number]
    pyplot.close(opened)
    assert {key: value for key, value in matplotlib.rcParams.items() if key not in ("backend", "backend_fallback")} == {
        key: value for key, value in before.items() if key not in ("backend", "backend_fallback")
    }
    assert logging.getLogger("optuna").level == level
    assert warnings.filters == filters


def test_drawing_a_study_does_not_change_it(tmp_path):
    study = night(tmp_path, n=3)
    before = [(t.number, t.state, t.values, t.params, t.user_attrs, t.system_attrs) for t in study.trials]
    draw_plots(study, tmp_path)
    assert [(t.number, t.state, t.values, t.params, t.user_attrs, t.system_attrs) for t in study.trials] == before


@pytest.mark.filterwarnings("ignore")
def test_a_row_of_slices_holds_three_parameters(tmp_path):
    study = new_study(tmp_path)
    for _ in range(3):
        run_trial(study, tmp_path)
    chart = chart_of("slice", tmp_path, study)
    assert [len(row["params"]) for row in chart.rows][:-1] == [3]
    one_row = picture(dataclasses.replace(chart, rows=chart.rows[:1]), Facts(("a study",), False))
    both = picture(chart, Facts(("a study",), False))
    heights = [Image.open(io.BytesIO(image)).height for image in (one_row, both)]
    assert heights[1] > heights[0]


@pytest.mark.parametrize("package", ["plotly", "scipy"])
def test_a_missing_library_is_named(tmp_path, monkeypatch, package):
    study = new_study(tmp_path)
    monkeypatch.setitem(sys.modules, "plotly.offline" if package == "plotly" else package, None)
    with pytest.raises(StudyError, match=f"need the package {package}"):
        draw_plots(study, tmp_path)
