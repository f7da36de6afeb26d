from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from http_fixture import Site, serve

from kdexp.errors import DataError
from kdexp.systems.download import download

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as site:
        site.files["a.zip"] = CONTENT
        yield site


def interrupted(site: Site, target: Path, after: int = 100_000) -> None:
    """A first transfer that breaks off after so many bytes."""
    site.break_off_after = after
    with pytest.raises(DataError, match=f"broke off at byte {after} of 300000; run the same command again"):
        download(site.url("a.zip"), target)
    site.break_off_after = None
    assert not target.exists()
    assert target.with_name("a.zip.part").read_bytes() == CONTENT[:after]


def test_a_file_is_fetched_and_its_hash_noted(site: Site, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    target = tmp_path / "new" / "a.zip"
    download(site.url("a.zip"), target, progress=lambda what, done, total: told.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert (tmp_path / "new" / "a.zip.sha256").read_text() == f"{sha256(CONTENT).hexdigest()}  a.zip\n"
    assert told[-1] == (300_000, 300_000)
    assert sorted(path.name for path in target.parent.iterdir()) == ["a.zip", "a.zip.sha256"]


def test_an_interrupted_transfer_goes_on_where_it_stopped(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "a.zip"
    interrupted(site, target)
    told: list[tuple[int, int]] = []
    download(site.url("a.zip"), target, progress=lambda what, done, total: told.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert [asked for _, asked in site.requests] == [None, "bytes=100000-"]
    assert told[0][0] > 100_000
    assert told[-1] == (300_000, 300_000)


def test_a_server_that_cannot_resume_sends_everything_again(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "a.zip"
    interrupted(site, target)
    site.supports_range = False
    assert download(site.url("a.zip"), target).read_bytes() == CONTENT


def test_a_file_that_changed_in_between_is_not_stitched_together(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "a.zip"
    interrupted(site, target)
    site.files["a.zip"] = OTHER
    assert download(site.url("a.zip"), target).read_bytes() == OTHER


@pytest.mark.parametrize("length", [300_000, 300_001])
def test_a_part_as_long_as_the_file_is_taken_and_a_longer_one_is_not(site: Site, tmp_path: Path, length: int) -> None:
    (tmp_path / "a.zip.part").write_bytes((CONTENT + b"x")[:length])
    assert download(site.url("a.zip"), tmp_path / "a.zip").read_bytes() == CONTENT
    assert len(site.requests) == (1 if length == 300_000 else 2)


def test_changed_content_is_refused_and_not_kept(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "a.zip"
    download(site.url("a.zip"), target).unlink()
    site.files["a.zip"] = OTHER
    with pytest.raises(DataError, match="is not what was fetched before"):
        download(site.url("a.zip"), target)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip.sha256"]
    # The way out that the message names.
    (tmp_path / "a.zip.sha256").unlink()
    assert download(site.url("a.zip"), target).read_bytes() == OTHER


def test_a_stitch_of_two_versions_is_refused_by_its_hash(site: Site, tmp_path: Path) -> None:
    """A server without versions cannot tell; the noted hash does."""
    target = tmp_path / "a.zip"
    download(site.url("a.zip"), target).unlink()
    site.etags = False
    (tmp_path / "a.zip.part").write_bytes(OTHER[:1000])
    with pytest.raises(DataError, match="is not what was fetched before"):
        download(site.url("a.zip"), target)
    assert download(site.url("a.zip"), target).read_bytes() == CONTENT


def test_a_file_that_is_there_is_checked_and_not_fetched(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "a.zip"
    download(site.url("a.zip"), target)
    download(site.url("a.zip"), target)
    assert len(site.requests) == 1
    target.write_bytes(OTHER)
    with pytest.raises(DataError, match="is not what was fetched before"):
        download(site.url("a.zip"), target)
    assert target.exists()


def test_a_refusing_server_is_named(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.zip: the server answered 404"):
        download(site.url("nowhere.zip"), tmp_path / "a.zip")


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with serve() as gone:
        address = gone.url("a.zip")
    with pytest.raises(DataError, match="broke off"):
        download(address, tmp_path / "a.zip", timeout_seconds=5)


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://example.org/a.zip", "a.zip"])
def test_only_web_addresses_are_fetched(address: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no http or https address"):
        download(address, tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []
