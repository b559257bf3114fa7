"""Drivers simulated from hidden costs: each takes what seems the cheapest way on that trip."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxpref.planning.roads import RoadGraph, check_costs
from jaxpref.planning.roads.host import cheapest

__all__ = ["perceived_ways", "walk"]


def perceived_ways(
    graph: RoadGraph,
    costs: ArrayLike,
    *,
    trips: int,
    noise: float = 0.3,
    destinations: int | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """Routes of `trips` drivers (arcs): the cheapest way when costs have log-normal factors.

    Every arc has a factor exp(noise z) for every trip, z standard normal: a random-utility (probit-like)
    choice of routes, which none of the planners of `policies.routes` is. So no horizon is the right one by
    construction. Origins and destinations are uniform among nodes that a way joins.

    Args:
      destinations: as many nodes to go to, drawn first; None: any node.

    Raises:
      ValueError: costs below 0, or no pair of nodes is joined by a way.
    """
    from tqdm import tqdm

    c, generator = check_costs(costs, graph.num_arcs), np.random.default_rng(seed)
    tails, heads = np.asarray(graph.tails), np.asarray(graph.heads)
    n = graph.num_nodes
    ends = np.arange(n) if destinations is None else generator.choice(n, destinations, replace=False)
    routes: list[list[int]] = []
    misses = 0
    shown = tqdm(desc="drivers", total=trips, unit="route", delay=5, mininterval=5)
    while len(routes) < trips:
        start, end = int(generator.integers(n)), int(generator.choice(ends))
        seen = c * np.exp(noise * generator.standard_normal(len(c)))
        _, arc = cheapest(tails, heads, n, seen, [end])
        route = [] if start == end else walk(heads, arc[:, 0], start, end)
        if route:
            routes.append(route)
            shown.update()
        misses += not route
        if misses > 100 * (len(routes) + 1):
            raise ValueError("drivers: no ways between the nodes drawn; is the graph connected?")
    shown.close()
    return routes


def walk(heads: NDArray[np.integer], arc: NDArray[np.integer], start: int, end: int) -> list[int]:
    """Arcs from `start` to `end` by the arc to take at each node; empty if they lead nowhere."""
    route, at = [], start
    while at != end:
        if arc[at] >= len(heads):
            return []
        route.append(int(arc[at]))
        at = int(heads[arc[at]])
    return route
