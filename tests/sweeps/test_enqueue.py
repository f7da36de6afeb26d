"""Named trials are held against the space, and another study is read without running anything that it holds."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from kdexp.errors import ConfigError, StudyError
from kdexp.sweeps.enqueue import Queued, n_listed, queued_trials
from kdexp.sweeps.space import Space

PARAMS = {"lr": "tag(log, interval(1e-4, 1e-1))", "kind": "choice('a b', c)", "width": "int(interval(8, 64))"}
WITH_DEPTH = {**PARAMS, "depth": "choice(1, 2)"}
DEEP = {"depth": {"kind": ["c"]}}


@pytest.fixture
def space() -> Space:
    return Space.read(WITH_DEPTH, active_when=DEEP)


def made_study(folder: Path, name: str, values: list[float | None], direction: str = "maximize") -> Path:
    """A finished study in its folder, drawn from the same space; None is a trial that failed."""
    path = folder / name / "study.db"
    path.parent.mkdir(parents=True)
    study = optuna.create_study(study_name=name, storage=f"sqlite:///{path}", direction=direction)
    drawn = Space.read(WITH_DEPTH, active_when=DEEP)
    study.sampler = optuna.samplers.RandomSampler(3)
    for value in values:
        trial = study.ask()
        drawn.suggest(trial)
        study.tell(trial, value, state=TrialState.FAIL if value is None else None)
    study._storage.remove_session()  # type: ignore[attr-defined]
    study._storage._backend.engine.dispose()  # type: ignore[attr-defined]
    return path


def test_a_list_of_named_runs_comes_as_the_study_holds_it(space: Space, tmp_path: Path) -> None:
    setting = [
        {"name": "run_a", "params": {"lr": 0.01, "kind": "a b", "width": 16}},
        {"name": "run_b", "params": {"kind": "c", "depth": 2}},
        {"name": "run_c", "params": {}},
    ]
    assert queued_trials(setting, space, tmp_path) == [
        Queued("run_a", {"lr": 0.01, "kind": "a b", "width": 16}),
        Queued("run_b", {"kind": "c", "depth": 2}),
        Queued("run_c", {}),
    ]


def test_a_text_names_a_run_in_each_line(space: Space, tmp_path: Path) -> None:
    text = """
    run_a  lr=1e-2 width=16

    run_b  kind=c depth=2
    """
    assert queued_trials(text, space, tmp_path) == [
        Queued("run_a", {"lr": 0.01, "width": 16}),
        Queued("run_b", {"kind": "c", "depth": 2}),
    ]
    assert [n_listed(setting) for setting in (text, [{}, {}, {}], {"study": "x"}, None)] == [2, 3, 0, 0]


def test_queued_trials_run_as_they_were_named_and_the_rest_is_drawn(space: Space, tmp_path: Path) -> None:
    queue = queued_trials([{"name": "run_a", "params": {"kind": "c", "width": 16}}], space, tmp_path)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    study.enqueue_trial(queue[0].params, user_attrs={"name": queue[0].name})
    trial = study.ask()
    values = space.suggest(trial)
    assert (values["kind"], values["width"]) == ("c", 16) and space.missing(values) == []


def test_nothing_queued_is_no_trial(space: Space, tmp_path: Path) -> None:
    assert queued_trials(None, space, tmp_path) == [] == queued_trials([], space, tmp_path)


BAD = [
    (
        [{"name": "x", "params": {"zzz": 1}}],
        "hydra.sweeper.enqueue.x: zzz is no parameter of this search; there are: lr",
    ),
    ([{"name": "x", "params": {"lr": 1.0}}], "hydra.sweeper.enqueue.x.lr: 1.0 is not in tag(log, interval("),
    ([{"name": "x", "params": {"lr": "0.01"}}], "hydra.sweeper.enqueue.x.lr: '0.01' is not in"),
    ([{"name": "x", "params": {"width": 8.5}}], "hydra.sweeper.enqueue.x.width: 8.5 is not in int(interval(8, 64))"),
    ([{"name": "x", "params": {"kind": "d"}}], "hydra.sweeper.enqueue.x.kind: 'd' is not in choice(a b, c)"),
    (
        [{"name": "x", "params": {"kind": "a b", "depth": 1}}],
        "hydra.sweeper.enqueue.x.depth: has no effect beside the others",
    ),
    ([{"name": "x"}], "hydra.sweeper.enqueue[0]: expected name and params, got"),
    ([{"name": "x", "params": [1]}], "hydra.sweeper.enqueue[0]: expected name and params, got"),
    ([{"name": "x", "params": {}, "seed": 3}], "hydra.sweeper.enqueue[0]: expected name and params, got"),
    ([{"name": " ", "params": {}}], "hydra.sweeper.enqueue[0].name: must be a text, got ' '"),
    (["x"], "hydra.sweeper.enqueue[0]: expected name and params, got 'x'"),
    (
        3,
        "hydra.sweeper.enqueue: expected a list of {name: run_a, params: {...}}, a text with a line `run_a key=value ",
    ),
    ("x", "hydra.sweeper.enqueue: expected a list of"),
    ("x lr", "hydra.sweeper.enqueue.x: expected key=value, got 'lr'"),
    ("x lr=[0.01", "hydra.sweeper.enqueue.x: expected key=value, got 'lr=[0.01'"),
    ("x lr=0.01 lr=0.02", "hydra.sweeper.enqueue.x: names lr twice"),
    ("x lr=0.01 depth=1 kind=d", "hydra.sweeper.enqueue.x.kind: 'd' is not in choice(a b, c)"),
    ({"study": "x", "best": 3}, "hydra.sweeper.enqueue: expected a list"),
    ({"study": "../x"}, "hydra.sweeper.enqueue: expected a list"),
    ({"top": 3}, "hydra.sweeper.enqueue: expected a list"),
    ({"study": "x", "top": 0}, "hydra.sweeper.enqueue.top: must be a whole number, at least 1, got 0"),
]


@pytest.mark.parametrize(("setting", "said"), BAD)
def test_what_the_space_does_not_have_is_refused(setting: Any, said: str, space: Space, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        queued_trials(setting, space, tmp_path)
    (problem,) = caught.value.problems
    assert problem.startswith(said)


def test_all_mistakes_of_a_list_are_named_at_once(space: Space, tmp_path: Path) -> None:
    setting = [
        {"name": "a", "params": {"zzz": 1, "lr": 5}},
        {"name": "b"},
        {"name": "c", "params": {}},
        {"name": "c", "params": {}},
    ]
    with pytest.raises(ConfigError) as caught:
        queued_trials(setting, space, tmp_path)
    assert len(caught.value.problems) == 4
    assert caught.value.problems[-1] == "hydra.sweeper.enqueue: 'c' is named twice"


@pytest.mark.parametrize(("direction", "best"), [("maximize", [3, 1, 4]), ("minimize", [0, 4, 1])])
def test_the_best_of_another_study_are_taken_by_its_own_direction(
    direction: str, best: list[int], space: Space, tmp_path: Path
) -> None:
    path = made_study(tmp_path, "other", [0.1, 0.7, None, 0.9, 0.5], direction)
    held = optuna.load_study(study_name="other", storage=f"sqlite:///{path}").trials
    assert queued_trials({"study": "other", "top": 3}, space, tmp_path) == [
        Queued(f"other_{number:05d}", held[number].params) for number in best
    ]


def test_values_of_another_study_must_fit_this_space(tmp_path: Path) -> None:
    made_study(tmp_path, "other", [0.1])
    narrow = Space.read({**WITH_DEPTH, "width": "choice(1000, 2000)"}, active_when=DEEP)
    with pytest.raises(ConfigError, match=r"enqueue\.other_00000\.width: \d+ is not in choice\(1000, 2000\)"):
        queued_trials({"study": "other"}, narrow, tmp_path)
    with pytest.raises(ConfigError, match="other_00000: width is no parameter of this search"):
        queued_trials({"study": "other"}, Space.read({"lr": PARAMS["lr"], "kind": PARAMS["kind"]}), tmp_path)


def test_another_study_that_cannot_serve_is_refused(space: Space, tmp_path: Path) -> None:
    made_study(tmp_path, "other", [0.1, None])
    with pytest.raises(StudyError, match="has 1 complete trials, asked for the top 2"):
        queued_trials({"study": "other", "top": 2}, space, tmp_path)
    with pytest.raises(StudyError, match="does not exist; there are studies: other"):
        queued_trials({"study": "absent"}, space, tmp_path)
    shutil.copytree(tmp_path / "other", tmp_path / "renamed")
    with pytest.raises(StudyError, match="holds no study 'renamed'; it holds: other"):
        queued_trials({"study": "renamed"}, space, tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "study.db").write_text("no database at all, but long enough to be looked at" * 20)
    with pytest.raises(StudyError, match="cannot be read as a study: file is not a database"):
        queued_trials({"study": "broken"}, space, tmp_path)
    (tmp_path / "empty").mkdir()
    sqlite3.connect(tmp_path / "empty" / "study.db").close()
    (tmp_path / "empty" / "study.db").touch()
    with pytest.raises(StudyError, match="cannot be read as a study"):
        queued_trials({"study": "empty"}, space, tmp_path)


def test_a_study_of_two_objectives_has_no_order(space: Space, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    storage = f"sqlite:///{tmp_path / 'two' / 'study.db'}"
    optuna.create_study(study_name="two", storage=storage, directions=["minimize", "maximize"])
    with pytest.raises(StudyError, match="two has 2 objectives, so no order"):
        queued_trials({"study": "two"}, space, tmp_path)


class Trap:
    """Unpickling it leaves a folder behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_a_strangers_study_is_read_without_its_pickles_and_not_written(space: Space, tmp_path: Path) -> None:
    """CmaEsSampler keeps its state pickled in the study: loading that would run whatever a stranger put there."""
    sprung = tmp_path / "sprung"
    path = made_study(tmp_path, "stranger", [0.3])
    study = optuna.load_study(study_name="stranger", storage=f"sqlite:///{path}")
    trial = study.ask()
    Space.read(WITH_DEPTH, active_when=DEEP).suggest(trial)
    study._storage.set_trial_system_attr(trial._trial_id, "cma:optimizer:0", pickle.dumps(Trap(sprung)).hex())
    study._storage.set_trial_system_attr(trial._trial_id, "cma:generation", 0)
    study.tell(trial, 0.9)
    before = hashlib.sha256(path.read_bytes()).digest()
    path.chmod(0o444)
    assert [trial.name for trial in queued_trials({"study": "stranger", "top": 2}, space, tmp_path)] == [
        "stranger_00001",
        "stranger_00000",
    ]
    assert not sprung.exists() and hashlib.sha256(path.read_bytes()).digest() == before
    # The trap is a real one: what would load it is the sampler.
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.is_dir()
