from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trajectories_helpers import batch_of, grid_of, lattice, walks

from kdexp.contracts import Batch, Model
from kdexp.errors import ConfigError
from kdexp.systems.trajectories.models.attention import RelativeAttention, may_see
from kdexp.systems.trajectories.models.graph import (
    Edges,
    GraphAttention,
    GraphConvolution,
    normalized,
    with_mean_loops,
)
from kdexp.systems.trajectories.models.hoser import Hoser

MAP = lattice()
GRID = grid_of(MAP)
LENGTHS = (3, 7, 1, 5)


def make_model(seed: int = 0, **settings) -> Hoser:
    torch.manual_seed(seed)
    return Hoser(**(dict(road_map=MAP, time_mean=3.0, time_std=0.5, width=16) | settings))


def make_batch(*, positions: int = 0, candidates: int = 0, seed: int = 0) -> Batch:
    return batch_of(MAP, GRID, walks(MAP, LENGTHS, seed), positions=positions, candidates=candidates)


def loss_of(model: Hoser, batch: Batch) -> Tensor:
    output = model(batch.student)
    choice = output.logits["next_road"].masked_fill(~output.masks["next_road"], -torch.inf)
    real = batch.targets["next_road"] >= 0
    error = (output.logits["duration"] - batch.targets["duration"])[real].abs().mean()
    return F.cross_entropy(choice[real], batch.targets["next_road"][real]) + error


def small_graph() -> tuple[Edges, int]:
    """Six nodes; node 4 has no edge into it and node 5 none at all."""
    random = torch.Generator().manual_seed(1)
    source = torch.tensor([0, 1, 2, 3, 4, 0, 2])
    target = torch.tensor([1, 2, 1, 0, 3, 2, 0])
    return Edges(source, target, torch.rand(7, 2, generator=random)), 6


def test_the_sizes_of_beijing_have_the_known_number_of_parameters() -> None:
    """4,448,899 in the published code, of which 24,705 belong to a module that is never called."""
    n = 40_060
    flat = np.zeros(n, dtype=np.float32)
    road_map = replace(
        MAP,
        n_roads=n,
        n_zones=300,
        n_classes=10,
        length_scaled=flat,
        lon_scaled=flat,
        lat_scaled=flat,
        road_class=np.zeros(n, dtype=np.int64),
        zone=np.zeros(n, dtype=np.int64),
    )
    model = Hoser(road_map=road_map, time_mean=3.0, time_std=1.0)
    assert sum(p.numel() for p in model.parameters()) == 4_448_899 - 24_705


def test_graph_attention_is_the_formula_node_by_node() -> None:
    edges, n = small_graph()
    torch.manual_seed(0)
    layer, nodes = GraphAttention(8, edge_width=2), torch.randn(n, 8)
    nn.init.normal_(layer.bias)
    nn.init.normal_(layer.source.bias)
    found = layer(nodes, with_mean_loops(edges, n))
    for target in range(n):
        into = [(int(s), v) for s, t, v in zip(*edges, strict=True) if int(t) == target]
        loop = torch.stack([v for _, v in into]).mean(0) if into else torch.zeros(2)
        ways = [*into, (target, loop)]
        left = [layer.source(nodes[s]) for s, _ in ways]
        right = layer.target(nodes[target])
        hidden = [F.leaky_relu(x + right + layer.edge.weight @ v, 0.2) for x, (_, v) in zip(left, ways, strict=True)]
        share = torch.stack([layer.attention[0] @ h for h in hidden]).softmax(0)
        expected = sum(a * x for a, x in zip(share, left, strict=True)) + layer.bias
        torch.testing.assert_close(found[target], expected, atol=1e-6, rtol=1e-5)


def test_graph_convolution_is_the_dense_matrix() -> None:
    edges, n = small_graph()
    edges = edges._replace(values=edges.values[:, 0])
    torch.manual_seed(0)
    layer, nodes = GraphConvolution(8), torch.randn(n, 8)
    nn.init.normal_(layer.bias)
    weights = torch.eye(n)  # weights[i, j]: from i to j
    for source, target, value in zip(*edges, strict=True):
        weights[source, target] += value
    scale = weights.sum(0).rsqrt()
    expected = (scale[:, None] * weights * scale).T @ (nodes @ layer.linear.weight.T) + layer.bias
    torch.testing.assert_close(layer(nodes, normalized(edges, n)), expected, atol=1e-6, rtol=1e-5)


def test_scores_far_apart_do_not_overflow_the_graphs_softmax() -> None:
    edges, n = small_graph()
    layer = GraphAttention(8, edge_width=2)
    found = layer(1e4 * torch.randn(n, 8, generator=torch.Generator().manual_seed(0)), with_mean_loops(edges, n))
    assert found.isfinite().all()


def plain_attention(layer: RelativeAttention, states: Tensor, relations: tuple[Tensor, Tensor], seen: Tensor) -> Tensor:
    """The formula with a vector for every pair of positions, both halves of the bias in it."""
    n, length, width = states.shape
    size = width // layer.heads
    query, key, value = layer.query_key_value(states).chunk(3, dim=-1)
    relative_key, relative_value = layer.relative(torch.stack(relations, dim=-1)).chunk(2, dim=-1)
    out = torch.zeros(n, length, width)
    for head in range(layer.heads):
        part = slice(head * size, (head + 1) * size)
        for b in range(n):
            for i in range(length):
                keys, values = key[b, :, part] + relative_key[b, i], value[b, :, part] + relative_value[b, i]
                score = keys @ query[b, i, part] / math.sqrt(size)
                out[b, i, part] = score.masked_fill(~seen[b, i], -torch.inf).softmax(0) @ values
    return layer.out(out)


def test_factorised_attention_equals_the_plain_form() -> None:
    torch.manual_seed(0)
    layer, states = RelativeAttention(12, heads=3), torch.randn(2, 5, 12)
    relations = (torch.rand(2, 5, 5), torch.rand(2, 5, 5))
    nn.init.normal_(layer.relative.bias)
    seen = may_see(torch.arange(5) < torch.tensor([[5], [3]]))
    expected = plain_attention(layer, states, relations, seen)
    torch.testing.assert_close(layer(states, relations, seen), expected, atol=1e-5, rtol=1e-5)


def test_a_position_sees_the_real_ones_up_to_itself() -> None:
    seen = may_see(torch.tensor([[True, True, False]]))
    assert seen[0].tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_outputs_have_the_promised_names_and_shapes() -> None:
    model, batch = make_model(), make_batch()
    output = model(batch.student)
    assert isinstance(model, Model)
    shape = tuple(batch.student["candidates"].shape)
    assert tuple(output.logits["next_road"].shape) == shape
    assert tuple(output.logits["duration"].shape) == shape[:2]
    assert tuple(output.features["candidate_duration"].shape) == shape
    assert output.masks["next_road"] is batch.student["candidate_mask"]
    assert all(logits.dtype == torch.float32 and logits.isfinite().all() for logits in output.logits.values())
    # Nothing of what padding holds gets out.
    assert (output.logits["next_road"][~output.masks["next_road"]] == 0).all()


def test_the_first_step_pulls_at_every_parameter() -> None:
    model = make_model()
    loss_of(model, make_batch()).backward()
    parameters = dict(model.named_parameters())
    assert len(parameters) > 50
    for name, parameter in parameters.items():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-7, name


def test_training_moves_the_roads_embeddings() -> None:
    model, batch = make_model(), make_batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    before, first = model.network.road_id.weight.detach().clone(), loss_of(model, batch).item()
    for _ in range(40):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
    assert loss_of(model, batch).item() < first / 2
    assert (model.network.road_id.weight - before).abs().max() > 1e-3


@pytest.mark.parametrize("asked", [[0], [5, 5, 17], list(range(MAP.n_roads))])
def test_the_roads_asked_for_are_as_if_all_were_computed(asked: list[int]) -> None:
    network = make_model().network
    torch.testing.assert_close(network.roads(torch.tensor(asked))[asked], network.roads()[asked], atol=1e-6, rtol=1e-6)


def test_a_trip_does_not_depend_on_its_batch_mates_or_on_padding() -> None:
    model = make_model().eval()
    trips = walks(MAP, LENGTHS)
    together = model(batch_of(MAP, GRID, trips, positions=9, candidates=5).student)
    for i, trip in enumerate(trips):
        alone = model(batch_of(MAP, GRID, [trip]).student)
        length, width = alone.logits["next_road"].shape[1:]
        both = {name: logits[i, :length] for name, logits in together.logits.items()}
        torch.testing.assert_close(both["next_road"][:, :width], alone.logits["next_road"][0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(both["duration"], alone.logits["duration"][0], atol=1e-5, rtol=1e-5)


def test_what_padding_holds_changes_nothing() -> None:
    model, batch = make_model().eval(), make_batch()
    real, mask = batch.student["position_mask"], batch.student["candidate_mask"]
    pairs = real[:, :, None] & real[:, None, :]
    dirty = dict(batch.student)
    for name, kept in (("temporal", real), ("distance", pairs), ("interval", pairs), ("metric_distance", mask)):
        dirty[name] = dirty[name].masked_fill(~kept, 7.0)
    for name, kept in (("road", real), ("candidates", mask)):
        dirty[name] = dirty[name].masked_fill(~kept, 3)
    one, other = model(batch.student), model(dirty)
    assert torch.equal(one.logits["next_road"], other.logits["next_road"])
    assert torch.equal(one.logits["duration"][real], other.logits["duration"][real])


def test_no_position_sees_a_later_one() -> None:
    model = make_model().eval()
    trip = walks(MAP, [6])[0]
    inputs = batch_of(MAP, GRID, [trip]).student
    changed = {name: tensor.clone() for name, tensor in inputs.items()}
    changed["road"][0, 4:] = (changed["road"][0, 4:] + 1) % MAP.n_roads
    changed["temporal"][0, 4:] += 0.3
    for name in ("distance", "interval"):
        changed[name][0, 4:] += 0.5
        changed[name][0, :, 4:] += 0.5
    one, other = model(inputs).logits["next_road"][0], model(changed).logits["next_road"][0]
    torch.testing.assert_close(one[:4], other[:4], atol=1e-6, rtol=1e-6)
    assert (one[4:] - other[4:]).abs().max() > 1e-3


def test_the_destination_speaks_through_its_zone() -> None:
    model, batch = make_model().eval(), make_batch()
    elsewhere = dict(batch.student)
    elsewhere["destination"] = torch.from_numpy(np.flatnonzero(MAP.zone == 2)[:1]).expand(len(LENGTHS))
    elsewhere_too = elsewhere | {"destination": elsewhere["destination"] + 1}
    answers = [model(inputs).logits["next_road"] for inputs in (batch.student, elsewhere, elsewhere_too)]
    assert not torch.allclose(answers[0], answers[1])
    assert torch.equal(answers[1], answers[2])


def test_time_is_told_for_the_road_taken_in_log_seconds() -> None:
    batch = make_batch()
    plain = make_model(time_mean=0.0, time_std=1.0)(batch.student)
    scaled = make_model(time_mean=3.0, time_std=0.5)(batch.student)
    torch.testing.assert_close(scaled.logits["duration"], plain.logits["duration"] * 0.5 + 3.0)
    real, label = batch.student["position_mask"], batch.student["label"]
    taken = scaled.features["candidate_duration"].gather(-1, label.clamp(min=0)[..., None])[..., 0]
    assert torch.equal(scaled.logits["duration"][real], taken[real])


def test_kept_embeddings_follow_the_weights() -> None:
    model, inputs = make_model().eval(), make_batch().student
    asked = inputs["road"].flatten()
    with torch.no_grad():
        first = model.network(asked)
        assert model.network(asked)[0] is first[0]
        model.network.road_id.weight.add_(0.1)
        assert not torch.allclose(model.network(asked)[0], first[0])
        model.load_state_dict(make_model(seed=1).state_dict())
        other = make_model(seed=1).eval()
        assert torch.equal(model(inputs).logits["next_road"], other(inputs).logits["next_road"])
        # A change behind the version counter's back is seen from the next call of eval() on.
        model.network.road_id.weight.data.mul_(2.0)
        assert torch.equal(model.eval().network(asked)[0], model.network.roads())
    # With gradients nothing is kept.
    assert model.network(asked)[0].requires_grad


def test_half_precision_answers_in_full() -> None:
    model, batch = make_model().eval(), make_batch()
    whole = model(batch.student).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(batch.student).logits
        loss_of(model, batch).backward()
    for task, logits in half.items():
        assert logits.dtype == torch.float32 and not torch.equal(logits, whole[task])
        torch.testing.assert_close(logits, whole[task], atol=0.05, rtol=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_the_spread_of_the_first_embeddings_is_a_setting() -> None:
    network = make_model(embedding_std=0.1, width=64).network
    for ids in (network.road_id, network.zone_id):
        assert abs(ids.weight.std().item() - 0.1) < 0.02


def test_two_trainings_from_one_seed_are_the_same_to_the_bit() -> None:
    batch = make_batch()
    states = []
    for _ in range(2):
        model = make_model(dropout=0.1)
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_road_map_stays_out_of_the_checkpoint() -> None:
    state = make_model().state_dict()
    assert {"time_mean", "time_std"} <= state.keys()
    assert not any(name.startswith("network.road_source") or name == "network.zone" for name in state)


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"student\.heads: must divide twice the width, got heads=3 and width=16"):
        make_model(heads=3)
