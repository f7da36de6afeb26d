"""What LM-TAD was made for: a trip is an outlier where its log-perplexity is high. Made-up outliers measure it.

Shape suffixes: N trips, T cells of the longest trip.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdexp.systems.trajectories.grid import Grid
from kdexp.systems.trajectories.models.lm_tad import LmTad

OutlierKind = Literal["route_switch", "detour"]
_DIRECTIONS = ((0, 1), (1, 0), (-1, 0), (0, -1), (1, 1), (-1, -1), (-1, 1), (1, -1))
_BATCH = 256


def route_switch(
    cells_NT: Tensor, length_N: Tensor, grid: Grid, *, level: int, probability: float, generator: torch.Generator
) -> Tensor:
    """Each cell but a trip's first and last moves with this probability by `level` cells in one of eight directions;
    it stays where that leads off the grid. `length_N` are decisions: a trip has one cell more."""
    directions_NT2 = torch.tensor(_DIRECTIONS)[torch.randint(len(_DIRECTIONS), cells_NT.shape, generator=generator)]
    drawn_NT = torch.rand(cells_NT.shape, generator=generator) < probability
    place_T = torch.arange(cells_NT.shape[1])
    inner_NT = (place_T > 0) & (place_T < length_N[:, None])
    return cells_NT.where(~(drawn_NT & inner_NT), _moved(cells_NT, directions_NT2 * level, grid))


def detour(
    cells_NT: Tensor, length_N: Tensor, grid: Grid, *, level: int, probability: float, generator: torch.Generator
) -> Tensor:
    """A run of this share of a trip's inner cells, at least one, moves aside by `level` cells: in the direction from
    the run's end to its start, one axis of it turned around. A cell that would leave the grid stays."""
    inner_N = length_N - 1
    run_N = (inner_N * probability).long().clamp(min=1).minimum(inner_N)
    room_N = (length_N - run_N - 1).clamp(min=1)
    start_N = 1 + (torch.rand(len(cells_NT), generator=generator) * room_N).long()
    row_N, column_N = _row_and_column(cells_NT, grid)
    ends_N2 = torch.stack([start_N, start_N + run_N], dim=1)
    back_N2 = torch.stack([-axis.gather(1, ends_N2).diff(dim=1)[:, 0].sign() for axis in (row_N, column_N)], dim=1)
    turned_N = torch.randint(2, (len(cells_NT), 1), generator=generator)
    aside_N2 = back_N2 * torch.where(torch.arange(2) == turned_N, -1, 1)
    place_T = torch.arange(cells_NT.shape[1])
    run_NT = (place_T >= start_N[:, None]) & (place_T < (start_N + run_N)[:, None])
    return cells_NT.where(~run_NT, _moved(cells_NT, (aside_N2 * level)[:, None], grid))


def _row_and_column(cells: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    return cells.div(grid.n_columns, rounding_mode="floor"), cells % grid.n_columns


def _moved(cells: Tensor, offset: Tensor, grid: Grid) -> Tensor:
    """Cells moved by `offset` (..., 2) rows and columns; where that leads off the grid, as they were."""
    row, column = _row_and_column(cells, grid)
    row, column = row + offset[..., 0], column + offset[..., 1]
    inside = (row >= 0) & (row < grid.n_rows) & (column >= 0) & (column < grid.n_columns)
    return torch.where(inside, row * grid.n_columns + column, cells)


@torch.no_grad()
def log_perplexity(model: LmTad, cells_NT: Tensor, length_N: Tensor) -> NDArray[np.float64]:
    """(N,): each trip's mean negative log-likelihood per token, EOT included, with the model in eval mode."""
    model.eval()
    place = model.cell.weight.device
    batches = zip(cells_NT.split(_BATCH), length_N.split(_BATCH), strict=True)
    return torch.cat([model.nll(c.to(place), n.to(place)).cpu() for c, n in batches]).double().numpy()


def threshold(normal_N: NDArray[np.float64]) -> float:
    """Above this a trip is an outlier: mean + 3 · standard deviation of normal trips' log-perplexity."""
    return float(normal_N.mean() + 3 * normal_N.std())


def average_precision(scores_N: NDArray[np.float64], is_outlier_N: NDArray[np.bool_]) -> float:
    """The area under the precision-recall curve as Σ (R_i - R_{i-1}) P_i over the distinct scores, highest first."""
    order = np.argsort(-scores_N, kind="stable")
    found = is_outlier_N[order].cumsum()
    last_of_score = np.append(np.diff(scores_N[order]) != 0, True)
    precision = (found / np.arange(1, len(found) + 1))[last_of_score]
    recall = found[last_of_score] / is_outlier_N.sum()
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def outlier_report(
    model: LmTad,
    cells_NT: Tensor,
    length_N: Tensor,
    *,
    kind: OutlierKind,
    generator: torch.Generator,
    ratio: float = 0.05,
    level: int = 3,
    probability: float = 0.1,
) -> dict[str, float]:
    """How well the model tells N normal trips from outliers made of `ratio` of them, drawn at random: mean and
    standard deviation of the normal log-perplexity, the threshold, and F1, precision, recall and PR-AUC of outliers.

    Raises ValueError for an unknown kind or where `ratio` leaves no trip.
    """
    makers = {"route_switch": route_switch, "detour": detour}
    if kind not in makers:
        raise ValueError(f"kind must be one of {list(makers)}, got {kind=}")
    chosen = torch.randperm(len(cells_NT), generator=generator)[: round(ratio * len(cells_NT))]
    if not len(chosen):
        raise ValueError(f"no outlier can be made of {len(cells_NT)} trips with {ratio=}; raise it")
    made = makers[kind](
        cells_NT[chosen], length_N[chosen], model.grid, level=level, probability=probability, generator=generator
    )
    normal = log_perplexity(model, cells_NT, length_N)
    scores = np.concatenate([normal, log_perplexity(model, made, length_N[chosen])])
    is_outlier = np.arange(len(scores)) >= len(normal)
    limit = threshold(normal)
    flagged = scores > limit
    hits = float((flagged & is_outlier).sum())
    precision, recall = hits / max(flagged.sum(), 1), hits / len(chosen)
    return {
        "normal_mean": float(normal.mean()),
        "normal_std": float(normal.std()),
        "threshold": limit,
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, 1e-12),
        "pr_auc": average_precision(scores, is_outlier),
    }
