from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from kdexp.contracts import Model
from kdexp.errors import ConfigError
from kdexp.systems.multimodal.backbones import Convolutional, HashedTransformer
from kdexp.systems.multimodal.fusion import CrossAttention, Fusion, Gated
from kdexp.systems.multimodal.medpix import MedPix
from kdexp.systems.multimodal.models import MultimodalClassifier

CONF = Path(__file__).parents[2] / "conf"
FUSIONS: dict[str, Fusion] = {"cross_attention": CrossAttention(), "gated": Gated()}


def make_model(seed: int = 0, **settings) -> MultimodalClassifier:
    torch.manual_seed(seed)
    defaults = dict(
        tasks=MedPix.tasks,
        vocabulary_size=100,
        text_length=12,
        image_size=32,
        colour=False,
        tokenizer="words",
        vision=Convolutional(channels=4, stages=3),
        text=HashedTransformer(width=8, layers=2, heads=2),
        fusion=CrossAttention(heads=2),
        width=20,
    )
    return MultimodalClassifier(**(defaults | settings))


def make_inputs(n: int = 5, seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, 100, (n, 12), generator=random)
    lengths = torch.randint(1, 13, (n, 1), generator=random)
    mask = torch.arange(12) < lengths
    return {"image": torch.randint(256, (n, 1, 32, 32), generator=random).byte(), "tokens": tokens * mask, "mask": mask}


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_outputs_have_the_promised_names_and_shapes(fusion: str) -> None:
    model = make_model(fusion=FUSIONS[fusion])
    output = model(make_inputs())
    assert isinstance(model, Model)
    assert {name: tuple(logits.shape) for name, logits in output.logits.items()} == {
        "modality": (5, 2),
        "location": (5, 5),
    }
    assert {name: tuple(feature.shape) for name, feature in output.features.items()} == {
        "img_raw": (5, 16),
        "txt_raw": (5, 8),
        "img_proj": (5, 20),
        "txt_proj": (5, 20),
        "img_map": (5, 16, 4, 4),
    }


def test_submodules_are_named_as_in_the_method() -> None:
    names = {name for name, _ in make_model().named_modules()}
    assert {"vision", "text", "proj_vis", "proj_txt", "fusion", "dropout"} <= names
    assert {"head_modality.head", "head_location.head"} <= names


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_same_seed_gives_the_same_model_and_the_same_dropout(fusion: str) -> None:
    first, second, other = (make_model(seed, fusion=FUSIONS[fusion]) for seed in (3, 3, 4))
    for mode in ("eval", "train"):
        outputs = []
        for model in (first, second, other):
            torch.manual_seed(0)
            outputs.append(getattr(model, mode)()(make_inputs()).logits["location"])
        assert torch.equal(outputs[0], outputs[1])
        assert not torch.equal(outputs[0], outputs[2])


def test_in_eval_a_sample_does_not_depend_on_the_others() -> None:
    model, inputs = make_model().eval(), make_inputs()
    together = model(inputs).logits["location"]
    for place in range(5):
        alone = model({name: tensor[place : place + 1] for name, tensor in inputs.items()}).logits["location"]
        torch.testing.assert_close(alone[0], together[place])


def test_padding_does_not_reach_the_output() -> None:
    model, inputs = make_model().eval(), make_inputs()
    scribbled = inputs | {"tokens": torch.where(inputs["mask"], inputs["tokens"], 77)}
    assert not torch.equal(scribbled["tokens"], inputs["tokens"])
    torch.testing.assert_close(model(scribbled).logits["location"], model(inputs).logits["location"])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradient_reaches_every_parameter(fusion: str) -> None:
    model = make_model(fusion=FUSIONS[fusion])
    sum(logits.square().sum() for logits in model(make_inputs()).logits.values()).backward()
    silent = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert silent == []
    assert sum(bool(parameter.grad.any()) for parameter in model.parameters()) == len(list(model.parameters()))


@pytest.mark.parametrize("changed", ["image", "tokens"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_both_inputs_reach_the_output(fusion: str, changed: str) -> None:
    model, inputs = make_model(fusion=FUSIONS[fusion]).eval(), make_inputs()
    other = inputs | {changed: make_inputs(seed=1)[changed]}
    assert not torch.allclose(model(other).logits["modality"], model(inputs).logits["modality"])


@pytest.mark.parametrize("dim", [16, 128, 384])
def test_fusions_have_the_published_parameter_counts(dim: int) -> None:
    assert n_parameters(CrossAttention(heads=8).build(dim)) == 12 * dim**2 + 13 * dim
    assert n_parameters(Gated().build(dim)) == 2 * dim**2 + dim


def test_the_published_teacher_size_is_that_of_its_parts() -> None:
    """ViT-B/16 with pooler and BERT-base, both 768 wide, with D = 384 and cross attention: 197,067,271."""
    published, encoders = 197_067_271, 86_389_248 + 108_310_272
    dim, width = 384, 768
    model = make_model(width=dim, fusion=CrossAttention(heads=8))
    ours = sum(n_parameters(getattr(model, name)) for name in ("fusion", "head_modality", "head_location"))
    assert encoders + ours + 2 * (width * dim + dim) == published


def test_gated_fusion_mixes_feature_by_feature() -> None:
    fusion = Gated().build(2)
    nn.init.zeros_(fusion.gate.weight)
    fusion.gate.bias.data = torch.tensor([100.0, 0.0])
    mixed = fusion(torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, 6.0]]))
    # An open gate takes the image, a gate of one half takes the mean.
    torch.testing.assert_close(mixed, torch.tensor([[1.0, 4.0]]))


def test_cross_attention_is_its_formula() -> None:
    fusion = CrossAttention(heads=2).build(6).eval()
    image, text = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)), torch.ones(3, 6).cumsum(1)
    both = torch.stack((image, text), dim=1)
    query = fusion.query_norm(both.mean(1))
    weights, bias = fusion.attention.in_proj_weight, fusion.attention.in_proj_bias
    q = (query @ weights[:6].T + bias[:6]).view(3, 2, 1, 3)
    k = (both @ weights[6:12].T + bias[6:12]).view(3, 2, 2, 3).transpose(1, 2)
    v = (both @ weights[12:].T + bias[12:]).view(3, 2, 2, 3).transpose(1, 2)
    attended = ((q @ k.transpose(2, 3)) / 3**0.5).softmax(-1) @ v
    attended = fusion.attention.out_proj(attended.reshape(3, 6))
    expected = attended + fusion.feedforward(fusion.feedforward_norm(attended))
    torch.testing.assert_close(fusion(image, text), expected)


def test_word_dropout_acts_in_training_only_and_spares_the_start() -> None:
    text = HashedTransformer(width=8, layers=1, heads=2, dropout=0.0, word_dropout=0.9)
    encoder = text.build(vocabulary_size=100, text_length=12, tokenizer="words")
    tokens = make_inputs()["tokens"].clamp(min=2)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    assert not torch.equal(encoder.train()(tokens, mask), encoder(tokens, mask))
    assert torch.equal(encoder.eval()(tokens, mask), encoder(tokens, mask))
    # Even if nearly every word goes, a row is never empty.
    only_start = mask.clone()
    only_start[:, 1:] = False
    assert encoder.train()(tokens, only_start).isfinite().all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: make_model(fusion=CrossAttention(heads=3)), r"fusion\.heads: must divide width"),
        (lambda: make_model(text=HashedTransformer(width=10, heads=4)), r"text\.heads: must divide text\.width"),
        (lambda: make_model(vision=Convolutional(stages=6)), r"vision\.stages: 6 halvings"),
    ],
)
def test_numbers_that_do_not_fit_together_are_named(make, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize(
    "make",
    [lambda: Gated(heads=4), lambda: CrossAttention(layers=2), lambda: Convolutional(heads=1)],
)
def test_an_option_without_effect_is_refused(make) -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        make()


CHOICES = [[], ["student/fusion=gated"], ["student/fusion@teacher.model.fusion=gated"]]


@pytest.mark.parametrize("overrides", CHOICES)
def test_the_committed_configs_build_the_dataset_and_both_models(overrides: list[str], small_root: Path) -> None:
    cfg = composed(["dataset.generator.preset=small", f"dataset.root={small_root}", *overrides])
    dataset = build(cfg.dataset)
    dataset.setup(42)
    batch = dataset.split("val").fetch(torch.arange(3))
    sizes = {}
    for name, node in (("student", cfg.student), ("teacher", cfg.teacher.model)):
        model = build(node, **dataset.model_arguments())
        assert model(batch.student).logits["location"].shape == (3, 5)
        gated = any(override.endswith(f"{name}/fusion=gated") or f"@{name}." in override for override in overrides)
        assert type(model.fusion).__name__ == ("GatedFusion" if gated else "CrossAttentionFusion")
        sizes[name] = n_parameters(model)
    assert sizes["student"] < sizes["teacher"]


def composed(overrides: list[str]):
    base = ["+dataset=medpix", "+student=medpix", "+teacher=medpix", "+paths=default", "+trainer=default"]
    with initialize_config_dir(str(CONF)):
        cfg = compose(overrides=base + overrides)
    OmegaConf.resolve(cfg.dataset)
    return cfg


def build(node, **arguments):
    return instantiate(node, **arguments, _execution_whitelist_=("kdexp.systems.*",))
