"""Encoders of the Hugging Face hub, without a network: with random weights, and out of a cache made here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

from kdexp.errors import ConfigError
from kdexp.systems.multimodal.backbones import Frozen
from kdexp.systems.multimodal.fusion import CrossAttention
from kdexp.systems.multimodal.hub import TEXT, VISION, HubText, HubVision, TextName, VisionName
from kdexp.systems.multimodal.medpix import MedPix
from kdexp.systems.multimodal.models import MultimodalClassifier
from kdexp.systems.multimodal.pieces import PieceOptions, TokenizerName

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs pip install 'kdexp[hub]'"
)


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def vocabulary_of(name: TextName) -> int:
    return int(TEXT[name].architecture.get("vocab_size", 30522))


def classifier(vision: VisionName, text: TextName, width: int) -> MultimodalClassifier:
    """At its full size, without memory for its weights."""
    with torch.device("meta"):
        return MultimodalClassifier(
            tasks=MedPix.tasks,
            vocabulary_size=vocabulary_of(text),
            text_length=256,
            tokenizer=f"hub/{text}",
            image_size=VISION[vision].image_size,
            colour=True,
            vision=HubVision(name=vision, weights="random"),
            text=HubText(name=text, weights="random"),
            fusion=CrossAttention(heads=8),
            width=width,
        )


def test_the_published_teacher_has_its_published_size() -> None:
    assert n_parameters(classifier("vit-base", "bio-clinical-bert", 384)) == 197_067_271


@pytest.mark.parametrize(
    ("vision", "text", "width", "millions"),
    [
        ("vit-base", "bio-clinical-bert", 256, 195.885),  # published as 195.89
        ("deit-small", "distilbert", 384, 90.40),
        ("deit-small", "minilm", 384, 46.60),
        ("deit-tiny", "distilbert", 384, 74.07),
        ("deit-tiny", "minilm", 384, 30.27),
        ("mobilevit-xx-small", "bert-mini", 256, 13.06),
    ],
)
def test_the_published_models_have_their_published_sizes(vision: Any, text: Any, width: int, millions: float) -> None:
    assert n_parameters(classifier(vision, text, width)) / 1e6 == pytest.approx(millions, abs=0.005)


WIDTHS = {
    "vit-large": 1024,
    "vit-base": 768,
    "deit-base": 768,
    "deit-small": 384,
    "deit-tiny": 192,
    "mobilevit-xx-small": 320,
    "mobilevit-x-small": 384,
    "mobilevit-small": 640,
}
TEXT_WIDTHS = {
    "bio-clinical-bert": 768,
    "distilbert": 768,
    "minilm": 384,
    "mobile-bert": 512,
    "bert-mini": 256,
    "bert-tiny": 128,
}


def test_names_widths_and_tokenisers_are_those_of_the_study() -> None:
    assert set(VISION) == set(get_args(VisionName)) == set(WIDTHS)
    assert set(TEXT) == set(get_args(TextName)) == set(TEXT_WIDTHS)
    assert {f"hub/{name}" for name in TEXT} | {"minilm"} == set(get_args(TokenizerName))
    with torch.device("meta"):
        vision = {
            name: HubVision(name=name, weights="random").build(image_size=224, colour=True).out_features
            for name in VISION
        }
        text = {
            name: HubText(name=name, weights="random").build(**told(vocabulary_of(name))).out_features for name in TEXT
        }
    assert vision == WIDTHS and text == TEXT_WIDTHS


def told(vocabulary_size: int = 50, tokenizer: str = "words") -> dict[str, Any]:
    return {"vocabulary_size": vocabulary_size, "text_length": 6, "tokenizer": tokenizer}


def pixels(side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (2, 3, side, side), generator=torch.Generator().manual_seed(seed)).byte()


@pytest.mark.parametrize("name", ["deit-tiny", "mobilevit-xx-small"])
def test_an_image_encoder_pools_as_its_kind_does(name: Any) -> None:
    encoder = HubVision(name=name, weights="random").build(image_size=32, colour=True).eval()
    raw, spatial = encoder(pixels())
    assert raw.shape == (2, encoder.out_features) and raw.isfinite().all()
    if name == "deit-tiny":
        images = (pixels().float() / 255 - encoder.mean) / encoder.std
        torch.testing.assert_close(raw, encoder.body(pixel_values=images).last_hidden_state[:, 0])
        assert spatial is None
    else:
        assert spatial is not None and spatial.shape == (2, 320, 1, 1)
        torch.testing.assert_close(raw, spatial.mean(dim=(2, 3)))


class Given(nn.Module):
    """Stands for an encoder's body and keeps the images that it gets."""

    def forward(self, pixel_values: torch.Tensor) -> Any:
        self.images = pixel_values
        return type("Output", (), {"last_hidden_state": torch.zeros(len(pixel_values), 1, 192)})


@pytest.mark.parametrize(
    ("name", "black", "white"),
    [
        ("vit-base", (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)),
        ("deit-tiny", (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225), (0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225)),
        ("mobilevit-small", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ],
)
def test_images_are_normalised_as_the_checkpoint_was_trained(name: Any, black: Any, white: Any) -> None:
    from kdexp.systems.multimodal.hub import HubVisionEncoder

    encoder = HubVisionEncoder(Given(), VISION[name])
    for level, expected in ((0, black), (255, white)):
        encoder(torch.full((1, 3, 2, 2), level, dtype=torch.uint8))
        torch.testing.assert_close(encoder.body.images[0, :, 0, 0], torch.tensor(expected))
    # MobileViT was trained on blue, green, red.
    red = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    red[:, 0] = 255
    encoder(red)
    assert int(encoder.body.images[0, :, 0, 0].argmax()) == (2 if name.startswith("mobilevit") else 0)


def test_a_text_encoder_gives_the_first_token_and_does_not_read_padding() -> None:
    encoder = HubText(name="bert-tiny", weights="random").build(**told()).eval()
    tokens, mask = torch.tensor([[4, 9, 7, 3, 0, 0]]), torch.tensor([[True] * 4 + [False] * 2])
    feature = encoder(tokens, mask)
    assert feature.shape == (1, 128)
    torch.testing.assert_close(encoder(tokens + 20 * ~mask, mask), feature)
    states = encoder.body(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(states[:, 0], feature)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: HubVision(name="deit-tiny").build(image_size=128, colour=True),
            "their size 224; got colour images of",
        ),
        (lambda: HubVision(name="deit-tiny").build(image_size=224, colour=False), "set dataset.colour=true"),
        (
            lambda: HubVision(name="mobilevit-small").build(image_size=100, colour=True),
            "a multiple of 32, best 256",
        ),
        (lambda: HubText(name="bert-mini").build(**told()), "dataset.text.tokenizer=hub/bert-mini"),
        (
            lambda: HubText(name="bert-tiny", weights="random", frozen=True).build(**told()),
            "frozen=true with weights=random",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_the_way_out(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def keep(cache: Path, identity: str, fill: Callable[[Path], object]) -> Path:
    """A checkpoint in the cache, as `hf download` leaves it."""
    entry = cache / f"models--{identity.replace('/', '--')}"
    folder = entry / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text("0" * 40)
    fill(folder)
    return folder


VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "liver", "The", "Liver")


def bert_tiny(folder: Path, **changes: int) -> None:
    """Random weights in the form of prajjwal1/bert-tiny."""
    import transformers

    config = TEXT["bert-tiny"].config(transformers, **changes)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    words(folder)


def words(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")


def test_what_the_cache_does_not_hold_is_said_with_the_command_that_gets_it(cache: Path) -> None:
    for make in (
        lambda: HubVision(name="deit-tiny").build(image_size=224, colour=True),
        lambda: HubText(name="bert-tiny").build(**told(30522, "hub/bert-tiny")),
        lambda: PieceOptions(tokenizer="hub/bert-tiny").encode(["liver"]),
    ):
        with pytest.raises(
            ConfigError, match=r"is neither in the cache .*hub nor .*: hf download \w+/\S+, and let HF_"
        ):
            make()


def test_a_checkpoint_of_the_cache_is_loaded_without_a_network(cache: Path) -> None:
    import transformers

    folder = keep(cache, "prajjwal1/bert-tiny", bert_tiny)
    encoder = HubText(name="bert-tiny", frozen=True).build(**told(30522, "hub/bert-tiny"))
    stored = transformers.AutoModel.from_pretrained(folder, local_files_only=True).state_dict()
    assert isinstance(encoder, Frozen) and encoder.fingerprint.startswith("hub/bert-tiny ")
    assert torch.equal(
        encoder.encoder.body.state_dict()["embeddings.word_embeddings.weight"],
        stored["embeddings.word_embeddings.weight"],
    )
    # The same weights, the same name; it does not hang on chance.
    torch.manual_seed(1)
    again = HubText(name="bert-tiny", frozen=True).build(**told(30522, "hub/bert-tiny"))
    assert again.fingerprint == encoder.fingerprint


def test_a_checkpoint_of_another_shape_is_refused(cache: Path) -> None:
    keep(cache, "prajjwal1/bert-tiny", lambda folder: bert_tiny(folder, num_hidden_layers=1))
    with pytest.raises(ConfigError, match=r"does not hold prajjwal1/bert-tiny whole \(it has no encoder\.layer\.1"):
        HubText(name="bert-tiny").build(**told(30522, "hub/bert-tiny"))


def test_a_cache_without_the_weights_is_refused(cache: Path) -> None:
    keep(cache, "prajjwal1/bert-tiny", words)
    with pytest.raises(ConfigError, match="does not hold prajjwal1/bert-tiny whole"):
        HubText(name="bert-tiny").build(**told(30522, "hub/bert-tiny"))


def test_tokens_are_those_of_the_checkpoints_own_vocabulary(cache: Path) -> None:
    keep(cache, "prajjwal1/bert-tiny", words)
    keep(cache, "emilyalsentzer/Bio_ClinicalBERT", words)
    uncased, cased = PieceOptions(tokenizer="hub/bert-tiny"), PieceOptions(tokenizer="hub/bio-clinical-bert", length=5)
    assert uncased.encode(["The Liver"])[0, :5].tolist() == [2, 5, 6, 3, 0]
    assert cased.encode(["The Liver", "the liver the liver"]).tolist() == [[2, 7, 8, 3, 0], [2, 5, 6, 5, 3]]
    assert uncased.vocabulary_size == len(VOCABULARY) and uncased.encode(["a"]).shape == (1, 64)


def test_a_tokeniser_with_other_padding_is_refused(cache: Path) -> None:
    def moved(folder: Path) -> None:
        (folder / "vocab.txt").write_text("\n".join(VOCABULARY[::-1]), encoding="utf-8")

    keep(cache, "prajjwal1/bert-tiny", moved)
    with pytest.raises(ConfigError, match="hub/bert-tiny: this tokeniser's padding is not 0"):
        PieceOptions(tokenizer="hub/bert-tiny").encode(["liver"])
