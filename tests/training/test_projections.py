"""Projections are trained: they receive a gradient, move, are resumed, and leave the student's own start as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdexp.contracts import Batch, StudentOutput, TaskSpec
from kdexp.display import Display
from kdexp.distill.objective import Objective, weighted
from kdexp.distill.schedules import make_schedule
from kdexp.records import RunFolder
from kdexp.training.cache import CacheKey, obtain_cache, teacher_outputs
from kdexp.training.fit import FitResult, fit, load_checkpoint, model_state
from kdexp.training.module import DistillationModule
from kdexp.training.signals import LiveTeacher, SignalSource

TASKS = (TaskSpec(name="side", kind="multiclass", classes=("left", "right")),)
N = 50


class Points:
    """Points in a plane, on the left or on the right."""

    def __init__(self) -> None:
        self.points = torch.randn(N, 2, generator=torch.Generator().manual_seed(1))
        self.sides = (self.points[:, 0] > 0).long()
        self.clusters: Any = [str(i) for i in range(N)]

    def __len__(self) -> int:
        return N

    def fetch(self, index: Tensor) -> Batch:
        view = {"points": self.points[index]}
        return Batch(student=view, teacher=view, targets={"side": self.sides[index]}, index=index)


class Network(nn.Module):
    version = 1

    def __init__(self, width: int, seed: int, dropout: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body, self.head = nn.Linear(2, width), nn.Linear(width, 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Mapping[str, Tensor]) -> StudentOutput:
        hidden = self.dropout(self.body(inputs["points"]).tanh())
        return StudentOutput(logits={"side": self.head(hidden)}, features={"hidden": hidden})


def objective(**settings: Any) -> Objective:
    parts = {"ce": 1.0, "kl": 1.0, "feature_mse": 10.0, "crd": 1.0, "rkd": 1.0, "mmd": 1.0, "rkd_park": 1.0}
    made = {"weights": parts, "temperature": 2.0, "features": [["hidden", "hidden"]], **settings}
    return weighted(**made)


@dataclass
class Bench:
    folder: Path

    def module(
        self,
        made: Objective,
        change: Callable[[DistillationModule], None] = lambda module: None,
        source: SignalSource | None = None,
    ) -> DistillationModule:
        """A student of width 3 and a teacher of width 5, connected as a run connects them."""
        student, teacher, data = Network(3, seed=1, dropout=0.2), Network(5, seed=2), Points()
        live = LiveTeacher(teacher, "t")
        batch = data.fetch(torch.arange(2))
        with torch.no_grad():
            made.connect(student(batch.student), live.signal(batch), seed=9)
        module = DistillationModule(
            student,
            objective=made,
            tasks=TASKS,
            score=("side/f1",),
            make_optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.0),
            learning_rate=make_schedule(0.01, "optimizer.lr"),
            seed=4,
            teacher=source or live,
        )
        change(module)
        return module

    def fit(self, module: DistillationModule, name: str, epochs: int = 3) -> FitResult:
        with Display(visible=False) as display:
            return fit(
                module,
                train=Points(),
                val=Points(),
                folder=RunFolder(self.folder / name),
                trainer_options={"max_epochs": epochs, "accelerator": "cpu", "devices": 1},
                batch_size=16,  # the last batch has two samples
                eval_batch_size=N,
                order_seed=3,
                stage=display.stage("student"),
            )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def untrained(bench: Bench, made: Objective, change: Callable[[DistillationModule], None]) -> list[str]:
    """The projections that got no gradient, or ended where they began."""
    seen: set[str] = set()
    module = bench.module(made, change)
    begun = {name: p.detach().clone() for name, p in made.named_parameters()}
    for name, parameter in made.named_parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda gradient, name=name: seen.add(name) if gradient.abs().sum() > 0 else None)
    bench.fit(module, "run", epochs=1)
    return [name for name, p in made.named_parameters() if name not in seen or torch.equal(p, begun[name])]


def as_it_is(module: DistillationModule) -> None:
    pass


def frozen(module: DistillationModule) -> None:
    module.objective.requires_grad_(False)


def outside_the_optimiser(module: DistillationModule) -> None:
    """The published fault: the loss holds its projections, the optimiser the student's parameters only."""
    module.configure_optimizers = lambda: torch.optim.AdamW(module.model.parameters(), lr=0.01)  # type: ignore[method-assign]


def outside_the_module(module: DistillationModule) -> None:
    """The same by another way: an objective that the module does not know as its part."""
    held = module.objective
    del module.objective
    object.__setattr__(module, "objective", held)


@pytest.mark.parametrize("project", ["teacher", "student"])
@pytest.mark.parametrize(
    ("change", "is_trained"),
    [(as_it_is, True), (frozen, False), (outside_the_optimiser, False), (outside_the_module, False)],
)
def test_projections_receive_gradient_and_move(bench: Bench, change: Any, is_trained: bool, project: str) -> None:
    made = objective(project=project)
    still = untrained(bench, made, change)
    names = [name for name, _ in made.named_parameters()]
    assert len(names) == 8, "a weight and a bias for each of feature_mse, crd, rkd and mmd"
    # The same look finds every way not to train them.
    assert still == ([] if is_trained else names)


def history(result: FitResult) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in result.history]


def test_a_run_that_is_interrupted_ends_as_one_that_is_not(bench: Bench) -> None:
    whole = bench.fit(bench.module(objective()), "whole", epochs=4)

    class Stop(Exception):
        pass

    stopped = bench.module(objective())
    step = stopped.training_step

    def until_the_third_epoch(batch: Batch, batch_idx: int) -> Tensor:
        if stopped.current_epoch == 2 and batch_idx == 1:
            raise Stop
        return step(batch, batch_idx)

    stopped.training_step = until_the_third_epoch  # type: ignore[method-assign]
    with pytest.raises(Stop):
        bench.fit(stopped, "stopped", epochs=4)
    resumed = bench.fit(bench.module(objective()), "stopped", epochs=4)
    assert history(resumed) == history(whole)
    states = [load_checkpoint(bench.folder / name / "checkpoints" / "last.ckpt") for name in ("whole", "stopped")]
    assert sum(name.startswith("objective.pairs.") for name in states[0]["state_dict"]) == 8
    assert states[0]["state_dict"].keys() == states[1]["state_dict"].keys()
    assert all(torch.equal(tensor, states[1]["state_dict"][name]) for name, tensor in states[0]["state_dict"].items())
    # The moments of the optimiser, of the projections too.
    moments = [state["optimizer_states"][0]["state"] for state in states]
    assert len(moments[0]) == 4 + 8
    assert all(torch.equal(moments[0][i]["exp_avg"], moments[1][i]["exp_avg"]) for i in moments[0])


def test_the_student_of_a_checkpoint_is_the_model_alone(bench: Bench) -> None:
    module = bench.module(objective())
    bench.fit(module, "run", epochs=1)
    state = model_state(load_checkpoint(bench.folder / "run" / "checkpoints" / "best.ckpt"))
    assert state.keys() == module.model.state_dict().keys()


def test_projections_change_neither_the_students_start_nor_its_order_nor_its_dropout(bench: Bench) -> None:
    """With projections that weigh nothing, training is to the bit that without them."""
    idle = {"ce": 1.0, "feature_mse": 0.0, "crd": 0.0}
    one = bench.module(weighted(weights=idle, features=[["hidden", "hidden"]]))
    other = bench.module(weighted(weights={"ce": 1.0}))
    starts = [{name: t.clone() for name, t in module.model.state_dict().items()} for module in (one, other)]
    assert all(torch.equal(tensor, starts[1][name]) for name, tensor in starts[0].items())
    bench.fit(one, "one")
    bench.fit(other, "other")
    assert all(torch.equal(t, other.model.state_dict()[name]) for name, t in one.model.state_dict().items())


def test_cached_features_train_the_same_student_as_a_live_teacher(bench: Bench) -> None:
    made, teacher = objective(), Network(5, seed=2)

    def compute() -> Any:
        return teacher_outputs(teacher, Points(), TASKS, features=made.teacher_features, batch_size=16)

    key = CacheKey(teacher="t", data="d", dtype="float32", names=made.teacher_features)
    cached, _ = obtain_cache(bench.folder / "outputs", key, "ram", compute)
    one = bench.fit(bench.module(made, source=cached), "cached", epochs=2)
    other = bench.fit(bench.module(objective()), "live", epochs=2)
    for row, same in zip(history(one), history(other), strict=True):
        assert row == pytest.approx(same, rel=1e-4)
