"""Bad input ends with a sentence that names file, record or key and the way out, with exit code 2 and nothing written.

The commands run in this process, as `main` sees them; what needs a process of its own is in the other files.
"""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

RINGS = ["-cd", "{outside}", "dataset=rings", "figures=false"]
MEDPIX_ROWS = "splitted_dataset/descriptions_train.jsonl"


@pytest.fixture(scope="module")
def generated(tmp_path_factory, run_main) -> Path:
    """A small synthetic data set in the real format, without the marker that calls it synthetic."""
    folder = tmp_path_factory.mktemp("data")
    done = run_main(folder, "data", "action=generate", "dataset.generator.preset=small", "root=medpix")
    assert done.code == 0, done.err
    (folder / "medpix" / "synthetic.json").unlink()
    return folder / "medpix"


@pytest.fixture
def medpix(generated: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(generated, tmp_path / "medpix"))


def edit_record(root: Path, number: int, **changes: object) -> None:
    path = root / MEDPIX_ROWS
    lines = path.read_text().splitlines()
    record = json.loads(lines[number]) | changes
    lines[number] = json.dumps(record)
    path.write_text("\n".join(lines) + "\n")


def first_image(root: Path) -> Path:
    record = json.loads((root / MEDPIX_ROWS).read_text().splitlines()[0])
    return root / "images" / f"{record['image']}.png"


def break_png(root: Path) -> None:
    path = first_image(root)
    path.write_bytes(path.read_bytes()[:40])


def cut_line(root: Path) -> None:
    path = root / MEDPIX_ROWS
    path.write_text(path.read_text()[:-30])


def empty_split(root: Path) -> None:
    (root / "splitted_dataset" / "descriptions_dev.jsonl").write_text("")


BROKEN = {
    "broken PNG": (break_png, ["first image", ".png"]),
    "JSONL line cut short": (cut_line, ["descriptions_train.jsonl", "line"]),
    "record without image": (lambda root: first_image(root).unlink(), ["first image", "descriptions_train.jsonl"]),
    "unknown label": (
        lambda root: edit_record(root, 2, **{"Location Category": "Knee"}),
        ["descriptions_train.jsonl", "3", "Knee", "Abdomen"],
    ),
    "empty split": (empty_split, ["descriptions_dev.jsonl"]),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_files_are_named(run_main, medpix, tmp_path, fault):
    break_it, words = BROKEN[fault]
    words = [first_image(medpix).stem if word == "first image" else word for word in words]
    break_it(medpix)
    ended = run_main(tmp_path, "train", f"dataset.root={medpix}", "dataset.source=real", "figures=false")
    assert ended.code == 2
    assert "Traceback" not in ended.text
    for word in words:
        assert word in ended.text, ended.text
    assert ended.err.count("error:") == 1
    assert not list((tmp_path / "outputs").rglob("*.*"))


CONFIG_MISTAKES = {
    "a group without its outer one": (
        ["dataset=toptagging", "view=hlt_harsh"],
        ["the group of that name is dataset/view"],
    ),
    "a group set to null": (["distill=null"], ["error: distill=null: null is no option", "ce_lambda_kl", "none"]),
    "missing root": (["dataset.source=real", "dataset.root=nowhere"], ["nowhere", "action=fetch", "source=synthetic"]),
    "unknown dataset": (["dataset=xray"], ["dataset=xray", "medpix", "student/xray.yaml", "-cd"]),
    "unknown key": (["student.widht=3"], ["student.widht", "width"]),
    "wrong type": (["trainer.max_epochs=abc"], ["trainer.max_epochs", "integer", "abc"]),
    "target outside": (["student._target_=os.system"], ["student._target_", "os.system", "KDEXP_TRUSTED_PACKAGES"]),
    "target that is imported": (
        ["logger._target_=kdexp.training.loggers.json.loads"],
        ["logger._target_", "json.loads"],
    ),
}


@pytest.mark.parametrize("mistake", CONFIG_MISTAKES)
@pytest.mark.parametrize("verb", ["train", "check"])
def test_mistakes_in_a_command_are_named(run_main, tmp_path, verb, mistake):
    given, words = CONFIG_MISTAKES[mistake]
    if verb == "check" and mistake == "missing root":
        pytest.skip("check reads no files")
    ended = run_main(tmp_path, verb, *given)
    assert ended.code == 2
    for word in words:
        assert word in ended.text, ended.text
    assert not list(tmp_path.rglob("*.*"))


def test_an_unknown_verb_is_named_with_the_choices(run_main, tmp_path):
    ended = run_main(tmp_path, "distil")
    assert ended.code == 2
    assert "'distil'" in ended.text
    assert "train, evaluate, data, check" in ended.text


def test_all_mistakes_are_listed_at_once(run_main, tmp_path):
    ended = run_main(
        tmp_path, "check", "foo=1", "trainer.max_epochs=abc", "distill.temperature=-1", "student.widht=2", "seed=-1"
    )
    assert ended.code == 2
    for key in ("foo", "trainer.max_epochs", "distill.temperature", "student.widht", "seed"):
        assert f"{key}" in ended.text


@pytest.fixture(scope="module")
def trained(tmp_path_factory, run_main) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    done = run_main(folder, "train", *RINGS, "trainer.max_epochs=2")
    assert done.code == 0, done.err
    return next((folder / "outputs" / "teachers").glob("*/model.pt"))


class TestTeacherCheckpoints:
    """`teacher.checkpoint` takes weights from elsewhere, and no more than weights."""

    def test_weights_from_elsewhere_are_used(self, run_main, tmp_path, trained):
        done = run_main(tmp_path, "train", *RINGS, "trainer.max_epochs=2", f"teacher.checkpoint={trained}")
        assert done.code == 0, done.err
        record = json.loads(next((tmp_path / "outputs").rglob("run.json")).read_text())
        assert record["teacher"]["epochs"] == 0
        assert (
            record["teacher"]["fingerprint"] == json.loads((trained.parent / "teacher.json").read_text())["fingerprint"]
        )

    def refused(self, run_main, tmp_path, path) -> str:
        ended = run_main(tmp_path, "train", *RINGS, "trainer.max_epochs=2", f"teacher.checkpoint={path}")
        assert ended.code == 2, ended.text
        assert str(path) in ended.text
        assert not list((tmp_path / "outputs").rglob("*.*")), "something was left half-written"
        return ended.text

    def test_another_label_set(self, run_main, tmp_path, trained):
        content = torch.load(trained, weights_only=True)
        content["tasks"][0]["classes"] = ["cat", "dog", "cow"]
        torch.save(content, tmp_path / "other.pt")
        text = self.refused(run_main, tmp_path, tmp_path / "other.pt")
        assert "other labels" in text
        assert "cow" in text

    def test_a_truncated_file(self, run_main, tmp_path, trained):
        (tmp_path / "torn.pt").write_bytes(trained.read_bytes()[:-200])
        assert "torn" in self.refused(run_main, tmp_path, tmp_path / "torn.pt")

    def test_a_pickle_that_would_run_code(self, run_main, tmp_path):
        class Harm:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "harmed",))

        with (tmp_path / "evil.pt").open("wb") as stream:
            pickle.dump({"state_dict": Harm()}, stream)
        torch.save({"state_dict": Harm()}, tmp_path / "evil_zip.pt")
        assert "could run code" in self.refused(run_main, tmp_path, tmp_path / "evil.pt")
        assert "could run code" in self.refused(run_main, tmp_path, tmp_path / "evil_zip.pt")
        assert not (tmp_path / "harmed").exists()

    def test_a_missing_file(self, run_main, tmp_path):
        assert "does not exist" in self.refused(run_main, tmp_path, tmp_path / "nowhere.pt")

    def test_weights_of_another_architecture(self, run_main, tmp_path, trained):
        ended = run_main(tmp_path, "train", *RINGS, "teacher.model.width=7", f"teacher.checkpoint={trained}")
        assert ended.code == 2
        assert "does not fit the configured model" in ended.text


def test_a_folder_that_holds_a_run_is_not_overwritten(run_main, tmp_path):
    first = run_main(tmp_path, "train", *RINGS, "trainer.max_epochs=2", "hydra.run.dir=here")
    assert first.code == 0
    before = (tmp_path / "here" / "run.json").read_bytes()
    ended = run_main(tmp_path, "train", *RINGS, "trainer.max_epochs=3", "hydra.run.dir=here")
    assert ended.code == 2
    assert "holds a run already" in ended.text
    assert (tmp_path / "here" / "run.json").read_bytes() == before


def test_resuming_what_is_no_run_is_refused(run_main, tmp_path):
    ended = run_main(tmp_path, "train", "resume=nowhere")
    assert ended.code == 2
    assert "nowhere is not a run folder" in ended.text


def test_evaluating_an_unfinished_run_is_refused(run_main, tmp_path):
    done = run_main(tmp_path, "train", *RINGS, "trainer.max_epochs=2", "hydra.run.dir=here")
    assert done.code == 0
    (tmp_path / "here" / "run.json").unlink()
    ended = run_main(tmp_path, "evaluate", "run=here")
    assert ended.code == 2
    assert "not finished" in ended.text


def test_a_nan_in_a_loss_names_step_and_part_and_keeps_the_last_checkpoint(run_main, tmp_path):
    ended = run_main(
        tmp_path,
        "train",
        *RINGS,
        "trainer.max_epochs=4",
        "schedule@optimizer.lr=step",
        "optimizer.lr.end=1e30",
        "optimizer.lr.n_steps=4",
        "hydra.run.dir=here",
    )
    assert ended.code == 1
    assert "the loss is no number at step" in ended.text
    assert "ce = nan" in ended.text
    assert "resume=" in ended.text
    assert torch.load(tmp_path / "here" / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] >= 0
    assert not (tmp_path / "here" / "run.json").exists()


def test_an_image_of_another_size_is_no_mistake(run_main, medpix, tmp_path):
    Image.new("RGB", (31, 77)).save(first_image(medpix))
    assert run_main(tmp_path, "data", "action=inspect", f"dataset.root={medpix}").code == 0
