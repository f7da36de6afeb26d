"""What every teacher of the configs promises: live and cached, in memory or mapped, it says the same to the loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from contracts.plugins import DATASETS, ModelCase, as_params, model_cases, opened, outside_trusted, repeats
from kdexp.contracts import NUMBERS, Batch, Dataset, LossTerms, Progress, StudentOutput, TaskSpec, TeacherSignal
from kdexp.distill.objective import Objective, ce_lambda_kl
from kdexp.errors import CacheError
from kdexp.training.cache import CacheKey, Features, Values, obtain_cache, teacher_outputs
from kdexp.training.loader import BatchLoader
from kdexp.training.ragged import Ragged
from kdexp.training.signals import CachedTeacher, LiveTeacher, SignalSource
from kdexp.training.teacher import answered, weights_fingerprint

SIZE = 8
HALF_TOLERANCE = 1e-3
"""Half precision keeps eleven bits: a logit is off by at most 1/2048 of its size, the loss moves by less than this."""

with outside_trusted():
    CASES = [case for case in model_cases() if case.role == "teacher" and not case.is_downloaded]


@pytest.fixture(scope="module", autouse=True)
def outside() -> Iterator[None]:
    with outside_trusted():
        yield


@dataclass
class Stage:
    """A teacher, a student and their data; the teacher's outputs are computed as a run computes them."""

    dataset: Dataset
    teacher: nn.Module
    student: nn.Module
    root: Path

    @property
    def fingerprint(self) -> str:
        return weights_fingerprint(self.teacher.state_dict())

    @property
    def tasks(self) -> list[TaskSpec]:
        """Those that a student can learn from this teacher."""
        given, _ = answered(self.teacher, self.dataset.tasks, self.dataset.score)
        return [task for task in given if task.kind not in NUMBERS]

    @property
    def live(self) -> LiveTeacher:
        return LiveTeacher(self.teacher, self.fingerprint)

    def key(self, dtype: str = "float32") -> CacheKey:
        return CacheKey(teacher=self.fingerprint, data=self.dataset.fingerprint, dtype=dtype, names=())

    def cached(self, mode: str, dtype: str = "float32") -> CachedTeacher:
        def compute() -> tuple[Values, Features]:
            return teacher_outputs(self.teacher, self.dataset.split("train"), self.tasks, features=(), batch_size=SIZE)

        return obtain_cache(self.root, self.key(dtype), mode, compute)[0]

    def batches(self) -> list[Batch]:
        """Those in which the cache was filled."""
        return list(BatchLoader(self.dataset.split("train"), batch_size=SIZE))

    def real(self, batch: Batch, task: str) -> torch.Tensor:
        """Where the task's values are those of a class or a candidate that is there."""
        output = self.output(batch)
        return output.masks.get(task, torch.ones_like(output.logits[task], dtype=torch.bool))

    def output(self, batch: Batch) -> StudentOutput:
        return self.student.eval()(batch.student)

    def loss(self, source: SignalSource, batch: Batch) -> LossTerms:
        progress = Progress(epoch=0.0, step=0.0)
        return objective()(self.output(batch), source.signal(batch), batch.targets, progress, self.dataset.tasks)


def objective() -> Objective:
    return ce_lambda_kl(temperature=2.0, weights={"ce": 1.0, "kl": 1.0})


@pytest.fixture(scope="module", params=as_params(CASES), ids=str)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    case: ModelCase = request.param
    dataset = opened(case.dataset, tmp_path_factory.getbasetemp() / "plugins", *case.data_words)
    student = ModelCase("student", case.dataset, case.data_words).build(dataset)
    return Stage(dataset, case.build(dataset), student, tmp_path_factory.mktemp("outputs"))


def test_the_suite_sees_all_teachers() -> None:
    found = {str(case) for case in CASES}
    assert len(found) >= 3
    assert {f"teacher {name}" for name in DATASETS if not repeats("teacher", name)} <= found


def assert_same(stage: Stage, batch: Batch, live: TeacherSignal, cached: TeacherSignal) -> None:
    assert set(cached.values) == {task.name for task in stage.tasks} <= set(live.values)
    assert (live.kind, live.temperature, live.fingerprint) == (cached.kind, cached.temperature, cached.fingerprint)
    for task, values in cached.values.items():
        real = stage.real(batch, task)
        assert values.dtype == live.values[task].dtype == torch.float32
        assert values.shape == live.values[task].shape and values.isfinite().all()
        assert torch.equal(values[real], live.values[task][real])


def numbers(source: CachedTeacher, task: str) -> torch.Tensor:
    """What a cache stores of a task, padding aside."""
    stored = source.values[task]
    return stored.entries if isinstance(stored, Ragged) else stored


def test_live_memory_and_mapped_say_the_same_to_the_bit(stage: Stage) -> None:
    live, memory, mapped = stage.live, stage.cached("ram"), stage.cached("memmap")
    batches = stage.batches()
    assert len(batches) >= 2
    for batch in batches:
        signal = live.signal(batch)
        assert_same(stage, batch, signal, memory.signal(batch))
        assert_same(stage, batch, signal, mapped.signal(batch))
        losses = [stage.loss(source, batch) for source in (live, memory, mapped)]
        assert losses[0].parts["kl"] > 0
        assert losses[0].total.item() == losses[1].total.item() == losses[2].total.item()


def test_shuffled_batches_look_up_their_own_rows(stage: Stage) -> None:
    """Other batch mates: the same up to the rounding of another order of sums."""
    split = stage.dataset.split("train")
    index = torch.randperm(len(split), generator=torch.Generator().manual_seed(1))[: 2 * SIZE]
    batch = split.fetch(index)
    live, cached = stage.live.signal(batch), stage.cached("ram").signal(batch)
    for task, values in cached.values.items():
        real = stage.real(batch, task)
        torch.testing.assert_close(values[real], live.values[task][real], atol=1e-5, rtol=1e-5)
    losses = [stage.loss(source, batch).total.item() for source in (stage.live, stage.cached("ram"))]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_half_precision_cache_is_within_its_tolerance_and_half_the_size(stage: Stage) -> None:
    half, whole = stage.cached("ram", "float16"), stage.cached("ram")
    for task in half.values:
        narrow, wide = numbers(half, task), numbers(whole, task)
        assert narrow.dtype == torch.float16 and wide.dtype == torch.float32
        assert ((narrow.float() - wide).abs() <= wide.abs() / 2048 + 1e-7).all()
    batch = stage.batches()[0]
    assert half.signal(batch).values[stage.tasks[0].name].dtype == torch.float32
    assert stage.loss(half, batch).total.item() == pytest.approx(
        stage.loss(stage.live, batch).total.item(), abs=HALF_TOLERANCE
    )


def test_mixed_precision_of_the_student_does_not_reach_the_teacher(stage: Stage) -> None:
    """Training under autocast asks a live teacher inside of it, a cache was filled outside."""
    batch = stage.batches()[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        live = stage.live.signal(batch)
    assert_same(stage, batch, live, stage.cached("ram").signal(batch))


@pytest.mark.parametrize("mode", ["live", "ram", "memmap"])
def test_no_gradient_reaches_the_teacher(stage: Stage, mode: str) -> None:
    source: SignalSource = stage.live if mode == "live" else stage.cached(mode)
    stage.student.zero_grad()
    stage.loss(source, stage.batches()[0]).total.backward()
    assert any(parameter.grad is not None for parameter in stage.student.parameters())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in stage.live.model.parameters())
    assert not stage.live.model.training
    assert all(not values.requires_grad for values in source.signal(stage.batches()[0]).values.values())


def test_the_signal_is_the_callers_to_change(stage: Stage) -> None:
    batch = stage.batches()[0]
    cached = stage.cached("memmap")
    before = {task: values.clone() for task, values in cached.signal(batch).values.items()}
    for values in cached.signal(batch).values.values():
        values.zero_()
    assert all(torch.equal(values, before[task]) for task, values in cached.signal(batch).values.items())


def test_the_fingerprint_moves_with_one_weight(stage: Stage) -> None:
    state = {name: tensor.clone() for name, tensor in stage.teacher.state_dict().items()}
    assert weights_fingerprint(state) == stage.fingerprint
    next(tensor for tensor in state.values() if tensor.is_floating_point()).view(-1)[0] += 1e-3
    assert weights_fingerprint(state) != stage.fingerprint


def test_a_damaged_cache_is_refused(stage: Stage, tmp_path: Path) -> None:
    whole = Stage(stage.dataset, stage.teacher, stage.student, tmp_path)
    whole.cached("ram")
    file = sorted(whole.key().folder(tmp_path).glob("*.npy"))[0]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    for mode in ("ram", "memmap"):
        with pytest.raises(CacheError, match=f"{file.name} is missing or was changed"):
            whole.cached(mode)
