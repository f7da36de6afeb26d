from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from trajectories_helpers import batch_of, grid_of, lattice, walks

from kdexp.contracts import Batch, Model
from kdexp.errors import CacheError, ConfigError
from kdexp.systems.trajectories.grid import Grid
from kdexp.systems.trajectories.models.lm_tad import LmTad
from kdexp.systems.trajectories.models.lm_tad_original import GRID_KEYS, import_original
from kdexp.training.teacher import load_weights, weights_fingerprint

MAP = lattice()
FINE, COARSE = grid_of(MAP), grid_of(MAP, 0.003)
LENGTHS = (3, 8, 1, 5, 8, 7)
TRIPS = walks(MAP, LENGTHS)
READINGS: dict[str, dict[str, Any]] = {
    "all": {},
    "all, full": {"shared_cells": "full"},
    "window 1": {"window": 1},
    "window 2": {"window": 2},
    "window 4": {"window": 4},
    "window 4, full": {"window": 4, "shared_cells": "full"},
    "window 4 with SOT": {"window": 4, "keep_sot": True},
    "window beyond all trips": {"window": 12},
}


def make_model(grid: Grid = FINE, seed: int = 0, **settings) -> LmTad:
    """Weights ten times larger than at the start of training, so that answers differ."""
    torch.manual_seed(seed)
    model = LmTad(grid=grid, **(dict(width=16, layers=2, heads=2, positions=16, dropout=0.1) | settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(10)
    return model


def make_batch(grid: Grid = FINE, **padding: int) -> Batch:
    return batch_of(MAP, grid, TRIPS, **padding)


def next_cells(model: LmTad, tokens: list[int]) -> Tensor:
    """The log-probabilities of all tokens after these, (V,)."""
    states = model._states(torch.tensor([tokens]))
    return F.linear(states[0, -1], model.cell.weight).log_softmax(dim=-1)


def expected_answer(
    model: LmTad, prefix: list[int], candidates: list[int], window: int | None, shared_cells: str, keep_sot: bool
) -> Tensor:
    """One step, as the text says it: cells of the prefix, cells of the candidates -> (K,)."""
    tokens = [model.grid.sot, *prefix]
    if window is not None and len(tokens) > window:
        tokens = [model.grid.sot, *tokens[len(tokens) - window + 1 :]] if keep_sot else tokens[len(tokens) - window :]
    told = next_cells(model, tokens)[candidates]
    if shared_cells == "split":
        told = told - torch.tensor([float(candidates.count(cell)) for cell in candidates]).log()
    return told.log_softmax(dim=-1)


def loaded_state(model: LmTad) -> dict[str, Tensor]:
    """The state as it comes back from disk."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_the_sizes_of_beijing_have_the_known_number_of_parameters() -> None:
    """96.3 million at 8 layers, 12 heads, width 768 and 51,663 tokens, and 0.8 million positions."""
    cells = np.zeros(0, dtype=np.int64)
    values = FINE.as_dict() | {"n_rows": 205, "n_columns": 252, "cell_of_road": cells}
    with torch.device("meta"):
        model = LmTad(grid=Grid.from_dict(values))
    positions = model.position.weight.numel()
    assert model.grid.vocabulary == 51_663
    assert round((sum(p.numel() for p in model.parameters()) - positions) / 1e6, 1) == 96.3
    assert round(positions / 1e6, 1) == 0.8


def test_the_first_weights_are_those_of_gpt2() -> None:
    torch.manual_seed(0)
    model = LmTad(grid=FINE, width=64, layers=8, heads=2, positions=64)
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            assert (weight == 1).all(), name
        else:
            wanted = 0.02 / math.sqrt(16) if name.endswith("_out.weight") else 0.02
            assert abs(weight.std().item() / wanted - 1) < 0.1, name
    assert not any("bias" in name for name in model.state_dict())


def test_outputs_have_the_promised_names_and_shapes() -> None:
    model, batch = make_model(), make_batch(positions=10, candidates=4)
    output = model(batch.teacher)
    assert isinstance(model, Model) and model.own_loss == "nll" and model.answers == ("next_road",)
    assert set(output.logits) == set(output.masks) == {"next_road"}
    assert output.logits["next_road"].shape == batch.teacher["candidate_cells"].shape
    assert output.logits["next_road"].dtype == torch.float32
    assert output.aux["nll"].shape == (len(TRIPS),)
    assert (output.logits["next_road"][~output.masks["next_road"]] == 0).all()


def test_nll_is_the_mean_over_the_trips_tokens_and_the_end() -> None:
    model, inputs = make_model(dropout=0.0), make_batch(positions=10).teacher
    found = model(inputs).aux["nll"]
    assert torch.equal(model.nll(inputs["cells"], inputs["length"]), found)
    for i, trip in enumerate(TRIPS):
        tokens = [FINE.sot, *FINE.cell_of_road[trip].tolist(), FINE.eot]
        told = [next_cells(model, tokens[:n])[tokens[n]] for n in range(1, len(tokens))]
        torch.testing.assert_close(found[i], -torch.stack(told).mean(), atol=1e-5, rtol=1e-5)


def test_many_rows_are_worked_off_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = make_model().eval(), make_batch().teacher
    model.read_with(window=3)
    windows, nll = model(inputs).logits, model.nll(inputs["cells"], inputs["length"])
    monkeypatch.setattr("kdexp.systems.trajectories.models.lm_tad._ROWS", 5)
    torch.testing.assert_close(model(inputs).logits, windows)
    torch.testing.assert_close(model.nll(inputs["cells"], inputs["length"]), nll)


@pytest.mark.parametrize("grid", [FINE, COARSE], ids=["fine", "coarse"])
@pytest.mark.parametrize("reading", READINGS.values(), ids=READINGS)
def test_every_step_is_read_as_it_would_be_alone(grid: Grid, reading: dict[str, Any]) -> None:
    model = make_model(grid).eval()
    model.read_with(**reading)
    batch = make_batch(grid)
    found = model(batch.teacher).logits["next_road"]
    settings = {"window": None, "shared_cells": "split", "keep_sot": False} | reading
    n_shared = 0
    for i, trip in enumerate(TRIPS):
        for t in range(len(trip) - 1):
            mask = batch.teacher["candidate_mask"][i, t]
            candidates = batch.teacher["candidate_cells"][i, t][mask].tolist()
            prefix = grid.cell_of_road[trip[: t + 1]].tolist()
            expected = expected_answer(model, prefix, candidates, **settings)
            torch.testing.assert_close(found[i, t][mask], expected, atol=1e-5, rtol=1e-5)
            n_shared += len(set(candidates)) < len(candidates)
    assert n_shared > 5 or grid is FINE


@pytest.mark.parametrize("reading", READINGS.values(), ids=READINGS)
def test_a_trip_does_not_depend_on_its_batch_mates_or_on_padding(reading: dict[str, Any]) -> None:
    model = make_model(COARSE).eval()
    model.read_with(**reading)
    inputs = make_batch(COARSE, positions=11, candidates=5).teacher
    together, nll = model(inputs), model.nll(inputs["cells"], inputs["length"])
    for i, trip in enumerate(TRIPS):
        batch = batch_of(MAP, COARSE, [trip])
        alone = model(batch.teacher)
        mask = batch.teacher["candidate_mask"][0]
        length, width = mask.shape
        both = together.logits["next_road"][i, :length, :width]
        torch.testing.assert_close(both[mask], alone.logits["next_road"][0][mask], atol=1e-6, rtol=1e-6)
        own = model.nll(batch.teacher["cells"], batch.teacher["length"])[0]
        torch.testing.assert_close(nll[i], own, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("reading", READINGS.values(), ids=READINGS)
def test_the_candidates_share_all_of_the_probability(reading: dict[str, Any]) -> None:
    model, batch = make_model(COARSE).eval(), make_batch(COARSE)
    model.read_with(**reading)
    output = model(batch.teacher)
    mask = output.masks["next_road"]
    total = (output.logits["next_road"].exp() * mask).sum(dim=-1)[mask.any(dim=-1)]
    torch.testing.assert_close(total, torch.ones_like(total))


def test_roads_in_one_cell_are_told_the_same() -> None:
    model, inputs = make_model().eval(), dict(make_batch().teacher)
    three = inputs["candidate_mask"].all(dim=-1)
    assert inputs["candidate_cells"].shape[-1] == 3 and three.sum() > 5
    apart, told = inputs["candidate_cells"].clone(), {}
    for shared_cells in ("full", "split"):
        model.read_with(shared_cells=shared_cells)
        inputs["candidate_cells"] = apart.index_fill(-1, torch.tensor([1]), 20).index_fill(-1, torch.tensor([0]), 20)
        told[shared_cells] = model(inputs).logits["next_road"][three].exp()
        assert torch.equal(told[shared_cells][:, 0], told[shared_cells][:, 1])
    # Two roads on one cell: together they have its probability twice, or once.
    odds = {name: (values[:, 0] + values[:, 1]) / values[:, 2] for name, values in told.items()}
    other = apart[three][:, 2] != 20
    torch.testing.assert_close(odds["full"][other], 2 * odds["split"][other])


def test_training_reads_whole_trips_whatever_the_window() -> None:
    model, batch = make_model(dropout=0.0), make_batch()
    whole = model.train()(batch.teacher)
    model.read_with(window=2)
    assert torch.equal(model(batch.teacher).logits["next_road"], whole.logits["next_road"])
    # What it is trained on is told in training only.
    assert set(model(batch.teacher).aux) == {"nll"} and not model.eval()(batch.teacher).aux


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        ({"window": 0}, r"teacher\.signal\.window: must be null or 1 to 16 tokens, got 0"),
        ({"window": 17}, r"teacher\.signal\.window: must be null or 1 to 16 tokens, got 17"),
        ({"window": 1, "keep_sot": True}, r"2 to 16 tokens, one of them SOT \(keep_sot\), got 1"),
        ({"keep_sot": True}, r"teacher\.signal\.keep_sot: has no effect without a window"),
        ({"shared_cells": "half"}, r"teacher\.signal\.shared_cells: must be full or split, got 'half'"),
    ],
)
def test_a_reading_without_sense_is_refused(reading: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_model().read_with(**reading)


def test_a_trip_longer_than_the_positions_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"teacher\.model\.positions: a trip of 10 tokens does not fit 9"):
        make_model(positions=9)(make_batch().teacher)
    assert make_model(positions=10)(make_batch().teacher).aux["nll"].isfinite().all()


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"teacher\.model\.heads: must divide the width"):
        make_model(heads=3)


def test_the_first_step_pulls_at_every_parameter() -> None:
    torch.manual_seed(0)
    model = LmTad(grid=FINE, width=16, layers=2, heads=2, positions=16)
    model(make_batch().teacher).aux["nll"].mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-8, name


def test_half_precision_answers_in_full() -> None:
    model, batch = make_model(COARSE).eval(), make_batch(COARSE)
    for window in (None, 3):
        model.read_with(window=window)
        whole = model(batch.teacher).logits["next_road"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model(batch.teacher).logits["next_road"]
        assert half.dtype == torch.float32 and not torch.equal(half, whole)
        torch.testing.assert_close(half.exp(), whole.exp(), atol=0.1, rtol=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.train()(batch.teacher).aux["nll"].mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_it_learns_the_trips() -> None:
    torch.manual_seed(0)
    model, batch = LmTad(grid=FINE, width=32, layers=2, heads=2, positions=16, dropout=0.0), make_batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(batch.teacher).aux["nll"].mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # An untrained model knows nothing: log of the vocabulary.
    assert abs(losses[0] - math.log(FINE.vocabulary)) < 0.1
    assert losses[-1] < losses[0] / 4
    answer = model.eval()(batch.teacher)
    best = answer.logits["next_road"].masked_fill(~answer.masks["next_road"], -torch.inf).argmax(dim=-1)
    real = batch.targets["next_road"] >= 0
    assert (best == batch.targets["next_road"])[real].float().mean() > 0.8


def test_the_state_goes_to_disk_and_back() -> None:
    model, other = make_model().eval(), make_model(seed=1).eval()
    other.load_state_dict(loaded_state(model))
    batch = make_batch()
    assert torch.equal(model(batch.teacher).logits["next_road"], other(batch.teacher).logits["next_road"])
    assert weights_fingerprint(model.state_dict()) == weights_fingerprint(other.state_dict())


def test_weights_of_another_grid_are_refused() -> None:
    elsewhere = grid_of(lattice(spacing=0.0021), 0.00105)
    assert elsewhere.vocabulary == FINE.vocabulary
    for grid, difference in ((COARSE, "size_degrees = 0.001, here it is 0.003"), (elsewhere, "size_degrees")):
        with pytest.raises(CacheError, match=rf"these weights were made with {difference}.*dataset\.grid"):
            make_model(grid).load_state_dict(loaded_state(make_model()))


def test_weights_of_another_road_map_are_refused() -> None:
    """The same numbers of cells, rows and columns: only the hash of the map tells them apart."""
    other = Grid.from_dict(FINE.as_dict() | {"road_map_fingerprint": "0" * 16})
    with pytest.raises(CacheError, match="road_map_fingerprint"):
        make_model(other).load_state_dict(loaded_state(make_model()))
    cells = [*FINE.cell_of_road[1:], FINE.cell_of_road[0]]
    with pytest.raises(CacheError, match="cell_of_road"):
        make_model(Grid.from_dict(FINE.as_dict() | {"cell_of_road": cells})).load_state_dict(loaded_state(make_model()))


def test_weights_for_another_number_of_heads_are_refused() -> None:
    with pytest.raises(CacheError, match=r"made with heads = 2, here it is 4; set teacher\.model\.heads"):
        make_model(heads=4).load_state_dict(loaded_state(make_model()))


def test_weights_without_a_grid_are_refused() -> None:
    state = loaded_state(make_model())
    del state["_extra_state"]
    with pytest.raises(RuntimeError, match="_extra_state"):
        make_model().load_state_dict(state)


# An original checkpoint, made here in its layout, and the original's forward pass written out.

LAYERS, HEADS, WIDTH, BLOCK_SIZE = 2, 4, 16, 20


def original_state(seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)

    def weight(*shape: int) -> Tensor:
        return 0.2 * torch.randn(*shape, generator=random)

    state = {
        "transformer.wte.weight": weight(FINE.vocabulary, WIDTH),
        "transformer.wpe.weight": weight(BLOCK_SIZE, WIDTH),
        "transformer.ln_f.weight": 1 + weight(WIDTH),
    }
    for layer in range(LAYERS):
        at = f"transformer.h.{layer}"
        state |= {
            f"{at}.ln_1.weight": 1 + weight(WIDTH),
            f"{at}.attn.c_attn.weight": weight(3 * WIDTH, WIDTH),
            f"{at}.attn.c_proj.weight": weight(WIDTH, WIDTH),
            f"{at}.attn.bias": torch.ones(BLOCK_SIZE, BLOCK_SIZE).tril()[None, None],
            f"{at}.ln_2.weight": 1 + weight(WIDTH),
            f"{at}.mlp.c_fc.weight": weight(4 * WIDTH, WIDTH),
            f"{at}.mlp.c_proj.weight": weight(WIDTH, 4 * WIDTH),
        }
    return state | {"lm_head.weight": state["transformer.wte.weight"]}


def original_checkpoint(**changes: Any) -> dict[str, Any]:
    config = {
        "block_size": BLOCK_SIZE,
        "vocab_size": FINE.vocabulary,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_embd": WIDTH,
        "dropout": 0.2,
        "bias": False,
        "pad_token": FINE.pad,
        "logging": False,
        "integer_poe": False,
    }
    state = {f"_orig_mod.{name}": tensor for name, tensor in original_state().items()}
    return {"state_dict": state, "model_config": config} | changes


def original_logits(state: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """(T,) -> (T, V), one head at a time."""

    def norm(x: Tensor, name: str) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt() * state[name]

    x = state["transformer.wte.weight"][tokens] + state["transformer.wpe.weight"][: len(tokens)]
    future = torch.ones(len(tokens), len(tokens), dtype=torch.bool).triu(1)
    for layer in range(LAYERS):
        at = f"transformer.h.{layer}"
        query, key, value = (norm(x, f"{at}.ln_1.weight") @ state[f"{at}.attn.c_attn.weight"].T).split(WIDTH, dim=-1)
        heads = []
        for part in torch.arange(WIDTH).chunk(HEADS):
            score = query[:, part] @ key[:, part].T / math.sqrt(len(part))
            heads.append(score.masked_fill(future, -torch.inf).softmax(-1) @ value[:, part])
        x = x + torch.cat(heads, dim=-1) @ state[f"{at}.attn.c_proj.weight"].T
        hidden = norm(x, f"{at}.ln_2.weight") @ state[f"{at}.mlp.c_fc.weight"].T
        x = x + (hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))) @ state[f"{at}.mlp.c_proj.weight"].T
    return norm(x, "transformer.ln_f.weight") @ state["lm_head.weight"].T


def grid_settings(grid: Grid = FINE) -> dict[str, float]:
    return {key: grid.as_dict()[key] for key in GRID_KEYS}


@pytest.fixture
def imported(tmp_path: Path) -> Callable[..., dict[str, int]]:
    """Saves this content and imports it on the fine grid."""

    def run(content: Any, grid: Grid = FINE, **arguments: Any) -> dict[str, int]:
        torch.save(content, tmp_path / "original.pt")
        return import_original(tmp_path / "original.pt", tmp_path / "teacher.pt", grid=grid, **arguments)

    return run


def test_an_original_checkpoint_answers_as_the_original_does(
    imported: Callable[..., dict[str, int]], tmp_path: Path
) -> None:
    settings = imported(original_checkpoint(), original_grid=grid_settings())
    assert settings == {"width": WIDTH, "layers": LAYERS, "heads": HEADS, "positions": BLOCK_SIZE}
    model = LmTad(grid=FINE, **settings).eval()
    # As `teacher.checkpoint` is loaded.
    load_weights(model, tmp_path / "teacher.pt", (), "teacher.checkpoint")
    cells = FINE.cell_of_road[TRIPS[1]].tolist()
    # SOT is the last of the original's tokens.
    expected = original_logits(original_state(), torch.tensor([FINE.vocabulary - 1, *cells])).log_softmax(-1)
    for n in range(1, len(cells) + 1):
        told = next_cells(model, [FINE.sot, *cells[:n]])
        torch.testing.assert_close(told, expected[n], atol=1e-5, rtol=1e-4)


def test_an_original_may_say_its_grid_itself(imported: Callable[..., dict[str, int]]) -> None:
    imported(original_checkpoint(grid=grid_settings()))
    rest = {key: value for key, value in grid_settings().items() if not key.startswith("n_")}
    size = {"grip_size": [FINE.n_rows, FINE.n_columns]}
    imported(original_checkpoint(dataset_config=size), original_grid=rest)
    with pytest.raises(CacheError, match=r"made with n_rows = 9, here it is"):
        imported(original_checkpoint(dataset_config={"grip_size": [9, 9]}), original_grid=rest)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any] | None, str]] = {
    "no grid": ({}, None, r"does not say on which grid it was trained; give original_grid min_lat, min_lon"),
    "another grid": ({}, grid_settings() | {"min_lat": 40.5}, r"made with min_lat = 40\.5, here it is 41"),
    "a word that is no grid's": ({}, grid_settings() | {"rows": 3}, r"a grid has no rows"),
    "no model_config": ({"model_config": None}, grid_settings(), r"no original LM-TAD checkpoint: it has no model_con"),
    "an empty model_config": ({"model_config": {"n_layer": 2}}, grid_settings(), r"its model_config lacks n_embd"),
    "no weights": ({"state_dict": None}, grid_settings(), r"it has no state_dict"),
    "too few weights": ({"state_dict": {}}, grid_settings(), r"do not fit its own model_config: Missing key"),
    "loose output": (
        {"state_dict": original_state() | {"lm_head.weight": torch.zeros(FINE.vocabulary, WIDTH)}},
        grid_settings(),
        r"not tied to its embedding",
    ),
}


@pytest.mark.parametrize(("changes", "grid", "message"), REFUSED.values(), ids=REFUSED)
def test_an_original_that_does_not_fit_is_refused(
    imported: Callable[..., dict[str, int]],
    tmp_path: Path,
    changes: dict[str, Any],
    grid: dict[str, Any] | None,
    message: str,
) -> None:
    with pytest.raises(CacheError, match=message):
        imported(original_checkpoint(**changes), original_grid=grid)
    assert not (tmp_path / "teacher.pt").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("vocab_size", 99, r"knows 99 tokens, the last of them SOT, but this grid of 7 x 7 cells has 52"),
        ("bias", True, r"has bias set in its model_config"),
        ("integer_poe", True, r"has integer_poe set in its model_config"),
        ("n_layer", 3, r"do not fit its own model_config"),
    ],
)
def test_an_original_with_another_configuration_is_refused(
    imported: Callable[..., dict[str, int]], key: str, value: Any, message: str
) -> None:
    content = original_checkpoint()
    content["model_config"][key] = value
    with pytest.raises(CacheError, match=message):
        imported(content, original_grid=grid_settings())


class Code:
    """What a pickle could run."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (Path("never"),)


def test_a_file_that_holds_code_or_is_torn_is_not_opened(
    imported: Callable[..., dict[str, int]], tmp_path: Path
) -> None:
    with pytest.raises(CacheError, match="could run code, so it is not opened"):
        imported(original_checkpoint(dataset_config=Code()), original_grid=grid_settings())
    assert not Path("never").exists()
    torn = tmp_path / "torn.pt"
    torn.write_bytes(b"torn")
    for path, message in ((torn, "torn"), (tmp_path / "none.pt", "does not exist")):
        with pytest.raises(CacheError, match=message):
            import_original(path, tmp_path / "teacher.pt", grid=FINE)
