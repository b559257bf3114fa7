"""A directed graph in two layouts: arcs sorted by source, and padded neighbours. Multi-edges are kept."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike, NDArray

__all__ = ["RoadGraph", "check_costs", "check_route", "padded", "reachable", "road_graph"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RoadGraph:
    """`e` arcs between `n` nodes; an arc is its number in the order of sources.

    `out_arcs` and `neighbours`, where present, are the second layout: arcs out of each node and their ends,
    as many columns as the largest out-degree, padded with arc `e` and node 0.
    """

    tails: Int[Array, " e"]  # ascending
    heads: Int[Array, " e"]
    out_arcs: Int[Array, "n v"] | None = None
    neighbours: Int[Array, "n v"] | None = None
    num_nodes: int = dataclasses.field(default=0, metadata={"static": True})

    @property
    def num_arcs(self) -> int:
        return self.tails.shape[0]


def road_graph(
    tails: ArrayLike, heads: ArrayLike, num_nodes: int | None = None, *, self_loops: bool = False
) -> tuple[RoadGraph, NDArray[np.int64]]:
    """A graph of arcs sorted by source, and the order that sorts them. On the host.

    Arcs with the same ends are kept apart. Arcs of one source keep their order.

    Args:
      num_nodes: by default one more than the largest number.
      self_loops: allows arcs from a node to itself; they cost the partition function and never help a route.

    Returns:
      `(graph, order)`: arc `i` of the graph is arc `order[i]` of the lists given.

    Raises:
      ValueError: the lists differ in length, hold no integers, a number is no node, or there is a self loop.

    Example:
      >>> from jaxpref.planning import roads
      >>> graph, order = roads.road_graph([1, 0, 0], [2, 1, 2])
      >>> print(graph.tails, graph.heads, order)
      [0 0 1] [1 2 2] [1 2 0]
    """
    t, h = np.asarray(tails), np.asarray(heads)
    if t.ndim != 1 or t.shape != h.shape or not len(t):
        raise ValueError(
            f"road graph: expected as many tails as heads, 1 or more, got {t.shape} and {h.shape}"
        )
    if t.dtype.kind not in "iu" or h.dtype.kind not in "iu":
        raise ValueError(f"road graph: expected numbers of nodes, got {t.dtype} and {h.dtype}")
    n = int(max(t.max(), h.max())) + 1 if num_nodes is None else num_nodes
    for name, ends in (("tail", t), ("head", h)):
        odd = np.flatnonzero((ends < 0) | (ends >= n))
        if odd.size:
            raise ValueError(f"road graph: arc {odd[0]}: {name} {ends[odd[0]]} is not in [0, {n})")
    loops = np.flatnonzero(t == h)
    if loops.size and not self_loops:
        raise ValueError(
            f"road graph: arc {loops[0]} is a self loop at node {t[loops[0]]} ({loops.size} in all); drop "
            "them, or set self_loops=True"
        )
    order = np.argsort(t, kind="stable")
    return RoadGraph(_int32(t[order]), _int32(h[order]), num_nodes=n), order


def padded(graph: RoadGraph) -> RoadGraph:
    """The graph with both layouts. On the host.

    *Differs from* padding with -1: padding is arc `e`, which gathers with a fill value take for no arc.

    Returns:
      The same graph with `out_arcs` and `neighbours`, `[n, v]` with v the largest out-degree.

    Example:
      >>> from jaxpref.planning import roads
      >>> graph, _ = roads.road_graph([0, 0, 1], [1, 2, 2])
      >>> print(roads.padded(graph).out_arcs.tolist())  # 3: no arc
      [[0, 1], [2, 3], [3, 3]]
    """
    tails, n, e = np.asarray(graph.tails), graph.num_nodes, graph.num_arcs
    degrees = np.bincount(tails, minlength=n)
    column = np.arange(e) - (np.cumsum(degrees) - degrees)[tails]
    arcs = np.full((n, max(int(degrees.max()), 1)), e)
    arcs[tails, column] = np.arange(e)
    neighbours = np.append(np.asarray(graph.heads), 0)[arcs]
    return dataclasses.replace(graph, out_arcs=_int32(arcs), neighbours=_int32(neighbours))


def check_costs(costs: ArrayLike, num_arcs: int) -> NDArray[np.float64]:
    """Checks that every arc has a finite cost of 0 or more. On the host.

    Returns:
      The costs `[e]` as float64.

    Raises:
      ValueError: a cost is negative, not finite or missing.

    Example:
      >>> from jaxpref.planning import roads
      >>> print(roads.check_costs([1, 0], num_arcs=2))
      [1.0000 0.0000]
    """
    c = np.asarray(costs, np.float64)
    if c.shape != (num_arcs,):
        raise ValueError(f"costs: expected one for each of {num_arcs} arcs, got shape {c.shape}")
    odd = np.flatnonzero(~(c >= 0) | ~np.isfinite(c))
    if odd.size:
        raise ValueError(
            f"costs: arc {odd[0]} costs {c[odd[0]]} ({odd.size} such arcs); expected finite numbers of 0 or "
            "more: with negative ones a cheapest path need not exist"
        )
    return c


def check_route(
    graph: RoadGraph,
    arcs: Sequence[int] | NDArray[np.integer],
    destination: int | None = None,
    name: str = "route",
) -> int:
    """Checks a route, given as arcs. On the host.

    Returns:
      Its destination, the node in which the last arc ends.

    Raises:
      ValueError: no arc, an arc that the graph does not have, one that does not start where the last one
        ended, a destination that is visited before the end, or an end that is not `destination`.

    Example:
      >>> from jaxpref.planning import roads
      >>> graph, _ = roads.road_graph([0, 0, 1], [1, 2, 2])
      >>> print(roads.check_route(graph, [0, 2]))  # 0 to 1 to 2
      2
    """
    a = np.asarray(arcs)
    if a.ndim != 1 or not len(a) or a.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected numbers of arcs, 1 or more, got {a.dtype} {a.shape}")
    odd = np.flatnonzero((a < 0) | (a >= graph.num_arcs))
    if odd.size:
        raise ValueError(f"{name}: step {odd[0]}: arc {a[odd[0]]} is not in [0, {graph.num_arcs})")
    tails, heads = np.asarray(graph.tails)[a], np.asarray(graph.heads)[a]
    gap = np.flatnonzero(heads[:-1] != tails[1:])
    if gap.size:
        i = gap[0]
        raise ValueError(
            f"{name}: step {i + 1} starts at node {tails[i + 1]}, and step {i} ended at {heads[i]}: an "
            "arc is missing"
        )
    end = int(heads[-1])
    if destination is not None and end != destination:
        raise ValueError(f"{name}: ends at node {end}, expected destination {destination}")
    early = np.flatnonzero(tails == end)
    if early.size:
        raise ValueError(
            f"{name}: is at its destination {end} before step {early[0]} already; cut it there "
            "(destinations absorb)"
        )
    return end


def reachable(graph: RoadGraph, destination: int) -> NDArray[np.bool_]:
    """Which nodes have a path to the destination, itself included. On the host.

    Returns:
      `[n]`, True for those that have.

    Example:
      >>> from jaxpref.planning import roads
      >>> graph, _ = roads.road_graph([0, 0, 1], [1, 2, 2])
      >>> print(roads.reachable(graph, 1))
      [ True  True False]
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order

    tails, heads = np.asarray(graph.tails), np.asarray(graph.heads)
    backwards = csr_array((np.ones(len(tails), np.int8), (heads, tails)), (graph.num_nodes,) * 2)
    reached = np.zeros(graph.num_nodes, bool)
    reached[breadth_first_order(backwards, destination, return_predecessors=False)] = True
    return reached


def _int32(x: NDArray[np.integer]) -> "Int[Array, ...]":
    return np.ascontiguousarray(x, np.int32)  # pyright: ignore[reportReturnType]


def gathered(rewards: Float[Array, "e #d"], graph: RoadGraph, fill: float) -> Float[Array, "..."]:
    """Rewards in the layout that the graph has: `[e, #d]`, or `[n, v, #d]` with `fill` for no arc."""
    if graph.out_arcs is None:
        return rewards
    return rewards.at[graph.out_arcs].get(mode="fill", fill_value=fill)
