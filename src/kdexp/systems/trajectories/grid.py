"""The grid of cells over a road map: what the teacher reads instead of roads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray

from kdexp.systems.trajectories.roadmap import RoadMap


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """How wide a cell is, and how many rows and columns of cells are merged into one."""

    size_degrees: Annotated[float, Gt(0)] = 0.001
    downsample: Annotated[int, Ge(1)] = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """Square cells of `size_degrees`, the first corner at the least latitude and longitude of all road vertices.

    A cell's number is row * n_columns + column, rows counted to the north; `cell_of_road` (R,) int64 tells each road's.
    """

    min_lat: float
    min_lon: float
    size_degrees: float
    downsample: int
    n_rows: int
    n_columns: int
    cell_of_road: NDArray[np.int64]
    road_map_fingerprint: str

    @property
    def pad(self) -> int:
        """The token after the end of a short trip."""
        return self.n_rows * self.n_columns

    @property
    def eot(self) -> int:
        """The token that ends a trip."""
        return self.pad + 1

    @property
    def sot(self) -> int:
        """The token that starts a trip."""
        return self.pad + 2

    @property
    def vocabulary(self) -> int:
        """Cells and the three tokens."""
        return self.pad + 3

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text, for a checkpoint."""
        return {**asdict(self), "cell_of_road": self.cell_of_road.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Grid:
        """The grid that `as_dict` described."""
        return cls(**{**values, "cell_of_road": np.array(values["cell_of_road"], dtype=np.int64)})


def build_grid(road_map: RoadMap, size_degrees: float, downsample: int = 1) -> Grid:
    """Cells over all road vertices; a road lies in the cell of its centroid.

    `downsample` merges that many rows and columns into one; what is left over at the far edges falls into the last.
    """
    lon, lat = road_map.vertex_lon, road_map.vertex_lat
    min_lon, min_lat = float(lon.min()), float(lat.min())
    n_rows = max((int((lat.max() - min_lat) / size_degrees) + 1) // downsample, 1)
    n_columns = max((int((lon.max() - min_lon) / size_degrees) + 1) // downsample, 1)
    row = _cells(road_map.centroid_lat, min_lat, size_degrees) // downsample
    column = _cells(road_map.centroid_lon, min_lon, size_degrees) // downsample
    return Grid(
        min_lat=min_lat,
        min_lon=min_lon,
        size_degrees=size_degrees,
        downsample=downsample,
        n_rows=n_rows,
        n_columns=n_columns,
        cell_of_road=row.clip(0, n_rows - 1) * n_columns + column.clip(0, n_columns - 1),
        road_map_fingerprint=road_map.fingerprint,
    )


def _cells(degrees: NDArray[np.float64], least: float, size_degrees: float) -> NDArray[np.int64]:
    return np.floor((degrees - least) / size_degrees).astype(np.int64)
