"""Fusions that choose a way per sample: the image alone, the text alone, or both together.

In training the way is drawn from the router's probabilities, by torch's global generator; the forward value is that of
the way drawn, and the router learns by the straight-through Gumbel-softmax (Jang et al., arXiv:1611.01144). In eval it
is the most probable way. v, t, X as in `fusion.py`; all ways are computed and one is kept, so nothing here saves time:
the energy of a way is a number from the options, not a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from kdexp.systems.multimodal.fusion import GatedFusion, check_heads

N_WAYS = 3
"""Image, text, both: the router's order."""


@dataclass(frozen=True, kw_only=True)
class EnergyAwareAdaptive:
    """A router sends each sample one of three ways; each way has a cost in millijoule. What the expected cost of a
    batch exceeds `budget_mj` by is the auxiliary part `energy`: it acts where `distill.aux.energy` weighs it."""

    heads: Annotated[int, Ge(1)] = 4
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    image_mj: Annotated[float, Ge(0)] = 3.2
    text_mj: Annotated[float, Ge(0)] = 4.1
    both_mj: Annotated[float, Ge(0)] = 9.8
    budget_mj: Annotated[float, Ge(0)] = 8.0

    def build(self, dim: int) -> EnergyAwareFusion:
        """Raises ConfigError where the heads do not divide the width."""
        check_heads(self.heads, dim)
        costs = (self.image_mj, self.text_mj, self.both_mj)
        return EnergyAwareFusion(dim, heads=self.heads, dropout=self.dropout, costs=costs, budget=self.budget_mj)


class EnergyAwareFusion(nn.Module):
    """r = softmax(MLP([v; t])). Image: v. Text: t. Both: FFN(LN(g v + (1 - g) t + mean(MHA(X, X, X)))).

    Gives `energy`, the same for all of a batch: relu(E[cost] - budget), with E[cost] the mean over the batch of
    r · costs. 16 D² + 16 D + 3 parameters.
    """

    routes_samples = True

    def __init__(self, dim: int, *, heads: int, dropout: float, costs: tuple[float, ...], budget: float) -> None:
        super().__init__()
        self.costs, self.budget = costs, budget
        self.router = nn.Sequential(nn.Linear(2 * dim, dim), nn.GELU(), nn.Linear(dim, N_WAYS))
        self.gate = GatedFusion(dim)
        self.attention = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.feedforward = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), nn.Dropout(dropout)
        )

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.router(torch.cat((image, text), dim=-1)).float()
        both = self.gate(image, text) + _attended(self.attention, image, text)
        fused = _take((image, text, self.feedforward(self.norm(both))), _choose(logits, self.training))
        return fused, {"energy": self._energy(logits).expand(len(image))}

    def _energy(self, logits: Tensor) -> Tensor:
        expected = (logits.softmax(dim=-1) @ logits.new_tensor(self.costs)).mean()
        return F.relu(expected - self.budget)


@dataclass(frozen=True, kw_only=True)
class Shomr:
    """Soft and hard routing: samples whose confidence in one of the two features exceeds `threshold` take one of three
    ways, the others a mixture weighted by confidence. `temperature` divides the router's logits; in eval, where the
    most probable way is taken, it changes nothing."""

    heads: Annotated[int, Ge(1)] = 4
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    threshold: Annotated[float, Ge(0.5), Le(1)] = 0.6
    temperature: Annotated[float, Gt(0)] = 1.0

    def build(self, dim: int) -> ShomrFusion:
        """Raises ConfigError where the heads do not divide the width."""
        check_heads(self.heads, dim)
        return ShomrFusion(self, dim)


class ShomrFusion(nn.Module):
    """c = softmax(MLP([v; t])), two numbers; a = mean(MHA(X, X, X)).

    max c > threshold: image GELU(Linear(v)), text GELU(Linear(t)) with the same Linear, or both z + FFN(z) with
    z = LN2(g v + (1 - g) t + a). Else z + FFN(z) with z = LN1(c_v v + c_t t + a). 19 D² + 22 D + 5 parameters.
    """

    routes_samples = True

    def __init__(self, options: Shomr, dim: int) -> None:
        super().__init__()
        self.threshold, self.temperature = options.threshold, options.temperature
        dropout = options.dropout
        self.confidence = _mlp(2 * dim, dim, 2, dropout)
        self.router = _mlp(2 * dim, dim, N_WAYS, dropout)
        self.gate = GatedFusion(dim)
        self.attention = nn.MultiheadAttention(dim, options.heads, dropout=dropout, batch_first=True)
        self.soft_norm = nn.LayerNorm(dim)
        self.hard_norm = nn.LayerNorm(dim)
        self.feedforward = nn.Sequential(*_mlp(dim, 4 * dim, dim, dropout), nn.Dropout(dropout))
        self.single = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Dropout(dropout))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        pair = torch.cat((image, text), dim=-1)
        attended = _attended(self.attention, image, text)
        confidence = self.confidence(pair).float().softmax(dim=-1)
        soft = self._settled(self.soft_norm(confidence[:, :1] * image + confidence[:, 1:] * text + attended))
        both = self._settled(self.hard_norm(self.gate(image, text) + attended))
        chosen = _choose(self.router(pair).float() / self.temperature, self.training)
        hard = _take((self.single(image), self.single(text), both), chosen)
        is_sure = confidence.amax(dim=-1, keepdim=True) > self.threshold
        return torch.where(is_sure, hard, soft)

    def _settled(self, normed: Tensor) -> Tensor:
        return normed + self.feedforward(normed)


def _mlp(before: int, hidden: int, after: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(before, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, after))


def _attended(attention: nn.MultiheadAttention, image: Tensor, text: Tensor) -> Tensor:
    """mean(MHA(X, X, X)) over both places: (B, D)."""
    both = torch.stack((image, text), dim=1)
    return attention(both, both, both, need_weights=False)[0].mean(dim=1)


def _choose(logits: Tensor, training: bool) -> Tensor:
    """Logits (B, 3) float32 -> one way per sample as a one-hot row; drawn, with gradient, in training."""
    if training:
        return F.gumbel_softmax(logits, hard=True)
    return F.one_hot(logits.argmax(dim=-1), N_WAYS).to(logits.dtype)


def _take(ways: tuple[Tensor, ...], chosen: Tensor) -> Tensor:
    """Each sample's way: three tensors (B, D) and one-hot rows (B, 3) -> (B, D)."""
    return (torch.stack(ways, dim=1) * chosen.unsqueeze(-1)).sum(dim=1)
