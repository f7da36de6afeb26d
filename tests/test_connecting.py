"""An objective is tried before training: nothing is changed by that, and a part that nothing weighs is named."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from kdexp import connecting
from kdexp.contracts import StudentOutput
from kdexp.distill.objective import Objective, ce_lambda_kl, none
from kdexp.errors import ConfigError
from walks import Guide, Walker, Walks


class Hurried(Walker):
    """A student with a part of its own, in training only, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs: Any) -> StudentOutput:
        output = super().forward({**inputs, "ways": self.dropout(inputs["ways"])})
        if self.training:
            output.aux["hurry"] = self.pace.square().expand(len(inputs["mask"]))
        return output


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[..., str]:
    """What is logged when an objective is tried with a student and a teacher of walks."""

    def run(objective: Objective, student: nn.Module, teacher: nn.Module | None = None, is_main: bool = True) -> str:
        monkeypatch.setattr(connecting, "build_model", lambda *_: student)
        data = Walks()
        data.setup(1)
        with caplog.at_level(logging.WARNING):
            connecting.connect(objective, {"student": {}, "seed": 1}, data, teacher, is_main=is_main)
        return caplog.text

    return run


def kd(**settings: Any) -> Objective:
    return ce_lambda_kl(**{"temperature": 2.0, "weights": {"ce": 1.0, "kl": 1.0}, "positions": "sample:1", **settings})


def test_neither_the_teacher_nor_a_random_stream_is_changed(tried: Callable[..., str]) -> None:
    teacher, student = Guide(), Hurried()
    teacher.train()
    weights = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    before = torch.get_rng_state()
    # Dropout, and the positions that the KL draws.
    tried(kd(), student, teacher)
    assert torch.equal(torch.get_rng_state(), before)
    assert teacher.training and all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in teacher.state_dict().items())


def test_a_part_that_nothing_weighs_is_named_with_its_key(tried: Callable[..., str]) -> None:
    assert "the student gives hurry, which nothing weighs; set +distill.aux.hurry to" in tried(none(), Hurried())


@pytest.mark.parametrize(
    ("objective", "student", "is_main"),
    [(none(aux={"hurry": 0.1}), Hurried(), True), (none(), Walker(), True), (none(), Hurried(), False)],
    ids=["weighed", "none", "helper"],
)
def test_otherwise_nothing_is_said(tried: Callable[..., str], objective: Objective, student: Any, is_main: Any) -> None:
    assert tried(objective, student, is_main=is_main) == ""


def test_a_model_with_a_loss_of_its_own_is_not_asked_to_weigh_it(tried: Callable[..., str]) -> None:
    assert tried(none(), Guide(), None) == ""


def test_what_the_student_does_not_give_is_refused(tried: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match=r"distill\.aux\.energy weighs a part .* it gives hurry"):
        tried(kd(aux={"energy": 1.0}), Hurried(), Guide())
