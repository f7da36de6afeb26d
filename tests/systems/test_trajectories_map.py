"""The road map, its graphs, its zones and its grid, on a crossing that can be worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from trajectories_files import CROSSING, crossing_map, opened, trip, write_crossing, write_map

from kdexp.errors import ConfigError
from kdexp.systems.trajectories.geometry import EARTH_RADIUS, great_circle, surface_points
from kdexp.systems.trajectories.grid import Grid, build_grid
from kdexp.systems.trajectories.mapfiles import read_roads
from kdexp.systems.trajectories.partition import ZoneOptions, balanced_zones
from kdexp.systems.trajectories.roadmap import MoveIndex, RoadMap, build_road_map, with_zones


@pytest.fixture
def road_map(tmp_path: Path) -> RoadMap:
    return crossing_map(tmp_path)


def successors(road_map: RoadMap, road: int) -> list[int]:
    return road_map.successor[road_map.successor_start[road] : road_map.successor_start[road + 1]].tolist()


def haversine(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Metres, by the textbook."""
    (lon, lat), (to_lon, to_lat) = (map(math.radians, place) for place in (one, other))
    h = math.sin((to_lat - lat) / 2) ** 2 + math.cos(lat) * math.cos(to_lat) * math.sin((to_lon - lon) / 2) ** 2
    return 2 * EARTH_RADIUS * math.asin(math.sqrt(h))


def test_successors_are_in_file_order(road_map: RoadMap) -> None:
    assert [successors(road_map, road) for road in range(6)] == [[3, 1, 2, 5], [4], [], [], [], [1, 2]]
    assert road_map.out_degree.tolist() == [4, 1, 0, 0, 0, 2]


def test_moves_are_found_where_they_are(road_map: RoadMap) -> None:
    found = MoveIndex(road_map).find(np.array([0, 0, 1, 5, 4]), np.array([2, 4, 4, 2, 5]))
    assert found.tolist() == [2, -1, 4, 6, -1]


@pytest.mark.parametrize("places", [((10, 60), (10.5, 60.2)), ((-8.6, 41.1), (-8.6, 41.1)), ((116, 40), (100, -20))])
def test_the_great_circle_is_the_haversine_formula(places) -> None:
    lon, lat = np.array(places, dtype=float).T
    one, other = surface_points(lon, lat)
    assert great_circle(one, other) == pytest.approx(haversine(*places), abs=1e-3)


def test_a_centroid_is_weighed_by_length(tmp_path: Path) -> None:
    """Two segments of one and three parts of the way; their middles are at 0.5 and 2.5 parts."""
    write_map(tmp_path, roads=[[(10, 0), (10, 0.001), (10, 0.004)], [(10, 1), (10, 1)]], moves=[(0, 1)])
    made = build_road_map(read_roads(tmp_path)[0])
    assert made.centroid_lat[0] == pytest.approx((1 * 0.0005 + 3 * 0.0025) / 4)
    # A polyline without length has its first vertex.
    assert (made.centroid_lon[1], made.centroid_lat[1]) == (10, 1)


def test_scalars_have_mean_0_and_deviation_1(road_map: RoadMap) -> None:
    logs = np.log1p([100, 200, 300, 400, 500, 600])
    assert road_map.length_scaled == pytest.approx((logs - logs.mean()) / logs.std(), abs=1e-6)
    for values in (road_map.lon_scaled, road_map.lat_scaled):
        assert values.dtype == np.float32
        assert (values.mean(), values.std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1))


def test_roads_that_share_an_end_vertex_are_joined_both_ways(road_map: RoadMap) -> None:
    """By hand: 0, 1, 2, 3, 5 meet at the crossing, and 1 and 4 in the east."""
    at_crossing = [0, 1, 2, 3, 5]
    pairs = {(a, b) for a in at_crossing for b in at_crossing if a != b} | {(1, 4), (4, 1)}
    assert set(zip(*road_map.edges.tolist(), strict=True)) == pairs
    assert road_map.edges.shape == (2, len(pairs))


def test_an_edge_knows_the_angle_of_the_chords_and_what_may_be_driven(road_map: RoadMap) -> None:
    features = {
        pair: road_map.edge_features[k].tolist() for k, pair in enumerate(zip(*road_map.edges.tolist(), strict=True))
    }
    assert features[0, 1] == pytest.approx([0.0, 1.0])  # straight on
    assert features[1, 0] == pytest.approx([0.0, 0.0])
    assert features[0, 2] == pytest.approx([0.5, 1.0])
    assert features[0, 3] == pytest.approx([0.5, 1.0])
    assert features[2, 3] == pytest.approx([1.0, 0.0])
    assert features[1, 4] == pytest.approx([0.5, 1.0])


def test_a_loop_road_is_told(road_map: RoadMap) -> None:
    assert road_map.loops.tolist() == [False] * 5 + [True]


def test_the_fingerprint_is_that_of_roads_and_moves(tmp_path: Path) -> None:
    one = crossing_map(tmp_path / "one")
    write_map(tmp_path / "moves", moves=[(0, 1), (0, 3), (1, 4), (0, 2), (0, 5), (5, 1), (5, 2)])
    write_map(tmp_path / "bent", roads=[*CROSSING[:5], [*CROSSING[5][:1], (10.001, 59.9994), *CROSSING[5][2:]]])
    others = [build_road_map(read_roads(tmp_path / name)[0]) for name in ("moves", "bent")]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 3
    assert crossing_map(tmp_path / "two").fingerprint == one.fingerprint
    zoned = with_zones(one, np.array([0, 1, 0, 1, 0, 1]), np.array([[0, 2], [1, 0]]))
    assert zoned.fingerprint == one.fingerprint


def test_zone_weights_by_hand(road_map: RoadMap) -> None:
    """Row sums 5, 4 and 0, which counts as 1."""
    changes = np.array([[0, 3, 2], [4, 0, 0], [0, 0, 0]])
    zoned = with_zones(road_map, np.array([0, 1, 2, 0, 1, 2]), changes)
    assert zoned.zone_edges.tolist() == [[0, 0, 1], [1, 2, 0]]
    assert zoned.zone_weights == pytest.approx([3 / math.sqrt(20), 2 / math.sqrt(5), 4 / math.sqrt(20)])
    assert zoned.n_zones == 3


def test_zone_changes_are_counted_in_train(tmp_path: Path) -> None:
    """Zones are 0 1 0 1 0 1 by road. Train: 0-1-4 passes 0>1 and 1>0; 0-5-2 passes 0>1 and 1>0; 0-2 stays."""
    train = [trip("a", [0, 1, 4]), trip("b", [0, 5, 2]), trip("c", [0, 2])]
    root = write_crossing(tmp_path / "porto", train=train, test=[trip("d", [0, 3])])
    road_map = opened(root).model_arguments()["road_map"]
    assert road_map.zone.tolist() == [0, 1, 0, 1, 0, 1]
    assert road_map.zone_edges.tolist() == [[0, 1], [1, 0]]
    assert road_map.zone_weights == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(("n_roads", "n_zones"), [(200, 7), (35, 35), (50, 1), (97, 12)])
def test_built_in_zones_are_balanced_and_the_same_again(n_roads: int, n_zones: int) -> None:
    lon, lat = np.random.default_rng(1).uniform(0, 0.1, (2, n_roads))
    zone = balanced_zones(lon, lat, n_zones)
    sizes = np.bincount(zone, minlength=n_zones)
    assert len(sizes) == n_zones and sizes.min() >= n_roads // n_zones and sizes.max() <= -(-n_roads // n_zones)
    assert np.array_equal(zone, balanced_zones(lon, lat, n_zones))


def test_built_in_zones_keep_clusters_together() -> None:
    centres = np.array([[0, 0], [1, 0.1], [0.1, 1], [1.1, 1.2]])
    random = np.random.default_rng(2)
    place = np.repeat(centres, 10, axis=0) + random.normal(0, 0.02, (40, 2))
    order = random.permutation(40)
    zone = balanced_zones(*place[order].T, 4)
    groups = [set(zone[order // 10 == k].tolist()) for k in range(4)]
    assert all(len(group) == 1 for group in groups) and len(set.union(*groups)) == 4


def test_zones_can_be_built_in_and_not_more_than_roads(tmp_path: Path) -> None:
    root = write_crossing(tmp_path / "porto")
    (root / "road_network_partition").unlink()
    made = opened(root, zones=ZoneOptions(source="built_in", count=3)).model_arguments()["road_map"]
    assert sorted(made.zone.tolist()) == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ConfigError, match=r"dataset\.zones\.count"):
        opened(root, zones=ZoneOptions(source="built_in", count=7))


def test_the_grid_by_hand(road_map: RoadMap) -> None:
    """Vertices span 9.98 to 10.02 and 59.99 to 60.01: of 0.0045 degrees, 5 rows and 9 columns."""
    grid = build_grid(road_map, 0.0045)
    assert (grid.min_lon, grid.min_lat) == (9.98, 59.99)
    assert (grid.n_rows, grid.n_columns) == (5, 9)
    assert (grid.pad, grid.eot, grid.sot, grid.vocabulary) == (45, 46, 47, 48)
    # Centroids lie at (9.99, 60), (10.01, 60), (10, 60.005), (10, 59.995) and (10.02, 60.005).
    assert grid.cell_of_road[:5].tolist() == [20, 24, 31, 13, 35]
    assert grid.road_map_fingerprint == road_map.fingerprint


def test_a_coarser_grid_merges_cells(road_map: RoadMap) -> None:
    fine, coarse = build_grid(road_map, 0.0045), build_grid(road_map, 0.0045, downsample=4)
    assert (coarse.n_rows, coarse.n_columns) == (1, 2)
    # What is left over at the far edges falls into the last column.
    columns = np.minimum(fine.cell_of_road % fine.n_columns // 4, 1)
    assert coarse.cell_of_road.tolist() == columns.tolist()


def test_a_grid_survives_as_plain_values(road_map: RoadMap) -> None:
    grid = build_grid(road_map, 0.001)
    back = Grid.from_dict(json.loads(json.dumps(grid.as_dict())))
    assert back.as_dict() == grid.as_dict()
    assert back.cell_of_road.dtype == np.int64
