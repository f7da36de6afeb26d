"""The tagger: a transformer over constituents, pooled by attention; one class for teacher and student.

Shape suffixes: B jets, M constituents, V valid constituents of a batch, D width, H pooling heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from torch import Tensor, nn

from kdexp.contracts import StudentOutput, TaskSpec

InputNormKind = Literal["layer", "batch_masked", "batch_padded"]
HeadNormKind = Literal["layer", "batch"]
_FLOOR = 1e-8


class JetTransformer(nn.Module):
    """Pre-norm encoder layers, one learned query that attends to all constituents, layer norm, and a small head.

    Inputs: `features` (B, M, F), `mask` (B, M), True on constituents; a jet has at least one. Features of the output:
    `embedding` (B, D), `attention` (B, M), the pooling weights averaged over heads before dropout, which sum to 1 over
    the constituents, and their `attention_entropy` and `attention_max` (B,).

    `input_norm` follows the first linear layer: a layer norm, or a batch norm over the constituents
    (`batch_masked`) or over all slots, empty ones too (`batch_padded`, as the published study has it). `head_norm` is
    the norm of the head's layers. `attention_dropout` drops attention weights, in the layers and in the pooling; above
    0 training takes about twice as long on a CPU.
    """

    version = 1

    def __init__(
        self,
        *,
        tasks: tuple[TaskSpec, ...],
        n_features: Annotated[int, Ge(1)],
        width: Annotated[int, Ge(2)] = 32,
        layers: Annotated[int, Ge(1)] = 2,
        heads: Annotated[int, Ge(1)] = 4,
        feedforward: Annotated[int, Ge(1)] = 64,
        pooling_heads: Annotated[int, Ge(1)] = 4,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.1,
        attention_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        input_norm: InputNormKind = "layer",
        head_norm: HeadNormKind = "layer",
    ) -> None:
        super().__init__()
        if width % heads or width % pooling_heads:
            raise ValueError(f"heads and pooling_heads must divide width, got {width=}, {heads=}, {pooling_heads=}")
        (self.task,) = (task.name for task in tasks)
        self.input = nn.Linear(n_features, width)
        self.input_norm = InputNorm(width, input_norm)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            _encoder_layer(width, heads, feedforward, dropout, attention_dropout) for _ in range(layers)
        )
        self.pooling = AttentionPooling(width, pooling_heads, attention_dropout)
        self.embedding_norm = nn.LayerNorm(width)
        self.head = Head(width, dropout, head_norm)
        self.apply(_xavier)

    def forward(self, inputs: Mapping[str, Tensor]) -> StudentOutput:
        mask = inputs["mask"]
        states = self.dropout(F.gelu(self.input_norm(self.input(inputs["features"]), mask)))
        for block in self.blocks:
            states = block(states, src_key_padding_mask=~mask)
        pooled, attention = self.pooling(states, mask)
        embedding = self.embedding_norm(pooled)
        return StudentOutput(
            logits={self.task: self.head(embedding)},
            features={
                "embedding": embedding,
                "attention": attention,
                "attention_entropy": -(attention * (attention + _FLOOR).log()).sum(-1),
                "attention_max": attention.amax(-1),
            },
        )


class AttentionPooling(nn.Module):
    """(B, M, D), (B, M) -> (B, D) and the weights (B, M), averaged over heads, as they are before dropout."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(0.02 * torch.randn(width))
        self.to_query, self.to_key, self.to_value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        n_jets, n_slots, width = states.shape
        split = (n_jets, n_slots, self.heads, width // self.heads)
        query_HD = self.to_query(self.query).view(self.heads, -1)
        scores_BMH = (self.to_key(states).view(split) * query_HD).sum(-1) / query_HD.shape[-1] ** 0.5
        weights_BMH = scores_BMH.masked_fill(~mask[..., None], -torch.inf).softmax(dim=1)
        values_BMHD = self.to_value(states).view(split)
        pooled = torch.einsum("bmh,bmhd->bhd", self.dropout(weights_BMH), values_BMHD).reshape(n_jets, width)
        return self.out(pooled), weights_BMH.mean(-1)


class Head(nn.Module):
    """(B, D) -> one logit (B,): a layer, a residual layer, a layer of half the width, and a number."""

    def __init__(self, width: int, dropout: float, norm: HeadNormKind) -> None:
        super().__init__()
        self.first = _layer(width, width, dropout, norm)
        self.residual = _layer(width, width, dropout, norm)
        self.narrow = _layer(width, width // 2, dropout, norm)
        self.logit = nn.Linear(width // 2, 1)

    def forward(self, embedding: Tensor) -> Tensor:
        states = self.first(embedding)
        return self.logit(self.narrow(states + self.residual(states))).squeeze(-1)


class BatchNorm(nn.BatchNorm1d):
    """Batch norm that takes a lone sample, which has no spread, by its running statistics also in training."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) == 1:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class InputNorm(nn.Module):
    """(B, M, D), (B, M) -> (B, M, D). With `batch_masked`, empty slots take no part and become zeros."""

    def __init__(self, width: int, kind: InputNormKind) -> None:
        super().__init__()
        self.kind = kind
        self.norm = nn.LayerNorm(width) if kind == "layer" else BatchNorm(width)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        if self.kind == "layer":
            return self.norm(states)
        if self.kind == "batch_padded":
            return self.norm(states.flatten(0, 1)).view_as(states)
        return torch.zeros_like(states).masked_scatter(mask[..., None].expand_as(states), self.norm(states[mask]))


def _encoder_layer(
    width: int, heads: int, feedforward: int, dropout: float, attention_dropout: float
) -> nn.TransformerEncoderLayer:
    """Pre-norm, with a dropout of its own for the attention weights."""
    layer = nn.TransformerEncoderLayer(
        width, heads, feedforward, dropout, activation="gelu", batch_first=True, norm_first=True
    )
    layer.self_attn.dropout = attention_dropout
    return layer


def _layer(n_in: int, n_out: int, dropout: float, norm: HeadNormKind) -> nn.Sequential:
    made = nn.LayerNorm(n_out) if norm == "layer" else BatchNorm(n_out)
    return nn.Sequential(nn.Linear(n_in, n_out), made, nn.GELU(), nn.Dropout(dropout))


def _xavier(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for linear layers."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
