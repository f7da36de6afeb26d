"""Taxi trips through the synthetic city: where from, where to, when, which way, and how long each road takes."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdexp.contracts import ProgressReport
from kdexp.systems.trajectories.city_streets import Street
from kdexp.systems.trajectories.geometry import bearing

_METRES_A_SECOND = {"primary": 14.0, "secondary": 10.0, "residential": 6.5}
_RUSH_HOURS, _RUSH = (8.3, 18.2), 0.8
_LEFT_SECONDS, _RIGHT_SECONDS = 9.0, 4.0
_TURN = np.pi / 4
_STEP_NOISE = 0.15
_LEAST_ROADS, _MOST_ROADS = 5, 40
_FIRST_DAY = 1_574_640_000
"""Monday 2019-11-25, seconds since 1970."""
_DAYS, _DRIVERS, _HUBS = 14, 50, 8
_FROM_HUB = 0.25
_MIDNIGHT_EVERY = 20
"""Every so many trips, one starts half a minute before midnight."""
_REPORT_EVERY = 200

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Trip:
    """Roads in order, and when each is entered, in seconds since 1970."""

    driver: int
    roads: list[int]
    times: list[int]


@dataclass(frozen=True, kw_only=True)
class _Traffic:
    """What driving costs: `seconds` (R,) along each road when streets are empty; of every move the penalty."""

    seconds: Floats
    onward: list[list[tuple[int, float]]]

    def penalty(self, road: int, following: int) -> float:
        return next(seconds for after, seconds in self.onward[road] if after == following)


def drive(
    streets: Sequence[Street],
    moves: Sequence[Sequence[int]],
    n_trips: int,
    route_noise: float,
    random: np.random.Generator,
    progress: ProgressReport | None = None,
) -> list[Trip]:
    """So many trips of 5 to 40 roads, in random order, over two weeks.

    Origins are hubs in one trip of four, else drawn from weights of the roads; so are destinations. The way is the
    shortest by time, with a driver's own noise on every road.
    """
    traffic = _traffic(streets, moves)
    weights = [random.dirichlet(np.ones(len(streets))) for _ in range(2)]
    hubs = random.choice(len(streets), _HUBS, replace=False)
    trips: list[Trip] = []
    while len(trips) < n_trips:
        origin, destination = (_end(weight, hubs, random) for weight in weights)
        start = _start(random, at_midnight=len(trips) % _MIDNIGHT_EVERY == 0)
        seconds = traffic.seconds * _rush(start)
        noise = np.exp(random.normal(0, route_noise, len(streets)))
        roads = _way(origin, destination, (seconds * noise).tolist(), traffic.onward)
        if roads is None or not _LEAST_ROADS <= len(roads) <= _MOST_ROADS:
            continue
        times = _times(start, roads, seconds, traffic, random)
        trips.append(Trip(driver=int(random.integers(_DRIVERS)), roads=roads, times=times))
        if progress is not None and (len(trips) % _REPORT_EVERY == 0 or len(trips) == n_trips):
            progress("generate trips", len(trips), n_trips)
    return trips


def _traffic(streets: Sequence[Street], moves: Sequence[Sequence[int]]) -> _Traffic:
    begin = [_bearing(street.vertices[0], street.vertices[1]) for street in streets]
    end = [_bearing(street.vertices[-2], street.vertices[-1]) for street in streets]
    onward = [[(after, _penalty(begin[after] - end[road])) for after in moves[road]] for road in range(len(streets))]
    seconds = np.array([street.length / _METRES_A_SECOND[street.kind] for street in streets])
    return _Traffic(seconds=seconds, onward=onward)


def _bearing(start: tuple[float, float], end: tuple[float, float]) -> float:
    return float(bearing(*np.array(start), *np.array(end)))


def _penalty(turn: float) -> float:
    """Seconds lost in a turn, whose angle grows to the left; turning round counts as left."""
    to_left = (turn + _TURN) % (2 * np.pi) - _TURN
    if to_left <= _TURN:
        return 0.0
    return _LEFT_SECONDS if to_left <= np.pi + _TURN / 2 else _RIGHT_SECONDS


def _end(weight: Floats, hubs: NDArray[np.int64], random: np.random.Generator) -> int:
    """The first or the last road of a trip."""
    if random.random() < _FROM_HUB:
        return int(random.choice(hubs))
    return int(random.choice(len(weight), p=weight))


def _start(random: np.random.Generator, *, at_midnight: bool) -> int:
    """Half of all trips start around the rush hours, the others at any time of day."""
    day = _FIRST_DAY + 86_400 * int(random.integers(_DAYS))
    if at_midnight:
        return day + 86_400 - 30
    hour = random.uniform(0, 24) if random.random() < 0.5 else random.normal(random.choice(_RUSH_HOURS), 1.5) % 24
    return day + int(hour * 3600)


def _rush(start: int) -> float:
    """How much slower traffic is: 1.8 at most, on weekdays."""
    day, second = divmod(start - _FIRST_DAY, 86_400)
    if day % 7 >= 5:
        return 1.0
    return 1 + _RUSH * max(float(np.exp(-(((second / 3600 - hour) / 1.2) ** 2))) for hour in _RUSH_HOURS)


def _way(
    origin: int, destination: int, seconds: Sequence[float], onward: Sequence[Sequence[tuple[int, float]]]
) -> list[int] | None:
    """The roads of the shortest way by time (Dijkstra); None where there is none."""
    best, before, done = {origin: 0.0}, {origin: origin}, set()
    queue = [(0.0, origin)]
    while queue:
        so_far, road = heapq.heappop(queue)
        if road == destination:
            return _back(destination, origin, before)
        if road in done:
            continue
        done.add(road)
        for after, penalty in onward[road]:
            cost = so_far + seconds[after] + penalty
            if cost < best.get(after, np.inf):
                best[after], before[after] = cost, road
                heapq.heappush(queue, (cost, after))
    return None


def _back(destination: int, origin: int, before: dict[int, int]) -> list[int]:
    roads = [destination]
    while roads[-1] != origin:
        roads.append(before[roads[-1]])
    return roads[::-1]


def _times(
    start: int, roads: Sequence[int], seconds: Floats, traffic: _Traffic, random: np.random.Generator
) -> list[int]:
    """Each road takes its time, with noise, and the turn that ends it; whole seconds, one at least."""
    noise = np.exp(random.normal(0, _STEP_NOISE, len(roads)))
    times = [start]
    for place in range(len(roads) - 1):
        road = roads[place]
        taken = seconds[road] * noise[place] + traffic.penalty(road, roads[place + 1])
        times.append(times[-1] + max(round(float(taken)), 1))
    return times
