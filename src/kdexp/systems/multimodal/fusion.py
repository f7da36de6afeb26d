"""How an image feature and a text feature become one: each fusion is an options class with `build(dim)`.

v, t are the projected image and text features, both (B, D); the output is (B, D). [v; t] is their concatenation and X
their stack (B, 2, D). Here every sample takes the same way; `fusion_routed.py` holds those that choose one per sample.
An option that a fusion does not use does not exist on it, so a config or a search that sets it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor, nn

from kdexp.errors import ConfigError

Fused = Tensor | tuple[Tensor, dict[str, Tensor]]
"""What a fusion returns: the fused feature (B, D), or that and auxiliary numbers by name, each (B,)."""


@runtime_checkable
class Fusion(Protocol):
    """The settings of a fusion; `build` makes the module (v, t) -> Fused."""

    def build(self, dim: int) -> nn.Module: ...


def with_auxiliary(fused: Fused) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The fused feature, and the auxiliary numbers of a fusion that gives some."""
    return fused if isinstance(fused, tuple) else (fused, {})


def check_heads(heads: int, dim: int) -> None:
    """Raises ConfigError where the heads do not divide the width."""
    if dim % heads:
        raise ConfigError(f"fusion.heads: must divide width, got {heads=} and width={dim}")


@dataclass(frozen=True, kw_only=True)
class Simple:
    """A transformer over the two features, and their mean. `dropout` acts within its layers."""

    heads: Annotated[int, Ge(1)] = 4
    layers: Annotated[int, Ge(1)] = 1
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1

    def build(self, dim: int) -> TransformerFusion:
        """Raises ConfigError where the heads do not divide the width."""
        check_heads(self.heads, dim)
        return TransformerFusion(dim, heads=self.heads, layers=self.layers, dropout=self.dropout)


@dataclass(frozen=True, kw_only=True)
class TransformerConcat:
    """As `Simple`, with a learned vector added to each feature that says which of the two it is."""

    heads: Annotated[int, Ge(1)] = 4
    layers: Annotated[int, Ge(1)] = 1
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1

    def build(self, dim: int) -> TransformerFusion:
        """Raises ConfigError where the heads do not divide the width."""
        check_heads(self.heads, dim)
        return TransformerFusion(dim, heads=self.heads, layers=self.layers, dropout=self.dropout, modality_token=True)


class TransformerFusion(nn.Module):
    """out = mean over both tokens of TransformerEncoder(X): post-norm layers, GELU, inner width 4 D.

    layers · (12 D² + 13 D) parameters, and 2 D more with the modality token, which is added to X.
    """

    def __init__(self, dim: int, *, heads: int, layers: int, dropout: float, modality_token: bool = False) -> None:
        super().__init__()
        # Not nn.TransformerEncoder, which copies one layer and so starts all of them with the same weights.
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(dim, heads, 4 * dim, dropout, activation="gelu", batch_first=True)
                for _ in range(layers)
            )
        )
        self.modality_token = nn.Parameter(torch.empty(2, dim)) if modality_token else None
        if self.modality_token is not None:
            nn.init.normal_(self.modality_token, std=0.02)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        both = torch.stack((image, text), dim=1)
        if self.modality_token is not None:
            both = both + self.modality_token
        return self.layers(both).mean(dim=1)


@dataclass(frozen=True, kw_only=True)
class CrossAttention:
    """One query, the mean of both features, attends to both. `dropout` acts within the attention and after its
    feed-forward; it is not the dropout after the fusion."""

    heads: Annotated[int, Ge(1)] = 4
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1

    def build(self, dim: int) -> CrossAttentionFusion:
        """Raises ConfigError where the heads do not divide the width."""
        check_heads(self.heads, dim)
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
class ConcatMlp:
    """An MLP on both features side by side: `layers` linear layers, the hidden ones `hidden_mult` · D wide. A single
    layer has nothing hidden, and so no use for `hidden_mult` and `dropout`."""

    layers: Annotated[int, Ge(1)] = 2
    hidden_mult: Annotated[int, Ge(1)] = 2
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1

    def build(self, dim: int) -> ConcatMlpFusion:
        return ConcatMlpFusion(dim, layers=self.layers, hidden=self.hidden_mult * dim, dropout=self.dropout)


class ConcatMlpFusion(nn.Module):
    """out = Linear(... Dropout(GELU(Linear([v; t]))) ...)."""

    def __init__(self, dim: int, *, layers: int, hidden: int, dropout: float) -> None:
        super().__init__()
        widths = [2 * dim] + [hidden] * (layers - 1)
        blocks: list[nn.Module] = []
        for before in widths[:-1]:
            blocks += [nn.Linear(before, hidden), nn.GELU(), nn.Dropout(dropout)]
        self.mlp = nn.Sequential(*blocks, nn.Linear(widths[-1], dim))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return self.mlp(torch.cat((image, text), dim=-1))


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


@dataclass(frozen=True, kw_only=True)
class Film:
    """The text scales and shifts the image feature."""

    def build(self, dim: int) -> FilmFusion:
        return FilmFusion(dim)


class FilmFusion(nn.Module):
    """out = gamma(t) v + beta(t), one Linear each. 2 D² + 2 D parameters. Perez et al., arXiv:1709.07871."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Linear(dim, dim)
        self.beta = nn.Linear(dim, dim)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return self.gamma(text) * image + self.beta(text)


@dataclass(frozen=True, kw_only=True)
class ModalityDropout:
    """An MLP on both features, one of which is missing for some samples of a training batch: the image with
    probability `p_img`, the text with probability `p_txt`, never both."""

    p_img: Annotated[float, Ge(0), Le(1)] = 0.3
    p_txt: Annotated[float, Ge(0), Le(1)] = 0.3

    def build(self, dim: int) -> ModalityDropoutFusion:
        """Raises ConfigError where the two probabilities exceed 1 together."""
        if self.p_img + self.p_txt > 1:
            raise ConfigError(
                "fusion.p_img: a sample loses its image or its text, not both, so p_img and p_txt may not exceed 1 "
                f"together, got p_img={self.p_img} and p_txt={self.p_txt}"
            )
        return ModalityDropoutFusion(dim, p_img=self.p_img, p_txt=self.p_txt)


class ModalityDropoutFusion(nn.Module):
    """out = Linear(ReLU(Linear([v; t]))), in training with v or t zeroed for some samples. 3 D² + 2 D parameters."""

    def __init__(self, dim: int, *, p_img: float, p_txt: float) -> None:
        super().__init__()
        self.p_img, self.p_txt = p_img, p_txt
        self.mlp = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        if self.training:
            # One number decides for both, so that each has its own probability and they exclude each other.
            chance = torch.rand(len(image), 1, device=image.device)
            image = image * (chance >= self.p_img)
            text = text * (chance < 1 - self.p_txt)
        return self.mlp(torch.cat((image, text), dim=-1))
