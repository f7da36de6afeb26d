"""Two layers over graphs: GATv2 (Brody, Alon and Yahav, arXiv:2105.14491) and GCN (Kipf and Welling, arXiv:1609.02907).

Shape suffixes: N nodes, E edges, F edge features, D width. An edge runs from its source into its target.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SLOPE = 0.2  # of the leaky ReLU in GATv2


class Edges(NamedTuple):
    """A graph's edges: source (E,), target (E,), and what they carry, `values` (E, F) or (E,)."""

    source: Tensor
    target: Tensor
    values: Tensor

    def into(self, wanted_N: Tensor) -> Edges:
        """The edges whose target is wanted, by a mask of nodes."""
        kept_E = wanted_N[self.target]
        return Edges(self.source[kept_E], self.target[kept_E], self.values[kept_E])


def with_mean_loops(edges: Edges, n_nodes: int) -> Edges:
    """The same edges and a loop at every node, which carries the mean of what comes into the node (0 where nothing
    does)."""
    n_into = torch.bincount(edges.target, minlength=n_nodes).clamp(min=1)
    sums = edges.values.new_zeros(n_nodes, edges.values.shape[1]).index_add(0, edges.target, edges.values)
    return _with_loops(edges, sums / n_into[:, None])


def normalized(edges: Edges, n_nodes: int) -> Edges:
    """The same edges and a loop of weight 1 at every node, each weight w_ij divided by sqrt(deg_i · deg_j), where deg
    is the sum of the weights into a node."""
    looped = _with_loops(edges, edges.values.new_ones(n_nodes))
    degree_N = edges.values.new_zeros(n_nodes).index_add(0, looped.target, looped.values)
    scale_N = degree_N.rsqrt()
    return looped._replace(values=scale_N[looped.source] * looped.values * scale_N[looped.target])


def _with_loops(edges: Edges, values_N: Tensor) -> Edges:
    nodes = torch.arange(len(values_N), device=edges.source.device)
    return Edges(
        torch.cat([edges.source, nodes]), torch.cat([edges.target, nodes]), torch.cat([edges.values, values_N])
    )


class GraphAttention(nn.Module):
    """GATv2 with one head: l = W_l x, r = W_r x, score = a · LeakyReLU(l_source + r_target + W_e values), a softmax
    over the edges into each target, out = Σ α l_source + b. Nodes (N, D) -> (N, D); a node without edges gets b."""

    def __init__(self, width: int, *, edge_width: int) -> None:
        super().__init__()
        self.source = nn.Linear(width, width)
        self.target = nn.Linear(width, width)
        self.edge = nn.Linear(edge_width, width, bias=False)
        self.attention = nn.Parameter(torch.empty(1, width))
        self.bias = nn.Parameter(torch.zeros(width))
        for weight in (self.source.weight, self.target.weight, self.edge.weight, self.attention):
            nn.init.xavier_uniform_(weight)
        for bias in (self.source.bias, self.target.bias):
            nn.init.zeros_(bias)

    def forward(self, nodes_ND: Tensor, edges: Edges) -> Tensor:
        # F.embedding rather than indexing: its backward pass adds rows up several times faster.
        source_ED = F.embedding(edges.source, self.source(nodes_ND))
        target_ED = F.embedding(edges.target, self.target(nodes_ND))
        hidden_ED = F.leaky_relu(source_ED + target_ED + self.edge(edges.values), _SLOPE)
        weight_E = softmax_by_target(hidden_ED @ self.attention[0], edges.target, len(nodes_ND))
        sums_ND = torch.zeros_like(nodes_ND).index_add(0, edges.target, weight_E[:, None] * source_ED)
        return sums_ND + self.bias


def softmax_by_target(score_E: Tensor, target: Tensor, n_nodes: int) -> Tensor:
    """A softmax of the scores among the edges into the same node: (E,) -> (E,)."""
    highest_N = score_E.new_full((n_nodes,), -torch.inf).scatter_reduce(0, target, score_E.detach(), "amax")
    raised_E = (score_E - highest_N[target]).exp()
    return raised_E / score_E.new_zeros(n_nodes).index_add(0, target, raised_E)[target]


class GraphConvolution(nn.Module):
    """GCN over edges with weights from `normalized`: out = Σ w W x_source + b. Nodes (N, D) -> (N, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.xavier_uniform_(self.linear.weight)

    def forward(self, nodes_ND: Tensor, edges: Edges) -> Tensor:
        sources_ED = F.embedding(edges.source, self.linear(nodes_ND))
        return torch.zeros_like(nodes_ND).index_add(0, edges.target, edges.values[:, None] * sources_ED) + self.bias
