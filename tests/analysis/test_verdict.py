"""The verdict from finished runs: words that follow from numbers, and runs that cannot be compared."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from kdexp.analysis.forest import draw_forest
from kdexp.analysis.paired import Difference
from kdexp.analysis.verdict import Arm, Rules, judge, word_for
from kdexp.analysis.verdict_table import notes, render_verdict, verdict_section
from kdexp.errors import DataError
from kdexp.predictions import Predictions
from kdexp.records import RunFolder, write_json

RULES = Rules(level=0.95, margin=0.02, n_resamples=200, resample_seed=0)
SEEDS = tuple(range(42, 50))


def difference(low: float, high: float, inner: float = 0.8) -> Difference:
    mean, half = (low + high) / 2, (high - low) / 2
    return Difference(
        mean=mean, low=low, high=high, inner_low=mean - inner * half, inner_high=mean + inner * half, level=0.95,
        per_seed=(mean,) * 8, spread_of_seeds=0.01, standard_error=half / 2, standard_error_of_clusters=0.0,
        degrees_of_freedom=7.0, effect_size=1.0, p=0.01,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "p_holm", "n_seeds", "word"),
    [
        (0.03, 0.09, 0.02, 8, "better"),
        (-0.09, -0.03, 0.02, 8, "worse"),
        (-0.01, 0.09, 0.02, 8, "no difference shown"),  # seeds agree, cases do not
        (0.03, 0.09, 0.06, 8, "no difference shown"),  # cases agree, seeds do not
        (-0.01, 0.01, 0.5, 8, "equivalent"),
        (-0.03, 0.03, 0.5, 8, "no difference shown"),
        (0.03, 0.09, 0.0, 5, "not enough seeds"),
    ],
)
def test_words_follow_from_numbers(low: float, high: float, p_holm: float, n_seeds: int, word: str) -> None:
    assert word_for(difference(low, high), p_holm, n_seeds, 1, margin=0.02) == word


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Arm]:
    """Finished runs of one arm: `accuracy` of 120 samples in 40 cases, by seed a little different."""
    truth = np.random.default_rng(7)
    cluster = np.repeat(np.arange(40), 3)
    target = truth.integers(0, 3, size=120)

    def make(name: str, accuracy: float, spread: float = 0.01, *, seeds: tuple[int, ...] = SEEDS, **more: Any) -> Arm:
        folders = {}
        for seed in seeds:
            generator = np.random.default_rng([seed, len(name), int(1000 * accuracy)])
            right = generator.random(120) < accuracy + spread * generator.standard_normal()
            said = np.where(right, target, (target + 1) % 3)
            folder = RunFolder(tmp_path / name.replace(" ", "_") / str(seed))
            predictions = Predictions(
                index=np.arange(120),
                cluster=cluster.astype(str),
                logits={"kind": np.eye(3)[said]},
                targets={"kind": more.get("target", target)},
            )
            predictions.save(folder.predictions("test"))
            write_json(folder.record, record(seed, more.get("fingerprint", "abc"), accuracy))
            folders[seed] = folder.path
        return Arm(name=name, folders=folders, trial=more.get("trial"), search_value=more.get("search_value"))

    return make


def record(seed: int, fingerprint: str, val: float) -> dict[str, Any]:
    return {
        "seed": seed,
        "data": {"name": "made", "source": "real", "fingerprint": fingerprint, "cluster": "case"},
        "tasks": [{"name": "kind", "kind": "multiclass", "classes": ["a", "b", "c"], "metrics": ["acc", "f1"]}],
        "score": ["kind/f1"],
        "metrics": {"val": {"best": {"score": val}}},
    }


def complete(verdict: dict[str, Any]) -> dict[str, Any]:
    """With what the command adds."""
    more = {
        "study": "made",
        "command": "kdexp confirm study=made",
        "condition": "one teacher",
        "warnings": [],
        "overrides": ["a=1"],
        "no_kd": "plain",
    }
    return verdict | more


def test_a_clear_gain_is_better_and_pairs_are_by_seed(made: Callable[..., Arm]) -> None:
    verdict = judge([made("trial 3", 0.9, trial=3, search_value=0.95)], made("no-KD", 0.6), RULES)
    (contender,) = verdict["contenders"]
    assert contender["verdict"] == "better"
    assert [pair["seed"] for pair in contender["per_seed"]] == list(SEEDS)
    assert contender["difference"]["score"]["mean"] == pytest.approx(
        np.mean([pair["contender"] - pair["baseline"] for pair in contender["per_seed"]])
    )
    assert contender["p"] == contender["p_holm"] == pytest.approx(2 / 2**8)
    assert contender["selection"]["shrinkage_on_val"] == pytest.approx(0.05)
    assert contender["sentence"].startswith("trial 3 is better than no-KD: +0.")
    assert set(contender["difference"]) == {"score", "kind/acc", "kind/f1"}


def test_holm_runs_over_the_contenders(made: Callable[..., Arm]) -> None:
    arms = [made("trial 3", 0.9), made("trial 4", 0.88)]
    verdict = judge(arms, made("no-KD", 0.6), RULES)
    assert [c["p_holm"] for c in verdict["contenders"]] == pytest.approx([4 / 2**8, 4 / 2**8])


def test_few_seeds_can_say_nothing(made: Callable[..., Arm]) -> None:
    seeds = SEEDS[:3]
    verdict = judge([made("trial 3", 0.95, seeds=seeds)], made("no-KD", 0.4, seeds=seeds), RULES)
    assert verdict["contenders"][0]["verdict"] == "not enough seeds"
    assert "6 could" in verdict["contenders"][0]["sentence"]


def test_other_data_are_refused_by_fingerprint(made: Callable[..., Arm]) -> None:
    with pytest.raises(DataError, match="other data or splits"):
        judge([made("trial 3", 0.9, fingerprint="xyz")], made("no-KD", 0.6), RULES)


def test_other_samples_are_refused(made: Callable[..., Arm]) -> None:
    with pytest.raises(DataError, match="hold different samples"):
        judge([made("trial 3", 0.9, target=np.zeros(120, dtype=int))], made("no-KD", 0.6), RULES)


def test_missing_predictions_name_the_file_and_the_way_out(made: Callable[..., Arm]) -> None:
    arm = made("trial 3", 0.9)
    gone = RunFolder(arm.folders[44]).predictions("test")
    gone.unlink()
    with pytest.raises(DataError, match=r"44/predictions/test\.npz is missing.*remove .*give the same command again"):
        judge([arm], made("no-KD", 0.6), RULES)


def test_an_unfinished_run_is_refused(made: Callable[..., Arm]) -> None:
    arm = made("trial 3", 0.9)
    RunFolder(arm.folders[44]).record.unlink()
    with pytest.raises(DataError, match="is not a finished run"):
        judge([arm], made("no-KD", 0.6), RULES)


def test_table_section_and_forest_say_what_was_found(made: Callable[..., Arm], tmp_path: Path) -> None:
    arms = [made("trial <3>", 0.9, search_value=0.95, trial=3), made("mine", 0.6)]
    verdict = complete(judge(arms, made("no-KD", 0.6), RULES))
    console = Console(width=100, record=True, file=io.StringIO())
    render_verdict(verdict, console)
    text = console.export_text()
    assert "120 samples of 40 cases · 8 seeds (42 to 49)" in text
    assert "trial <3> is better than no-KD" in text
    assert "lost on val" in text and "by runs without a=1" in text
    assert "p < .05" in text
    section = verdict_section(verdict, "")
    assert "trial &lt;3&gt; is better" in section and "<3>" not in section
    svg, png = draw_forest(verdict, tmp_path)
    assert svg.read_text().lstrip().startswith("<?xml") and png.read_bytes()[:4] == b"\x89PNG"
    assert json.loads(json.dumps(verdict)) == verdict


def test_a_contender_that_is_not_the_winner_differs_in_more_than_distillation(made: Callable[..., Arm]) -> None:
    """The no-KD run is the winner's; a gain of another trial may come from its other settings."""
    arms = [made("trial 3", 0.7, trial=3), made("trial 5", 0.8, trial=5), made("mild", 0.7)]
    verdict = complete(judge(arms, made("no-KD", 0.6), RULES))
    (line,) = [line for line in notes(verdict) if "other settings differ" in line]
    assert line.startswith("no-KD is trial 3 without distillation. trial 5:")
    assert not any("other settings differ" in line for line in notes(verdict | {"no_kd": "tuned"}))


def test_what_the_clusters_leave_is_not_called_nothing(made: Callable[..., Arm]) -> None:
    verdict = complete(judge([made("a", 0.7)], made("no-KD", 0.6), RULES))
    planning = verdict["contenders"][0]["planning"]
    planning["half_width_of_clusters_alone"] = 0.0
    assert any("too small beside the seeds' scatter" in line for line in notes(verdict))
    planning["half_width_of_clusters_alone"] = 0.02
    assert any("leaves ±0.020" in line for line in notes(verdict))
