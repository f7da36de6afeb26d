"""EfficientNet-Lite0: inverted residual blocks with ReLU6 and without squeeze and excitation.

Tan and Le, "EfficientNet", ICML 2019, arXiv:1905.11946; the Lite family is TensorFlow's tpu repository. Parameters are
named as in the PyTorch port of its weights, without the leading underscores. Stochastic depth is left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

OUT_FEATURES = 1280
STRIDE = 32
_STEM = 32
# How often, kernel, stride of the first, expansion, channels.
_BLOCKS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLite0Encoder(nn.Module):
    """pixels uint8 (B, 3, S, S) -> the mean over space (B, 1280), and the map (B, 1280, S / 32, S / 32), rounded up."""

    out_features = OUT_FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = _SamePadded(3, _STEM, 3, stride=2)
        self.bn0 = _norm(_STEM)
        self.blocks = nn.Sequential()
        channels = _STEM
        for repeats, kernel, stride, expansion, after in _BLOCKS:
            for place in range(repeats):
                self.blocks.append(_Block(channels, after, kernel, stride if place == 0 else 1, expansion))
                channels = after
        self.conv_head = _SamePadded(channels, OUT_FEATURES, 1)
        self.bn1 = _norm(OUT_FEATURES)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        states = F.relu6(self.bn0(self.conv_stem((pixels.float() - 127) / 128)))
        spatial = F.relu6(self.bn1(self.conv_head(self.blocks(states))))
        return spatial.mean(dim=(2, 3)), spatial


class _Block(nn.Module):
    """Expand, filter each channel, project; added to the input where the shape stays."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        self.is_residual = stride == 1 and before == after
        self.expands = expansion != 1
        if self.expands:
            self.expand_conv, self.bn0 = _SamePadded(before, inner, 1), _norm(inner)
        self.depthwise_conv, self.bn1 = _SamePadded(inner, inner, kernel, stride=stride, groups=inner), _norm(inner)
        self.project_conv, self.bn2 = _SamePadded(inner, after, 1), _norm(after)

    def forward(self, states: Tensor) -> Tensor:
        inner = F.relu6(self.bn0(self.expand_conv(states))) if self.expands else states
        inner = F.relu6(self.bn1(self.depthwise_conv(inner)))
        inner = self.bn2(self.project_conv(inner))
        return states + inner if self.is_residual else inner


class _SamePadded(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow does: the output side is the input side over the stride,
    rounded up, and an odd row of padding lies below and to the right."""

    def __init__(self, before: int, after: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(before, after, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        padding: list[int] = []
        for side, kernel, stride in zip(reversed(states.shape[-2:]), self.kernel_size, self.stride, strict=True):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(states, padding))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def ported_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the PyTorch port under our names, without the ImageNet head."""
    renamed = {".".join(word.lstrip("_") for word in name.split(".")): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in renamed.items() if not name.startswith("fc.")}
