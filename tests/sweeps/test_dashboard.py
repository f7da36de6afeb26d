"""optuna-dashboard through the command: a real server on a real study, only to look at and only from this machine."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from kdexp.sweeps.dashboard import HOST
from made_study import new_study, night

pytest.importorskip("optuna_dashboard", reason="the extra kdexp[dashboard] is not installed")


@pytest.fixture(scope="module")
def two_studies(tmp_path_factory) -> Path:
    """A working directory with the studies `toy` and `other`."""
    cwd = tmp_path_factory.mktemp("two")
    for name in ("toy", "other"):
        new_study(cwd / "outputs" / "studies" / name, name=name)
    return cwd


def address(process: subprocess.Popen[str]) -> str:
    """What the command prints, once it listens."""
    watch = threading.Timer(120, process.kill)
    watch.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                return found.group()
    finally:
        watch.cancel()
    raise AssertionError(f"no address: {process.communicate()}")


def fetched(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def test_a_study_is_served_until_ctrl_c(kdexp):
    folder = kdexp.cwd / "outputs" / "studies" / "toy"
    night(folder, n=6)
    path = folder / "study.db"
    before = path.read_bytes()
    process = kdexp.start("dashboard", "study=toy", "port=0")
    try:
        page = address(process)
        root, _, number = page.partition("/dashboard/studies/")
        port = int(root.rpartition(":")[2])
        assert root == f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(page, timeout=30) as answer:
            assert b"<html" in answer.read().lower()
        assert [one["study_name"] for one in fetched(f"{root}/api/studies")["study_summaries"]] == ["toy"]
        shown = fetched(f"{root}/api/studies/{number}")
        states = [trial["state"] for trial in shown["trials"]]
        assert (states.count("Complete"), states.count("Pruned"), states.count("Fail")) == (6, 1, 2)
        for method, where in (("DELETE", number), ("POST", f"{number}/rename"), ("PUT", f"{number}/note")):
            with pytest.raises(urllib.error.HTTPError, match="405"):
                urllib.request.urlopen(urllib.request.Request(f"{root}/api/studies/{where}", method=method), timeout=30)
        # The other addresses of this machine lead nowhere.
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.2", port), timeout=2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "ended" in out
    assert path.read_bytes() == before


def test_a_port_in_use_is_a_sentence(run_main, two_studies):
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_main(two_studies, "dashboard", "study=toy", f"port={port}")
    assert ended.code == 2
    assert f"port={port}: 127.0.0.1 does not give it" in ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "study: has no value"),
        (["study=smoke"], "there are: other, toy"),
        (["study=smoke", "storage=sqlite:///{cwd}/outputs/studies/toy/study.db"], "there are: toy"),
        (["study=toy", "storage=sqlite:///nowhere.db"], "there is no file"),
        (["study=toy", "port=70000"], "port: must be less than or equal to 65535, got 70000"),
        (["study=toy", "target=mlflow"], "target: must be 'optuna' or 'wandb'"),
        (["study=toy", "entity=ada"], "entity: has no effect without target=wandb"),
    ],
)
def test_bad_input_is_a_sentence_and_makes_nothing(run_main, two_studies, words, said):
    before = sorted(two_studies.rglob("*"))
    ended = run_main(two_studies, "dashboard", *(word.replace("{cwd}", str(two_studies)) for word in words))
    assert ended.code == 2
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert sorted(two_studies.rglob("*")) == before


def test_a_missing_package_names_the_extra(run_main, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    ended = run_main(tmp_path, "dashboard", "study=toy")
    assert ended.code == 2
    assert "pip install 'kdexp[dashboard]'" in ended.err
