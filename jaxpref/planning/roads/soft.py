"""Values of maximum-entropy routes: log of the sum over all paths, swept to convergence."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpref.planning.roads.graph import RoadGraph
from jaxpref.planning.roads.hard import Planner, sweeps
from jaxpref.planning.roads.sweep import UNREACHABLE, Arcs, arcs_of, as_columns, pinned, soft_step

__all__ = ["Solved", "soft_values", "solve_soft"]


class Solved(NamedTuple):
    values: Float[Array, "n d"]
    sweeps: Int[Array, ""]
    moved: Float[Array, ""]  # the largest change of the last sweep
    converged: Array


def solve_soft(
    graph: RoadGraph,
    rewards: Float[Array, "e *d"],
    destinations: Int[Array, " d"],
    *,
    start: Float[Array, "n d"] | None = None,
    tolerance: float = 1e-4,
    max_sweeps: int = 10_000,
) -> Solved:
    """Soft sweeps from `start` (None: only the destination has a value) until less than `tolerance` is left.

    Recursive logit, Ziebart's MaxEnt (2008): v = log z with z = A z + e_d. From the values of the cheapest
    paths (MaxEnt++, arXiv:2305.11290) the start is below the solution too, and finite everywhere. Not
    differentiable: see `soft_values`.

    What a sweep moves never grows. With the ratio q of the last two moves, moved * q / (1 - q) is left, and
    the mean ratio of the last half to three quarters must say so too, since rounding makes one ratio wrong. A
    small move alone does not end it: near a spectral radius of 1 the k-th sweep moves 1 / k for long, and
    beyond it the moves tend to log(radius) without end. So the move must also have fallen to a sixteenth in
    that time, which 1 / k does not. Where only the rounding of the largest value moves, sweeps end if what it
    may hide is below 100 times the tolerance, or 1e-4 of that value.

    Returns:
      Values `[n, d]`, the number of sweeps, the largest change of the last one, and whether they converged.

    Example:
      >>> from jaxpref.planning import roads
      >>> (graph, _), rewards = roads.road_graph([0, 0, 1], [1, 2, 2]), -jnp.array([1.0, 3.0, 1.0])
      >>> solved = roads.solve_soft(graph, rewards, jnp.array([2]))
      >>> print(solved.values[:, 0], bool(solved.converged))  # -1.6867 = log(exp(-2) + exp(-3))
      [-1.6867 -1.0000 0.0000] True
    """
    arcs = arcs_of(graph, jax.lax.stop_gradient(rewards))
    if start is None:
        start = jnp.full((graph.num_nodes, len(destinations)), UNREACHABLE, rewards.dtype)
    start = pinned(start, destinations)
    rounding = 4 * jnp.finfo(start.dtype).eps

    def reached(v: Array, step: Array, moved: Array, last: Array, earlier: Array) -> Array:
        largest = jnp.where(v > UNREACHABLE / 2, jnp.abs(v), 0).max()
        falls = (moved < last) & (last < jnp.inf)
        left = jnp.where(falls, moved * jnp.maximum(moved / (last - moved), 1), jnp.inf)
        steady = moved * step / jnp.log(earlier / moved)  # left at the mean rate since `earlier`, or less
        rounded = (moved <= rounding * largest) & (steady <= jnp.maximum(100 * tolerance, 1e-4 * largest))
        near = (jnp.maximum(left, steady) <= tolerance) | rounded
        return (moved == 0) | (near & (moved <= earlier / 16))

    def body(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        v, step, last, (earlier, marked), _ = carry
        new = soft_step(arcs, v, destinations)
        moved = jnp.abs(new - v).max()
        power = (step & (step - 1)) == 0  # the moves at the last two powers of 2
        marks = jnp.where(power, jnp.stack([marked, moved]), jnp.stack([earlier, marked]))
        return new, step + 1, moved, marks, reached(new, step, moved, last, marks[0])

    far = jnp.asarray(jnp.inf, start.dtype)
    carry = (start, jnp.int32(0), far, jnp.stack([far, far]), jnp.bool_(False))
    v, step, moved, _, done = jax.lax.while_loop(lambda c: ~c[4] & (c[1] < max_sweeps), body, carry)
    return Solved(v, step, moved, done)


def probabilities(arcs: Arcs, v: Array, destinations: Array) -> Float[Array, "*arcs d"]:
    """Of each arc among those that leave its node, given values one step on; 0 out of the destination and
    out of nodes that cannot reach it."""
    q = arcs.ahead(v)
    top = arcs.best(q)
    weight = jnp.exp(q - arcs.at_tails(jnp.maximum(top, 2 * UNREACHABLE)))
    share = weight / jnp.maximum(arcs.at_tails(arcs.total(weight)), jnp.finfo(q.dtype).tiny)
    goes = (top > UNREACHABLE / 2).at[destinations, jnp.arange(v.shape[1])].set(False)
    return jnp.where(arcs.at_tails(goes), share, 0)


def onwards(arcs: Arcs, flow: Float[Array, "*arcs d"]) -> Float[Array, "n d"]:
    """Flow on arcs summed at their ends."""
    d = flow.shape[-1]
    heads, flow = arcs.heads.reshape(-1), flow.reshape(-1, d)
    return jax.ops.segment_sum(flow, heads, arcs.graph.num_nodes)


def to_arcs(arcs: Arcs, flow: Float[Array, "*arcs d"]) -> Float[Array, "e d"]:
    """Flow in the graph's layout as `[e, d]`."""
    if arcs.graph.out_arcs is None:
        return flow
    empty = jnp.zeros((arcs.graph.num_arcs, flow.shape[-1]), flow.dtype)
    return empty.at[jnp.asarray(arcs.graph.out_arcs)].add(flow, mode="drop")


def like_rewards(flow: Float[Array, "e d"], rewards: Array) -> Array:
    return (
        flow
        if rewards.ndim == 2 and rewards.shape[1] == flow.shape[1]
        else flow.sum(1).reshape(rewards.shape)
    )


def flows(
    arcs: Arcs,
    shares: Float[Array, "*arcs d"],
    starts: Float[Array, "n d"],
    tolerance: float,
    max_sweeps: int,
) -> Float[Array, "*arcs d"]:
    """Expected number of times that each arc is passed: (I - P^T)^-1 starts, swept until little is left.

    NaN where `max_sweeps` are too few for that.
    """
    scale = jnp.maximum(jnp.abs(starts).max(), jnp.finfo(starts.dtype).tiny)

    def body(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        visits, ahead, step = carry
        ahead = onwards(arcs, arcs.at_tails(ahead) * shares)
        return visits + ahead, ahead, step + 1

    def left(ahead: Array) -> Array:
        return jnp.abs(ahead).max() > tolerance * scale

    def going(carry: tuple[Array, Array, Array]) -> Array:
        return left(carry[1]) & (carry[2] < max_sweeps)

    visits, ahead, _ = jax.lax.while_loop(going, body, (starts, starts, jnp.int32(0)))
    return jnp.where(left(ahead), jnp.nan, arcs.at_tails(visits) * shares)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def soft_values(
    graph: RoadGraph,
    rewards: Float[Array, "e *d"],
    destinations: Int[Array, " d"],
    planner: Planner | None = sweeps,
    tolerance: float = 1e-4,
    max_sweeps: int = 10_000,
    flow_tolerance: float = 1e-6,
) -> Float[Array, "n d"]:
    """v(s) = log of the sum over all paths to each destination of exp(their reward), cycles included.

    The gradient is the expected counts of arcs under the policy exp(r + v(end) - v(start)), by sweeps of flow
    and in O(n d + e d) memory.

    Args:
      planner: gives the start, the values of the cheapest paths (MaxEnt++); None: start at the destination.

    Returns:
      `[n, d]`, in the unit of the rewards (nats). NaN, and so is the gradient, where `max_sweeps` are too
      few: with costs too small there is no finite sum (`check_partition` raises an error for them, on the
      host), and at a spectral radius of 1 - x some 15 / x sweeps are needed.

    Example:
      >>> from jaxpref.planning import roads
      >>> (graph, _), rewards = roads.road_graph([0, 0, 1], [1, 2, 2]), -jnp.array([1.0, 3.0, 1.0])
      >>> value = lambda rewards: roads.soft_values(graph, rewards, jnp.array([2]))[0, 0]
      >>> print(float(value(rewards)), jax.grad(value)(rewards))  # arc 0 is taken with sigmoid(1)
      -1.6867 [0.7311 0.2689 0.7311]
    """
    return _solved(graph, rewards, destinations, planner, tolerance, max_sweeps)


def _solved(
    graph: RoadGraph, rewards: Array, destinations: Array, planner: Any, tolerance: float, max_sweeps: int
) -> Array:
    start = None if planner is None else planner(graph, as_columns(rewards), destinations)[0]
    solution = solve_soft(
        graph, rewards, destinations, start=start, tolerance=tolerance, max_sweeps=max_sweeps
    )
    return jnp.where(solution.converged, solution.values, jnp.nan)


def _forward(graph: Any, rewards: Any, destinations: Any, *rest: Any) -> tuple[Array, Any]:
    v = _solved(graph, rewards, destinations, *rest[:3])
    return v, (graph, rewards, destinations, v)


def _backward(
    planner: Any, tolerance: float, max_sweeps: int, flow_tolerance: float, residuals: Any, slope: Array
) -> tuple[Any, Array, None]:
    del planner, tolerance
    graph, rewards, destinations, v = residuals
    arcs = arcs_of(graph, rewards)
    shares = probabilities(arcs, v, destinations)
    counts = flows(arcs, shares, slope, flow_tolerance, max_sweeps)
    counts = jnp.where(jnp.isnan(v).any(), jnp.nan, counts)  # no flow of values that are not there
    return None, like_rewards(to_arcs(arcs, counts), rewards), None


soft_values.defvjp(_forward, _backward)
