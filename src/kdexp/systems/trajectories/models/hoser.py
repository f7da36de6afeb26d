"""The student HOSER: at every step of a trip it scores the roads that may follow and says how long the next one takes.

Source: HOSER (AAAI 2025), public code `caoji2001/HOSER`; the graph is computed anew at every step, with gradients.

Shape suffixes: B trips, P positions, K candidates, R roads, Z zones, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt, MultipleOf
from numpy.typing import NDArray
from torch import Tensor, nn

from kdexp.contracts import StudentOutput
from kdexp.errors import ConfigError
from kdexp.systems.trajectories.models.attention import Block, may_see
from kdexp.systems.trajectories.models.graph import (
    Edges,
    GraphAttention,
    GraphConvolution,
    normalized,
    with_mean_loops,
)
from kdexp.systems.trajectories.roadmap import RoadMap


class Hoser(nn.Module):
    """Road and zone graphs, a causal transformer over the roads passed so far, a navigator and a time head.

    Inputs, padded to the batch: `road` (B, P) int64, `position_mask` (B, P) bool, `temporal` (B, P), `distance` and
    `interval` (B, P, P), `destination` (B,), `candidates` (B, P, K) int64, `candidate_mask` (B, P, K) bool,
    `metric_distance` and `metric_angle` (B, P, K), `label` (B, P) int64: the candidate taken, -1 where there is none.

    Output, float32: `next_road` (B, P, K), 0 on padding; `duration` (B, P), the predicted log1p(seconds) on the road
    at `label` (on the first one where that is -1); feature `candidate_duration` (B, P, K), the same for every
    candidate, 0 on padding. `time_mean` and `time_std` are those of log1p(seconds) on train.

    A token is 2 · `width` wide: `width` for the road, as much for the time of day. `embedding_std` is how far apart the
    roads' and the zones' own embeddings start; small, it lets what roads have in common speak first.
    """

    version = 1

    def __init__(
        self,
        *,
        road_map: RoadMap,
        time_mean: float,
        time_std: Annotated[float, Gt(0)],
        width: Annotated[int, Ge(8), MultipleOf(8)] = 128,
        layers: Annotated[int, Ge(1)] = 2,
        heads: Annotated[int, Ge(1)] = 2,
        feedforward: Annotated[int, Ge(1)] = 4,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        embedding_std: Annotated[float, Gt(0)] = 1.0,
    ) -> None:
        super().__init__()
        if 2 * width % heads:
            raise ConfigError(f"student.heads: must divide twice the width, got {heads=} and {width=}")
        self.network = RoadNetwork(road_map, width, embedding_std)
        self.fusion = _two_layers(2 * width, width // 2)
        self.time_code = nn.Linear(1, width)
        self.blocks = nn.ModuleList(
            Block(2 * width, heads=heads, feedforward=feedforward, dropout=dropout) for _ in range(layers)
        )
        self.navigator = Navigator(width)
        self.time_head = TimeHead(width)
        self.register_buffer("time_mean", torch.tensor(float(time_mean)))
        self.register_buffer("time_std", torch.tensor(float(time_std)))

    def forward(self, inputs: Mapping[str, Tensor]) -> StudentOutput:
        candidate_mask = inputs["candidate_mask"]
        used = [inputs["road"], inputs["candidates"]]
        road_RD, zone_ZD = self.network(torch.cat([roads.flatten() for roads in used]))
        candidate_BPKD = F.embedding(inputs["candidates"], road_RD)
        trip_BPD = self._encode(inputs, road_RD, zone_ZD)
        destination_BD = zone_ZD[self.network.zone[inputs["destination"]]]
        metrics = (inputs["metric_distance"], inputs["metric_angle"])
        logits_BPK = self.navigator(trip_BPD, destination_BD, candidate_BPKD, *metrics)
        seconds_BPK = self.time_head(trip_BPD, candidate_BPKD).float() * self.time_std + self.time_mean
        taken_BP1 = inputs["label"].clamp(min=0)[..., None]
        return StudentOutput(
            logits={
                "next_road": logits_BPK.float().masked_fill(~candidate_mask, 0.0),
                "duration": seconds_BPK.gather(-1, taken_BP1)[..., 0],
            },
            masks={"next_road": candidate_mask},
            features={"candidate_duration": seconds_BPK.masked_fill(~candidate_mask, 0.0)},
        )

    def _encode(self, inputs: Mapping[str, Tensor], road_RD: Tensor, zone_ZD: Tensor) -> Tensor:
        """What is known of the trip up to each position, (B, P, 2D)."""
        road_BPD = F.embedding(inputs["road"], road_RD)
        zone_BPD = F.embedding(self.network.zone[inputs["road"]], zone_ZD)
        share_BP1 = self.fusion(torch.cat([road_BPD, zone_BPD], dim=-1)).sigmoid()
        time_BPD = self.time_code(inputs["temporal"][..., None]).cos()
        states = torch.cat([road_BPD + share_BP1 * zone_BPD, time_BPD], dim=-1)
        relations, allowed = (inputs["distance"], inputs["interval"]), may_see(inputs["position_mask"])
        for block in self.blocks:
            states = block(states, relations, allowed)
        return states


class RoadNetwork(nn.Module):
    """Embeddings of all roads (R, D) by two GATv2 layers, and of all zones (Z, D) by two GCN layers.

    With gradients, or in training, they are computed at each call, and only those of the roads asked for: the others'
    rows hold nothing of use. In eval mode under no_grad all are computed once and kept until a weight, the mode or the
    place changes.
    """

    zone: Tensor
    scalars_3R: Tensor
    class_of_road: Tensor

    def __init__(self, road_map: RoadMap, width: int, embedding_std: float) -> None:
        super().__init__()
        part = width // 8
        self.road_id = nn.Embedding(road_map.n_roads, width // 2)
        self.road_class = nn.Embedding(road_map.n_classes, part)
        self.scalars = nn.ModuleList(nn.Linear(1, part) for _ in range(3))
        self.zone_id = nn.Embedding(road_map.n_zones, width)
        for ids in (self.road_id, self.zone_id):
            nn.init.normal_(ids.weight, std=embedding_std)
        edge_width = road_map.edge_features.shape[1]
        self.road_layers = nn.ModuleList(GraphAttention(width, edge_width=edge_width) for _ in range(2))
        self.zone_layers = nn.ModuleList(GraphConvolution(width) for _ in range(2))
        scalars = np.stack([road_map.length_scaled, road_map.lon_scaled, road_map.lat_scaled])
        self._keep("scalars_3R", torch.tensor(scalars))
        self._keep("class_of_road", torch.tensor(road_map.road_class))
        self._keep("zone", torch.tensor(road_map.zone))
        roads = _edges(road_map.edges, road_map.edge_features)
        zones = _edges(road_map.zone_edges, road_map.zone_weights)
        self._keep_edges("road", with_mean_loops(roads, road_map.n_roads))
        self._keep_edges("zone", normalized(zones, road_map.n_zones))
        self._kept: tuple[object, tuple[Tensor, Tensor]] | None = None

    def _keep(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(name, tensor, persistent=False)  # it comes with the road map

    def _keep_edges(self, of: str, edges: Edges) -> None:
        for field, tensor in edges._asdict().items():
            self._keep(f"{of}_{field}", tensor)

    def edges(self, of: str) -> Edges:
        """The edges of the `road` graph or of the `zone` graph, with loops."""
        return Edges(*(self.get_buffer(f"{of}_{field}") for field in Edges._fields))

    def train(self, mode: bool = True) -> RoadNetwork:
        self._kept = None
        return super().train(mode)

    def forward(self, asked: Tensor) -> tuple[Tensor, Tensor]:
        """`asked` are road ids (any number, repeats too). Float32, also under autocast."""
        with torch.autocast(asked.device.type, enabled=False):
            if self.training or torch.is_grad_enabled():
                return self.roads(asked), self.zones()
            state = [(p.data_ptr(), p._version) for p in self.parameters()]
            if self._kept is None or self._kept[0] != state:
                self._kept = (state, (self.roads(), self.zones()))
            return self._kept[1]

    def roads(self, asked: Tensor | None = None) -> Tensor:
        """(R, D); where roads are asked for, the others' rows hold nothing of use."""
        length, lon, lat = (
            linear(values[:, None]) for linear, values in zip(self.scalars, self.scalars_3R, strict=True)
        )
        states = torch.cat([self.road_id.weight, length, self.road_class(self.class_of_road), lon, lat], dim=-1)
        first, second = self.road_layers
        before, last = self._edges_towards(asked)
        return second(first(states, before).relu(), last)

    def _edges_towards(self, asked: Tensor | None) -> tuple[Edges, Edges]:
        """The edges that the first and the second layer need for the roads asked for."""
        edges = self.edges("road")
        if asked is None:
            return edges, edges
        wanted_R = torch.zeros(len(self.zone), dtype=torch.bool, device=asked.device)
        wanted_R[asked] = True
        last = edges.into(wanted_R)
        wanted_R[last.source] = True
        return edges.into(wanted_R), last

    def zones(self) -> Tensor:
        """(Z, D)."""
        edges = self.edges("zone")
        first, second = self.zone_layers
        return second(first(self.zone_id.weight, edges).relu(), edges)


class Navigator(nn.Module):
    """logit = v · tanh(W_q [trip, destination zone] + W_k [candidate, distance, angle]); W_q, W_k, v without bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.distance = nn.Linear(1, width)
        self.angle = nn.Linear(1, width)
        self.query = nn.Linear(3 * width, width, bias=False)
        self.key = nn.Linear(3 * width, width, bias=False)
        self.value = nn.Linear(width, 1, bias=False)

    def forward(
        self,
        trip_BPD: Tensor,
        destination_BD: Tensor,
        candidate_BPKD: Tensor,
        distance_BPK: Tensor,
        angle_BPK: Tensor,
    ) -> Tensor:
        destination_BPD = destination_BD[:, None].expand(-1, trip_BPD.shape[1], -1)
        query_BPD = self.query(torch.cat([trip_BPD, destination_BPD], dim=-1))
        metrics = [self.distance(distance_BPK[..., None]), self.angle(angle_BPK[..., None])]
        key_BPKD = self.key(torch.cat([candidate_BPKD, *metrics], dim=-1))
        return self.value((query_BPD[:, :, None] + key_BPKD).tanh())[..., 0]


class TimeHead(nn.Module):
    """Standardised log1p(seconds) of each candidate: Linear(GELU([Linear(trip), Linear(candidate)]))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.trip = nn.Linear(2 * width, width // 2)
        self.candidate = nn.Linear(width, width // 2)
        self.out = nn.Linear(2 * (width // 2), 1)

    def forward(self, trip_BPD: Tensor, candidate_BPKD: Tensor) -> Tensor:
        trip_BPKD = self.trip(trip_BPD)[:, :, None].expand(-1, -1, candidate_BPKD.shape[2], -1)
        return self.out(F.gelu(torch.cat([trip_BPKD, self.candidate(candidate_BPKD)], dim=-1)))[..., 0]


def _two_layers(inputs: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, 1))


def _edges(ends: NDArray[np.int64], values: NDArray[np.float32]) -> Edges:
    source, target = torch.tensor(ends)
    return Edges(source, target, torch.tensor(values))
