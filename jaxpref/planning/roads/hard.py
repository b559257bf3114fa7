"""Cheapest paths to a batch of destinations, differentiable in the rewards (counts on the cheapest path)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpref.planning.roads.graph import RoadGraph
from jaxpref.planning.roads.host import cheapest
from jaxpref.planning.roads.sweep import UNREACHABLE, Arcs, arcs_of, as_columns, pinned

__all__ = ["Planner", "dijkstra", "hard_values", "sweeps"]

# (graph, rewards [e, #d], destinations [d]) -> values [n, d] and the arc to take at each node (`e`: none).
Planner = Callable[[RoadGraph, Array, Array], tuple[Array, Array]]


def sweeps(
    graph: RoadGraph, rewards: Float[Array, "e #d"], destinations: Int[Array, " d"]
) -> tuple[Float[Array, "n d"], Int[Array, "n d"]]:
    """Max-plus sweeps until no value changes: one more than the longest of the cheapest paths has arcs.

    Ties go to the arc whose end was settled first, then to the lowest arc, so that following the arcs always
    ends, also where costs are 0 or lost in rounding.

    Returns:
      Values of the best paths (`UNREACHABLE` where there is none), and the arc to take (`e`: none). NaN
      where a cycle has rewards above 0: no path is the best one.

    Example:
      >>> from jaxpref.planning import roads
      >>> graph, _ = roads.road_graph([0, 0, 1], [1, 2, 2])
      >>> v, arc = roads.sweeps(graph, -jnp.array([[1.0], [3.0], [1.0]]), jnp.array([2]))
      >>> print(v[:, 0], arc[:, 0])  # 0 to 1 to 2 costs less than 0 to 2
      [-2.0000 -1.0000 0.0000] [0 2 3]
    """
    arcs, (n, d, e) = arcs_of(graph, rewards), (graph.num_nodes, len(destinations), graph.num_arcs)

    def body(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        v, settled, step, _ = carry
        better = jnp.maximum(v, pinned(arcs.best(arcs.ahead(v)), destinations))
        moved = better > v
        return better, jnp.where(moved, step, settled), step + 1, moved.any()

    start = pinned(jnp.full((n, d), UNREACHABLE, rewards.dtype), destinations)
    carry = (start, jnp.zeros((n, d), jnp.int32), jnp.int32(1), jnp.bool_(True))
    # A cheapest path has fewer than n arcs; more sweeps can only be rewards above 0 on a cycle.
    v, settled, _, moving = jax.lax.while_loop(lambda c: c[3] & (c[2] <= n), body, carry)
    v = jnp.where(moving, jnp.nan, v)
    return v, _first(arcs, v, settled, destinations, e)


def _first(arcs: Arcs, v: Array, settled: Array, destinations: Array, e: int) -> Int[Array, "n d"]:
    """The arc to take: of those that reach the value, the one whose end was settled first."""
    graph, (n, d) = arcs.graph, v.shape
    reaches = arcs.ahead(v) >= arcs.at_tails(v)
    never = jnp.iinfo(jnp.int32).max
    when = jnp.where(reaches, settled[arcs.heads], never)
    if graph.out_arcs is not None:
        column = when.argmin(1)  # the first of equals; columns are in the order of arcs
        arc = jnp.take_along_axis(jnp.asarray(graph.out_arcs), column, 1)
    else:
        soonest = jax.ops.segment_min(when, graph.tails, n, indices_are_sorted=True)
        number = jnp.arange(e, dtype=jnp.int32)[:, None]
        chosen = jnp.where(reaches & (when == soonest[graph.tails]), number, e)
        arc = jnp.minimum(jax.ops.segment_min(chosen, graph.tails, n, indices_are_sorted=True), e)
    arc = jnp.where(v > UNREACHABLE / 2, arc, e)
    return arc.at[destinations, jnp.arange(d)].set(e)


def dijkstra(
    graph: RoadGraph, rewards: Float[Array, "e #d"], destinations: Int[Array, " d"]
) -> tuple[Float[Array, "n d"], Int[Array, "n d"]]:
    """The same as `sweeps` by scipy's Dijkstra on the host: O(e log n) whatever the diameter. On one process.

    Returns:
      Values of the best paths (`UNREACHABLE` where there is none), and the arc to take (`e`: none).

    Example:
      >>> from jaxpref.planning import roads
      >>> graph, _ = roads.road_graph([0, 0, 1], [1, 2, 2])
      >>> v, arc = roads.dijkstra(graph, -jnp.array([[1.0], [3.0], [1.0]]), jnp.array([2]))
      >>> print(v[:, 0], arc[:, 0])
      [-2.0000 -1.0000 0.0000] [0 2 3]
    """
    n, d = graph.num_nodes, len(destinations)

    def call(*given: Any) -> tuple[np.ndarray, np.ndarray]:
        tails, heads, rewards, destinations = map(np.asarray, given)
        v, arc = cheapest(tails, heads, n, -rewards, destinations)
        # The type that was promised: a callback may run in a thread that does not know of `jax.enable_x64`.
        return v.astype(promised), arc.astype(np.int32)

    promised = np.dtype(rewards.dtype)
    shapes = (jax.ShapeDtypeStruct((n, d), promised), jax.ShapeDtypeStruct((n, d), jnp.int32))
    return jax.pure_callback(
        call, shapes, graph.tails, graph.heads, rewards, destinations, vmap_method="sequential"
    )


def follow(
    graph: RoadGraph, arc: Int[Array, "n d"], starts: Float[Array, "n d"], per_destination: bool
) -> Float[Array, "e *d"]:
    """How often each arc is passed if `starts` set out from each node and follow `arc` (`e`: stay).

    By path doubling: log2 n steps, however long the paths are.
    """
    n, d = arc.shape
    columns = jnp.broadcast_to(jnp.arange(d), (n, d))
    onwards = jnp.append(jnp.asarray(graph.heads), n)[arc]

    def body(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        # visits: by paths of fewer than 2^i arcs; place: where a path of 2^i arcs leads, n where it ended.
        visits, place = carry
        visits = visits.at[place, columns].add(visits, mode="drop")
        return visits, place.at[place, columns].get(mode="fill", fill_value=n)

    visits, _ = jax.lax.while_loop(lambda carry: (carry[1] < n).any(), body, (starts, onwards))
    counts = jnp.zeros((graph.num_arcs, d) if per_destination else graph.num_arcs, starts.dtype)
    return counts.at[(arc, columns) if per_destination else arc].add(visits, mode="drop")


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def hard_values(
    graph: RoadGraph, rewards: Float[Array, "e *d"], destinations: Int[Array, " d"], planner: Planner = sweeps
) -> Float[Array, "n d"]:
    """v(s) = reward of the best path to each destination.

    Rewards are 0 or less, the same for all destinations (`[e]`) or not (`[e, d]`). The gradient is the
    counts of arcs on the best path (envelope theorem), a subgradient at ties, which are broken in a fixed
    order.

    Args:
      planner: finds the paths: `sweeps`, or `dijkstra` on the host.

    Returns:
      `[n, d]`, 0 or less, in the unit of the rewards; `UNREACHABLE` where there is no path.

    Example:
      >>> from jaxpref.planning import roads
      >>> (graph, _), rewards = roads.road_graph([0, 0, 1], [1, 2, 2]), -jnp.array([1.0, 3.0, 1.0])
      >>> value = lambda rewards: roads.hard_values(graph, rewards, jnp.array([2]))[0, 0]
      >>> print(float(value(rewards)), jax.grad(value)(rewards))  # over arcs 0 and 2
      -2.0000 [1.0000 0.0000 1.0000]
    """
    return planner(graph, as_columns(rewards), destinations)[0]


def _forward(graph: RoadGraph, rewards: Array, destinations: Array, planner: Planner) -> tuple[Array, Any]:
    v, arc = planner(graph, as_columns(rewards), destinations)
    return v, (graph, arc, rewards.ndim == 2)


def _backward(planner: Planner, residuals: Any, slope: Float[Array, "n d"]) -> tuple[Any, Array, None]:
    del planner
    graph, arc, per_destination = residuals
    return None, follow(graph, arc, slope, per_destination), None


hard_values.defvjp(_forward, _backward)
