"""The core on a real Trainer: progress, rates, seeds, what an epoch's row says, and what stops a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from contracts.plugins import outside_trusted
from kdexp.contracts import Batch, Progress, StudentOutput, TeacherSignal
from kdexp.display import Display
from kdexp.distill.objective import Objective, ce_lambda_kl, mix, none
from kdexp.distill.schedules import make_schedule
from kdexp.errors import ConfigError, RunFailed
from kdexp.records import RunFolder
from kdexp.seeds import derive_seed
from kdexp.training.fit import FitResult, fit, load_checkpoint, predict
from kdexp.training.metrics import split_metrics
from kdexp.training.module import DistillationModule, gathered, kept
from kdexp.training.signals import LiveTeacher, SignalSource
from walks import TASKS, Walker, Walks

N_TRAIN, BATCH = 60, 25
STEPS = 3  # batches of 25, 25 and 10


@pytest.fixture(scope="module", autouse=True)
def outside() -> Iterator[None]:
    with outside_trusted():
        yield


@pytest.fixture(scope="module")
def rings(outside: None) -> Any:
    from rings.data import Rings

    made = Rings(name="rings", n=100)
    made.setup(1)
    return made


def network(rings: Any, seed: int = 0, dropout: float = 0.0) -> nn.Module:
    from rings.models import RingNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RingNet(**rings.model_arguments(), width=6, dropout=dropout)


@dataclass
class Watched:
    """An objective that writes down when it was asked, and under which rate and seed."""

    inner: Objective
    progress: list[Progress] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    module: DistillationModule | None = None

    def __call__(self, output: Any, signal: Any, targets: Any, progress: Progress, tasks: Any, weights: Any) -> Any:
        assert self.module is not None
        self.progress.append(progress)
        self.rates.append(self.module.trainer.optimizers[0].param_groups[0]["lr"])
        self.seeds.append(torch.initial_seed())
        return self.inner(output, signal, targets, progress, tasks, weights)


def kd(**settings: Any) -> Objective:
    return ce_lambda_kl(**{"temperature": 2.0, "weights": {"ce": 1.0, "kl": 0.5}, **settings})


@dataclass
class Bench:
    """Builds a module and fits it."""

    rings: Any
    folder: RunFolder

    def module(
        self,
        objective: Any,
        *,
        rate: Any = 0.01,
        seed: int = 7,
        dropout: float = 0.0,
        teacher: SignalSource | None = None,
        view: str = "student",
    ) -> DistillationModule:
        module = DistillationModule(
            network(self.rings, dropout=dropout),
            objective=objective,
            tasks=self.rings.tasks,
            score=self.rings.score,
            make_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0),
            learning_rate=make_schedule(rate, "optimizer.lr"),
            seed=seed,
            teacher=teacher,
            view=view,
        )
        if isinstance(objective, Watched):
            object.__setattr__(objective, "module", module)
        return module

    def fit(self, module: DistillationModule, epochs: int = 3, decay: float | None = None, **options: Any) -> FitResult:
        with Display(visible=False) as display:
            return fit(
                module,
                train=self.rings.split("train"),
                val=self.rings.split("val"),
                folder=self.folder,
                trainer_options={"max_epochs": epochs, "accelerator": "cpu", "devices": 1, **options},
                batch_size=BATCH,
                eval_batch_size=7,
                order_seed=3,
                decay=decay,
                stage=display.stage("student"),
            )


@pytest.fixture
def bench(rings: Any, tmp_path: Path) -> Bench:
    assert len(rings.split("train")) == N_TRAIN
    return Bench(rings, RunFolder(tmp_path / "run"))


# progress and rates


def test_progress_begins_at_0_and_ends_at_1(bench: Bench) -> None:
    watched = Watched(none())
    bench.fit(bench.module(watched))
    assert [progress.epoch for progress in watched.progress] == [0.0] * STEPS + [0.5] * STEPS + [1.0] * STEPS
    assert [progress.step for progress in watched.progress] == pytest.approx([i / 8 for i in range(9)])
    assert watched.progress[0] == (0.0, 0.0) and watched.progress[-1] == (1.0, 1.0)


def test_progress_counts_steps_of_the_optimiser(bench: Bench) -> None:
    """Two batches make a step; an epoch of three batches has two steps."""
    watched = Watched(none())
    bench.fit(bench.module(watched), epochs=2, accumulate_grad_batches=2)
    assert [progress.step for progress in watched.progress] == pytest.approx([0, 0, 1 / 3, 2 / 3, 2 / 3, 1])


def test_the_steps_of_a_single_epoch_reach_both_ends(bench: Bench) -> None:
    watched = Watched(none())
    bench.fit(bench.module(watched), epochs=1)
    assert [progress.step for progress in watched.progress] == pytest.approx([0, 0.5, 1])
    assert {progress.epoch for progress in watched.progress} == {0.0}


def test_progress_fits_a_limited_epoch(bench: Bench) -> None:
    watched = Watched(none())
    bench.fit(bench.module(watched), epochs=2, limit_train_batches=2)
    assert [progress.step for progress in watched.progress] == pytest.approx([0, 1 / 3, 2 / 3, 1])


@pytest.mark.parametrize(
    ("per", "expected"),
    [("step", [0.8 - 0.1 * i for i in range(9)]), ("epoch", [0.8] * 3 + [0.4] * 3 + [0.0] * 3)],
)
def test_the_learning_rate_is_the_schedules_at_every_step(bench: Bench, per: str, expected: list[float]) -> None:
    watched = Watched(none())
    rate = {"name": "linear", "start": 0.8, "end": 0.0, "per": per}
    result = bench.fit(bench.module(watched, rate=rate))
    assert watched.rates == pytest.approx(expected)
    # The row says what the epoch's last step used.
    assert [row["lr"] for row in result.history] == pytest.approx(expected[STEPS - 1 :: STEPS])


# what a row says


def test_a_row_names_parts_weights_temperature_rate_and_metrics(bench: Bench) -> None:
    teacher = LiveTeacher(network(bench.rings, seed=5), "t")
    weights = {"ce": 1.0, "kl": {"name": "linear", "start": 1.0, "end": 3.0}}
    temperature = {"name": "step", "start": 4.0, "end": 2.0, "n_steps": 3}
    result = bench.fit(bench.module(kd(weights=weights, temperature=temperature), teacher=teacher))
    assert len(result.history) == 3
    assert set(result.history[0]) == {
        *("epoch", "train/loss", "train/ce", "train/kl", "weight/ce", "weight/kl", "temperature", "lr"),
        *("val/ring/acc", "val/ring/f1", "val/score", "seconds"),
    }
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    assert [row["weight/kl"] for row in result.history] == [1.0, 2.0, 3.0]
    assert [row["temperature"] for row in result.history] == [4.0, 3.0, 2.0]
    for row in result.history:
        assert row["train/loss"] == pytest.approx(row["train/ce"] + row["weight/kl"] * row["train/kl"], rel=1e-5)
        assert row["val/score"] == row["val/ring/f1"]


def test_a_run_without_a_teacher_has_no_temperature_and_no_kl(bench: Bench) -> None:
    (row,) = bench.fit(bench.module(none()), epochs=1).history
    assert {name for name in row if "kl" in name or "temperature" in name} == set()
    assert row["train/loss"] == row["train/ce"]


class CutOff:
    """An objective during which the process is stopped, in the middle of an epoch."""

    def __init__(self, inner: Objective, after: int) -> None:
        self.inner, self.n_left = inner, after

    def __call__(self, *given: Any) -> Any:
        self.n_left -= 1
        if self.n_left < 0:
            raise KeyboardInterrupt
        return self.inner(*given)


def test_a_resumed_run_follows_the_schedules_of_the_whole_one(bench: Bench) -> None:
    teacher = LiveTeacher(network(bench.rings, seed=5), "t")
    temperature = {"name": "linear", "start": 10.0, "end": 1.0}
    alpha = {"name": "linear", "start": 0.9, "end": 0.3}

    def objective() -> Objective:
        return mix(temperature=temperature, alpha=alpha)

    with pytest.raises(KeyboardInterrupt):
        bench.fit(bench.module(CutOff(objective(), after=4 * STEPS + 1), teacher=teacher), epochs=7)
    resumed = bench.fit(bench.module(objective(), teacher=teacher), epochs=7)
    assert [row["epoch"] for row in resumed.history] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["temperature"] for row in resumed.history] == pytest.approx([10 - 9 * e / 6 for e in range(7)])
    assert [row["weight/kl"] for row in resumed.history] == pytest.approx([0.9 - 0.6 * e / 6 for e in range(7)])
    assert [row["weight/ce"] for row in resumed.history] == pytest.approx([0.1 + 0.6 * e / 6 for e in range(7)])
    whole = replace(bench, folder=RunFolder(bench.folder.path.parent / "whole"))
    uninterrupted = whole.fit(whole.module(objective(), teacher=teacher), epochs=7)
    assert [{**row, "seconds": 0} for row in resumed.history] == [
        {**row, "seconds": 0} for row in uninterrupted.history
    ]


class Follower:
    """None's loss, and the model's weights as each step found them."""

    def __init__(self, module_of: Callable[[], nn.Module]) -> None:
        self.inner, self.module_of = none(), module_of
        self.seen: list[Tensor] = []

    def __call__(self, *given: Any) -> Any:
        self.seen.append(flat(self.module_of()))
        return self.inner(*given)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().clone().flatten() for p in model.parameters()])


def test_with_a_decay_the_model_kept_and_measured_is_the_moving_average_of_the_weights(bench: Bench) -> None:
    made: list[DistillationModule] = []
    follower = Follower(lambda: made[0].model)
    made.append(bench.module(follower, rate=0.5))
    result = bench.fit(made[0], epochs=2, decay=0.5)
    # The first step's weights, then halfway to each next; those after the last step are what remains unknown.
    average = follower.seen[1]
    for weights in follower.seen[2:]:
        average = (average + weights) / 2
    kept_state = load_checkpoint(bench.folder.last_checkpoint)
    last = torch.cat(
        [kept_state["current_model_state"][f"model.{n}"].flatten() for n, _ in made[0].model.named_parameters()]
    )
    torch.testing.assert_close(flat(made[0].model), (average + last) / 2)
    assert not torch.allclose(flat(made[0].model), last)
    # Checkpoint and validation are those of the average too.
    assert all(torch.equal(kept_state["state_dict"][f"model.{n}"], p) for n, p in made[0].model.named_parameters())
    measured = split_metrics_of(bench, made[0].model)
    assert {name: result.last[name] for name in measured} == pytest.approx(measured)


def split_metrics_of(bench: Bench, model: nn.Module) -> dict[str, float]:
    made = predict(model, bench.rings.split("val"), bench.rings.tasks, batch_size=50, view="student")
    return split_metrics(bench.rings.tasks, bench.rings.score, made.logits, made.targets, made.masks)


def test_a_resumed_average_is_that_of_the_whole_run_and_stays_so_where_nothing_is_left_to_do(bench: Bench) -> None:
    def fitted(name: str, objective: Any) -> tuple[Tensor, list[dict[str, Any]]]:
        here = replace(bench, folder=RunFolder(bench.folder.path / name))
        module = here.module(objective, rate=0.5)
        rows = here.fit(module, epochs=4, decay=0.9).history
        return flat(module.model), rows

    whole, rows = fitted("whole", none())
    with pytest.raises(KeyboardInterrupt):
        fitted("cut", CutOff(none(), after=2 * STEPS + 1))
    resumed, resumed_rows = fitted("cut", none())
    assert torch.equal(whole, resumed) and history(rows) == history(resumed_rows)
    again, _ = fitted("cut", none())
    assert torch.equal(whole, again)


def test_an_epochs_loss_is_the_mean_over_its_samples(bench: Bench) -> None:
    """With the rate at 0 the model stays, so the mean over uneven batches is that over the whole split."""
    module = bench.module(none(), rate=0.0)
    (row,) = bench.fit(module, epochs=1).history
    split = bench.rings.split("train")
    logits = network(bench.rings).eval()({"points": split.points}).logits["ring"]
    assert row["train/ce"] == pytest.approx(cross_entropy(logits, split.rings).item(), rel=1e-5)


def test_validation_is_that_of_the_model_as_it_stands(bench: Bench) -> None:
    module = bench.module(none(), rate=0.1, dropout=0.3)
    result = bench.fit(module, epochs=2)
    split = bench.rings.split("val")
    found = predict(module.model, split, bench.rings.tasks, batch_size=3, view="student").logits["ring"].argmax(1)
    assert result.history[-1]["val/ring/acc"] == pytest.approx((found == split.rings).float().mean().item())
    assert result.last["score"] == result.history[-1]["val/score"]
    assert result.best["score"] == max(row["val/score"] for row in result.history)


# the teacher


def test_the_teacher_stays_as_it_was_and_outside_the_checkpoint(bench: Bench) -> None:
    model = network(bench.rings, seed=5, dropout=0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    module = bench.module(kd(), teacher=LiveTeacher(model, "t"), rate=0.1)
    bench.fit(module, epochs=2)
    module.train()
    assert not model.training
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    own = {f"model.{name}" for name in module.model.state_dict()}
    assert set(module.state_dict()) == own
    assert set(load_checkpoint(bench.folder.last_checkpoint)["state_dict"]) == own
    assert not {id(p) for p in module.parameters()} & {id(p) for p in model.parameters()}


class Dictated:
    """A teacher that says what it is told; NaN from one batch on."""

    def __init__(self, breaks_at: int = 10**9) -> None:
        self.n_asked, self.breaks_at, self.devices = 0, breaks_at, []

    def to(self, device: torch.device) -> None:
        self.devices.append(device)

    def signal(self, batch: Batch) -> TeacherSignal:
        broken = self.n_asked >= self.breaks_at
        self.n_asked += 1
        return TeacherSignal(values={"ring": torch.full((len(batch), 3), float("nan") if broken else 0.0)})


def test_the_signal_comes_to_the_models_device_and_once_per_batch(bench: Bench) -> None:
    teacher = Dictated()
    bench.fit(bench.module(kd(), teacher=teacher), epochs=2)
    assert teacher.devices == [torch.device("cpu")]
    assert teacher.n_asked == 2 * STEPS, "validation asks no teacher"


def test_a_teacher_is_trained_on_its_own_view(bench: Bench) -> None:
    class TwoViews:
        clusters = bench.rings.split("train").clusters

        def __len__(self) -> int:
            return N_TRAIN

        def fetch(self, index: Tensor) -> Batch:
            batch = bench.rings.split("train").fetch(index)
            return Batch(
                student={"points": batch.student["points"] * float("nan")},
                teacher=batch.teacher,
                targets=batch.targets,
                index=index,
            )

    module = bench.module(none(), view="teacher")
    with Display(visible=False) as display:
        result = fit(
            module,
            train=TwoViews(),
            val=TwoViews(),
            folder=bench.folder,
            trainer_options={"max_epochs": 1, "accelerator": "cpu", "devices": 1},
            batch_size=BATCH,
            eval_batch_size=BATCH,
            order_seed=1,
            stage=display.stage("teacher"),
        )
    assert result.history[0]["train/ce"] > 0


def test_a_sample_of_weight_0_is_one_that_training_does_not_see(bench: Bench) -> None:
    """Samples 50 and later may have wrong labels, and no weight; three epochs of one batch."""
    whole = bench.rings.split("train")

    class Weighed:
        clusters = whole.clusters

        def __init__(self, spoilt: bool, weighed: bool) -> None:
            self.spoilt, self.weighed = spoilt, weighed

        def __len__(self) -> int:
            return N_TRAIN

        def fetch(self, index: Tensor) -> Batch:
            batch = whole.fetch(index)
            targets = {name: t.where(index < 50, 1 - t.clamp(max=1)) for name, t in batch.targets.items()}
            weights = torch.where(index < 50, 0.5, 0.0) if self.weighed else None
            return replace(batch, targets=targets if self.spoilt else batch.targets, weights=weights)

    def trained(spoilt: bool, weighed: bool) -> list[Tensor]:
        here = Bench(bench.rings, RunFolder(bench.folder.path / f"{spoilt}{weighed}"))
        module = here.module(none(), rate=0.1)
        with Display(visible=False) as display:
            fit(
                module,
                train=Weighed(spoilt, weighed),
                val=whole,
                folder=here.folder,
                trainer_options={"max_epochs": 3, "accelerator": "cpu", "devices": 1},
                batch_size=N_TRAIN,
                eval_batch_size=N_TRAIN,
                order_seed=1,
                stage=display.stage("student"),
            )
        return [p.detach() for p in module.model.parameters()]

    clean, spoilt = trained(False, True), trained(True, True)
    assert all(torch.equal(one, other) for one, other in zip(clean, spoilt, strict=True))
    unweighed = trained(True, False)
    assert not all(torch.equal(one, other) for one, other in zip(clean, unweighed, strict=True))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_model_is_measured_in_float32_whatever_it_was_trained_in(bench: Bench, precision: str) -> None:
    module = bench.module(kd(), teacher=LiveTeacher(network(bench.rings, seed=5), "t"))
    (row,) = bench.fit(module, epochs=1, precision=precision).history
    found = predict(module.model, bench.rings.split("test"), bench.rings.tasks, batch_size=9, view="student")
    assert found.logits["ring"].dtype == torch.float32 and found.logits["ring"].isfinite().all()
    assert row["train/kl"] > 0


# what stops a run


def test_a_part_that_is_no_number_stops_the_run_with_its_name_and_step(bench: Bench) -> None:
    module = bench.module(kd(), teacher=Dictated(breaks_at=4))
    with pytest.raises(RunFailed, match=r"^the loss is no number at step 4 \(epoch 2\): kl = nan; lower optimizer\.lr"):
        bench.fit(module)
    # The last good epoch is kept: one row, one checkpoint, in which all is finite.
    state = load_checkpoint(bench.folder.last_checkpoint)["state_dict"]
    assert all(tensor.isfinite().all() for tensor in state.values())
    assert len(bench.folder.metrics.read_text().splitlines()) == 1


def test_every_part_that_is_no_number_is_named(bench: Bench) -> None:
    class Broken(nn.Module):
        version = 1

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, inputs: Any) -> StudentOutput:
            n = len(inputs["points"])
            aux = {"energy": torch.full((n,), float("inf")) + self.weight}
            return StudentOutput(logits={"ring": torch.full((n, 3), float("nan")) * self.weight}, aux=aux)

    module = bench.module(none(aux={"energy": 1.0}))
    module.model = Broken()
    with pytest.raises(RunFailed, match=r"at step 0 \(epoch 1\): ce = nan, energy = inf; ") as failed:
        bench.fit(module)
    assert "loss =" not in str(failed.value)


def test_weights_that_explode_stop_the_run_at_validation_or_the_next_step(bench: Bench) -> None:
    with pytest.raises(RunFailed, match=r"no number at step|logits hold NaN or infinity"):
        bench.fit(bench.module(none(), rate=1e30))


# seeds


def history(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_each_epoch_is_seeded_by_its_number(bench: Bench) -> None:
    watched = Watched(none())
    bench.fit(bench.module(watched, seed=11), epochs=2)
    assert watched.seeds == [derive_seed(11, "epoch", 0, 0)] * STEPS + [derive_seed(11, "epoch", 1, 0)] * STEPS


def fitted(bench: Bench, name: str, disturb: Callable[[], object] = lambda: None, **settings: Any) -> tuple[list, Any]:
    module = Bench(bench.rings, RunFolder(bench.folder.path / name)).module(none(), dropout=0.5, rate=0.1, **settings)
    disturb()
    result = Bench(bench.rings, RunFolder(bench.folder.path / name)).fit(module, epochs=2)
    return history(result.history), module.state_dict()


def test_the_same_seed_is_the_same_run_whatever_was_drawn_before(bench: Bench) -> None:
    one, other = fitted(bench, "one"), fitted(bench, "other", disturb=lambda: torch.rand(5))
    assert one[0] == other[0]
    assert all(torch.equal(tensor, other[1][name]) for name, tensor in one[1].items())
    assert fitted(bench, "third", seed=8)[0] != one[0], "dropout draws from the seed"


# putting batches together


def test_batches_are_put_together_in_order_as_float32_on_the_cpu(rings: Any) -> None:
    split = rings.split("val")
    outputs = []
    for index in torch.arange(len(split)).split(7):
        batch = split.fetch(index)
        logits = batch.student["points"].new_zeros(len(index), 3).half() + index[:, None]
        mask = torch.ones(len(index), 3, dtype=torch.bool)
        outputs.append(kept(rings.tasks, StudentOutput(logits={"ring": logits}, masks={"ring": mask}), batch))
    found = gathered(rings.tasks, outputs)
    assert found["logits"]["ring"].dtype == torch.float32
    assert found["logits"]["ring"][:, 0].tolist() == list(range(len(split)))
    assert torch.equal(found["targets"]["ring"], split.rings)
    assert found["masks"]["ring"].shape == (len(split), 3)


def test_batches_of_different_shapes_are_padded_and_put_in_sample_order() -> None:
    def batch(index: list[int], way: Any, time: Any, mask: Any) -> tuple[StudentOutput, Batch]:
        real = torch.tensor(mask, dtype=torch.bool)
        logits = {"way": torch.tensor(index)[:, None, None] + torch.ones(real.shape), "time": torch.tensor(time) + 1}
        inputs = {"heavy": torch.zeros(len(index), 1000)}
        targets = {"way": torch.tensor(way), "time": torch.tensor(time)}
        made = Batch(student=inputs, teacher=inputs, targets=targets, index=torch.tensor(index))
        output = StudentOutput(logits=logits, masks={"way": real}, features=inputs)
        slim, slimmed = kept(TASKS, output, made)
        assert slim.features == slimmed.student == slimmed.teacher == {}, "what is not needed is let go"
        return slim, slimmed

    nan = math.nan
    found = gathered(
        TASKS,
        [
            batch([2], [[0, -1]], [[3.0, nan]], [[[1, 0, 1], [0, 0, 0]]]),
            batch([1, 0], [[0], [1]], [[5.0], [6.0]], [[[1, 0]], [[1, 1]]]),
        ],
    )
    assert found["targets"]["way"].tolist() == [[1, -1], [0, -1], [0, -1]]
    assert torch.equal(found["targets"]["time"].isnan(), torch.tensor([[False, True]] * 3))
    assert found["targets"]["time"][:, 0].tolist() == [6.0, 5.0, 3.0]
    assert found["masks"]["way"].int().tolist() == [
        [[1, 1, 0], [0, 0, 0]],
        [[1, 0, 0], [0, 0, 0]],
        [[1, 0, 1], [0, 0, 0]],
    ]
    # Two positions of two candidates each, filled up with 0 to the third candidate and the second position.
    assert found["logits"]["way"].tolist() == [
        [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]],
        [[2.0, 2.0, 0.0], [0.0, 0.0, 0.0]],
        [[3.0, 3.0, 3.0], [3.0, 3.0, 3.0]],
    ]
    assert found["logits"]["time"][:2].tolist() == [[7.0, 0.0], [6.0, 0.0]]


def test_classes_that_differ_in_number_are_not_padded(rings: Any) -> None:
    def batch(index: list[int], n_classes: int) -> tuple[StudentOutput, Batch]:
        targets = {"ring": torch.zeros(len(index), dtype=torch.int64)}
        made = Batch(student={}, teacher={}, targets=targets, index=torch.tensor(index))
        return kept(rings.tasks, StudentOutput(logits={"ring": torch.zeros(len(index), n_classes)}), made)

    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        gathered(rings.tasks, [batch([0], 3), batch([1], 4)])


def test_a_task_that_a_model_does_not_give_is_named(rings: Any) -> None:
    batch = rings.split("val").fetch(torch.arange(2))
    with pytest.raises(ConfigError, match=r"no logits for ring, only for disc; a teacher .* class attribute answers"):
        kept(rings.tasks, StudentOutput(logits={"disc": torch.zeros(2, 3)}), batch)


def test_a_prediction_of_walks_comes_in_sample_order_whatever_the_batches() -> None:
    walks, walker = Walks(), Walker()
    walks.setup(1)
    split = walks.split("test")
    one, other = (predict(walker, split, walks.tasks, batch_size=size, view="student") for size in (4, 99))
    whole = split.fetch(torch.arange(len(split)))
    for found in (one, other):
        assert torch.equal(found.targets["way"], whole.targets["way"])
        assert torch.equal(found.masks["way"], whole.student["mask"])
    mask = one.masks["way"]
    assert torch.equal(one.logits["way"][mask], other.logits["way"][mask])


def test_a_prediction_does_not_depend_on_the_batch_size(rings: Any) -> None:
    model = network(rings, dropout=0.5).train()
    one, other = (predict(model, rings.split("test"), rings.tasks, batch_size=size, view="student") for size in (4, 99))
    torch.testing.assert_close(one.logits["ring"], other.logits["ring"], atol=1e-6, rtol=1e-6)
    assert one.masks == {}
    assert not model.training
