"""The trajectory system on its generated city: what its teacher adds, cached and live, and what its attention saves.

Shape suffixes: B trips, P positions, K candidates, D width, H heads, C = D / H.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hydra._internal.execution_policy import execution_whitelist
from torch import Tensor

from benchmarks.memory import allocated
from benchmarks.timing import Costs, Figure, Plan, interleaved
from benchmarks.training import teacher_ratios
from benchmarks.workload import Workload, composed
from kdexp.building import apply_signal, build_model, build_objective, open_dataset
from kdexp.contracts import StudentOutput
from kdexp.distill.losses.kl import kl
from kdexp.distill.objective import none
from kdexp.systems.trajectories.models.attention import RelativeAttention, may_see
from kdexp.training.cache import CacheKey, Features, Values, obtain_cache, teacher_outputs
from kdexp.training.loader import BatchLoader
from kdexp.training.signals import LiveTeacher, SignalSource
from kdexp.training.teacher import answered
from kdexp.trust import execution_whitelist as trusted_names

BATCH_SIZE = 64  # trips; an epoch of training and the attention alone are both measured at it
WINDOW, TEMPERATURE, POSITIONS = 7, 2.0, "all"
HEADS = 2


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much one round of the parts below an epoch takes; the attention is that of trips of `length` moves."""

    n_batches: int = 20
    batch: int = BATCH_SIZE
    length: int = 64
    head_widths: tuple[int, ...] = (64, 128)


SMALL = Size(n_batches=1, batch=2, length=8)
Forward = Callable[[RelativeAttention, Tensor, tuple[Tensor, Tensor], Tensor], Tensor]


def trajectory_tables(plan: Plan, small: bool) -> Iterator[tuple[str, Sequence[Figure]]]:
    """Each table's title and figures, as they are measured."""
    size = SMALL if small else Size()
    torch.set_num_threads(1)
    with city(small) as work:
        student, teacher = f"student of width {work.cfg['student']['width']}", f"teacher windowed to {WINDOW} tokens"
        title = f"trajectories: {work.describe()}, {student}, {teacher}; CE + KL on all positions against CE"
        yield f"{title}; epochs a round: {plan.n_epochs}", teacher_ratios(work, plan)
        title = f"trajectories: KD part of a step (signal, KL on all positions, its gradient), {teacher}"
        yield f"{title}; {size.n_batches} batches a round", signal_ratios(work, plan, size)
    title = f"trajectories: relative attention, forward and backward, factorised / plain; {size.batch} trips of "
    yield f"{title}{size.length} moves, {HEADS} heads; memory: what a pass allocates", attention_ratios(plan, size)


@contextmanager
def city(small: bool) -> Iterator[Workload]:
    """A generated city in a folder that is removed afterwards, with an untrained teacher: weights change no cost."""
    preset = "tiny" if small else "small"
    with TemporaryDirectory() as folder, execution_whitelist(trusted_names()):
        cfg = composed(
            [
                "dataset=city",
                f"dataset.generator.preset={preset}",
                f"paths.output_root={folder}",
                "trainer.accelerator=cpu",
                f"data.batch_size={BATCH_SIZE}",
                f"distill.positions={POSITIONS}",
                f"teacher.signal.window={WINDOW}",
            ]
        )
        dataset = open_dataset(cfg["dataset"], cfg["data"]["seed"])
        teacher = build_model(cfg["teacher"]["model"], dataset, cfg["teacher"]["seed"], "teacher.model")
        apply_signal(teacher, cfg["teacher"]["signal"])
        tasks, _ = answered(teacher, dataset.tasks, dataset.score)

        def compute() -> tuple[Values, Features]:
            return teacher_outputs(teacher, dataset.split("train"), tasks, features=(), batch_size=BATCH_SIZE)

        key = CacheKey(teacher="untrained", data=dataset.fingerprint, dtype=cfg["teacher"]["cache_dtype"], names=())
        yield Workload(
            cfg=cfg,
            dataset=dataset,
            live=LiveTeacher(teacher, "untrained"),
            cached=obtain_cache(Path(folder) / "outputs", key, cfg["teacher"]["cache"], compute)[0],
            distilled=build_objective(cfg["distill"]),
            plain=none(),
        )


def signal_ratios(work: Workload, plan: Plan, size: Size) -> list[Figure]:
    """The same batches and the same student outputs; only where the teacher's signal comes from differs."""
    loader = BatchLoader(work.dataset.split("train"), batch_size=BATCH_SIZE, seed=work.cfg["seed"])
    batches = list(islice(loader, size.n_batches))
    student = work.student().eval()
    with torch.no_grad():
        outputs = [student(batch.student) for batch in batches]

    def from_source(source: SignalSource) -> Callable[[], Costs]:
        def run() -> Costs:
            started = time.process_time()
            for batch, output in zip(batches, outputs, strict=True):
                logits = {name: values.detach().requires_grad_() for name, values in output.logits.items()}
                said = StudentOutput(logits=logits, masks=output.masks)
                kl(
                    said,
                    source.signal(batch),
                    tasks=work.dataset.tasks,
                    temperature=TEMPERATURE,
                    scale_tau2=False,
                    positions=POSITIONS,
                ).mean().backward()
            return {"ms": 1000 * (time.process_time() - started) / len(batches)}

        return run

    rounds = interleaved({"cached": from_source(work.cached), "online": from_source(work.live)}, plan)
    return [
        rounds.ratio(
            "KD part of a step, cached signal / online teacher (at 0.05: 20 times cheaper)",
            "cached",
            "online",
            "ms",
            0.05,
        ),
        rounds.amount("KD part of a step with the cached signal, ms", "cached", "ms", digits=2),
        rounds.amount("KD part of a step with the online teacher, ms", "online", "ms", digits=2),
    ]


def attention_ratios(plan: Plan, size: Size) -> list[Figure]:
    """Both forms on the same numbers; RuntimeError where they do not come to the same output."""
    return [figure for head_width in size.head_widths for figure in _attention_ratios(plan, size, head_width)]


def _attention_ratios(plan: Plan, size: Size, head_width: int) -> list[Figure]:
    torch.manual_seed(0)
    width, shape = HEADS * head_width, (size.batch, size.length)
    layer, states_BPD = RelativeAttention(width, HEADS), torch.randn(*shape, width, requires_grad=True)
    relations_BPP = (torch.rand(*shape, size.length), torch.rand(*shape, size.length))
    allowed_BPP = may_see(torch.ones(shape, dtype=torch.bool))
    inputs = (layer, states_BPD, relations_BPP, allowed_BPP)
    if not torch.allclose(RelativeAttention.forward(*inputs), plain_attention(*inputs), atol=1e-5):
        raise RuntimeError("the factorised attention and the plain form did not come to the same output")

    def of(forward: Forward) -> Callable[[], Costs]:
        def step() -> None:
            torch.autograd.grad(forward(*inputs).sum(), [states_BPD, *layer.parameters()])

        def run() -> Costs:
            started = time.process_time()
            step()
            return {"step": time.process_time() - started, **allocated(step)}

        return run

    rounds = interleaved({"factorised": of(RelativeAttention.forward), "plain": of(plain_attention)}, plan)
    parts = {"step": "time", "peak": "peak memory", "largest": "largest tensor"}
    return [
        rounds.ratio(f"{what}, heads of width {head_width}", "factorised", "plain", part)
        for part, what in parts.items()
    ] + [rounds.amount(f"peak memory of the plain form, heads of width {head_width}, MB", "plain", "peak", digits=1)]


def plain_attention(
    layer: RelativeAttention, states_BPD: Tensor, relations_BPP: tuple[Tensor, Tensor], allowed_BPP: Tensor
) -> Tensor:
    """`RelativeAttention` as its formula is written: W_k ρ_ij + b_k and W_v ρ_ij + b_v are (B, P, P, C) tensors."""
    n, length, width = states_BPD.shape
    split = layer.query_key_value(states_BPD).view(n, length, 3, layer.heads, width // layer.heads)
    query_BHPC, key_BHPC, value_BHPC = split.permute(2, 0, 3, 1, 4)
    relative_key_BPPC, relative_value_BPPC = layer.relative(torch.stack(relations_BPP, dim=-1)).chunk(2, dim=-1)
    score_BHPP = query_BHPC @ key_BHPC.transpose(-2, -1)
    score_BHPP = score_BHPP + torch.einsum("bhic,bijc->bhij", query_BHPC, relative_key_BPPC)
    score_BHPP = (score_BHPP / math.sqrt(width // layer.heads)).masked_fill(~allowed_BPP[:, None], -torch.inf)
    weight_BHPP = score_BHPP.softmax(dim=-1)
    mixed_BHPC = weight_BHPP @ value_BHPC + torch.einsum("bhij,bijc->bhic", weight_BHPP, relative_value_BPPC)
    return layer.out(mixed_BHPC.transpose(1, 2).reshape(n, length, width))
