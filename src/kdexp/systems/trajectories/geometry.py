"""Distances and directions on the earth, on arrays of degrees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EARTH_RADIUS = 6_371_008.8
"""Metres, the mean radius."""

Floats = NDArray[np.float64]


def surface_points(lon: Floats, lat: Floats) -> Floats:
    """(..., 3): places on the sphere, metres from its centre."""
    lon, lat = np.radians(lon), np.radians(lat)
    flat = np.cos(lat)
    return EARTH_RADIUS * np.stack([flat * np.cos(lon), flat * np.sin(lon), np.sin(lat)], axis=-1)


def great_circle(one: Floats, other: Floats) -> Floats:
    """Metres along the sphere between surface points (..., 3): the haversine formula, whose root of h is half the
    straight line over the radius."""
    chord = np.sqrt(np.square(one - other).sum(axis=-1))
    return 2 * EARTH_RADIUS * np.arcsin(np.minimum(chord / (2 * EARTH_RADIUS), 1.0))


def bearing(lon: Floats, lat: Floats, to_lon: Floats, to_lat: Floats) -> Floats:
    """Radians in [0, 2π], counted from east to north; 0 where both places are the same."""
    return np.mod(np.arctan2(to_lat - lat, np.cos(np.radians(lat)) * (to_lon - lon)), 2 * np.pi)


def angle_between(one: Floats, other: Floats) -> Floats:
    """The angle between two bearings as a share of π, in [0, 1]."""
    apart = np.abs(one - other)
    return np.where(apart > np.pi, 2 * np.pi - apart, apart) / np.pi


def flat_metres(lon: Floats, lat: Floats) -> Floats:
    """(N, 2): metres east and north of the middle, good for a city."""
    metres_per_degree = np.pi / 180 * EARTH_RADIUS
    east = (lon - lon.mean()) * np.cos(np.radians(lat.mean()))
    return metres_per_degree * np.stack([east, lat - lat.mean()], axis=-1)
