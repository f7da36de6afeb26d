from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import pytest

from kdexp.errors import DataError
from kdexp.systems.sources import (
    Generator,
    Resolved,
    download_folder,
    folder_written_whole,
    resolve_source,
    write_generated,
)


class Toy:
    """A system of one file, which counts how often it is generated."""

    def __init__(self, tmp_path: Path, **settings: object) -> None:
        self.tmp_path = tmp_path
        self.settings = settings or {"size": 1}
        self.n_written = 0

    def write(self, folder: Path, seed: int) -> None:
        self.n_written += 1
        (folder / "data.txt").write_text(str(seed))

    def resolve(self, source: str = "auto", seed: int = 42) -> Resolved:
        return resolve_source(
            "toy",
            source=source,
            root=self.tmp_path / "data" / "toy",
            generated_root=self.tmp_path / "generated",
            missing=lambda root: [] if (root / "data.txt").exists() else ["data.txt"],
            generator=Generator(write=self.write, settings=self.settings),
            seed=seed,
        )

    def put_real_files(self) -> Path:
        root = self.tmp_path / "data" / "toy"
        root.mkdir(parents=True)
        (root / "data.txt").write_text("real")
        return root


@pytest.mark.parametrize("source", ["auto", "real"])
def test_real_files_are_used_where_they_are(tmp_path: Path, source: str, caplog: pytest.LogCaptureFixture) -> None:
    toy = Toy(tmp_path)
    root = toy.put_real_files()
    assert toy.resolve(source) == Resolved(root=root, source="real")
    assert toy.n_written == 0
    assert "SYNTHETIC" not in caplog.text


@pytest.mark.parametrize("source", ["auto", "synthetic"])
def test_the_stand_in_is_made_once_and_shouts(tmp_path: Path, source: str, caplog: pytest.LogCaptureFixture) -> None:
    toy = Toy(tmp_path)
    with caplog.at_level(logging.WARNING):
        first, second = toy.resolve(source), toy.resolve(source)
    assert first == second
    assert first.source == "synthetic"
    assert (first.root / "data.txt").read_text() == "42"
    assert toy.n_written == 1
    # Every use says so, not only the making.
    assert caplog.text.count("SYNTHETIC") == 2


def test_synthetic_is_generated_even_where_real_files_are(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.put_real_files()
    assert toy.resolve("synthetic").source == "synthetic"


def test_each_seed_and_each_setting_has_its_own_folder(tmp_path: Path) -> None:
    roots = {Toy(tmp_path).resolve(seed=1).root, Toy(tmp_path).resolve(seed=2).root}
    roots.add(Toy(tmp_path, size=2).resolve(seed=1).root)
    assert len(roots) == 3
    assert all(json.loads((root / "synthetic.json").read_text())["dataset"] == "toy" for root in roots)


def test_a_generated_folder_stays_synthetic_wherever_it_is_moved(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    generated = toy.resolve("synthetic").root
    (tmp_path / "data").mkdir()
    generated.rename(tmp_path / "data" / "toy")
    assert toy.resolve("auto") == Resolved(root=tmp_path / "data" / "toy", source="synthetic")
    with pytest.raises(DataError, match="marks a generated folder"):
        toy.resolve("real")


def test_a_root_that_lacks_a_file_is_an_error_not_a_reason_to_generate(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    (toy.put_real_files() / "data.txt").unlink()
    for source in ("auto", "real"):
        with pytest.raises(DataError, match=r"toy is incomplete, without data\.txt"):
            toy.resolve(source)
    assert toy.n_written == 0


def test_an_unfinished_download_is_an_error_not_a_reason_to_generate(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    folder = download_folder(tmp_path / "data" / "toy")
    folder.mkdir(parents=True)
    (folder / "archive.zip.part").write_bytes(b"half")
    with pytest.raises(DataError, match="did not finish"):
        toy.resolve("auto")
    assert toy.resolve("synthetic").source == "synthetic"


def test_two_at_once_make_the_stand_in_once(tmp_path: Path) -> None:
    toys = [Toy(tmp_path) for _ in range(6)]
    start = threading.Barrier(len(toys))
    roots: list[Path] = []

    def work(toy: Toy) -> None:
        start.wait()
        roots.append(toy.resolve("synthetic").root)

    threads = [threading.Thread(target=work, args=(toy,)) for toy in toys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(roots) == len(toys)
    assert len(set(roots)) == 1
    assert sum(toy.n_written for toy in toys) == 1


def test_what_a_killed_process_left_is_not_taken_for_whole(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    whole = toy.resolve("synthetic").root
    whole.rename(whole.with_name(f".{whole.name}.12345.tmp"))
    assert toy.resolve("synthetic").root == whole
    assert toy.n_written == 2


def test_a_data_set_may_be_written_to_an_empty_folder_only(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    generator = Generator(write=toy.write, settings=toy.settings)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("1")
    write_generated(tmp_path / "empty", generator, 1, "toy")
    assert (tmp_path / "empty" / "data.txt").read_text() == "1"
    for occupied in ("empty", "file"):
        with pytest.raises(DataError, match="exists already"):
            write_generated(tmp_path / occupied, generator, 2, "toy")


def test_a_folder_written_whole_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder"
    with folder_written_whole(target) as temporary:
        (temporary / "file").write_text("1")
        assert not target.exists()
    assert (target / "file").read_text() == "1"
    with pytest.raises(ZeroDivisionError), folder_written_whole(tmp_path / "other") as temporary:
        (temporary / "file").write_text(str(1 / 0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep"]
