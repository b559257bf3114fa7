"""On the host, by scipy: cheapest paths, and whether a partition function is finite."""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxpref.planning.roads.graph import RoadGraph, check_costs

__all__ = ["DivergentPartition", "cheapest", "check_partition", "spectral_radius"]

_UNREACHABLE = -1e6


class DivergentPartition(ValueError):
    """Costs so small that the sum over all paths, cycles included, is infinite."""

    def __init__(self, radius: float) -> None:
        self.radius = radius
        super().__init__(
            f"costs are too small for a finite partition function: the spectral radius of exp(-cost) "
            f"is {radius:.6g}, expected below 1; raise every cost by more than {max(np.log(radius), 0):.3g}, "
            "scale them up, or plan with a finite horizon"
        )


def cheapest(
    tails: NDArray[np.integer],
    heads: NDArray[np.integer],
    num_nodes: int,
    costs: ArrayLike,
    destinations: ArrayLike,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Minus the cost of the cheapest path to each destination, and its first arc. On the host.

    Between arcs with the same ends, the cheaper and then the lower one.

    Args:
      costs: `[e]`, or `[e, d]` with a column for each destination.

    Returns:
      Values `[n, d]` in the unit of the costs (-1e6 where there is no path), and arcs `[n, d]` (`e`: none).

    Raises:
      ValueError: a cost is below 0 or not finite.

    Example:
      >>> from jaxpref.planning import roads
      >>> v, arc = roads.cheapest(np.array([0, 0, 1]), np.array([1, 2, 2]), 3, [1.0, 3.0, 1.0], [2])
      >>> print(v[:, 0], arc[:, 0])
      [-2.0000 -1.0000 0.0000] [0 2 3]
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import dijkstra

    c, ends = np.asarray(costs, np.float64), np.asarray(destinations)
    if c.ndim == 2 and c.shape[1] > 1:
        parts = [cheapest(tails, heads, num_nodes, c[:, i], ends[i : i + 1]) for i in range(len(ends))]
        return np.concatenate([v for v, _ in parts], 1), np.concatenate([arc for _, arc in parts], 1)
    c = check_costs(c.reshape(-1), len(tails))
    turned = _turned(num_nodes, np.asarray(tails, np.int64).tobytes(), np.asarray(heads, np.int64).tobytes())
    order = turned.order
    if len(turned.first) < len(order):  # the cheaper of arcs with the same ends, then the lower one
        order = order[np.lexsort((order, c[order], turned.keys))][turned.first]
    else:
        order = order[turned.first]
    # scipy takes a stored 0 for no arc in some places: a tiny number stands in.
    weights = csr_array((np.maximum(c[order], 1e-300), tails[order], turned.starts), (num_nodes, num_nodes))
    distance, before = dijkstra(weights, indices=ends, return_predecessors=True)
    at, column = np.nonzero(before.T >= 0)
    wanted = before.T[at, column].astype(np.int64) * num_nodes + at
    arc = np.full((num_nodes, len(ends)), len(tails))
    arc[at, column] = order[np.searchsorted(turned.keys[turned.first], wanted)]
    return np.where(np.isfinite(distance), -distance, _UNREACHABLE).T, arc


class _Turned(NamedTuple):
    """The reversed graph in compressed sparse form: what does not depend on costs."""

    order: NDArray[np.int64]  # arcs by (head, tail)
    keys: NDArray[np.int64]  # head * n + tail of each, ascending
    first: NDArray[np.int64]  # places where a pair of ends comes first
    starts: NDArray[np.int64]  # of each node's pairs


@functools.lru_cache(maxsize=2)
def _turned(num_nodes: int, tails: bytes, heads: bytes) -> _Turned:
    """Kept, since sorting the arcs takes longer than a cheapest path."""
    t, h = np.frombuffer(tails, np.int64), np.frombuffer(heads, np.int64)
    key = h * num_nodes + t
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    starts = np.searchsorted(key[first], np.arange(num_nodes + 1) * num_nodes)
    return _Turned(order, key, first, starts)


def spectral_radius(
    graph: RoadGraph, costs: ArrayLike, *, tolerance: float = 1e-6, max_steps: int = 2000
) -> float:
    """Largest eigenvalue of A_ij = sum of exp(-cost) over arcs i -> j, by power iteration on A + 1.

    The 1 keeps two-way streets, whose A has -radius as an eigenvalue too, from swinging. The estimate comes
    from below on slow graphs.

    Returns:
      The eigenvalue, 0 or more.

    Raises:
      ValueError: a cost is below 0, not finite or missing.

    Example:
      >>> from jaxpref.planning import roads
      >>> street, _ = roads.road_graph([0, 1], [1, 0])
      >>> print(roads.spectral_radius(street, [1.0, 3.0]))  # exp(-(1 + 3) / 2)
      0.1353
    """
    from scipy.sparse import csr_array

    c = check_costs(costs, graph.num_arcs)
    ends = (np.asarray(graph.tails), np.asarray(graph.heads))
    a = csr_array((np.exp(-c), ends), (graph.num_nodes,) * 2)
    x = np.full(graph.num_nodes, graph.num_nodes**-0.5)
    radius = 0.0
    for _ in range(max_steps):
        y = a @ x + x
        new = float(np.linalg.norm(y))
        x = y / new
        if abs(new - 1 - radius) <= tolerance * 1e-2:
            return new - 1
        radius = new - 1
    return radius


def check_partition(graph: RoadGraph, costs: ArrayLike) -> float:
    """Checks that the sum over all paths to any destination is finite: the spectral radius is below 1.

    (Removing what leaves the destination can only lower it, so a radius of 1 or more may still have finite
    values: this test is on the safe side.)

    Returns:
      The largest row sum of A (`spectral_radius`) if that is below 1, since it bounds the radius; else the
      radius.

    Raises:
      DivergentPartition: (a ValueError) the radius is 1 or more.
      ValueError: a cost is below 0, not finite or missing.

    Example:
      >>> from jaxpref.planning import roads
      >>> street, _ = roads.road_graph([0, 1], [1, 0])
      >>> print(roads.check_partition(street, [1.0, 3.0]))  # exp(-1) bounds exp(-2)
      0.3679
    """
    c = check_costs(costs, graph.num_arcs)
    sums = np.bincount(np.asarray(graph.tails), np.exp(-c), graph.num_nodes)
    if sums.max() < 1:
        return float(sums.max())  # a bound, without iterations
    radius = spectral_radius(graph, c)
    if radius >= 1:
        raise DivergentPartition(radius)
    return radius
