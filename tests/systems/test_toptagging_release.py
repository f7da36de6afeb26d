"""Published files of jets, fetched by the command from a server on the loopback."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from http_fixture import Site, serve
from toptagging_files import atlas_file, reference_file

from kdexp.errors import ConfigError, DataError
from kdexp.systems.toptagging.dataset import TopTagging
from kdexp.systems.toptagging.release import SUMS, FetchOptions, fetch
from support import Finished

RunMain = Callable[..., Finished]
TRAIN, TEST = "train_nominal_000.h5", "test_nominal_000.h5"
PACKED = (f"{TRAIN}.gz", f"{TEST}.gz")


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the two files hold, unpacked."""
    folder = tmp_path_factory.mktemp("published")
    return {name: atlas_file(folder / name, seed=seed).read_bytes() for seed, name in enumerate((TRAIN, TEST), start=1)}


@pytest.fixture
def site(contents: dict[str, bytes]) -> Iterator[Site]:
    with serve() as site:
        for name, content in contents.items():
            site.files[f"{name}.gz"] = gzip.compress(content, compresslevel=1)
        yield site


def options(site: Site, **settings: object) -> FetchOptions:
    return FetchOptions(base_url=site.address, **settings)  # type: ignore[arg-type]


def sums(contents: dict[str, bytes]) -> str:
    return "".join(f"{sha256(contents[name]).hexdigest()}  {name}\n" for name in sorted(contents))


def files(root: Path) -> dict[str, bytes]:
    """What lies in the folder, without the hashes."""
    return {path.name: path.read_bytes() for path in root.iterdir() if path.name != SUMS}


def test_the_command_fetches_files_that_inspect_reads(
    run_main: RunMain, site: Site, contents: dict[str, bytes], tmp_path: Path
) -> None:
    words = ("dataset=toptagging", f"dataset.fetch.base_url={site.address}/", "dataset.root=data/jets")
    fetched = run_main(tmp_path, "data", "action=fetch", *words)
    assert fetched.code == 0, fetched.text
    root = tmp_path / "data" / "jets"
    assert files(root) == contents
    assert (root / SUMS).read_text() == sums(contents)
    beside = [path for path in (tmp_path / "data").rglob("*") if path.is_file() and path.parent != root]
    assert [path.name for path in beside] == ["lock"]
    seen = run_main(tmp_path, "data", "action=inspect", *words, "dataset.split=file")
    assert seen.code == 0 and "toptagging (real)" in seen.text and "jets_taken" in seen.text
    # The second time they are checked and kept.
    assert len(site.requests) == 2
    again = run_main(tmp_path, "data", "action=fetch", *words)
    assert again.code == 0 and len(site.requests) == 2 and again.text.count("is kept") == 2
    assert files(root) == contents


def test_progress_is_told_while_a_file_comes_and_is_unpacked(site: Site, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    fetch(tmp_path / "jets", options(site), lambda what, done, total: told.append((what, done, total)))
    assert {what for what, _, _ in told} == {"fetch", "unpack"}
    ends = [(what, done) for what, done, total in told if done == total]
    sizes = [len(site.files[name]) for name in PACKED]
    assert {("fetch", size) for size in sizes} | {("unpack", size) for size in sizes} == set(ends)


def test_more_files_are_added_to_a_folder(site: Site, contents: dict[str, bytes], tmp_path: Path) -> None:
    root = tmp_path / "jets"
    fetch(root, options(site, files=PACKED[:1]))
    assert set(files(root)) == {TRAIN}
    fetch(root, options(site, files=PACKED[::-1]))
    assert files(root) == contents and (root / SUMS).read_text() == sums(contents)
    # A fetch of some leaves what is noted of the others.
    fetch(root, options(site, files=PACKED[:1]))
    assert (root / SUMS).read_text() == sums(contents)


def test_files_that_were_put_there_by_hand_are_noted(site: Site, contents: dict[str, bytes], tmp_path: Path) -> None:
    root = tmp_path / "jets"
    root.mkdir()
    (root / TRAIN).write_bytes(contents[TRAIN])
    fetch(root, options(site))
    assert [path for path, _ in site.requests] == [f"/{TEST}.gz"]
    assert (root / SUMS).read_text() == sums(contents)


def test_the_reference_set_is_not_packed(site: Site, tmp_path: Path) -> None:
    for seed, name in enumerate(("train.h5", "val.h5", "test.h5"), start=1):
        site.files[name] = reference_file(tmp_path / "made" / name, seed=seed).read_bytes()
    fetch(tmp_path / "jets", options(site, release="reference"))
    assert files(tmp_path / "jets") == {name: site.files[name] for name in ("train.h5", "val.h5", "test.h5")}


@pytest.mark.parametrize("release", ["atlas", "reference"])
def test_only_the_publisher_is_asked_where_nothing_else_is_said(release: str) -> None:
    addresses = FetchOptions(release=release).addresses()  # type: ignore[arg-type]
    hosts = {"atlas": "https://opendata.cern.ch/", "reference": "https://zenodo.org/"}
    assert len(addresses) >= 2
    assert all(url.startswith(hosts[release]) and url.endswith(f"/{name}") for name, url in addresses.items())


def test_a_file_that_changed_on_disk_is_named_and_not_touched(
    run_main: RunMain, site: Site, contents: dict[str, bytes], tmp_path: Path
) -> None:
    root = tmp_path / "jets"
    fetch(root, options(site))
    changed = contents[TEST][:-1] + b"?"
    (root / TEST).write_bytes(changed)
    words = ("dataset=toptagging", f"dataset.fetch.base_url={site.address}", "dataset.root=jets")
    ended = run_main(tmp_path, "data", "action=fetch", *words)
    assert ended.code == 2 and ended.err.count("error:") == 1
    for part in (f"jets/{TEST}: has the SHA-256", f"but jets/{SUMS} says", "remove the file", "take its line out"):
        assert part in ended.text
    assert files(root) == contents | {TEST: changed}
    # Both ways out that it names.
    (root / TEST).unlink()
    fetch(root, options(site))
    assert files(root) == contents
    (root / TEST).write_bytes(changed)
    kept = [line for line in (root / SUMS).read_text().splitlines(keepends=True) if TEST not in line]
    (root / SUMS).write_text("".join(kept))
    fetch(root, options(site))
    assert (root / SUMS).read_text() == sums(contents | {TEST: changed})


def test_other_content_on_the_server_is_refused(site: Site, contents: dict[str, bytes], tmp_path: Path) -> None:
    root = tmp_path / "jets"
    fetch(root, options(site))
    (root / TRAIN).unlink()
    other = atlas_file(tmp_path / "other.h5", seed=9).read_bytes()
    whole, site.files[PACKED[0]] = site.files[PACKED[0]], gzip.compress(other)
    with pytest.raises(DataError, match=rf"{PACKED[0]}: has the SHA-256 .*/{SUMS} says .* of {TRAIN}; run the same"):
        fetch(root, options(site))
    assert set(files(root)) == {TEST}
    site.files[PACKED[0]] = whole
    fetch(root, options(site))
    assert files(root) == contents


@pytest.mark.parametrize("name", [PACKED[0], TRAIN])
def test_a_hash_of_the_settings_is_checked(site: Site, contents: dict[str, bytes], tmp_path: Path, name: str) -> None:
    """The publisher's, of the file as it is served, or that of the file as it lies unpacked."""
    served = {**site.files, **contents}
    wrong = {name: sha256(b"other").hexdigest()}
    with pytest.raises(
        DataError, match=rf"{PACKED[0]}: has the SHA-256 .*dataset\.fetch\.sha256 says .* of {name}; run"
    ):
        fetch(tmp_path / "jets", options(site, sha256=wrong))
    assert not (tmp_path / "jets").exists()
    assert not list(tmp_path.rglob("*.h5*"))
    fetch(tmp_path / "jets", options(site, sha256={name: sha256(served[name]).hexdigest()}))
    assert files(tmp_path / "jets") == contents


def test_a_broken_transfer_leaves_no_folder_and_is_gone_on_with(
    run_main: RunMain, site: Site, contents: dict[str, bytes], tmp_path: Path
) -> None:
    words = ("dataset=toptagging", f"dataset.fetch.base_url={site.address}", "dataset.root=jets")
    site.break_off_after = 10_000
    ended = run_main(tmp_path, "data", "action=fetch", *words)
    assert ended.code == 2 and "broke off at byte 10000 of" in ended.text and "to go on" in ended.text
    assert not (tmp_path / "jets").exists()
    # Nothing is trained on instead, and nothing is fetched by training.
    trained = run_main(tmp_path, "train", *words)
    assert trained.code == 2 and "did not finish" in trained.text and "action=fetch" in trained.text
    assert len(site.requests) == 1
    site.break_off_after = None
    assert run_main(tmp_path, "data", "action=fetch", *words).code == 0
    assert site.requests[1] == (f"/{PACKED[0]}", "bytes=10000-")
    assert files(tmp_path / "jets") == contents


def test_a_file_that_the_server_lacks_is_named_and_the_others_are_not_lost(
    run_main: RunMain, site: Site, contents: dict[str, bytes], tmp_path: Path
) -> None:
    words = ("dataset=toptagging", f"dataset.fetch.base_url={site.address}", "dataset.root=jets")
    lacking = site.files.pop(PACKED[1])
    ended = run_main(tmp_path, "data", "action=fetch", *words)
    assert ended.code == 2 and ended.err.count("error:") == 1
    assert f"{PACKED[1]}: the server answered 404" in ended.text
    assert "check dataset.fetch.base_url and dataset.fetch.files" in ended.text
    assert not (tmp_path / "jets").exists()
    assert "did not finish" in run_main(tmp_path, "train", *words).text
    site.files[PACKED[1]] = lacking
    assert run_main(tmp_path, "data", "action=fetch", *words).code == 0
    assert [path for path, _ in site.requests] == [f"/{name}" for name in (*PACKED, PACKED[1])]
    assert files(tmp_path / "jets") == contents


BAD = {
    "half of it": lambda packed: packed[: len(packed) // 2],
    "no gzip": lambda packed: b"<html>busy</html>",
    "damaged": lambda packed: packed[:5_000] + bytes(100) + packed[5_100:],
    "gzip of something else": lambda packed: gzip.compress(b"<html>busy</html>"),
    "gzip of half": lambda packed: gzip.compress(gzip.decompress(packed)[:-1_000]),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_whole_file_is_refused_and_fetched_anew(
    site: Site, contents: dict[str, bytes], tmp_path: Path, kind: str
) -> None:
    whole, site.files[PACKED[0]] = site.files[PACKED[0]], BAD[kind](site.files[PACKED[0]])
    with pytest.raises(DataError, match=rf"{PACKED[0]}: what came is no whole (gzip|HDF5) file.* again, or check"):
        fetch(tmp_path / "jets", options(site))
    assert not (tmp_path / "jets").exists() and not list(tmp_path.rglob("*.h5*"))
    site.files[PACKED[0]] = whole
    fetch(tmp_path / "jets", options(site))
    assert files(tmp_path / "jets") == contents


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"files": ("../train.h5",)}, "'../train.h5' is not the plain name of a file"),
        ({"files": ("train.csv",)}, "'train.csv' is not the plain name of a file"),
        ({"files": (TRAIN, PACKED[0])}, "names a file twice"),
        ({"sha256": {"val.h5": "0" * 64}}, "val.h5 is not among dataset.fetch.files"),
        ({"sha256": {TRAIN: "abc"}}, "'abc' of train_nominal_000.h5 is not 64 digits"),
    ],
)
def test_settings_that_fit_no_file_are_refused(
    site: Site, tmp_path: Path, settings: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        fetch(tmp_path / "jets", options(site, **settings))
    assert site.requests == [] and list(tmp_path.iterdir()) == []


def test_real_jets_are_not_put_among_generated_ones(site: Site, tmp_path: Path) -> None:
    (tmp_path / "jets").mkdir()
    (tmp_path / "jets" / "synthetic.json").write_text("{}")
    (tmp_path / "file").touch()
    for name in ("jets", "file"):
        with pytest.raises(DataError, match=rf"{name}: is no folder for real jets, .*; give root=FOLDER"):
            fetch(tmp_path / name, options(site))
    assert site.requests == []


def test_a_broken_list_of_hashes_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "jets").mkdir()
    (tmp_path / "jets" / SUMS).write_text(f"{'0' * 64}  a.h5\nnonsense\n")
    with pytest.raises(DataError, match=rf"{SUMS}, line 2: is no SHA-256, two spaces and a file name"):
        fetch(tmp_path / "jets", options(site))


def test_a_missing_folder_says_that_the_files_can_be_fetched(tmp_path: Path) -> None:
    made = TopTagging(root=tmp_path / "jets", generated_root=tmp_path, views_root=tmp_path, source="real")
    with pytest.raises(DataError, match="run `python -m kdexp data action=fetch dataset=toptagging`"):
        made.setup(0)
