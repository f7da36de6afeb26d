"""An objective tried on its two models before either is trained: what cannot be distilled is told at once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from kdexp.building import build_model
from kdexp.contracts import Batch, Dataset, Progress, TeacherSignal
from kdexp.distill.objective import Objective
from kdexp.seeds import derive_seed
from kdexp.training.teacher import answered

log = logging.getLogger(__name__)


def connect(
    objective: Objective, cfg: Mapping[str, Any], dataset: Dataset, teacher: nn.Module | None, *, is_main: bool
) -> None:
    """Makes the objective's projections and tries it on two training samples. Raises ConfigError for features, tasks
    and auxiliary parts that it cannot read. Neither the teacher nor any random stream is changed.

    A student of its own gives the outputs, in training mode: there a model gives all its auxiliary parts.
    """
    train = dataset.split("train")
    student = build_model(cfg["student"], dataset, cfg["seed"], "student")
    tasks, _ = answered(student, dataset.tasks, dataset.score)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        batch = train.fetch(torch.arange(min(2, len(train))))
        output = student.train()(batch.student)
        signal = None if teacher is None else _signal_of(teacher, batch)
        objective.connect(output, signal, derive_seed(cfg["seed"], "projections"))
        objective(output, signal, batch.targets, Progress(epoch=0.0, step=0.0), tasks, batch.weights)
    idle = () if hasattr(student, "own_loss") else objective.idle_parts(output)
    if idle and is_main:
        keys = ", ".join(f"+distill.aux.{name}" for name in idle)
        log.warning("the student gives %s, which nothing weighs; set %s to train on it", ", ".join(idle), keys)


def _signal_of(teacher: nn.Module, batch: Batch) -> TeacherSignal:
    """What a teacher that is not trained yet says, in eval mode, left in the mode that it was in."""
    was_training = teacher.training
    output = teacher.eval()(batch.teacher)
    teacher.train(was_training)
    return TeacherSignal(values=output.logits, features=output.features)
