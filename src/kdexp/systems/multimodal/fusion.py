"""How an image feature and a text feature become one: each fusion is an options class with `build(dim)`.

v, t are the projected image and text features, both (B, D); the output is (B, D). X is their stack (B, 2, D).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from kdexp.errors import ConfigError


@runtime_checkable
class Fusion(Protocol):
    """The settings of a fusion; `build` makes the module (v, t) -> (B, D)."""

    def build(self, dim: int) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class CrossAttention:
    """One query, the mean of both features, attends to both. `dropout` acts within the attention and after its
    feed-forward; it is not the dropout after the fusion."""

    heads: Annotated[int, Ge(1)] = 4
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1

    def build(self, dim: int) -> CrossAttentionFusion:
        """Raises ConfigError where the heads do not divide the width."""
        if dim % self.heads:
            raise ConfigError(f"fusion.heads: must divide width, got heads={self.heads} and width={dim}")
        return CrossAttentionFusion(dim, heads=self.heads, dropout=self.dropout)


class CrossAttentionFusion(nn.Module):
    """q = LN1(mean(X)); a = MHA(q, X, X); out = a + FFN(LN2(a)); no residual from q. 12 D² + 13 D parameters."""

    def __init__(self, dim: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.feedforward = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), nn.Dropout(dropout)
        )

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        both = torch.stack((image, text), dim=1)
        query = self.query_norm(both.mean(dim=1, keepdim=True))
        attended, _ = self.attention(query, both, both, need_weights=False)
        attended = attended.squeeze(1)
        return attended + self.feedforward(self.feedforward_norm(attended))


@dataclass(frozen=True, kw_only=True)
class Gated:
    """A gate per feature chooses between image and text."""

    def build(self, dim: int) -> GatedFusion:
        return GatedFusion(dim)


class GatedFusion(nn.Module):
    """g = sigmoid(W [v; t] + b); out = g v + (1 - g) t. 2 D² + D parameters."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * dim, dim)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(torch.cat((image, text), dim=-1)))
        return gate * image + (1 - gate) * text
