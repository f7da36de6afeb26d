"""Pretrained encoders from the Hugging Face hub: `pip install 'kdexp[hub]'`, and each checkpoint downloaded once.

A checkpoint that is in the cache is used without a look at the network. Architectures are written down here, so that
`weights: random` needs neither. Each encoder normalises images as its checkpoint was trained with, and reads the tokens
of its own tokeniser. ViT, DeiT and BERT give the first token of the last state, MobileViT, which has none, the mean
over space. ViT and BERT keep their pooler, as in the published counts of parameters; nothing reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from kdexp.errors import ConfigError
from kdexp.systems.multimodal.backbones import Frozen
from kdexp.systems.multimodal.loading import transformers

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VisionName = Literal[
    "vit-large",
    "vit-base",
    "deit-base",
    "deit-small",
    "deit-tiny",
    "mobilevit-small",
    "mobilevit-x-small",
    "mobilevit-xx-small",
]
TextName = Literal["bio-clinical-bert", "distilbert", "minilm", "mobile-bert", "bert-mini", "bert-tiny"]

_HALF = (0.5, 0.5, 0.5)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint of the hub: its `id`, its type, and where its architecture differs from the type's usual one."""

    id: str
    type: str
    architecture: Mapping[str, Any] = field(default_factory=dict)

    def config(self, library: Any, **changes: Any) -> Any:
        return library.AutoConfig.for_model(self.type, **{**self.architecture, **changes})


@dataclass(frozen=True, kw_only=True)
class ImageCheckpoint(Checkpoint):
    """What its images were: side, mean and standard deviation of channels between 0 and 1, and blue first if `bgr`."""

    type: str = "vit"
    image_size: int = 224
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD
    bgr: bool = False


@dataclass(frozen=True, kw_only=True)
class TextCheckpoint(Checkpoint):
    """`cased`: its vocabulary tells upper case from lower."""

    type: str = "bert"
    cased: bool = False


def _vit(width: int, layers: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }


def _mobilevit(name: str, hidden: list[int], neck: list[int], expansion: float) -> ImageCheckpoint:
    return ImageCheckpoint(
        id=f"apple/mobilevit-{name}",
        type="mobilevit",
        architecture={"hidden_sizes": hidden, "neck_hidden_sizes": neck, "expand_ratio": expansion},
        image_size=256,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        bgr=True,
    )


VISION: dict[VisionName, ImageCheckpoint] = {
    "vit-large": ImageCheckpoint(
        id="google/vit-large-patch16-224", architecture=_vit(1024, 24, 16), mean=_HALF, std=_HALF
    ),
    "vit-base": ImageCheckpoint(
        id="google/vit-base-patch16-224", architecture=_vit(768, 12, 12), mean=_HALF, std=_HALF
    ),
    "deit-base": ImageCheckpoint(id="facebook/deit-base-patch16-224", architecture=_vit(768, 12, 12)),
    "deit-small": ImageCheckpoint(id="facebook/deit-small-patch16-224", architecture=_vit(384, 12, 6)),
    "deit-tiny": ImageCheckpoint(id="facebook/deit-tiny-patch16-224", architecture=_vit(192, 12, 3)),
    "mobilevit-small": _mobilevit("small", [144, 192, 240], [16, 32, 64, 96, 128, 160, 640], 4.0),
    "mobilevit-x-small": _mobilevit("x-small", [96, 120, 144], [16, 32, 48, 64, 80, 96, 384], 4.0),
    "mobilevit-xx-small": _mobilevit("xx-small", [64, 80, 96], [16, 16, 24, 48, 64, 80, 320], 2.0),
}
TEXT: dict[TextName, TextCheckpoint] = {
    "bio-clinical-bert": TextCheckpoint(
        id="emilyalsentzer/Bio_ClinicalBERT", architecture={"vocab_size": 28996}, cased=True
    ),
    "distilbert": TextCheckpoint(id="distilbert-base-uncased", type="distilbert"),
    "minilm": TextCheckpoint(id="nreimers/MiniLM-L6-H384-uncased", architecture=_vit(384, 6, 12)),
    "mobile-bert": TextCheckpoint(id="google/mobilebert-uncased", type="mobilebert"),
    "bert-mini": TextCheckpoint(id="prajjwal1/bert-mini", architecture=_vit(256, 4, 4)),
    "bert-tiny": TextCheckpoint(id="prajjwal1/bert-tiny", architecture=_vit(128, 2, 2)),
}


@dataclass(frozen=True, kw_only=True)
class HubVision:
    """An image encoder of the hub. `weights: random` has the architecture alone, at any image size that it divides."""

    name: VisionName = "deit-small"
    weights: Literal["pretrained", "random"] = "pretrained"
    frozen: bool = False

    def build(self, *, image_size: int, colour: bool) -> nn.Module:
        """Raises ConfigError for images that it cannot take, and where the checkpoint is not to be had."""
        checkpoint = VISION[self.name]
        step = 32 if checkpoint.type == "mobilevit" else 16
        is_fixed = checkpoint.type == "vit" and self.weights == "pretrained"
        if not colour or image_size % step or (is_fixed and image_size != checkpoint.image_size):
            wanted = checkpoint.image_size if is_fixed else f"a multiple of {step}, best {checkpoint.image_size}"
            got = f"got {'colour' if colour else 'grey'} images of {image_size} pixels"
            raise ConfigError(
                f"{self.name} needs images in colour, their size {wanted}; {got}; set dataset.colour=true "
                f"dataset.image_size={checkpoint.image_size} (under dataset.teacher_inputs, where the teacher has "
                "inputs of its own)"
            )
        body = _body(checkpoint, self.weights, image_size=image_size)
        return _perhaps_frozen(HubVisionEncoder(body, checkpoint), self.frozen, self.weights, self.name)


@dataclass(frozen=True, kw_only=True)
class HubText:
    """A text encoder of the hub. `weights: random` has the architecture alone, with the data's own vocabulary."""

    name: TextName = "distilbert"
    weights: Literal["pretrained", "random"] = "pretrained"
    frozen: bool = False

    def build(self, *, vocabulary_size: int, text_length: int, tokenizer: str) -> nn.Module:
        """Raises ConfigError for another tokeniser's tokens, and where the checkpoint is not to be had."""
        own = f"hub/{self.name}"
        if self.weights == "pretrained" and tokenizer != own:
            raise ConfigError(
                f"{self.name} reads the word pieces of its own tokeniser, got {tokenizer!r}; set dataset/text=hub "
                f"dataset.text.tokenizer={own} (under dataset.teacher_inputs, where the teacher has inputs of its own)"
            )
        body = _body(TEXT[self.name], self.weights, vocab_size=vocabulary_size)
        return _perhaps_frozen(HubTextEncoder(body), self.frozen, self.weights, self.name)


class HubVisionEncoder(nn.Module):
    """pixels uint8 (B, 3, S, S) -> the first token of the last state; or the mean over space, and the map of it."""

    mean: Tensor
    std: Tensor

    def __init__(self, body: Any, checkpoint: ImageCheckpoint) -> None:
        super().__init__()
        self.body, self.bgr = body, checkpoint.bgr
        for name in ("mean", "std"):
            channels = torch.tensor(getattr(checkpoint, name)).view(3, 1, 1)
            self.register_buffer(name, channels, persistent=False)
        neck = checkpoint.architecture.get("neck_hidden_sizes")
        self.out_features = int(neck[-1] if neck else checkpoint.architecture["hidden_size"])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        images = (pixels.flip(1) if self.bgr else pixels).float() / 255
        states = self.body(pixel_values=(images - self.mean) / self.std).last_hidden_state
        return (states.mean(dim=(2, 3)), states) if states.ndim == 4 else (states[:, 0], None)


class HubTextEncoder(nn.Module):
    """tokens (B, L), mask (B, L) -> the first token of the last state (B, d)."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.out_features = int(body.config.hidden_size)
        self.body = body

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.body(input_ids=tokens, attention_mask=mask.long()).last_hidden_state[:, 0]


def hub_tokenizer(name: TextName) -> Tokenizer:
    """The tokeniser of a checkpoint. Raises ConfigError where it is not to be had."""
    checkpoint = TEXT[name]
    folder = _downloaded(checkpoint.id)
    with transformers("hub") as library:
        try:
            made = library.BertTokenizer.from_pretrained(folder, do_lower_case=not checkpoint.cased)
        except (OSError, ValueError) as error:
            raise ConfigError(_not_whole(checkpoint.id, folder, error)) from None
    return made.backend_tokenizer


def _body(checkpoint: Checkpoint, weights: str, **own: int) -> Any:
    """The encoder of transformers. `own` is what the data decide where the weights are random."""
    with transformers("hub") as library:
        if weights == "random":
            return library.AutoModel.from_config(checkpoint.config(library, **own))
        folder = _downloaded(checkpoint.id)
        try:
            model, found = library.AutoModel.from_pretrained(
                folder, config=checkpoint.config(library), local_files_only=True, output_loading_info=True
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(_not_whole(checkpoint.id, folder, error)) from None
    absent = [name for name in found["missing_keys"] if "pooler" not in name]
    if absent:
        raise ConfigError(_not_whole(checkpoint.id, folder, f"it has no {absent[0]}"))
    return model


def _perhaps_frozen(encoder: nn.Module, frozen: bool, weights: str, name: str) -> nn.Module:
    if not frozen:
        return encoder
    if weights == "random":
        raise ConfigError(f"{name}: frozen=true with weights=random would keep what is not trained; set one of them")
    digest = hashlib.sha256()
    for key, tensor in encoder.state_dict().items():
        if "pooler" not in key:  # some checkpoints have none, and it would be drawn anew each time
            digest.update(key.encode())
            digest.update(tensor.contiguous().numpy().data)
    return Frozen(encoder, f"hub/{name} {digest.hexdigest()}")


def _downloaded(identity: str) -> Path:
    """The folder of a checkpoint in the hub's cache, fetched where it is not there.

    Raises ConfigError saying how to get it where there is no way to it.
    """
    try:
        from huggingface_hub import constants, snapshot_download
    except ImportError:
        raise ConfigError("transformers is not installed; pip install 'kdexp[hub]'") from None
    try:
        return Path(snapshot_download(identity, local_files_only=True))
    except OSError:
        pass
    files = ["config.json", "tokenizer*", "vocab.txt", "model.safetensors"]
    try:
        folder = Path(snapshot_download(identity, allow_patterns=files))
        if not (folder / "model.safetensors").exists():
            snapshot_download(identity, allow_patterns="pytorch_model.bin")
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"{identity} is neither in the cache {constants.HF_HUB_CACHE} nor to be had from the network "
            f"({str(error).splitlines()[0]}); on a machine with network: hf download {identity}, and let HF_HOME name "
            "the folder that holds hub/"
        ) from None
    return folder


def _not_whole(identity: str, folder: Path, reason: object) -> str:
    said = next(iter(str(reason).splitlines()), type(reason).__name__)
    return f"{folder} does not hold {identity} whole ({said}); remove it and run hf download {identity}"
