"""One sweep over all arcs, in either layout. Unreachable nodes stay at a large finite number."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpref.planning.roads.graph import RoadGraph, gathered

__all__ = ["UNREACHABLE", "Arcs", "arcs_of", "as_columns", "soft_sweep"]

UNREACHABLE = -1e6  # not -inf: inf - inf is NaN in gradients. Real values are above half of it.
_NO_ARC = -4e6


class Arcs(NamedTuple):
    """Rewards in the graph's layout (`[e, #d]` or `[n, v, #d]`), and where each arc ends."""

    graph: RoadGraph
    rewards: Float[Array, "*arcs #d"]
    heads: Int[Array, "*arcs"]

    def ahead(self, v: Float[Array, "n d"]) -> Float[Array, "*arcs d"]:
        """Reward of each arc plus the value at its end."""
        return self.rewards + v[self.heads]

    def best(self, q: Float[Array, "*arcs d"]) -> Float[Array, "n d"]:
        """Largest over the arcs out of each node; a very low number where there is none."""
        if self.graph.out_arcs is not None:
            # Column by column: XLA on CPU reduces over a short middle axis one number at a time.
            return functools.reduce(jnp.maximum, (q[:, j] for j in range(q.shape[1])))
        n = self.graph.num_nodes
        largest = jax.ops.segment_max(q, self.graph.tails, n, indices_are_sorted=True)
        return jnp.maximum(largest, _NO_ARC)

    def total(self, x: Float[Array, "*arcs d"]) -> Float[Array, "n d"]:
        """Sum over the arcs out of each node."""
        if self.graph.out_arcs is not None:
            return functools.reduce(jnp.add, (x[:, j] for j in range(x.shape[1])))
        return jax.ops.segment_sum(x, self.graph.tails, self.graph.num_nodes, indices_are_sorted=True)

    def at_tails(self, x: Float[Array, "n d"]) -> Float[Array, "*arcs d"]:
        """A number of each node on the arcs that leave it."""
        return x[:, None] if self.graph.out_arcs is not None else x[self.graph.tails]


def as_columns(rewards: Float[Array, "e *d"]) -> Float[Array, "e #d"]:
    """Rewards with an axis of destinations, if they had none.

    Returns:
      `[e, 1]` of rewards that are the same for all destinations (`[e]`); `[e, d]` as they are.

    Example:
      >>> from jaxpref.planning.roads.sweep import as_columns
      >>> print(as_columns(jnp.array([-1.0, -3.0])).tolist())
      [[-1.0], [-3.0]]
    """
    return rewards[:, None] if rewards.ndim == 1 else rewards


def arcs_of(graph: RoadGraph, rewards: Float[Array, "e *d"]) -> Arcs:
    """Rewards and ends of arcs in the layout that the graph has.

    Returns:
      `Arcs`, of arcs one after another (`[e]`) or in padded rows (`[n, v]`).

    Example:
      >>> from jaxpref.planning import roads
      >>> from jaxpref.planning.roads.sweep import arcs_of
      >>> graph, _ = roads.road_graph([0, 0, 1], [1, 2, 2])
      >>> arcs = arcs_of(graph, -jnp.array([1.0, 3.0, 1.0]))
      >>> print(arcs.ahead(jnp.array([[-2.0], [-1.0], [0.0]]))[:, 0])  # -1 - 1, -3 - 0, -1 - 0
      [-2.0000 -3.0000 -1.0000]
    """
    heads = jnp.asarray(graph.heads if graph.neighbours is None else graph.neighbours)
    return Arcs(graph, gathered(as_columns(rewards), graph, _NO_ARC), heads)


def pinned(v: Float[Array, "n d"], destinations: Int[Array, " d"]) -> Float[Array, "n d"]:
    """0 at each destination, and one number for all that cannot reach it."""
    v = jnp.where(v > UNREACHABLE / 2, v, UNREACHABLE)
    return v.at[destinations, jnp.arange(v.shape[1])].set(0)


def soft_step(arcs: Arcs, v: Float[Array, "n d"], destinations: Int[Array, " d"]) -> Float[Array, "n d"]:
    q = arcs.ahead(v)
    # The shift changes no value, so it takes no gradient; exp of differences to it cannot overflow.
    top = jax.lax.stop_gradient(jnp.maximum(arcs.best(q), 2 * UNREACHABLE))
    weight = arcs.total(jnp.exp(q - arcs.at_tails(top)))
    return pinned(top + jnp.log(jnp.maximum(weight, jnp.finfo(q.dtype).tiny)), destinations)


def soft_sweep(
    graph: RoadGraph,
    rewards: Float[Array, "e *d"],
    v: Float[Array, "n d"],
    destinations: Int[Array, " d"],
) -> Float[Array, "n d"]:
    """v(s) <- log sum over arcs of exp(reward + v(end)), 0 at the destination; differentiable in both.

    Returns:
      The new values `[n, d]`.

    Example:
      >>> from jaxpref.planning import roads
      >>> (graph, _), rewards = roads.road_graph([0, 0, 1], [1, 2, 2]), -jnp.array([1.0, 3.0, 1.0])
      >>> v = jnp.array([[-2.0], [-1.0], [0.0]])
      >>> print(roads.soft_sweep(graph, rewards, v, jnp.array([2]))[:, 0])  # log(exp(-2) + exp(-3)) first
      [-1.6867 -1.0000 0.0000]
    """
    return soft_step(arcs_of(graph, rewards), v, destinations)
