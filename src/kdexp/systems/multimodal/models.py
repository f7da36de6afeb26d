"""The classifier of image and text: one class for teacher and student, with different numbers.

v_raw = vision(image); t_raw = text(tokens, mask); v = proj_vis(v_raw); t = proj_txt(t_raw);
h = dropout(fusion(v, t)); one linear head per task on h.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor, nn

from kdexp.contracts import FrozenPart, StudentOutput, TaskSpec
from kdexp.systems.multimodal.backbones import Frozen, TextBackbone, VisionBackbone
from kdexp.systems.multimodal.fusion import Fusion, with_auxiliary


class MultimodalClassifier(nn.Module):
    """Classifies pairs of an image and a text. `width` is D, the size of the projected and of the fused feature;
    `dropout` follows the fusion, `head_dropout` precedes each head.

    Inputs: `image` (B, C, S, S) uint8, `tokens` (B, L) int64, `mask` (B, L) bool, True on words. Features of the
    output: `img_raw`, `txt_raw` (B, encoder width), `img_proj`, `txt_proj` (B, D), and `img_map` (B, channels, height,
    width) where the image encoder has one and is not frozen. What a frozen encoder gives may stand in for what it
    reads: `img_raw` for `image`, `txt_raw` for `tokens` and `mask`.
    """

    version = 1

    def __init__(
        self,
        *,
        tasks: tuple[TaskSpec, ...],
        vocabulary_size: Annotated[int, Ge(1)],
        text_length: Annotated[int, Ge(1)],
        image_size: Annotated[int, Ge(1)],
        colour: bool,
        tokenizer: str,
        vision: VisionBackbone,
        text: TextBackbone,
        fusion: Fusion,
        width: Annotated[int, Ge(1)] = 128,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.1,
        head_dropout: Annotated[float, Ge(0), Lt(1)] = 0.1,
    ) -> None:
        super().__init__()
        self.tasks = tuple(task.name for task in tasks)
        self.vision = vision.build(image_size=image_size, colour=colour)
        self.text = text.build(vocabulary_size=vocabulary_size, text_length=text_length, tokenizer=tokenizer)
        self.proj_vis = nn.Linear(_out_features(self.vision), width)
        self.proj_txt = nn.Linear(_out_features(self.text), width)
        self.fusion = fusion.build(width)
        self.dropout = nn.Dropout(dropout)
        for task in tasks:
            self.add_module(f"head_{task.name}", Head(width, len(task.classes), dropout=head_dropout))

    def frozen_parts(self) -> dict[str, FrozenPart]:
        """The encoders that are not trained, by the input that may stand in for theirs."""
        encoders = {"img_raw": (self.vision, ("image",)), "txt_raw": (self.text, ("tokens", "mask"))}
        return {
            name: FrozenPart(module=encoder, reads=reads, fingerprint=encoder.fingerprint)
            for name, (encoder, reads) in encoders.items()
            if isinstance(encoder, Frozen)
        }

    def forward(self, inputs: Mapping[str, Tensor]) -> StudentOutput:
        img_raw, img_map = self._image_features(inputs)
        is_given = isinstance(self.text, Frozen) and "txt_raw" in inputs
        txt_raw = inputs["txt_raw"] if is_given else self.text(inputs["tokens"], inputs["mask"])
        img_proj, txt_proj = self.proj_vis(img_raw), self.proj_txt(txt_raw)
        fused, aux = with_auxiliary(self.fusion(img_proj, txt_proj))
        fused = self.dropout(fused)
        features = {"img_raw": img_raw, "txt_raw": txt_raw, "img_proj": img_proj, "txt_proj": txt_proj}
        return StudentOutput(
            logits={task: self.get_submodule(f"head_{task}")(fused) for task in self.tasks},
            features=features if img_map is None else {**features, "img_map": img_map},
            aux=dict(aux),
        )

    def _image_features(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The raw feature (B, d) and the map that it was pooled from, where there is one."""
        if not isinstance(self.vision, Frozen):
            return self.vision(inputs["image"])
        return (inputs["img_raw"] if "img_raw" in inputs else self.vision(inputs["image"])), None


class Head(nn.Module):
    """Dropout, then Linear: (B, D) -> (B, C)."""

    def __init__(self, width: int, n_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, n_classes)

    def forward(self, fused: Tensor) -> Tensor:
        return self.head(self.dropout(fused))


def _out_features(encoder: nn.Module) -> int:
    out_features = encoder.out_features
    if not isinstance(out_features, int):
        raise TypeError(f"{type(encoder).__name__}.out_features must be an int, got {out_features=}")
    return out_features
