"""What an image or text encoder is, and small ones that are trained from scratch.

Each is described by an options class whose `build` is told what the data give and makes a module. The module takes
pixels and tokens as the data give them: normalising and pooling are its own. Packaged and downloaded encoders
(`packaged.py`, `hub.py`) are alike.

Shape suffixes: B samples, C channels, S image side, L text length, D width, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from torch import Tensor, nn

from kdexp.errors import ConfigError
from kdexp.systems.multimodal.images import normalise

_BATCH_NORM_MOMENTUM = 0.3  # an epoch may be a few steps long; at 0.1 the running means would still be the initial ones


class VisionEncoder(Protocol):
    """pixels uint8 (B, C, S, S) -> the raw feature (B, out_features), and the spatial map (B, channels, height, width)
    that it was pooled from where there is one."""

    out_features: int

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]: ...


class TextEncoder(Protocol):
    """tokens (B, L) int64 and mask (B, L), True on words -> (B, out_features)."""

    out_features: int

    def __call__(self, tokens: Tensor, mask: Tensor) -> Tensor: ...


@runtime_checkable
class VisionBackbone(Protocol):
    """The settings of an image encoder."""

    def build(self, *, image_size: int, colour: bool) -> nn.Module: ...


@runtime_checkable
class TextBackbone(Protocol):
    """The settings of a text encoder. `tokenizer` names what made the tokens; a pretrained encoder reads its own."""

    def build(self, *, vocabulary_size: int, text_length: int, tokenizer: str) -> nn.Module: ...


class Frozen(nn.Module):
    """A pretrained encoder that is never trained: always in eval mode, without gradients, and giving its raw feature
    alone. Its weights count among a model's parameters; they are no part of a state dict, since building brings them.
    `fingerprint` names them and all else that decides the feature."""

    def __init__(self, encoder: nn.Module, fingerprint: str) -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.fingerprint = fingerprint
        self.out_features = encoder.out_features
        self.register_state_dict_post_hook(_take_out)
        self.register_load_state_dict_pre_hook(_put_back)

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)

    @torch.no_grad()
    def forward(self, *inputs: Tensor) -> Tensor:
        given = self.encoder(*inputs)
        return given[0] if isinstance(given, tuple) else given


def _take_out(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        del state[name]


def _put_back(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    assert isinstance(module, Frozen)
    state.update({f"{prefix}encoder.{name}": tensor for name, tensor in module.encoder.state_dict().items()})


@dataclass(frozen=True, kw_only=True)
class Convolutional:
    """Stages of one 3 x 3 convolution with stride 2; the first has `channels` channels, each later one twice as
    many."""

    channels: Annotated[int, Ge(1)] = 16
    stages: Annotated[int, Ge(1)] = 4

    def build(self, *, image_size: int, colour: bool) -> ConvolutionalEncoder:
        """Raises ConfigError where the image is too small for so many halvings."""
        if image_size < 2**self.stages:
            raise ConfigError(f"vision.stages: {self.stages} halvings leave nothing of an image with {image_size=}")
        return ConvolutionalEncoder(channels=self.channels, stages=self.stages, colour=colour)


class ConvolutionalEncoder(nn.Module):
    """Stride-2 convolutions, batch normalisation and ReLU, then the mean over the image: (B, C, S, S) -> (B, d)."""

    def __init__(self, *, channels: int, stages: int, colour: bool) -> None:
        super().__init__()
        widths = [3 if colour else 1] + [channels * 2**stage for stage in range(stages)]
        self.stages = nn.Sequential(*(_stage(before, after) for before, after in pairwise(widths)))
        self.out_features = widths[-1]

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        spatial = self.stages(normalise(pixels))
        return spatial.mean(dim=(2, 3)), spatial


def _stage(before: int, after: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(after, momentum=_BATCH_NORM_MOMENTUM),
        nn.ReLU(inplace=True),
    )


@dataclass(frozen=True, kw_only=True)
class HashedTransformer:
    """A transformer over hashed words: `layers` pre-norm blocks of this width, learned positions, and the mean over
    the words. `feedforward` is the blocks' inner width in multiples of `width`; in training each word is left out with
    probability `word_dropout`."""

    width: Annotated[int, Ge(1)] = 96
    layers: Annotated[int, Ge(1)] = 2
    heads: Annotated[int, Ge(1)] = 4
    feedforward: Annotated[int, Ge(1)] = 2
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    word_dropout: Annotated[float, Ge(0), Lt(1)] = 0.3

    def build(self, *, vocabulary_size: int, text_length: int, tokenizer: str) -> HashedTransformerEncoder:
        """Raises ConfigError where the heads do not divide the width."""
        if self.width % self.heads:
            raise ConfigError(f"text.heads: must divide text.width, got heads={self.heads} and width={self.width}")
        return HashedTransformerEncoder(self, vocabulary_size=vocabulary_size, text_length=text_length)


class HashedTransformerEncoder(nn.Module):
    """tokens (B, L), mask (B, L) with at least one True a row -> the mean of the last states over the mask (B, d)."""

    def __init__(self, options: HashedTransformer, *, vocabulary_size: int, text_length: int) -> None:
        super().__init__()
        self.out_features = options.width
        self.word_dropout = options.word_dropout
        self.embedding = nn.Embedding(vocabulary_size, options.width)
        self.positions = nn.Parameter(torch.empty(text_length, options.width))
        nn.init.normal_(self.embedding.weight, std=0.1)
        nn.init.normal_(self.positions, std=0.02)
        self.dropout = nn.Dropout(options.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(options.width, options.heads, options.feedforward, options.dropout)
            for _ in range(options.layers)
        )
        self.norm = nn.LayerNorm(options.width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        if self.training and self.word_dropout:
            mask = _without_some_words(mask, self.word_dropout)
        states = self.dropout(self.embedding(tokens) + self.positions)
        for block in self.blocks:
            states = block(states, mask)
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (self.norm(states) * weights).sum(1) / weights.sum(1)


def _without_some_words(mask: Tensor, probability: float) -> Tensor:
    """The mask (B, L) with words left out at random; the first place, the start token, always stays."""
    kept = mask & (torch.rand(mask.shape, device=mask.device) >= probability)
    kept[:, 0] = mask[:, 0]
    return kept


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and a GELU feed-forward of `feedforward` times the width: (B, L, D) -> (B, L, D)."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward * width), nn.GELU(), nn.Linear(feedforward * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        states = states + self.dropout(self._attend(self.attention_norm(states), mask))
        return states + self.dropout(self.feedforward(self.feedforward_norm(states)))

    def _attend(self, states: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = states.shape
        split = self.query_key_value(states).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        return self.attention_out(attended.transpose(1, 2).reshape(batch, length, width))
