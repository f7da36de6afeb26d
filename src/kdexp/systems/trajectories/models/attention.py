"""Causal self-attention that knows how far two positions of a trip lie apart, in space and in time (HOSER, AAAI 2025).

Shape suffixes: B trips, P positions, D width, H heads, C = D / H.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class RelativeAttention(nn.Module):
    """With ρ_ij = (distance_ij, interval_ij): score_ij = q_i · (k_j + W_k ρ_ij + b_k) / √C over the positions j that i
    may see, out_i = Σ_j α_ij (v_j + W_v ρ_ij + b_v); W and b are shared by the heads.

    Computed without a B × P × P × C tensor: q · W_k ρ = ρ · W_kᵀ q, and Σ α W_v ρ = W_v Σ α ρ. The softmax cancels
    q · b_k, so that half of the bias has no effect; it is there because published weights hold it.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.relative = nn.Linear(2, 2 * (width // heads))
        self.out = nn.Linear(width, width)

    def forward(self, states_BPD: Tensor, relations_BPP: tuple[Tensor, Tensor], allowed_BPP: Tensor) -> Tensor:
        n, length, width = states_BPD.shape
        split = self.query_key_value(states_BPD).view(n, length, 3, self.heads, width // self.heads)
        query_BHPC, key_BHPC, value_BHPC = split.permute(2, 0, 3, 1, 4)
        key_weight_C2, value_weight_C2 = self.relative.weight.chunk(2)
        relations_B1PP = [relation[:, None] for relation in relations_BPP]

        pull_BHP2 = query_BHPC @ key_weight_C2
        score_BHPP = query_BHPC @ key_BHPC.transpose(-2, -1)
        for relation_B1PP, pull_BHP in zip(relations_B1PP, pull_BHP2.unbind(-1), strict=True):
            score_BHPP = score_BHPP + pull_BHP[..., None] * relation_B1PP
        score_BHPP = score_BHPP / math.sqrt(width // self.heads)
        weight_BHPP = score_BHPP.masked_fill(~allowed_BPP[:, None], -torch.inf).softmax(dim=-1)

        relation_BHP2 = torch.stack([(weight_BHPP * relation).sum(dim=-1) for relation in relations_B1PP], dim=-1)
        relative_BHPC = relation_BHP2 @ value_weight_C2.T + self.relative.bias.chunk(2)[1]
        mixed_BHPC = weight_BHPP @ value_BHPC + relative_BHPC
        return self.out(mixed_BHPC.transpose(1, 2).reshape(n, length, width))


class Block(nn.Module):
    """Pre-norm relative attention and a GELU feed-forward of `feedforward` times the width: (B, P, D) -> (B, P, D)."""

    def __init__(self, width: int, *, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = RelativeAttention(width, heads)
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward * width), nn.GELU(), nn.Linear(feedforward * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, states_BPD: Tensor, relations_BPP: tuple[Tensor, Tensor], allowed_BPP: Tensor) -> Tensor:
        attended_BPD = self.attention(self.attention_norm(states_BPD), relations_BPP, allowed_BPP)
        states_BPD = states_BPD + self.dropout(attended_BPD)
        return states_BPD + self.dropout(self.feedforward(self.feedforward_norm(states_BPD)))


def may_see(position_mask_BP: Tensor) -> Tensor:
    """Which positions j a position i attends to, (B, P, P): the real ones up to itself, and always itself, so that a
    padded row is finite."""
    length = position_mask_BP.shape[1]
    itself_PP = torch.eye(length, dtype=torch.bool, device=position_mask_BP.device)
    earlier_PP = torch.ones_like(itself_PP).tril()
    return (position_mask_BP[:, None, :] & earlier_PP) | itself_PP
