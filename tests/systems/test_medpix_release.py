from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_fixture import Site, serve
from medpix_helpers import make_medpix

from kdexp.errors import DataError
from kdexp.systems.multimodal.medpix import FetchOptions, MedPix
from kdexp.systems.multimodal.medpix_release import unpack


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as site:
        yield site


@pytest.fixture(scope="module")
def release(small_root: Path) -> dict[str, bytes]:
    """The files of a release, by path; without the marker, so that they count as real."""
    paths = [path for path in small_root.rglob("*") if path.is_file() and path.name != "synthetic.json"]
    return {str(path.relative_to(small_root)): path.read_bytes() for path in paths}


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def under(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": content for name, content in files.items()}


def images_in_a_zip(files: dict[str, bytes]) -> dict[str, bytes]:
    images = {name.removeprefix("images/"): content for name, content in files.items() if name.startswith("images/")}
    rest = {name: content for name, content in files.items() if not name.startswith("images/")}
    return rest | {"images.zip": zipped(images)}


def medpix_from(site: Site, root: Path, *names: str) -> MedPix:
    return make_medpix(root, source="real", fetch=FetchOptions(urls=tuple(site.url(name) for name in names)))


def test_the_release_is_fetched_whole_and_read(site: Site, release: dict[str, bytes], tmp_path: Path) -> None:
    site.files["r.zip"] = zipped(under("MedPix-2.0-d3bc431/MedPix-2-0", release) | {"x/code/train.py": b"import os"})
    root = tmp_path / "data" / "medpix"
    told: list[str] = []
    dataset = medpix_from(site, root, "r.zip")
    dataset.fetch(root, progress=lambda what, done, total: told.append(what))
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert found == release
    assert set(told) == {"fetch", "unpack"}
    dataset.setup(0)
    assert dataset.source == "real"


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("arrange", [lambda files: under("deep/er", files), images_in_a_zip])
def test_images_and_split_files_are_found_wherever_they_lie(
    release: dict[str, bytes], tmp_path: Path, pack, arrange
) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(pack(arrange(release) | {"logo.png": b"no image", "deep/.hidden.png": b"no image"}))
    unpack(archive, tmp_path)
    for name, content in release.items():
        assert (tmp_path / name).read_bytes() == content
    assert len(list((tmp_path / "images").iterdir())) == sum(name.startswith("images/") for name in release)


def test_two_archives_make_one_release(site: Site, release: dict[str, bytes], tmp_path: Path) -> None:
    images = {name: content for name, content in release.items() if name.startswith("images/")}
    site.files["text.zip"] = zipped({name: content for name, content in release.items() if name not in images})
    site.files["images.tar.gz"] = tarred(images)
    root = tmp_path / "medpix"
    medpix_from(site, root, "text.zip", "images.tar.gz").fetch(root)
    assert len(list((root / "images").iterdir())) == len(images)


def test_an_interrupted_fetch_leaves_no_root_and_goes_on(site: Site, release: dict[str, bytes], tmp_path: Path) -> None:
    site.files["r.zip"] = zipped(release)
    site.break_off_after = 50_000
    root = tmp_path / "medpix"
    dataset = medpix_from(site, root, "r.zip")
    with pytest.raises(DataError, match="broke off"):
        dataset.fetch(root)
    assert not root.exists()
    with pytest.raises(DataError, match="did not finish"):
        dataset.setup(0)
    site.break_off_after = None
    dataset.fetch(root)
    assert site.requests[-1][1] == "bytes=50000-"
    dataset.setup(0)


def test_a_second_fetch_must_bring_the_same_content(site: Site, release: dict[str, bytes], tmp_path: Path) -> None:
    site.files["r.zip"] = zipped(release)
    first, root = tmp_path / "moved", tmp_path / "medpix"
    dataset = medpix_from(site, root, "r.zip")
    dataset.fetch(root)
    root.rename(first)
    site.files["r.zip"] = zipped(release | {"splitted_dataset/README.json": b"{}"})
    with pytest.raises(DataError, match="is not what was fetched before"):
        dataset.fetch(root)
    assert not root.exists()


def test_an_existing_root_is_never_overwritten(site: Site, copied_root: Path) -> None:
    with pytest.raises(DataError, match="exists already"):
        medpix_from(site, copied_root, "r.zip").fetch(copied_root)
    assert site.requests == []


BAD_RELEASES = {
    "without a split": (lambda f: {n: c for n, c in f.items() if "descriptions_dev" not in n}, "descriptions_dev"),
    "without an image": (lambda f: {n: c for n, c in f.items() if "MPX9001_synpic00001" not in n}, "does not exist"),
    "with a pointer": (lambda f: f | {"images/MPX9001_synpic00001.png": b"version https://git-lfs"}, "Git LFS pointer"),
    "with two versions": (lambda f: f | {"old/splitted_dataset/uid_list.json": b"{}"}, "differs from another"),
    "leaving the folder": (lambda f: f | {"images/../../evil.png": b"\x89PNG\r\n\x1a\n"}, "outside the folder"),
    "absolute": (lambda f: f | {"/images/evil.png": b"\x89PNG\r\n\x1a\n"}, "outside the folder"),
    "of another system": (lambda f: f | {"C:\\images\\..\\evil.png": b"\x89PNG\r\n\x1a\n"}, "outside the folder"),
}


@pytest.mark.parametrize("kind", BAD_RELEASES)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_bad_release_is_refused_and_leaves_no_root(
    site: Site, release: dict[str, bytes], tmp_path: Path, kind: str, pack
) -> None:
    damage, said = BAD_RELEASES[kind]
    site.files["r.zip"] = pack(damage(release))
    root = tmp_path / "data" / "medpix"
    with pytest.raises(DataError, match=said):
        medpix_from(site, root, "r.zip").fetch(root)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".medpix.download"]


def test_what_is_no_archive_is_refused(site: Site, tmp_path: Path) -> None:
    site.files["r.zip"] = b"<html>not found</html>"
    with pytest.raises(DataError, match="is not a whole zip or tar archive"):
        medpix_from(site, tmp_path / "medpix", "r.zip").fetch(tmp_path / "medpix")
