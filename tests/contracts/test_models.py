"""What every student and teacher of the configs promises, with every choice of a part such as a fusion."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from contracts.plugins import DATASETS, ModelCase, as_params, model_cases, opened, options, outside_trusted, repeats
from kdexp.contracts import Batch, Dataset, Model, Progress, StudentOutput
from kdexp.distill.objective import none, own_loss
from kdexp.training.teacher import answered

START = Progress(epoch=0.0, step=0.0)
N = 6


@pytest.fixture(scope="module", autouse=True)
def outside() -> Iterator[None]:
    with outside_trusted():
        yield


with outside_trusted():
    CASES = [case for case in model_cases() if not case.is_downloaded]


@pytest.fixture(scope="module", params=as_params(CASES), ids=str)
def case(request: pytest.FixtureRequest) -> ModelCase:
    return request.param


@pytest.fixture(scope="module")
def dataset(case: ModelCase, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return opened(case.dataset, tmp_path_factory.getbasetemp() / "plugins", *case.data_words)


@pytest.fixture(scope="module")
def batch(dataset: Dataset) -> Batch:
    return dataset.split("train").fetch(torch.arange(N))


@pytest.fixture
def model(case: ModelCase, dataset: Dataset) -> nn.Module:
    return case.build(dataset)


def view(case: ModelCase, batch: Batch) -> dict[str, Tensor]:
    return batch.student if case.role == "student" else batch.teacher


@torch.no_grad()
def answer(model: nn.Module, inputs: dict[str, Tensor]) -> StudentOutput:
    return model.eval()(inputs)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_suite_sees_all_models() -> None:
    found = {str(case) for case in CASES}
    assert len(found) == len(CASES) >= 6
    roles = ("student", "teacher")
    assert {f"{role} {name}" for role in roles for name in DATASETS if not repeats(role, name)} <= found
    # One fusion is the file's own, every other one is tried in both models.
    for group in ("student/fusion", "student/vision", "student/text"):
        n_here = sum(not f"={option}".endswith("=hub") for option in options(group))
        assert sum(f" {group}" in name for name in found) >= 2 * (n_here - 1) >= 2


def test_a_model_says_its_version(model: nn.Module) -> None:
    assert isinstance(model, Model)
    assert type(model.version) is int and model.version >= 1


def test_the_output_fits_the_tasks(case: ModelCase, model: nn.Module, dataset: Dataset, batch: Batch) -> None:
    output = model(view(case, batch))
    assert isinstance(output, StudentOutput)
    tasks, _ = answered(model, dataset.tasks, dataset.score)
    assert set(output.logits) == {task.name for task in tasks}
    assert tasks == dataset.tasks or case.role == "teacher"
    for task in tasks:
        logits, target = output.logits[task.name], batch.targets[task.name]
        if task.kind == "multiclass":
            assert logits.shape == (N, len(task.classes))
        elif task.kind == "candidates":
            mask = output.masks[task.name]
            assert logits.shape[:-1] == target.shape and mask.shape == logits.shape and mask.dtype == torch.bool
            logits = logits[mask]
        elif task.kind == "duration":
            assert logits.shape == target.shape
            logits = logits[~target.isnan()]
        else:
            assert logits.shape == (N,)
        assert logits.dtype == torch.float32 and logits.isfinite().all()
    for name, extra in {**output.features, **output.aux}.items():
        assert len(extra) == N and extra.isfinite().all(), name
    assert all(number.shape == (N,) for number in output.aux.values())


def test_the_seed_alone_decides_the_weights(case: ModelCase, dataset: Dataset) -> None:
    one = case.build(dataset, seed=1)
    torch.rand(3)  # chance elsewhere has no say
    assert same_weights(one, case.build(dataset, seed=1))
    assert not same_weights(one, case.build(dataset, seed=2))


def states() -> tuple[bytes, str, Any]:
    return torch.get_rng_state().numpy().tobytes(), str(np.random.get_state(legacy=False)), random.getstate()


def test_building_leaves_global_chance_alone(case: ModelCase, dataset: Dataset) -> None:
    before = states()
    case.build(dataset)
    assert states() == before


def test_an_answer_in_eval_is_the_same_twice_and_draws_nothing(case: ModelCase, model: nn.Module, batch: Batch) -> None:
    before = states()
    one, other = (answer(model, view(case, batch)) for _ in range(2))
    assert states() == before
    assert all(torch.equal(one.logits[task], other.logits[task]) for task in one.logits)


def test_in_eval_a_sample_does_not_depend_on_its_batch_mates(
    case: ModelCase, model: nn.Module, dataset: Dataset, batch: Batch
) -> None:
    model(view(case, batch))  # so that running statistics are not the initial ones
    together = answer(model, view(case, batch))
    split = dataset.split("train")
    for place, position in enumerate(batch.index):
        alone_batch = split.fetch(position[None])
        alone = answer(model, view(case, alone_batch))
        for task, logits in alone.logits.items():
            target = alone_batch.targets[task]
            counted = ~target.isnan() if target.shape == logits.shape else torch.ones_like(logits, dtype=torch.bool)
            real = alone.masks.get(task, counted)[0]
            both = together.logits[task][place][tuple(map(slice, logits[0].shape))]
            torch.testing.assert_close(both[real], logits[0][real], atol=1e-5, rtol=1e-5)


def test_one_step_of_training_pulls_at_every_parameter(
    case: ModelCase, model: nn.Module, dataset: Dataset, batch: Batch
) -> None:
    torch.manual_seed(0)
    own = getattr(model, "own_loss", None)
    tasks, _ = answered(model, dataset.tasks, dataset.score)
    objective = own_loss(own) if own else none()
    terms = objective(model.train()(view(case, batch)), None, batch.targets, START, tasks)
    terms.total.backward()
    parameters = dict(model.named_parameters())
    routed = tuple(f"{name}." for name, part in model.named_modules() if getattr(part, "routes_samples", False))
    assert parameters and "" not in routed
    kept = {
        id(weight) for part in getattr(model, "frozen_parts", dict)().values() for weight in part.module.parameters()
    }
    for name, parameter in parameters.items():
        if id(parameter) in kept:
            assert not parameter.requires_grad and parameter.grad is None, f"{name} is not frozen"
            continue
        assert parameter.requires_grad, f"{name} is frozen"
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # Where samples choose among ways, a batch may leave one out; tests of such a part look at each way.
        assert parameter.grad.abs().sum() > 0 or name.startswith(routed), f"{name} does not reach the loss"


def test_what_a_frozen_part_gives_may_stand_in_for_what_it_reads(
    case: ModelCase, model: nn.Module, batch: Batch
) -> None:
    inputs = view(case, batch)
    whole = answer(model, inputs)
    for name, part in getattr(model, "frozen_parts", dict)().items():
        rest = {key: tensor for key, tensor in inputs.items() if key not in part.reads}
        given = answer(model, {**rest, name: part.module(*(inputs[read] for read in part.reads))})
        for task, logits in whole.logits.items():
            torch.testing.assert_close(given.logits[task], logits)


def test_the_state_dict_is_the_whole_model(
    case: ModelCase, model: nn.Module, dataset: Dataset, batch: Batch, tmp_path: Path
) -> None:
    model(view(case, batch))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = case.build(dataset, seed=2)
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    one, two = (answer(each, view(case, batch)) for each in (model, other))
    assert all(torch.equal(one.logits[task], two.logits[task]) for task in one.logits)


def test_inputs_are_left_as_they_were(case: ModelCase, model: nn.Module, batch: Batch) -> None:
    before = {name: tensor.clone() for name, tensor in view(case, batch).items()}
    model.train()(view(case, batch))
    assert all(torch.equal(tensor, before[name]) for name, tensor in view(case, batch).items())


@pytest.mark.parametrize("name", [name for name in DATASETS if not repeats("teacher", name)])
def test_the_committed_student_is_smaller_than_its_teacher(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    made = opened(name, tmp_path_factory.getbasetemp() / "plugins")
    student, teacher = (ModelCase(role, name).build(made) for role in ("student", "teacher"))
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in teacher.parameters())
