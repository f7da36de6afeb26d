from __future__ import annotations

import numpy as np
import pytest
import torch
from trajectories_helpers import batch_of, grid_of, lattice, walks

from kdexp.systems.trajectories.grid import Grid
from kdexp.systems.trajectories.models.lm_tad import LmTad
from kdexp.systems.trajectories.models.outliers import (
    average_precision,
    detour,
    log_perplexity,
    outlier_report,
    route_switch,
    threshold,
)

MAP = lattice(side=8)
GRID = grid_of(MAP)


def make_trips(n: int, length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    batch = batch_of(MAP, GRID, walks(MAP, [length] * n, seed), positions=length + 2)
    return batch.teacher["cells"], batch.teacher["length"]


def places(cells: torch.Tensor, grid: Grid) -> torch.Tensor:
    return torch.stack([cells // grid.n_columns, cells % grid.n_columns], dim=-1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_route_switch_moves_inner_cells_by_the_level() -> None:
    cells, length = make_trips(200, 12)
    made = route_switch(cells, length, GRID, level=3, probability=0.1, generator=generator())
    moved = made != cells
    assert not moved[:, 0].any() and not moved[:, 12:].any()
    steps = (places(made, GRID) - places(cells, GRID))[moved].abs()
    assert set(steps.unique().tolist()) == {0, 3} and (steps.max(dim=1).values == 3).all()
    # Cells near an edge often stay, so fewer than a tenth of the inner ones move.
    assert 0.03 < moved[:, 1:12].float().mean() <= 0.1


def test_all_eight_directions_come_up() -> None:
    cells, length = make_trips(200, 12)
    made = route_switch(cells, length, GRID, level=1, probability=1.0, generator=generator())
    steps = (places(made, GRID) - places(cells, GRID))[:, 1:12].reshape(-1, 2)
    found = {tuple(step) for step in steps.tolist()} - {(0, 0)}
    assert len(found) == 8


def test_a_route_switch_that_never_comes_leaves_the_trips() -> None:
    cells, length = make_trips(20, 6)
    assert torch.equal(route_switch(cells, length, GRID, level=3, probability=0.0, generator=generator()), cells)


def test_a_detour_moves_one_run_aside() -> None:
    cells, length = make_trips(200, 21)
    made = detour(cells, length, GRID, level=2, probability=0.25, generator=generator())
    moved = made != cells
    assert not moved[:, 0].any() and not moved[:, 21:].any()
    assert moved.any(dim=1).float().mean() > 0.5
    # A quarter of 20 inner cells, in one run.
    for row in moved[moved.any(dim=1)]:
        there = row.nonzero()[:, 0]
        assert there.max() - there.min() < 5
    steps = (places(made, GRID) - places(cells, GRID))[moved].abs()
    assert set(steps.unique().tolist()) <= {0, 2}
    # All cells of a run move the same way, as far as the grid goes.
    for before, after in zip(cells, made, strict=True):
        ways = (places(after, GRID) - places(before, GRID))[after != before]
        assert len(ways.unique(dim=0)) <= 1


def test_the_shortest_trips_come_through() -> None:
    for length in (1, 2, 3):
        cells, n = make_trips(30, length)
        for make in (route_switch, detour):
            made = make(cells, n, GRID, level=1, probability=0.1, generator=generator())
            assert torch.equal(made[:, 0], cells[:, 0]) and torch.equal(made[:, length:], cells[:, length:])


def test_outliers_are_drawn_from_the_seed() -> None:
    cells, length = make_trips(50, 12)
    for make in (route_switch, detour):
        one, two, other = (
            make(cells, length, GRID, level=2, probability=0.3, generator=generator(seed)) for seed in (0, 0, 1)
        )
        assert torch.equal(one, two) and not torch.equal(one, other)


def test_the_limit_is_the_mean_and_three_deviations() -> None:
    assert threshold(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(2.5 + 3 * 1.25**0.5)


@pytest.mark.parametrize(
    ("scores", "outliers", "expected"),
    [
        ([4.0, 3.0, 2.0, 1.0], [1, 1, 0, 0], 1.0),
        ([4.0, 3.0, 2.0, 1.0], [0, 0, 1, 1], (1 / 3 + 2 / 4) / 2),
        ([4.0, 3.0, 2.0, 1.0], [1, 0, 1, 0], (1 + 2 / 3) / 2),
        # All the same: as good as guessing.
        ([1.0, 1.0, 1.0, 1.0], [0, 1, 0, 0], 0.25),
    ],
)
def test_average_precision_by_hand(scores: list[float], outliers: list[int], expected: float) -> None:
    assert average_precision(np.array(scores), np.array(outliers, dtype=bool)) == pytest.approx(expected)


def trained_model() -> LmTad:
    """Knows that a trip goes along the lattice's first row, over and over."""
    torch.manual_seed(0)
    model = LmTad(grid=GRID, width=32, layers=1, heads=2, positions=32, dropout=0.0)
    cells, length = straight_trips()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        model.nll(cells, length).mean().backward()
        optimizer.step()
    return model


def straight_trips() -> tuple[torch.Tensor, torch.Tensor]:
    starts = torch.arange(4).repeat(10)
    rows = torch.arange(10).repeat_interleave(4)
    cells = (rows[:, None] * GRID.n_columns) + starts[:, None] + torch.arange(11)
    return cells, torch.full((40,), 10)


def test_moved_trips_are_told_from_normal_ones() -> None:
    model, (cells, length) = trained_model(), straight_trips()
    normal = log_perplexity(model, cells, length)
    assert not model.training and normal.shape == (40,)
    np.testing.assert_allclose(normal, model.nll(cells, length).detach().numpy(), rtol=1e-6)
    for kind in ("route_switch", "detour"):
        found = outlier_report(
            model, cells, length, kind=kind, generator=generator(), ratio=0.5, level=3, probability=0.4
        )
        assert found["normal_mean"] == pytest.approx(normal.mean())
        assert found["threshold"] == pytest.approx(threshold(normal))
        assert found["f1"] > 0.8 and found["pr_auc"] > 0.9


def test_an_unknown_kind_and_too_small_a_share_are_refused() -> None:
    model, (cells, length) = LmTad(grid=GRID, width=8, layers=1, heads=1, positions=32), straight_trips()
    with pytest.raises(ValueError, match="kind must be one of"):
        outlier_report(model, cells, length, kind="teleport", generator=generator())
    with pytest.raises(ValueError, match="no outlier can be made of 40 trips"):
        outlier_report(model, cells, length, kind="detour", generator=generator(), ratio=0.001)
