"""Drivers simulated from hidden costs, with errors in their own costs or with limited planning horizons."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxpref.planning.roads import UNREACHABLE, RoadGraph, check_costs
from jaxpref.planning.roads.host import cheapest

__all__ = ["horizon_ways", "perceived_ways", "walk"]


def perceived_ways(
    graph: RoadGraph,
    costs: ArrayLike,
    *,
    trips: int,
    noise: float = 0.3,
    destinations: int | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """Routes of `trips` drivers (arcs): the cheapest path when costs have log-normal factors.

    Every arc has a factor exp(noise z) for every trip, z standard normal: a random-utility (probit-like)
    choice of routes, which none of the planners of `policies.routes` is. So no horizon is the right one by
    construction. Origins and destinations are uniform among pairs of nodes that a path joins.

    Args:
      destinations: number of nodes to go to, drawn first; None: any node.

    Raises:
      ValueError: costs below 0, or no pair of nodes is joined by a path.
    """
    c, generator = check_costs(costs, graph.num_arcs), np.random.default_rng(seed)
    tails, heads = np.asarray(graph.tails), np.asarray(graph.heads)
    n = graph.num_nodes
    ends = np.arange(n) if destinations is None else generator.choice(n, destinations, replace=False)

    def drawn(_: int) -> list[int]:
        start, end = int(generator.integers(n)), int(generator.choice(ends))
        seen = c * np.exp(noise * generator.standard_normal(len(c)))
        arc = cheapest(tails, heads, n, seen, [end])[1]
        return [] if start == end else walk(heads, arc[:, 0], start, end)

    return _enough(trips, drawn)


def horizon_ways(
    graph: RoadGraph,
    costs: ArrayLike,
    *,
    horizons: Sequence[int],
    shares: Sequence[Sequence[float]],
    trips: int,
    per_step: bool = True,
    most: int = 10_000,
    seed: int = 0,
) -> tuple[list[list[int]], NDArray[np.int32]]:
    """Routes of drivers with latent horizons, and the driver of each route: `(routes, drivers)`.

    A driver draws a horizon and an arc by `policies.routes.route_planner`'s policy of that horizon, under
    costs that it knows. Origins and destinations are uniform among pairs of nodes that a path joins. A route
    of more than `most` arcs is drawn again.

    Args:
      horizons: soft steps before the cheapest path, 1 or more.
      shares: of each driver, the probability of each horizon.
      trips: of each driver.
      per_step: draw a horizon for every arc; False: for the whole trip.
    """
    c, mixes = check_costs(costs, graph.num_arcs), np.asarray(shares, np.float64)
    if mixes.ndim != 2 or mixes.shape[1] != len(horizons) or np.abs(mixes.sum(-1) - 1).max() > 1e-6:
        raise ValueError(f"shares: expected a probability for each of {len(horizons)} horizons, got {shares}")
    if min(horizons) < 1:
        raise ValueError(f"horizons: expected 1 or more, got {min(horizons)}")
    generator, heads = np.random.default_rng(seed), np.asarray(graph.heads)
    first = np.searchsorted(np.asarray(graph.tails), np.arange(graph.num_nodes + 1))

    def drawn(number: int) -> list[int]:
        start, end = generator.integers(graph.num_nodes, size=2)
        chances, reached = _soft_choices(graph, c, int(end), horizons)
        share, route, at = mixes[number // trips], [], int(start)
        horizon = generator.choice(len(horizons), p=share)
        while reached[start] and at != end and len(route) < most:
            horizon = generator.choice(len(horizons), p=share) if per_step else horizon
            out = slice(first[at], first[at + 1])
            below = chances[horizon, out].cumsum()
            route.append(int(first[at] + (generator.random() * below[-1] > below).sum()))
            at = int(heads[route[-1]])
        return route if at == end else []

    routes = _enough(trips * len(mixes), drawn)
    return routes, np.repeat(np.arange(len(mixes), dtype=np.int32), trips)


def _enough(trips: int, drawn: Callable[[int], list[int]]) -> list[list[int]]:
    """`trips` routes; `drawn` takes a route's number, and is called again where the route is empty."""
    from tqdm import tqdm

    routes: list[list[int]] = []
    misses = 0
    with tqdm(desc="drivers", total=trips, unit="route", delay=5, mininterval=5) as shown:
        while len(routes) < trips:
            route = drawn(len(routes))
            if route:
                routes.append(route)
                shown.update()
            misses += not route
            if misses > 100 * (len(routes) + 1):
                raise ValueError("drivers: no paths between the nodes drawn; is the graph connected?")
    return routes


def _soft_choices(
    graph: RoadGraph, costs: NDArray[np.float64], end: int, horizons: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Probability of each arc at its tail under each horizon `[h, e]`, and the nodes with a path to `end`.

    In numpy and apart from `planning.roads`, so that the planner is not checked against itself.
    """
    tails, heads, n = np.asarray(graph.tails), np.asarray(graph.heads), graph.num_nodes
    v = cheapest(tails, heads, n, costs, [end])[0][:, 0]
    low, reached, choices = v.min(), v > UNREACHABLE / 2, {}
    for h in range(1, max(horizons) + 1):
        q = v[heads] - costs
        top = np.full(n, low)
        np.maximum.at(top, tails, q)
        weight = np.exp(q - top[tails])
        total = np.bincount(tails, weight, n)
        choices[h] = weight / total[tails]
        v = np.where(reached, top + np.log(np.where(total > 0, total, 1)), UNREACHABLE)
        v[end] = 0
    return np.stack([choices[h] for h in horizons]), reached


def walk(heads: NDArray[np.integer], arc: NDArray[np.integer], start: int, end: int) -> list[int]:
    """Arcs from `start` to `end` by the arc to take at each node; empty if they lead nowhere."""
    route, at = [], start
    while at != end:
        if arc[at] >= len(heads):
            return []
        route.append(int(arc[at]))
        at = int(heads[arc[at]])
    return route
