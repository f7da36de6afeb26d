"""The tagger: its published size, its pooling weights, its norms."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from contracts.plugins import ModelCase, outside_trusted
from kdexp.contracts import StudentOutput, TaskSpec
from kdexp.systems.toptagging.model import JetTransformer

TASKS = (TaskSpec(name="top", kind="binary", metrics=("auc",)),)
NORMS = ("layer", "batch_masked", "batch_padded")


def model(**settings: Any) -> JetTransformer:
    torch.manual_seed(0)
    return JetTransformer(
        tasks=TASKS, n_features=7, **{"width": 8, "heads": 2, "feedforward": 16, "pooling_heads": 2, **settings}
    )


def jets(n: int = 6, m: int = 10) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    mask = torch.rand(n, m, generator=random) < 0.6
    mask[:, 0] = True
    features = torch.randn(n, m, 7, generator=random) * mask[..., None]
    return {"features": features, "mask": mask}


def attention(output: StudentOutput) -> Tensor:
    return output.features["attention"]


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_at_the_published_size_it_has_the_published_number_of_parameters(role: str) -> None:
    told: Any = SimpleNamespace(model_arguments=lambda: {"tasks": TASKS, "n_features": 7})
    with outside_trusted():
        made = ModelCase(role, "toptagging", (f"{role}=toptagging_seed",)).build(told)
    assert sum(p.numel() for p in made.parameters()) == 1_299_329


def test_the_output_has_the_shapes_that_it_promises() -> None:
    output = model()(jets())
    assert output.logits["top"].shape == (6,)
    shapes = {name: tuple(feature.shape) for name, feature in output.features.items()}
    assert shapes == {"embedding": (6, 8), "attention": (6, 10), "attention_entropy": (6,), "attention_max": (6,)}


def test_pooling_weights_sum_to_one_over_the_constituents_also_in_training_with_dropout() -> None:
    made, batch = model(dropout=0.5, attention_dropout=0.5).train(), jets()
    weights = attention(made(batch))
    torch.testing.assert_close(weights.sum(1), torch.ones(6))
    assert not weights[~batch["mask"]].any() and (weights[batch["mask"]] > 0).all()


def test_entropy_and_maximum_are_those_of_the_pooling_weights() -> None:
    output = model().eval()(jets())
    weights = attention(output).double()
    torch.testing.assert_close(output.features["attention_max"], weights.max(1).values.float())
    entropy = torch.where(weights > 0, -weights * weights.clamp(min=1e-300).log(), 0.0).sum(1).float()
    torch.testing.assert_close(output.features["attention_entropy"], entropy, atol=1e-5, rtol=0)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("norm", NORMS[:2])
def test_what_stands_in_an_empty_slot_does_not_matter(norm: str, training: bool) -> None:
    batch = jets()
    other = {**batch, "features": torch.where(batch["mask"][..., None], batch["features"], 7.0)}
    one, two = (model(dropout=0.0, input_norm=norm).train(training)(each).logits["top"] for each in (batch, other))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_the_published_norm_counts_empty_slots() -> None:
    batch = jets()
    wider = {name: torch.cat([values, torch.zeros_like(values)], 1) for name, values in batch.items()}
    for norm, same in (("batch_masked", True), ("batch_padded", False)):
        one, two = (model(dropout=0.0, input_norm=norm).train()(each).logits["top"] for each in (batch, wider))
        assert torch.allclose(one, two, atol=1e-5) == same, norm


@pytest.mark.parametrize("head_norm", ["layer", "batch"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_lone_jet_can_be_trained_on(norm: str, head_norm: str) -> None:
    """The last batch of an epoch may hold one."""
    made = model(input_norm=norm, head_norm=head_norm).train()
    output = made(jets(1))
    output.logits["top"].sum().backward()
    assert output.logits["top"].isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


def test_a_jet_of_one_constituent_has_an_answer() -> None:
    batch = jets(4)
    batch["mask"][2] = torch.arange(10) == 3
    output = model().eval()(batch)
    assert output.logits["top"].isfinite().all()
    assert attention(output)[2].tolist() == [0.0] * 3 + [1.0] + [0.0] * 6


def test_the_order_of_constituents_does_not_matter() -> None:
    batch, order = jets(), torch.randperm(10, generator=torch.Generator().manual_seed(2))
    made = model().eval()
    one, two = made(batch), made({name: values[:, order] for name, values in batch.items()})
    torch.testing.assert_close(one.logits["top"], two.logits["top"])
    torch.testing.assert_close(attention(one)[:, order], attention(two))


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    for settings in ({"heads": 3}, {"pooling_heads": 3}):
        with pytest.raises(ValueError, match="must divide width"):
            model(**settings)
