"""A teacher is trained once per configuration: kept whole, found again, never by two processes at a time."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdexp.contracts import TaskSpec
from kdexp.errors import CacheError, KdexpError
from kdexp.records import RunFolder, read_json
from kdexp.training.teacher import (
    TeacherStore,
    describe_task,
    keep_weights,
    load_weights,
    obtain_teacher,
    weights_fingerprint,
)
from support import ROOT

TASKS = (TaskSpec(name="organ", kind="multiclass", classes=("heart", "lung"), metrics=("acc",)),)
MANIFEST = {"tasks": [describe_task(task) for task in TASKS], "epochs": 3}


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def make(folder: RunFolder) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """Stands for a training: leaves a checkpoint, returns weights."""
    folder.last_checkpoint.parent.mkdir(parents=True, exist_ok=True)
    folder.last_checkpoint.write_bytes(b"training")
    return network().state_dict(), dict(MANIFEST)


def refuse(folder: RunFolder) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    raise AssertionError("it was there already")


@pytest.fixture
def store(tmp_path: Path) -> TeacherStore:
    return TeacherStore(tmp_path / "teachers" / "abc")


def test_a_teacher_is_made_once_and_found_again(store: TeacherStore) -> None:
    manifest, reused = obtain_teacher(store, make, is_main=True)
    again, reused_then = obtain_teacher(store, refuse, is_main=True)
    assert (reused, reused_then) == (False, True) and manifest == again
    assert manifest["fingerprint"] == weights_fingerprint(network().state_dict())
    assert manifest["epochs"] == 3
    # What only a training that goes on would need is gone.
    assert not store.run.last_checkpoint.exists()


def test_a_helper_process_takes_part_and_waits_for_the_main_one(store: TeacherStore) -> None:
    obtain_teacher(store, make, is_main=True)
    assert obtain_teacher(store, refuse, is_main=False) == (read_json(store.manifest), True)


def test_the_manifest_is_written_last(store: TeacherStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("kdexp.training.teacher.write_json", stop)
        obtain_teacher(store, make, is_main=True)
    assert store.weights.exists() and not store.manifest.exists()
    # A training that was cut off keeps its checkpoint, and another process may go on with it.
    assert store.run.last_checkpoint.exists()
    assert obtain_teacher(store, make, is_main=True)[1] is False


def test_a_training_that_fails_leaves_the_store_free(store: TeacherStore) -> None:
    def fail(folder: RunFolder) -> Any:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        obtain_teacher(store, fail, is_main=True)
    assert obtain_teacher(store, make, is_main=True)[1] is False


@pytest.mark.parametrize("content", ["", '{"tasks": ['])
def test_a_damaged_manifest_is_named_with_the_way_out(store: TeacherStore, content: str) -> None:
    obtain_teacher(store, make, is_main=True)
    store.manifest.write_text(content)
    with pytest.raises(KdexpError, match=r"teacher\.json.*remove"):
        obtain_teacher(store, make, is_main=True)


# weights


def test_weights_come_back_to_the_bit(store: TeacherStore) -> None:
    manifest, _ = obtain_teacher(store, make, is_main=True)
    other = network(seed=1)
    assert load_weights(other, store.weights, TASKS, "teacher") == manifest["fingerprint"]
    wanted = network().state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in other.state_dict().items())


def test_a_plain_state_dict_made_elsewhere_is_taken(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "w.pt")
    assert load_weights(network(1), tmp_path / "w.pt", TASKS, "k") == weights_fingerprint(network().state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_in_another_precision_are_taken(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in network().state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    model = network(1)
    load_weights(model, tmp_path / "w.pt", TASKS, "k")
    assert torch.equal(model.state_dict()["0.weight"], state["0.weight"].float())


def test_weights_for_other_labels_are_refused(store: TeacherStore) -> None:
    obtain_teacher(store, make, is_main=True)
    turned = (TaskSpec(name="organ", kind="multiclass", classes=("lung", "heart")),)
    with pytest.raises(CacheError, match=r"k: .*model\.pt was made for other labels: organ there is \['heart', "):
        load_weights(network(), store.weights, turned, "k")
    renamed = (TaskSpec(name="region", kind="multiclass", classes=("heart", "lung")),)
    with pytest.raises(CacheError, match="region there is None"):
        load_weights(network(), store.weights, renamed, "k")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state_dict": {"0.weight": torch.zeros(4, 2)}}, "does not fit the configured model: Missing key"),
        ({**network().state_dict(), "0.weight": torch.zeros(9, 2)}, "does not fit the configured model: size mismatch"),
        ({**network().state_dict(), "extra": torch.zeros(1)}, "does not fit the configured model: Unexpected key"),
        ({"epoch": 3}, "does not fit the configured model"),
        ([1, 2], "is torn or no checkpoint"),
    ],
    ids=["fewer", "shape", "more", "none", "list"],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, content: Any, said: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CacheError, match=rf"w\.pt {said}"):
        load_weights(network(), tmp_path / "w.pt", TASKS, "teacher.checkpoint")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"w\.pt does not exist"):
        load_weights(network(), tmp_path / "w.pt", TASKS, "k")


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_a_torn_file_is_named(tmp_path: Path, kept: float) -> None:
    torch.save(network().state_dict(), tmp_path / "w.pt")
    content = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(content[: int(kept * len(content) if kept < 1 else kept)])
    with pytest.raises(CacheError, match=r"w\.pt is torn or no checkpoint"):
        load_weights(network(), tmp_path / "w.pt", TASKS, "k")


@pytest.mark.parametrize("content", [b"\x80\x02.", b"\x80\x02K", b"\x80\x02h\x05."], ids=["empty", "cut", "unknown"])
def test_a_pickle_that_ends_too_early_is_torn(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(CacheError, match=r"w\.pt is torn or no checkpoint"):
        load_weights(network(), tmp_path / "w.pt", TASKS, "k")


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("save", ["torch", "pickle"])
def test_a_file_that_could_run_code_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: str) -> None:
    monkeypatch.chdir(tmp_path)
    if save == "torch":
        torch.save({**network().state_dict(), "x": Evil()}, "w.pt")
    else:
        Path("w.pt").write_bytes(pickle.dumps({"state_dict": Evil()}))
    with pytest.raises(CacheError, match=r"w\.pt holds more than tensors and plain values and could run code"):
        load_weights(network(), Path("w.pt"), TASKS, "k")
    assert not Path("pwned").exists()


def test_a_fingerprint_sees_names_and_numbers_and_no_order() -> None:
    state = network().state_dict()
    found = weights_fingerprint(state)
    assert weights_fingerprint(dict(reversed(state.items()))) == found
    assert weights_fingerprint({f"x{name}": t for name, t in state.items()}) != found
    changed = {**state, "1.running_mean": state["1.running_mean"] + 1e-6}
    assert weights_fingerprint(changed) != found, "buffers are weights too"


def test_keeping_weights_leaves_no_temporary_file(store: TeacherStore) -> None:
    keep_weights(store, network().state_dict(), MANIFEST)
    assert {path.name for path in store.path.iterdir()} == {"model.pt", "teacher.json"}


# processes

PROCESSES = """
import os, sys, time
from pathlib import Path
import torch
from kdexp.training.cache import CacheKey, obtain_cache
from kdexp.training.teacher import TeacherStore, obtain_teacher

root = Path(sys.argv[1])

def process(work):
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
    return child

def ended(*children):
    return [os.waitpid(child, 0)[1] for child in children]

def make(folder):
    with open(root / f"trainings.{folder.path.name}", "a") as log:
        log.write(f"{os.getpid()}\\n")
    (folder.path).mkdir(parents=True, exist_ok=True)
    time.sleep(0.3)
    return {"w": torch.zeros(2)}, {"tasks": []}

def train():
    manifest, reused = obtain_teacher(TeacherStore(root / "one"), make, is_main=True)
    (root / f"{'reused' if reused else 'made'}.{os.getpid()}").write_text(manifest["fingerprint"])

def compute():
    with open(root / "computations", "a") as log:
        log.write(f"{os.getpid()}\\n")
    time.sleep(0.2)
    return {"t": torch.ones(3)}, {}

def outputs():
    key = CacheKey(teacher="t", data="d", dtype="float32", names=())
    assert obtain_cache(root / "outputs", key, "ram", compute)[0].values["t"].tolist() == [1, 1, 1]

def killed(folder):
    (root / "holder").touch()
    time.sleep(0.2)
    os.kill(os.getpid(), 9)

def hold():
    obtain_teacher(TeacherStore(root / "two"), killed, is_main=True)

def wait():
    while not (root / "holder").exists():
        time.sleep(0.01)
    assert obtain_teacher(TeacherStore(root / "two"), make, is_main=True)[1] is False

assert ended(*[process(train) for _ in range(3)], *[process(outputs) for _ in range(3)]) == [0] * 6
assert ended(process(hold), process(wait)) == [9, 0]
"""


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What several processes left that wanted the same teacher at the same time."""
    root = tmp_path_factory.mktemp("crowded")
    done = subprocess.run(
        [sys.executable, "-c", PROCESSES, str(root)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return root


def trained_by(root: Path, name: str) -> int:
    return len((root / f"trainings.{name}").read_text().splitlines())


def test_processes_that_want_the_same_teacher_train_it_once(crowded: Path) -> None:
    assert trained_by(crowded, "one") == 1
    assert len(list(crowded.glob("made.*"))) == 1 and len(list(crowded.glob("reused.*"))) == 2
    fingerprints = {path.read_text() for path in [*crowded.glob("made.*"), *crowded.glob("reused.*")]}
    assert fingerprints == {weights_fingerprint({"w": torch.zeros(2)})}


def test_processes_that_want_the_same_outputs_compute_them_once(crowded: Path) -> None:
    assert len((crowded / "computations").read_text().splitlines()) == 1
    assert len(list((crowded / "outputs").glob("*/manifest.json"))) == 1


def test_a_process_that_is_killed_does_not_block_the_next(crowded: Path) -> None:
    assert trained_by(crowded, "two") == 1
    assert (crowded / "two" / "teacher.json").exists()
