"""Texts as the word pieces of a pretrained encoder's own tokeniser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal, cast

import torch
from annotated_types import Ge, Le
from torch import Tensor

from kdexp.errors import ConfigError
from kdexp.systems.multimodal.hub import TextName, hub_tokenizer
from kdexp.systems.multimodal.packaged import minilm_tokenizer
from kdexp.systems.multimodal.text import PADDING, words_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TokenizerName = Literal[
    "minilm",
    "hub/bio-clinical-bert",
    "hub/distilbert",
    "hub/minilm",
    "hub/mobile-bert",
    "hub/bert-mini",
    "hub/bert-tiny",
]
"""`minilm` is the packaged one; those of the hub are named as the encoder that reads them."""


@dataclass(frozen=True, kw_only=True)
class PieceOptions:
    """How a text becomes word pieces: those of the tokeniser's own encoder, with its marks at both ends. Where
    `mask_modality_words`, the text is first reduced to its words without those that give the modality away: what
    stands between words would show where one was taken out."""

    tokenizer: TokenizerName = "minilm"
    length: Annotated[int, Ge(3), Le(512)] = 64
    mask_modality_words: bool = False

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        source, _, name = self.tokenizer.rpartition("/")
        tokenizer = hub_tokenizer(cast(TextName, name)) if source else minilm_tokenizer()
        if tokenizer.token_to_id("[PAD]") != PADDING:
            raise ConfigError(
                f"{self.tokenizer}: this tokeniser's padding is not {PADDING}, so its mask would be wrong"
            )
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.length)
        return tokenizer

    @property
    def vocabulary_size(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Token numbers (N, L) int32, padded with 0."""
        tokens = torch.full((len(texts), self.length), PADDING, dtype=torch.int32)
        for row, text in enumerate(texts):
            words = " ".join(words_of(text, mask_modality_words=True)) if self.mask_modality_words else text
            numbers = self._tokenizer.encode(words).ids
            tokens[row, : len(numbers)] = torch.tensor(numbers, dtype=torch.int32)
        return tokens
