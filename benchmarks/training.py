"""What the teacher adds to an epoch, and what Lightning and our bookkeeping add to a loop written by hand."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.timing import Costs, Figure, Plan, interleaved
from benchmarks.workload import EpochClock, Workload, lightning_fit
from kdexp.building import build_optimizer
from kdexp.contracts import Progress
from kdexp.distill.objective import Objective
from kdexp.seeds import derive_seed
from kdexp.training.fit import predict
from kdexp.training.metrics import split_metrics
from kdexp.training.signals import SignalSource


def teacher_ratios(work: Workload, plan: Plan) -> list[Figure]:
    """Epochs of one student without a teacher, with its cached outputs, and with the teacher running."""

    def epochs_of(objective: Objective, source: SignalSource | None) -> Callable[[], Costs]:
        def run() -> Costs:
            clock = EpochClock()
            lightning_fit(work, work.student(), objective, source, plan.n_epochs, clock)
            return {"epoch": clock.epochs, "steps": clock.steps}

        return run

    rounds = interleaved(
        {
            "student only": epochs_of(work.plain, None),
            "cached": epochs_of(work.distilled, work.cached),
            "live": epochs_of(work.distilled, work.live),
        },
        plan,
    )
    return [
        rounds.ratio("cached-teacher epoch / student-only epoch", "cached", "student only", "epoch", 1.10),
        rounds.ratio("the same, training steps alone", "cached", "student only", "steps"),
        rounds.ratio("live-teacher epoch / cached-teacher epoch", "live", "cached", "epoch"),
    ]


def loop_ratios(work: Workload, plan: Plan) -> list[Figure]:
    """`fit`, with all that it sets up, against the loop below; RuntimeError where they end with other weights."""
    trained: dict[str, nn.Module] = {}

    def timed(name: str, train: Callable[[nn.Module], object]) -> Callable[[], Costs]:
        def run() -> Costs:
            model = trained[name] = work.student()
            started = time.process_time()
            train(model)
            return {"fit": time.process_time() - started}

        return run

    def by_lightning(model: nn.Module) -> None:
        lightning_fit(work, model, work.distilled, work.cached, plan.n_epochs, EpochClock())

    def by_hand(model: nn.Module) -> None:
        handwritten_fit(work, model, plan.n_epochs)

    rounds = interleaved({"fit": timed("fit", by_lightning), "hand": timed("hand", by_hand)}, plan)
    _refuse_other_work(trained["fit"], trained["hand"])
    return [rounds.ratio("Lightning fit / hand-written loop", "fit", "hand", "fit", 1.05)]


def handwritten_fit(work: Workload, model: nn.Module, n_epochs: int) -> list[dict[str, float]]:
    """The same training in plain torch over the data in memory: the loss summed up and one validation an epoch.

    Left out: checkpoints, metrics on disk, loss parts by name, a look for NaN, progress, moving rates, resumption.
    """
    cfg, dataset = work.cfg, work.dataset
    train, tasks, seed = dataset.split("train"), dataset.tasks, cfg["seed"]
    make_optimizer, _ = build_optimizer(cfg["optimizer"], "optimizer")
    optimizer = make_optimizer(model.parameters())
    start = Progress(epoch=0.0, step=0.0)  # temperature and weights are constant
    history = []
    for epoch in range(n_epochs):
        torch.manual_seed(derive_seed(seed, "epoch", epoch, 0))
        generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
        model.train()
        loss_sum = 0.0
        for index in torch.randperm(len(train), generator=generator).split(cfg["data"]["batch_size"]):
            batch = train.fetch(index)
            terms = work.distilled(model(batch.student), work.cached.signal(batch), batch.targets, start, tasks)
            optimizer.zero_grad()
            terms.total.backward()
            optimizer.step()
            loss_sum += terms.total.item() * len(batch)
        found = predict(model, dataset.split("val"), tasks, batch_size=cfg["data"]["eval_batch_size"], view="student")
        metrics = split_metrics(tasks, dataset.score, found.logits, found.targets, found.masks)
        history.append({"loss": loss_sum / len(train), **metrics})
    return history


def _refuse_other_work(one: nn.Module, other: nn.Module) -> None:
    """Raises RuntimeError unless both were trained to the same weights, to the bit."""
    theirs = other.state_dict()
    for name, tensor in one.state_dict().items():
        if not torch.equal(tensor, theirs[name]):
            raise RuntimeError(f"fit and the hand-written loop did not do the same work: {name} differs")
