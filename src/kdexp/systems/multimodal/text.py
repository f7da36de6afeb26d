"""Texts as hashed words: stable over machines and processes, nothing to download, nothing learned from the data."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

PADDING = 0
START = 1
N_RESERVED = 2
_WORD = re.compile(r"[^\W_]+")

_CT_WORDS = (
    "ct cta ctv cts cect ncct mdct hrct tomography tomographic tomogram tomograms computed computerized cat hounsfield "
    "hu attenuation attenuating attenuated hypoattenuation hypoattenuating hyperattenuation hyperattenuating "
    "hypodense hyperdense isodense hypodensity hypodensities hyperdensity hyperdensities density densities"
)
_MR_WORDS = (
    "mr mri mris mra mrv mrs mrcp fmri magnetic resonance gadolinium gad gd "
    "t1 t2 t1w t2w t1wi t2wi t1fs t2fs weighted flair stir dwi adc swi gre fse tse spgr fiesta fspgr mprage pdw pd "
    "signal signals intensity intensities hyperintense hypointense isointense hyperintensity hypointensity "
    "hyperintensities hypointensities diffusion restricted sequence sequences echo gradient spin proton"
)
MODALITY_WORDS = frozenset(_CT_WORDS.split()) | frozenset(_MR_WORDS.split())
"""Words that name the scanner or describe brightness as only one of the two does."""


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How a text becomes numbers of hashed words. `mask_modality_words` takes out the words that give the modality
    away; they leave no gap behind, since the number of gaps would give it away as well."""

    tokenizer: ClassVar[str] = "words"

    vocabulary_size: Annotated[int, Ge(N_RESERVED + 1)] = 8192
    length: Annotated[int, Ge(2)] = 48
    mask_modality_words: bool = False

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Token numbers (N, L) int32: a start token, then the first L - 1 words, then padding (0)."""
        tokens = torch.full((len(texts), self.length), PADDING, dtype=torch.int32)
        tokens[:, 0] = START
        for row, text in enumerate(texts):
            words = words_of(text, mask_modality_words=self.mask_modality_words)[: self.length - 1]
            numbers = [token_of(word, self.vocabulary_size) for word in words]
            tokens[row, 1 : 1 + len(numbers)] = torch.tensor(numbers, dtype=torch.int32)
        return tokens


def words_of(text: str, *, mask_modality_words: bool = False) -> list[str]:
    """The words of a text in lower case: runs of letters and digits."""
    words = _WORD.findall(text.lower())
    return [word for word in words if word not in MODALITY_WORDS] if mask_modality_words else words


def token_of(word: str, vocabulary_size: int) -> int:
    """CRC-32 of the UTF-8 bytes, folded into the numbers above the reserved ones."""
    return N_RESERVED + zlib.crc32(word.encode()) % (vocabulary_size - N_RESERVED)
