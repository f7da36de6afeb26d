from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from contracts.plugins import checked
from kdexp.contracts import LossTerms, Progress
from kdexp.distill.objective import none
from kdexp.errors import ConfigError
from kdexp.systems.multimodal.backbones import Convolutional, HashedTransformer
from kdexp.systems.multimodal.fusion import (
    ConcatMlp,
    CrossAttention,
    Film,
    Fusion,
    Gated,
    ModalityDropout,
    Simple,
    TransformerConcat,
    with_auxiliary,
)
from kdexp.systems.multimodal.fusion_routed import EnergyAwareAdaptive, Shomr
from kdexp.systems.multimodal.medpix import MedPix
from kdexp.systems.multimodal.models import MultimodalClassifier
from support import ROOT

DIM = 12
FUSIONS: dict[str, Fusion] = {
    "simple": Simple(heads=2, layers=2),
    "concat_mlp": ConcatMlp(),
    "cross_attention": CrossAttention(heads=2),
    "gated": Gated(),
    "transformer_concat": TransformerConcat(heads=2),
    "modality_dropout": ModalityDropout(),
    "film": Film(),
    "energy_aware_adaptive": EnergyAwareAdaptive(heads=2),
    "shomr": Shomr(heads=2),
}
DRAWING = {"modality_dropout", "energy_aware_adaptive", "shomr"}


def built(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return FUSIONS[name].build(DIM)


def pair(n: int = 6, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, n, DIM, generator=random) * scale
    return image, text


def fused(module: nn.Module, image: Tensor, text: Tensor) -> Tensor:
    return with_auxiliary(module(image, text))[0]


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_all_nine_are_tried_and_each_has_its_file() -> None:
    files = {path.stem: path for path in (ROOT / "conf/student/fusion").glob("*.yaml")}
    assert len(FUSIONS) == 9 and set(files) == set(FUSIONS)
    for name, path in files.items():
        loaded = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(loaded, dict)
        kind = type(FUSIONS[name])
        assert loaded.pop("_target_") == f"{kind.__module__}.{kind.__name__}"
        # The file says every option, with the class's own default.
        assert kind(**loaded) == kind() and set(loaded) == set(kind.__dataclass_fields__)


@pytest.mark.parametrize("dim", [16, 128, 384])
def test_parameter_counts_are_those_of_the_method(dim: int) -> None:
    d = dim
    counts = {
        Simple(heads=8, layers=3): 3 * (12 * d**2 + 13 * d),
        TransformerConcat(heads=8, layers=2): 2 * (12 * d**2 + 13 * d) + 2 * d,
        CrossAttention(heads=8): 12 * d**2 + 13 * d,
        # Two layers, hidden width 2 D: 2 D to 2 D, then 2 D to D.
        ConcatMlp(): (4 * d**2 + 2 * d) + (2 * d**2 + d),
        ConcatMlp(layers=3, hidden_mult=1): (2 * d**2 + d) + 2 * (d**2 + d),
        ConcatMlp(layers=1): 2 * d**2 + d,
        Gated(): 2 * d**2 + d,
        Film(): 2 * d**2 + 2 * d,
        ModalityDropout(): 3 * d**2 + 2 * d,
        EnergyAwareAdaptive(heads=8): 16 * d**2 + 16 * d + 3,
        Shomr(heads=8): 19 * d**2 + 22 * d + 5,
    }
    assert {options: n_parameters(options.build(d)) for options in counts} == counts


def norm(x: Tensor, module: nn.LayerNorm) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * module.weight + module.bias


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def attend(query: Tensor, both: Tensor, module: nn.MultiheadAttention) -> Tensor:
    """Attention over two places by hand, head after head: query (B, Q, D), both (B, 2, D)."""
    d, heads = both.shape[-1], module.num_heads
    weight, bias, size = module.in_proj_weight, module.in_proj_bias, both.shape[-1] // module.num_heads
    q, k, v = (x @ weight[n * d : (n + 1) * d].T + bias[n * d : (n + 1) * d] for n, x in enumerate((query, both, both)))
    found = []
    for h in range(heads):
        place = slice(h * size, (h + 1) * size)
        score = (q[..., place] @ k[..., place].transpose(1, 2)) / math.sqrt(size)
        found.append(score.softmax(-1) @ v[..., place])
    return module.out_proj(torch.cat(found, -1))


def encoded(both: Tensor, layers: nn.Module) -> Tensor:
    """Post-norm transformer layers by hand."""
    for layer in layers:  # type: ignore[attr-defined]
        both = norm(both + attend(both, both, layer.self_attn), layer.norm1)
        both = norm(both + layer.linear2(gelu(layer.linear1(both))), layer.norm2)
    return both


def feedforward(x: Tensor, module: nn.Module) -> Tensor:
    first, last = [part for part in module if isinstance(part, nn.Linear)]  # type: ignore[attr-defined]
    return last(gelu(first(x)))


def gate(image: Tensor, text: Tensor, module: nn.Module) -> Tensor:
    d = image.shape[-1]
    weight, bias = module.gate.weight, module.gate.bias
    opened = 1 / (1 + torch.exp(-(image @ weight[:, :d].T + text @ weight[:, d:].T + bias)))
    return opened * image + (1 - opened) * text


def by_hand(name: str, m: nn.Module, image: Tensor, text: Tensor) -> Tensor:
    """The formulas of the method, plainly; for routed fusions sample by sample, in eval."""
    both = torch.stack((image, text), 1)
    if name == "simple":
        return encoded(both, m.layers).mean(1)
    if name == "transformer_concat":
        return encoded(torch.stack((image + m.modality_token[0], text + m.modality_token[1]), 1), m.layers).mean(1)
    if name == "concat_mlp":
        return feedforward(torch.cat((image, text), -1), m.mlp)
    if name == "cross_attention":
        attended = attend(norm((image + text) / 2, m.query_norm)[:, None], both, m.attention)[:, 0]
        return attended + feedforward(norm(attended, m.feedforward_norm), m.feedforward)
    if name == "gated":
        return gate(image, text, m)
    if name == "modality_dropout":
        return m.mlp[2](m.mlp[0](torch.cat((image, text), -1)).clamp(min=0))
    if name == "film":
        return (text @ m.gamma.weight.T + m.gamma.bias) * image + (text @ m.beta.weight.T + m.beta.bias)
    return torch.cat([routed(name, m, v[None], t[None]) for v, t in zip(image, text, strict=True)])


def routed(name: str, m: nn.Module, v: Tensor, t: Tensor) -> Tensor:
    """One sample (1, D) through a fusion that chooses a way."""
    both, side_by_side = torch.stack((v, t), 1), torch.cat((v, t), -1)
    attended = attend(both, both, m.attention).mean(1)
    way = int(feedforward(side_by_side, m.router).argmax())
    if name == "energy_aware_adaptive":
        return (v, t, feedforward(norm(gate(v, t, m.gate) + attended, m.norm), m.feedforward))[way]
    c = feedforward(side_by_side, m.confidence).softmax(-1)[0]
    if c.max() <= m.threshold:
        z = norm(c[0] * v + c[1] * t + attended, m.soft_norm)
        return z + feedforward(z, m.feedforward)
    if way < 2:
        return gelu(m.single[0]((v, t)[way]))
    z = norm(gate(v, t, m.gate) + attended, m.hard_norm)
    return z + feedforward(z, m.feedforward)


@pytest.mark.parametrize("name", FUSIONS)
@torch.no_grad()
def test_a_fusion_is_its_formula(name: str) -> None:
    module, (image, text) = built(name).eval(), pair(n=64, scale=4.0)
    if name == "transformer_concat":
        module.modality_token.normal_()
    torch.testing.assert_close(fused(module, image, text), by_hand(name, module, image, text), atol=1e-4, rtol=1e-4)
    if name in ("energy_aware_adaptive", "shomr"):
        # The samples differ enough that every way is among what was compared.
        side_by_side = torch.cat((image, text), -1)
        assert set(module.router(side_by_side).argmax(-1).tolist()) == {0, 1, 2}
    if name == "shomr":
        sure = module.confidence(side_by_side).softmax(-1).amax(-1) > 0.6
        assert set(module.router(side_by_side)[sure].argmax(-1).tolist()) == {0, 1, 2} and not sure.all()


@pytest.mark.parametrize("name", FUSIONS)
def test_the_output_is_as_wide_as_the_inputs_and_needs_no_batch_mates(name: str) -> None:
    module, (image, text) = built(name).eval(), pair()
    together = fused(module, image, text)
    assert together.shape == (6, DIM) and together.dtype == torch.float32
    for place in range(6):
        alone = fused(module, image[place : place + 1], text[place : place + 1])
        torch.testing.assert_close(alone[0], together[place], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FUSIONS)
def test_eval_draws_nothing_and_training_draws_from_the_global_generator(name: str) -> None:
    module, (image, text) = built(name), pair()
    state = torch.get_rng_state()
    answers = [fused(module.eval(), image, text) for _ in range(2)]
    assert torch.equal(*answers) and torch.equal(torch.get_rng_state(), state)
    seeded = []
    for seed in (1, 1, 2, 3):
        torch.manual_seed(seed)
        seeded.append(fused(module.train(), image, text))
    assert torch.equal(seeded[0], seeded[1])
    draws = name in DRAWING or any(isinstance(part, nn.Dropout) for part in module.modules())
    assert draws == (not torch.equal(seeded[0], seeded[2]) or not torch.equal(seeded[0], seeded[3]))


@pytest.mark.parametrize("name", FUSIONS)
def test_gradient_reaches_every_parameter(name: str) -> None:
    torch.manual_seed(1)
    module, (image, text) = built(name).train(), pair(n=256, scale=4.0)
    weights = torch.randn(256, DIM)
    (fused(module, image, text) * weights).sum().backward()
    for parameter_name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, f"{parameter_name} does not reach the output"


@pytest.mark.parametrize("name", FUSIONS)
def test_every_parameter_is_in_the_graph_of_every_batch(name: str) -> None:
    """Training on several devices stops at a parameter that has no gradient at all, so a way not taken gives zeros."""
    module, (image, text) = built(name).train(), pair(n=1)
    fused(module, image, text).sum().backward()
    assert [key for key, parameter in module.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", FUSIONS)
def test_mixed_precision_stays_near_full_precision(name: str) -> None:
    module, (image, text) = built(name).eval(), pair(n=32)
    full = fused(module, image, text)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = fused(module, image.bfloat16(), text.bfloat16())
    close = (half.float() - full).abs().amax(-1) < 0.1
    # A sample on the edge between two ways may go the other one.
    assert close.sum() >= (30 if name in DRAWING else 32)


def test_layers_of_a_transformer_start_apart() -> None:
    first, second = built("simple").layers  # type: ignore[misc]
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


@torch.no_grad()
def test_only_the_modality_token_tells_the_two_features_apart() -> None:
    image, text = pair()
    simple, concat = built("simple").eval(), built("transformer_concat").eval()
    torch.testing.assert_close(simple(image, text), simple(text, image), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(concat(image, text), concat(text, image), atol=1e-3)
    # It is added, not put in the features' place.
    concat.modality_token.zero_()
    torch.testing.assert_close(concat(image, text), concat(text, image), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(concat(image, text), concat(image, -text), atol=1e-3)


def lost(p_img: float, p_txt: float, n: int = 20_000) -> tuple[Tensor, Tensor]:
    """Which samples of a training batch lose their image, and which their text."""
    fusion = ModalityDropout(p_img=p_img, p_txt=p_txt).build(1).train()
    with torch.no_grad():  # out = v + 10 t for v = t = 1
        fusion.mlp[0].weight.copy_(torch.tensor([[1.0, 10.0]]))
        fusion.mlp[0].bias.zero_()
        fusion.mlp[2].weight.fill_(1.0)
        fusion.mlp[2].bias.zero_()
        torch.manual_seed(0)
        out = fusion(torch.ones(n, 1), torch.ones(n, 1)).squeeze(1)
    return (out == 10) | (out == 0), (out == 1) | (out == 0)


@pytest.mark.parametrize(("p_img", "p_txt"), [(0.3, 0.3), (0.5, 0.5), (0.0, 0.4), (1.0, 0.0)])
def test_samples_lose_one_feature_at_its_rate_and_never_both(p_img: float, p_txt: float) -> None:
    no_image, no_text = lost(p_img, p_txt)
    assert not (no_image & no_text).any()
    # Four standard errors of a share of 20,000 are below 0.0142.
    assert no_image.float().mean().item() == pytest.approx(p_img, abs=0.0142)
    assert no_text.float().mean().item() == pytest.approx(p_txt, abs=0.0142)
    if p_img in (0.0, 1.0):
        assert no_image.all() == (p_img == 1.0) and no_image.any() == (p_img == 1.0)


def test_modality_dropout_spares_eval() -> None:
    module, (image, text) = built("modality_dropout").eval(), pair()
    expected = module.mlp(torch.cat((image, text), -1))
    assert torch.equal(module(image, text), expected)


def steered(way: int, **options: float) -> nn.Module:
    """A fusion whose router sends every sample one way."""
    fusion = EnergyAwareAdaptive(heads=2, **options).build(DIM)
    with torch.no_grad():
        fusion.router[-1].weight.zero_()
        fusion.router[-1].bias.copy_(torch.eye(3)[way] * 200)
    return fusion


@pytest.mark.parametrize(("way", "cost"), [(0, 3.2), (1, 4.1), (2, 9.8)])
@pytest.mark.parametrize("training", [True, False])
def test_the_energy_of_one_way_is_its_cost_above_the_budget(way: int, cost: float, training: bool) -> None:
    image, text = pair()
    for budget in (8.0, 1.0):
        _, aux = steered(way, budget_mj=budget).train(training)(image, text)
        assert set(aux) == {"energy"} and aux["energy"].shape == (6,)
        torch.testing.assert_close(aux["energy"], torch.full((6,), max(0.0, cost - budget)))


def test_the_expected_cost_is_a_mean_over_the_batch_before_the_budget_is_taken_off() -> None:
    fusion = EnergyAwareAdaptive(heads=2, image_mj=0.0, text_mj=0.0, both_mj=1.0).build(DIM).eval()
    image, text = pair(n=40, scale=4.0)
    costs = fusion.router(torch.cat((image, text), -1)).softmax(-1)[:, 2]
    # Some samples lie above this budget, the batch as a whole does not.
    fusion.budget = (costs.mean().item() + costs.max().item()) / 2
    assert fusion(image, text)[1]["energy"].tolist() == [0.0] * 40
    fusion.budget = costs.mean().item() / 2
    torch.testing.assert_close(fusion(image, text)[1]["energy"], (costs.mean() / 2).expand(40))


@torch.no_grad()
def test_ways_are_drawn_by_the_routers_probabilities() -> None:
    fusion = steered(0).train()
    fusion.router[-1].bias.copy_(torch.tensor([0.5, 0.3, 0.2]).log())
    torch.manual_seed(0)
    image, text = torch.full((20_000, DIM), 1.0), torch.full((20_000, DIM), -1.0)
    out = fusion(image, text)[0]
    shares = [(out - one).abs().amax(-1).lt(1e-5).float().mean().item() for one in (image, text)]
    assert shares == pytest.approx([0.5, 0.3], abs=0.0142)
    # In eval the most probable way is taken by all.
    assert torch.equal(fusion.eval()(image, text)[0], image)


def model(fusion: Fusion) -> MultimodalClassifier:
    torch.manual_seed(0)
    return MultimodalClassifier(
        tasks=MedPix.tasks,
        vocabulary_size=50,
        text_length=6,
        image_size=16,
        colour=False,
        tokenizer="words",
        vision=Convolutional(channels=2, stages=2),
        text=HashedTransformer(width=8, layers=1, heads=2),
        fusion=fusion,
        width=DIM,
    )


def loss(student: nn.Module) -> LossTerms:
    """Of a batch of eight, with the energy weighed by one half."""
    random = torch.Generator().manual_seed(0)
    inputs = {
        "image": torch.randint(256, (8, 1, 16, 16), generator=random).byte(),
        "tokens": torch.randint(2, 50, (8, 6), generator=random),
        "mask": torch.ones(8, 6, dtype=torch.bool),
    }
    targets = {"modality": torch.zeros(8, dtype=torch.int64), "location": torch.zeros(8, dtype=torch.int64)}
    progress = Progress(epoch=0.0, step=0.0)
    return none(aux={"energy": 0.5})(student(inputs), None, targets, progress, MedPix.tasks)


def test_the_energy_penalty_is_a_named_part_of_the_loss_and_lowers_the_cost() -> None:
    student = model(EnergyAwareAdaptive(heads=2, budget_mj=0.0)).train()
    optimizer = torch.optim.SGD(student.fusion.router.parameters(), lr=0.05)
    costs = []
    for _ in range(30):
        terms = loss(student)
        torch.testing.assert_close(terms.total, terms.parts["ce"] + 0.5 * terms.parts["energy"])
        costs.append(terms.parts["energy"].item())
        optimizer.zero_grad()
        terms.parts["energy"].backward()
        optimizer.step()
    assert costs[-1] < costs[0] - 0.5


def test_a_penalty_that_the_fusion_does_not_give_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"distill\.aux\.energy weighs a part that this student does not give"):
        loss(model(Gated()))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Simple(heads=5), r"fusion\.heads: must divide width, got heads=5 and width=12"),
        (TransformerConcat(heads=5), r"fusion\.heads: must divide width"),
        (CrossAttention(heads=5), r"fusion\.heads: must divide width"),
        (EnergyAwareAdaptive(heads=5), r"fusion\.heads: must divide width"),
        (Shomr(heads=5), r"fusion\.heads: must divide width"),
        (ModalityDropout(p_img=0.6, p_txt=0.5), r"p_img and p_txt may not exceed 1 together, got p_img=0\.6"),
    ],
)
def test_numbers_that_do_not_fit_together_are_named(options: Fusion, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        options.build(DIM)


HAVE = {
    "heads": {"simple", "cross_attention", "transformer_concat", "energy_aware_adaptive", "shomr"},
    "layers": {"simple", "concat_mlp", "transformer_concat"},
    "hidden_mult": {"concat_mlp"},
    "p_img": {"modality_dropout"},
    "budget_mj": {"energy_aware_adaptive"},
    "threshold": {"shomr"},
}


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_has_only_options_that_act_on_it(name: str) -> None:
    fields = set(type(FUSIONS[name]).__dataclass_fields__)
    assert {option for option, having in HAVE.items() if name in having} == fields & set(HAVE)


@pytest.mark.parametrize(("option", "name"), [("heads", "gated"), ("layers", "cross_attention"), ("heads", "film")])
@pytest.mark.parametrize("key", ["student.fusion", "teacher.model.fusion"])
def test_an_option_without_effect_is_refused_by_check(run_main, tmp_path: Path, key: str, option: str, name: str):
    group = "student/fusion" if key == "student.fusion" else f"student/fusion@{key}"
    done = run_main(tmp_path, "check", f"{group}={name}", f"{key}.{option}=2")
    assert done.code == 2
    assert f"{key}.{option}" in done.text
    # Put in by force, it is still no option of this fusion.
    forced = run_main(tmp_path, "check", f"{group}={name}", f"+{key}.{option}=2")
    assert forced.code == 2 and f"{key}.{option}" in forced.text


SEARCH = (
    "-m",
    "hydra/sweeper=optuna",
    "hydra.sweeper.study_name=fusions",
    "student/fusion=choice(gated,cross_attention)",
    "student.fusion.heads=choice(2,4)",
    "dataset.source=synthetic",
)


def test_a_search_that_sweeps_an_option_which_a_fusion_lacks_stops_before_the_first_trial(run_main, tmp_path: Path):
    done = run_main(tmp_path, *SEARCH)
    assert done.code == 2
    assert "student/fusion: with gated, student.fusion.heads: cannot be set" in done.text
    assert "hydra.sweeper.active_when" in done.text
    assert not (tmp_path / "outputs" / "studies" / "fusions" / "trials").exists()


@pytest.mark.parametrize("name", FUSIONS)
def test_every_fusion_is_sound_in_student_and_teacher(name: str) -> None:
    made = checked(f"student/fusion={name}", f"student/fusion@teacher.model.fusion={name}")
    assert made["student"]["fusion"] == made["teacher"]["model"]["fusion"]
