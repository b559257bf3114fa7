"""Values of receding-horizon planning: soft for some steps, then the cheapest path (arXiv:2305.11290)."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpref.planning.roads.graph import RoadGraph
from jaxpref.planning.roads.hard import Planner, follow, hard_values, sweeps
from jaxpref.planning.roads.soft import like_rewards, onwards, probabilities, to_arcs
from jaxpref.planning.roads.sweep import arcs_of, as_columns, soft_step, soft_sweep

__all__ = ["horizon_stack", "horizon_values", "horizon_values_autodiff", "stationary_horizon_values"]

Pair = tuple[Float[Array, "n d"], Float[Array, "n d"]]


def horizon_values(
    graph: RoadGraph,
    rewards: Float[Array, "e *d"],
    destinations: Int[Array, " d"],
    horizon: int,
    planner: Planner = sweeps,
) -> Pair:
    """`(v^{H-1}, v^H)`, H of 1 or more: v^0 of the cheapest paths, v^h one soft sweep of v^{h-1}.

    log pi^H = r + v^{H-1}(end) - v^H(start). Its gradient is a rollout: H steps of pi^H, pi^{H-1}, ...,
    pi^1, then the cheapest path, counted arc by arc. Values are kept at every sqrt(H)-th level and recomputed
    between them: O(sqrt(H) n d) memory.

    Returns:
      Both values `[n, d]`, in the unit of the rewards.

    Example:
      >>> from jaxpref.planning import roads
      >>> (graph, _), rewards = roads.road_graph([0, 0, 1], [1, 2, 2]), -jnp.array([1.0, 3.0, 1.0])
      >>> before, after = roads.horizon_values(graph, rewards, jnp.array([2]), 1)
      >>> print(before[:, 0], after[:, 0])  # -1.6867 = log(exp(-2) + exp(-3))
      [-2.0000 -1.0000 0.0000] [-1.6867 -1.0000 0.0000]
    """
    return _values(graph, rewards, destinations, horizon, planner, False)


def stationary_horizon_values(
    graph: RoadGraph,
    rewards: Float[Array, "e *d"],
    destinations: Int[Array, " d"],
    horizon: int,
    planner: Planner = sweeps,
) -> Pair:
    """The values of `horizon_values` with another gradient: it rolls out pi^H for all H steps.

    That is not the gradient of the likelihood, but the simpler reading of the paper's Algorithm 1
    (UNVERIFIED). Right for H = 1 and in the limit.

    Returns:
      Both values `[n, d]`, in the unit of the rewards.

    Example:
      >>> from jaxpref.planning import roads
      >>> (graph, _), rewards = roads.road_graph([0, 0, 1], [1, 2, 2]), -jnp.array([1.0, 3.0, 1.0])
      >>> value = lambda rewards: roads.stationary_horizon_values(graph, rewards, jnp.array([2]), 1)[1][0, 0]
      >>> print(float(value(rewards)), jax.grad(value)(rewards))  # pi^1 takes arc 0 with sigmoid(1)
      -1.6867 [0.7311 0.2689 0.7311]
    """
    return _values(graph, rewards, destinations, horizon, planner, True)


def horizon_values_autodiff(
    graph: RoadGraph,
    rewards: Float[Array, "e *d"],
    destinations: Int[Array, " d"],
    horizon: int,
    planner: Planner = sweeps,
) -> Pair:
    """The values of `horizon_values` with the gradient of autodiff through the sweeps: O(H n d) memory.

    Returns:
      Both values `[n, d]`, in the unit of the rewards.

    Example:
      >>> from jaxpref.planning import roads
      >>> (graph, _), rewards = roads.road_graph([0, 0, 1], [1, 2, 2]), -jnp.array([1.0, 3.0, 1.0])
      >>> value = lambda rewards: roads.horizon_values_autodiff(graph, rewards, jnp.array([2]), 1)[1][0, 0]
      >>> print(float(value(rewards)), jax.grad(value)(rewards))  # pi^1 takes arc 0 with sigmoid(1)
      -1.6867 [0.7311 0.2689 0.7311]
    """
    before, after = horizon_stack(graph, rewards, destinations, (horizon,), planner)
    return before[0], after[0]


def horizon_stack(
    graph: RoadGraph,
    rewards: Float[Array, "e *d"],
    destinations: Int[Array, " d"],
    horizons: Sequence[int],
    planner: Planner = sweeps,
) -> tuple[Float[Array, "g n d"], Float[Array, "g n d"]]:
    """`(v^{h-1}, v^h)` of several horizons, 1 or more each, out of one run of the longest.

    The gradient is autodiff's through the sweeps, in O(H n d) memory.

    Returns:
      Both values `[g, n, d]`, in the unit of the rewards, g horizons in the order given.

    Example:
      >>> from jaxpref.planning import roads
      >>> (graph, _), rewards = roads.road_graph([0, 0, 1], [1, 2, 2]), -jnp.array([1.0, 3.0, 1.0])
      >>> before, after = roads.horizon_stack(graph, rewards, jnp.array([2]), (1, 2))
      >>> print(before[:, 0, 0], after[:, 0, 0])  # nothing changes after one step: the graph has one choice
      [-2.0000 -1.6867] [-1.6867 -1.6867]
    """
    first: Any = hard_values(graph, rewards, destinations, planner)
    step = jax.checkpoint(lambda v: soft_sweep(graph, rewards, v, destinations))
    _, after = jax.lax.scan(lambda v, _: (step(v),) * 2, first, None, max(horizons))
    levels, at = jnp.concatenate([first[None], after]), np.asarray(horizons)
    return levels[at - 1], levels[at]


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _values(
    graph: RoadGraph, rewards: Array, destinations: Array, horizon: int, planner: Planner, stationary: bool
) -> Pair:
    return _forward(graph, rewards, destinations, horizon, planner, stationary)[0]


def _every(horizon: int) -> int:
    return max(math.isqrt(horizon), 1)


def _forward(
    graph: RoadGraph, rewards: Array, destinations: Array, horizon: int, planner: Planner, stationary: bool
) -> tuple[Pair, Any]:
    arcs = arcs_of(graph, rewards)
    v, arc = planner(graph, as_columns(rewards), destinations)
    every = _every(horizon)
    kept = jnp.zeros((0 if stationary else -(-horizon // every), *v.shape), v.dtype)

    def level(h: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        _, v, kept = carry
        if not stationary:
            kept = (
                jnp.where(h % every == 0, kept.at[h // every].set(v), kept)
                if every > 1
                else kept.at[h].set(v)
            )
        return v, soft_step(arcs, v, destinations), kept

    before, last, kept = jax.lax.fori_loop(0, horizon, level, (v, v, kept))
    residuals = (graph, rewards, destinations, arc, before if stationary else kept)
    return (before, last), residuals


def _backward(
    horizon: int, planner: Planner, stationary: bool, residuals: Any, slopes: Pair
) -> tuple[Any, Array, None]:
    del planner
    graph, rewards, destinations, arc, kept = residuals
    arcs, every = arcs_of(graph, rewards), _every(horizon)
    of_before, of_last = slopes

    def value(h: Any) -> Array:  # v^{h-1}, on which the policy of level h looks ahead
        if stationary:
            return kept
        first = (h - 1) // every
        return jax.lax.fori_loop(
            0, (h - 1) % every, lambda _, v: soft_step(arcs, v, destinations), kept[first]
        )

    def level(i: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        there, counts = carry
        flow = arcs.at_tails(there) * probabilities(arcs, value(horizon - i), destinations)
        moved = onwards(arcs, flow)
        # The value one step on is a quantity of its own: what is asked of it sets out from there.
        return jnp.where(i == 0, moved + of_before, moved), counts + like_rewards(
            to_arcs(arcs, flow), rewards
        )

    there, counts = jax.lax.fori_loop(0, horizon, level, (of_last, jnp.zeros_like(rewards)))
    per_destination = rewards.ndim == 2 and rewards.shape[1] > 1
    rest = follow(graph, arc, there, per_destination)
    return None, counts + rest.reshape(rewards.shape), None


_values.defvjp(_forward, _backward)
