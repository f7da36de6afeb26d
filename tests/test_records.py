"""What a run leaves is written whole or not at all, can be read after a kill, and holds no secret."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdexp.errors import ConfigError, DataError, KdexpError, RunFailed
from kdexp.records import (
    REDACTED,
    RunFolder,
    append_line,
    fingerprint,
    keep_lines,
    read_json,
    read_lines,
    redact,
    redact_argument,
    write_json,
    written_whole,
)
from support import ROOT


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# written whole


def test_a_file_appears_whole_under_its_name_and_nothing_else_stays(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.txt"
    with written_whole(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert names(target.parent) == ["file.txt"] and target.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_while_writing_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(error), written_whole(target) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert names(tmp_path) == ["file.txt"] and target.read_text() == "old"


def test_two_processes_do_not_share_a_temporary_name(tmp_path: Path) -> None:
    with written_whole(tmp_path / "file.txt") as temporary:
        temporary.write_text("x")
        assert str(os.getpid()) in temporary.name and temporary.parent == tmp_path


def test_a_kill_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    code = (
        "import os, sys; from pathlib import Path; from kdexp.records import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], env={"PYTHONPATH": str(ROOT / "src")})
    assert done.returncode == -9
    assert target.read_text() == "old"


# JSON


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True], "schön": {"b": "×"}, "": []}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "schön" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_numbers_that_json_cannot_hold_become_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": math.nan, "b": [math.inf, (-math.inf, 1.0)], 3: {"c": math.nan}})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [None, [None, 1.0]], "3": {"c": None}}


def test_what_json_cannot_hold_at_all_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"nonsense", b"\xff\xfe{}"])
def test_broken_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json is not whole JSON"):
        read_json(path)


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b\.json does not exist"):
        read_json(tmp_path / "b.json")


# JSON lines


def test_lines_are_added_and_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.jsonl"
    assert read_lines(path) == []
    rows = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": math.nan}]
    for row in rows:
        append_line(path, row)
    assert read_lines(path) == [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": None}]


WHOLE = '{"epoch": 1}\n{"epoch": 2, "note": "schön"}\n'


def test_a_last_line_torn_anywhere_is_passed_over(tmp_path: Path) -> None:
    """A kill may cut at any byte, also inside a letter."""
    path = tmp_path / "metrics.jsonl"
    content = WHOLE.encode()
    second = content.index(b"\n") + 1
    for cut in range(second, len(content)):
        path.write_bytes(content[:cut])
        rows = read_lines(path)
        whole = content[:cut].endswith(b"}")  # only the line's end is missing
        assert rows == ([{"epoch": 1}, {"epoch": 2, "note": "schön"}] if whole else [{"epoch": 1}]), cut


def test_a_line_broken_in_the_middle_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl"):
        read_lines(path)


def test_keep_lines_leaves_exactly_these(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(WHOLE + '{"epoch": 3, "torn')
    keep_lines(path, [row for row in read_lines(path) if row["epoch"] <= 1])
    append_line(path, {"epoch": 2})
    assert path.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'
    assert names(tmp_path) == ["metrics.jsonl"]


# fingerprints


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    assert len(fingerprint("x")) == 16 and set(fingerprint("x")) <= set("0123456789abcdef")


def test_a_fingerprint_moves_with_every_value() -> None:
    values: list[Any] = [1, 1.5, "1", True, None, [], {}, [1], {"a": 1}, {"a": "1"}, {"a": [1, 2]}, {"a": [2, 1]}]
    assert len({fingerprint(value) for value in values}) == len(values)
    assert fingerprint("a", "b") != fingerprint("ab") != fingerprint(["a", "b"])


def test_a_fingerprint_was_written_down_once() -> None:
    """Teacher stores are found by it: another rule would leave every stored teacher unfound.

    It is what `printf '[{"name": "×", "width": 8}, 3]' | sha256sum` begins with."""
    assert fingerprint({"width": 8, "name": "×"}, 3) == "82f51b06723775aa"


# secrets

SECRET = "hunter2-very-secret"


@pytest.mark.parametrize(
    "key",
    [
        "api_key",
        "apiKey",
        "APIKey",
        "API_KEY",
        "wandb_api_key",
        "key",
        "token",
        "access_token",
        "accessToken",
        "HF_TOKEN",
        "password",
        "db_password",
        "dbPassword",
        "passwd",
        "secret",
        "client_secret",
        "secrets",
        "credential",
        "credentials",
        "logger.api_key",
    ],
)
def test_a_secret_is_taken_out_by_its_key(key: str) -> None:
    for tree in ({key: SECRET}, {"a": {"b": [{key: SECRET}]}}, {key: [SECRET, SECRET]}):
        shown = redact(tree)
        assert SECRET not in str(shown) and REDACTED in str(shown), tree
    assert redact_argument(f"{key}={SECRET}") == f"{key}={REDACTED}"
    assert redact_argument(f"+{key}={SECRET}") == f"+{key}={REDACTED}"


@pytest.mark.parametrize("key", ["password", "credentials"])
def test_a_whole_section_under_a_secret_key_is_taken_out(key: str) -> None:
    assert SECRET not in str(redact({key: {"user": "anna", "value": SECRET}}))


def test_a_secret_of_digits_is_one_too() -> None:
    assert redact({"password": 12345678}) == {"password": REDACTED}


@pytest.mark.parametrize(
    "key", ["monkey", "keyboard", "n_tokens", "tokenizer", "max_tokens", "keyframes", "compass", "secretary", "hotkeys"]
)
def test_a_word_that_only_contains_another_is_no_secret(key: str) -> None:
    assert redact({key: "plain"}) == {key: "plain"}
    assert redact_argument(f"{key}=plain") == f"{key}=plain"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://anna:pw@db.example/study", "postgresql://***@db.example/study"),
        ("postgresql+psycopg://anna:p%40w@db:5432/study", "postgresql+psycopg://***@db:5432/study"),
        ("redis://:pw@host", "redis://***@host"),
        ("see http://a:b@c and http://d:e@f", "see http://***@c and http://***@f"),
        ("https://ghp_abcdef@github.com/x", "https://***@github.com/x"),
        ("https://host/a:b@c", "https://host/a:b@c"),
        ("sqlite:////data/a@b.db", "sqlite:////data/a@b.db"),
        ("someone@example.org", "someone@example.org"),
    ],
)
def test_users_and_passwords_are_taken_out_of_addresses(url: str, shown: str) -> None:
    assert redact({"storage": url}) == {"storage": shown}
    assert redact([url]) == [shown]
    assert redact_argument(f"storage={url}") == f"storage={shown}"


def test_everything_else_stays() -> None:
    tree = {"a": 1, "b": [1.5, None, True, "x"], "c": {"d": (1, 2)}, "token": None, "password": "", "key": None}
    assert redact(tree) == {**tree, "c": {"d": [1, 2]}}
    assert redact_argument("--multirun") == "--multirun"
    assert redact_argument("a=b=c") == "a=b=c"


def test_redacting_leaves_its_argument_alone() -> None:
    tree = {"a": {"token": SECRET}}
    redact(tree)
    assert tree == {"a": {"token": SECRET}}


# places and errors


def test_the_files_of_a_run_lie_where_the_readme_says() -> None:
    folder = RunFolder(Path("run"))
    files = [folder.record, folder.config, folder.metrics, folder.best_checkpoint, folder.last_checkpoint]
    assert [str(path.relative_to("run")) for path in files] == [
        "run.json",
        "config.yaml",
        "metrics.jsonl",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    ]
    assert folder.predictions("val") == Path("run/predictions/val.npz") and folder.figures == Path("run/figures")


def test_bad_input_is_told_from_a_failed_run_and_mistakes_are_kept_apart() -> None:
    assert issubclass(ConfigError, KdexpError) and not issubclass(RunFailed, KdexpError)
    assert ConfigError("one").problems == ["one"]
    assert ConfigError(["one", "two"]).problems == ["one", "two"] and str(ConfigError(["one", "two"])) == "one\ntwo"
