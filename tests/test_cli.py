"""The command line takes its verb off, leaves Hydra's options alone, and completes on Tab."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys

import pytest

from kdexp import cli, verbs


@pytest.mark.parametrize(
    ("words", "verb", "rest"),
    [
        ([], None, []),
        (["train", "seed=1"], "train", ["seed=1"]),
        (["seed=1", "train"], "train", ["seed=1"]),
        (["-m", "train", "seed=1,2"], "train", ["-m", "seed=1,2"]),
        (["-cn", "mine", "seed=1"], None, ["-cn", "mine", "seed=1"]),
        (["-cd", "conf", "check"], "check", ["-cd", "conf"]),
        (["--cfg", "job", "data"], "data", ["--cfg", "job"]),
        (["+extra=1", "~gone", "trian"], "trian", ["+extra=1", "~gone"]),
    ],
)
def test_the_verb_is_the_first_bare_word(words, verb, rest):
    assert cli.split_verb(words) == (verb, rest)


@pytest.mark.parametrize(
    ("words", "passed"),
    [
        (["hparams_search=x"], ["hparams_search=x", "--multirun"]),
        (["hparams_search=x", "-m"], ["hparams_search=x", "-m"]),
        (["hparams_search=null"], ["hparams_search=null"]),
        (["-m", "--cfg", "job"], ["--cfg", "job"]),
        (["seed=1"], ["seed=1"]),
    ],
)
def test_a_search_is_a_multirun_and_a_look_is_not(words, passed):
    assert cli._with_multirun(words) == passed


@pytest.mark.parametrize(
    ("words", "added"),
    [
        (["hparams_search=[medpix_tpe,tune/loss]"], ["hydra.sweeper.study_name=medpix_tpe+loss"]),
        (["hparams_search=[a, tune/loss, tune/fusion]"], ["hydra.sweeper.study_name=a+loss+fusion"]),
        (["hparams_search=[a,tune/loss]", "hydra.sweeper.study_name=mine"], []),
        (["hparams_search=a"], []),
    ],
)
def test_a_search_put_together_is_a_study_of_its_own(words, added):
    assert cli._with_study_name(words) == [*words, *added]


def test_checking_a_search_starts_none(run_main, tmp_path):
    checked = run_main(tmp_path, "check", "hparams_search=smoke")
    assert checked.code == 0, checked.err
    assert "sound" in checked.out
    assert not (tmp_path / "outputs").exists()


def test_help_lists_every_verb_with_a_line(run_main, tmp_path):
    shown = run_main(tmp_path, "--help")
    assert shown.code == 0
    for verb, line in cli.VERBS.items():
        assert f"{verb} " in shown.out
        assert line in shown.out


@pytest.mark.parametrize("verb", [[], *([name] for name in cli.VERBS)])
def test_cfg_shows_the_configuration_of_every_verb(run_main, tmp_path, verb):
    shown = run_main(tmp_path, *verb, "--cfg", "job", "-m")
    assert shown.code == 0, shown.err
    assert "paths:" in shown.out


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_help_of_a_verb_lists_its_settings(run_main, tmp_path, verb):
    shown = run_main(tmp_path, verb, "--help")
    assert shown.code == 0
    assert f"kdexp {verb}" in shown.out


def test_a_config_of_ones_own_by_name_and_folder(run_main, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "quick.yaml").write_text("defaults:\n  - train\n  - _self_\nseed: 7\n")
    shown = run_main(tmp_path, "train", "-cd", "mine", "-cn", "quick", "--cfg", "job")
    assert shown.code == 0, shown.err
    assert "seed: 7" in shown.out


def test_mistakes_under_a_config_of_ones_own_are_all_listed(run_main, tmp_path):
    ended = run_main(tmp_path, "train", "-cd", "{outside}", "dataset=rings", "foo=1", "seed=-3")
    assert ended.code == 2
    assert "foo" in ended.text
    assert "seed: must be greater than or equal to 0, got -3" in ended.text


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("kdexp ", ["train", "evaluate", "data", "check"]),
        ("kdexp ev", ["evaluate"]),
        ("kdexp train dataset=", ["dataset=medpix"]),
        ("kdexp data act", ["action="]),
        ("kdexp trainer.max_e", ["trainer.max_epochs="]),
    ],
)
def test_tab_completes_verbs_groups_and_keys(tmp_path, line, offered):
    code = "import sys; sys.argv = ['kdexp', '-sc', 'query=bash']; from kdexp.cli import main; main()"
    environment = {
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "PYTHONPATH": str(cli.config_directory().parent / "src"),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(offered) <= set(done.stdout.split())
    assert "sweeper" not in done.stdout


def test_a_quoted_folder_is_read_as_hydra_reads_it() -> None:
    assert cli._unquoted("outputs/run") == "outputs/run"
    assert cli._unquoted("'runs/a=1,b=[2]'") == "runs/a=1,b=[2]"
    assert cli._unquoted(r"'it\'s here'") == "it's here"


def test_a_stop_is_not_swallowed_by_whoever_catches_exceptions_at_that_moment():
    before = signal.signal(signal.SIGTERM, verbs._stopped)
    try:
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"), contextlib.suppress(Exception):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
