"""The report of a study: what it says, that it asks for nothing, and that a real browser shows it."""

import base64
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser

import pytest

from kdexp.analysis.report import write_study_report
from kdexp.analysis.trials_table import duration, number
from kdexp.errors import DataError
from kdexp.records import read_json, write_json
from kdexp.sweeps.plots import draw_plots
from kdexp.sweeps.results import write_results
from made_study import new_study, night, run_trial


class Page(HTMLParser):
    """Tags with their attributes, the text of each cell of the trials' table, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self._in_table = self._in_cell = self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._in_table = self._in_table or (tag == "table" and dict(attributes).get("id") == "trials")
        self._in_style = tag == "style"
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._in_cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        if not self._in_style:
            self.words.append(data)
        if self._in_table and self._in_cell:
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def written(study, folder, *, with_plots: bool = False) -> Page:
    write_results(study, folder)
    if with_plots:
        draw_plots(study, folder)
        write_results(study, folder)
    return Page(write_study_report(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def night_folder(tmp_path_factory):
    """A night on synthetic data, with its plots; it holds a trial whose error tries to be a script."""
    folder = tmp_path_factory.mktemp("night")
    written(night(folder, n=16, source="synthetic"), folder, with_plots=True)
    return folder


@pytest.fixture
def page(night_folder):
    return Page((night_folder / "report.html").read_text(encoding="utf-8"))


def test_the_table_has_a_row_for_each_trial_and_sets_the_best_off(night_folder, page):
    summary = read_json(night_folder / "study_summary.json")
    head, *rows = page.rows
    assert len(rows) == summary["n_trials"]["total"] == 21
    assert [int(row[0]) for row in rows] == list(range(21))
    assert head[:3] == ["number", "state", "val/score"]
    assert {"optimizer.lr", "distill.weights.kl.end", "seed", "slot", "epochs", "error"} <= set(head)
    assert [attributes.get("class") for attributes in page.of("tr")].count("best") == 1
    best = summary["best_trial"]["number"]
    assert [attributes.get("class") for attributes in page.of("tr")].index("best") == best + 1
    assert rows[best][2] == f"{summary['best_trial']['values']['val/score']:.4g}"


def test_synthetic_data_is_said_loudly_and_once_more_in_the_facts(page):
    assert "SYNTHETIC DATA" in page.text[:400]
    assert [attributes for attributes in page.of("div") if attributes.get("class") == "synthetic"] != []
    assert "medpix, SYNTHETIC, fingerprint 0123456789abcdef" in page.text


def test_it_says_what_was_run_on_what_and_how_to_train_the_winner_again(night_folder, page):
    best = read_json(night_folder / "study_summary.json")["best_trial"]
    assert "Study toy" in page.text
    assert (
        "Objective: val/score (maximize). Data: medpix, SYNTHETIC, train 1,653 samples of 535 cases, val" in page.text
    )
    assert "17 of 30" in page.text
    assert "13 complete, 4 pruned, 2 failed, 1 running, 1 waiting" in page.text
    assert best["command"] in page.text
    assert "TPESampler (seed=42)" in page.text
    assert "MedianPruner" in page.text
    for said in (
        "optimizer.lr 0.0001 to 0.1, log scale",
        "student.hidden 16 to 256, whole, in steps of 8",
        "schedule@distill.weights.kl one of constant, linear",
        "distill.weights.kl.end 0 to 1; only with schedule@distill.weights.kl = linear",
        "dataset=medpix",
        "distill=alpha_beta",
    ):
        assert said in page.text
    assert "max_epochs: 8" in page.text  # best_config.yaml
    # 13 complete trials of 8 epochs and 4 pruned ones of 3.
    assert "of epochs saved by pruning (116 of 136 run)" in page.text


def test_every_plot_is_inside_the_page(night_folder, page):
    listed = read_json(night_folder / "plots" / "plots.json")["plots"]
    images = page.of("img")
    assert len(images) == len(listed) == 8
    for plot, image in zip(listed, images, strict=True):
        kind, content = image["src"].split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content) == (night_folder / "plots" / plot["png"]).read_bytes()
        assert image["alt"] == plot["title"]


def test_it_asks_for_nothing_and_runs_nothing(night_folder, page):
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "video", "audio", "base"}
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert all(attributes["src"].startswith("data:image/png;base64,") for attributes in page.of("img"))
    links = [attributes["href"] for attributes in page.of("a")]
    assert links == [f"plots/{plot['html']}" for plot in read_json(night_folder / "plots" / "plots.json")["plots"]]
    text = (night_folder / "report.html").read_text()
    assert "url(" not in text
    assert "@import" not in text
    policies = [a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_an_error_that_tries_to_be_a_script_is_text(page):
    assert any(row[-1] == "RuntimeError: <script>alert(1)</script> & co" for row in page.rows)


HOSTILE = "'\"><script>alert(1)</script><img src=http://x.invalid/a onerror=alert(2)>$title"


def test_hostile_words_are_text_wherever_they_stand(tmp_path):
    study = new_study(
        tmp_path,
        name="safe",
        metric=HOSTILE,
        space={
            "parameters": {HOSTILE: {"name": "CategoricalDistribution", "attributes": {"choices": [HOSTILE]}}},
            "active_when": {HOSTILE: {HOSTILE: [HOSTILE]}},
            "fixed": {HOSTILE: HOSTILE},
        },
        base_overrides=[HOSTILE],
        sampler={"_target_": HOSTILE, HOSTILE: HOSTILE},
        pruner=HOSTILE,
        warnings=[HOSTILE],
    )
    run_trial(study, tmp_path, name=HOSTILE, drawn_by={"x": HOSTILE})
    run_trial(study, tmp_path, "fail", error=HOSTILE * 3, reason=HOSTILE)
    write_results(study, tmp_path)
    (tmp_path / "best_config.yaml").write_text(f"x: {HOSTILE}")
    plot = {"name": HOSTILE, "title": HOSTILE, "png": HOSTILE.replace("/", ""), "html": HOSTILE}
    made = {"drawn": HOSTILE, "n_trials": 2, "plots": [plot], "problems": [{"name": HOSTILE, "reason": HOSTILE}]}
    write_json(tmp_path / "plots" / "plots.json", made)
    (tmp_path / "plots" / plot["png"]).write_bytes(b"")
    page = Page(write_study_report(tmp_path).read_text(encoding="utf-8"))
    assert page.text.count("<script>alert(1)</script>") >= 12
    assert not [
        attributes for tag, attributes in page.tags if tag == "script" or any(a.startswith("on") for a in attributes)
    ]
    assert [attributes["src"] for attributes in page.of("img")] == ["data:image/png;base64,"]


@pytest.mark.parametrize("ends", [(), ("pruned",), ("fail",), ("running",), ("complete",)], ids=lambda ends: str(ends))
def test_a_study_at_its_beginning_has_a_report(tmp_path, ends):
    study = new_study(tmp_path)
    for end in ends:
        run_trial(study, tmp_path, end, epochs=2)
    page = written(study, tmp_path)
    assert len(page.rows) == (len(ends) + 1 if ends else 0)
    assert ("The study has no trial yet." in page.text) == (not ends)
    assert ("Problem: best_config.yaml: the study has no complete trial" in page.text) == (ends != ("complete",))
    assert "Problem: no plots were drawn" in page.text


def test_reasons_of_missing_plots_stand_where_plots_would(tmp_path):
    study = new_study(tmp_path)
    run_trial(study, tmp_path, "pruned", epochs=2)
    page = written(study, tmp_path, with_plots=True)
    assert "Not drawn, since they would be empty:" in page.text
    assert "edf: no trial is complete (1 pruned)" in page.text
    assert len(page.of("img")) == 2  # timeline and intermediate values


def test_a_picture_that_is_gone_is_a_problem(tmp_path):
    study = new_study(tmp_path)
    run_trial(study, tmp_path, "pruned", epochs=2)
    written(study, tmp_path, with_plots=True)
    (tmp_path / "plots" / "timeline.png").unlink()
    page = Page(write_study_report(tmp_path).read_text())
    assert "Problem: plot timeline: timeline.png is missing from plots/" in page.text


def test_a_list_of_plots_reaches_no_file_outside_its_folder(tmp_path):
    study = new_study(tmp_path)
    write_results(study, tmp_path)
    (tmp_path / "private.png").write_bytes(b"secret")
    plot = {"name": "x", "title": "x", "png": "../private.png", "html": "x.html"}
    write_json(tmp_path / "plots" / "plots.json", {"drawn": "", "n_trials": 0, "plots": [plot], "problems": []})
    page = Page(write_study_report(tmp_path).read_text())
    assert page.of("img") == []
    assert "private.png is missing from plots/" in page.text


def test_several_objectives_show_their_set(tmp_path):
    study = new_study(tmp_path, directions=["maximize", "minimize"])
    for _ in range(6):
        run_trial(study, tmp_path)
    page = written(study, tmp_path)
    front = read_json(tmp_path / "study_summary.json")["pareto_set"]
    assert "Objective: val/score (maximize), latency_ms (minimize)" in page.text
    assert len(page.of("details")) == len(front) > 0
    assert all(one["command"] in page.text for one in front)
    assert [attributes.get("class") for attributes in page.of("tr")].count("best") == len(front)
    assert page.rows[0][2:4] == ["val/score", "latency_ms"]


def test_a_folder_that_holds_no_results_is_a_sentence(tmp_path):
    with pytest.raises(DataError, match="is not a study folder with results: it holds no study_summary"):
        write_study_report(tmp_path)
    study = new_study(tmp_path)
    run_trial(study, tmp_path)
    write_results(study, tmp_path)
    table = tmp_path / "trials.csv"
    whole = table.read_text()
    for torn in (whole[:-40], whole.replace("\n0,", "\nzero,"), whole + '"'):
        table.write_text(torn)
        with pytest.raises(DataError, match=re.escape(f"{table} is torn")):
            write_study_report(tmp_path)
    table.unlink()
    with pytest.raises(DataError, match="does not exist; it is written with study_summary"):
        write_study_report(tmp_path)
    write_json(tmp_path / "study_summary.json", {"schema": 99})
    with pytest.raises(DataError, match="was written by another version of kdexp"):
        write_study_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0.86491234, "0.8649"), (1e-05, "1e-05"), (3, "3"), (True, "True"), ("a", "a")]
)
def test_numbers_are_shown_with_four_digits_that_count(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "–"), (0.5, "0.5 s"), (59, "59 s"), (90, "2 min"), (9000, "2.5 h")]
)
def test_durations_are_shown_in_the_unit_that_fits(seconds, shown):
    assert duration(seconds) == shown


# In a real browser


@dataclass
class Opened:
    """What a headless browser made of a page: its document, what it wrote to the console, what it asked the net for."""

    document: str
    console: list[str]
    requests: list[str]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Opens a file in Chromium with a fresh profile."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium is installed; it is the package chromium of Debian and Ubuntu")

    def opened(path) -> Opened:
        folder = tmp_path_factory.mktemp("browser")
        net = folder / "net.json"
        options = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
            "--disable-component-update", "--disable-extensions", "--no-first-run", "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}", f"--log-net-log={net}", "--virtual-time-budget=5000", "--dump-dom",
        ]  # fmt: skip
        done = subprocess.run([program, *options, path.as_uri()], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        console = [line for line in done.stderr.splitlines() if ":CONSOLE:" in line]
        asked = set(re.findall(r'"url":"(https?://[^"]+)"', net.read_text()))
        # The browser itself asks its maker for the time and for updates.
        return Opened(
            done.stdout, console, sorted(url for url in asked if not re.match(r"https?://[^/]*\.google\.com/", url))
        )

    return opened


@pytest.mark.slow
def test_the_browser_sees_what_a_page_asks_for_and_complains_about(browser, tmp_path):
    """Without this the next test would hold of any page."""
    path = tmp_path / "page.html"
    path.write_text("<p>x<img src='http://example.invalid/a.png'><script>console.error('boom')</script>")
    seen = browser(path)
    assert seen.requests == ["http://example.invalid/a.png"]
    assert len(seen.console) == 1


@pytest.mark.slow
def test_a_browser_shows_the_report_without_a_request_or_an_error(browser, night_folder):
    seen = browser(night_folder / "report.html")
    assert seen.requests == []
    assert seen.console == []
    assert "google" not in seen.document
    assert len(Page(seen.document).rows) == 1 + 21
    assert len(Page(seen.document).of("img")) == 8
    assert "<script>alert" not in seen.document


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["slice", "contour", "parallel_coordinate", "timeline"])
def test_a_browser_draws_the_interactive_plots_offline(browser, night_folder, kind):
    seen = browser(night_folder / "plots" / f"{kind}.html")
    assert seen.requests == []
    assert seen.console == []
    assert "main-svg" in seen.document
    assert json.dumps("SYNTHETIC DATA")[1:-1] in seen.document
