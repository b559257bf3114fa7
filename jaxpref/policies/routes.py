"""Route choice by planning: params are costs of arcs, and log-probs are those of a plan.

Of `Segments` whose observations `[b, k, t, 2]` are node and destination and whose actions are numbers of
arcs, log pi(arc | node, destination) = r + v'(end) - v(node), with rewards r = minus the costs
(`policies.arcs`) and values v', v of a horizon (`policies.lookahead`):

- 1, 2, ...: so many soft choices, then the cheapest path (RHIP, arXiv:2305.11290). The gradient is exact.
- `MAX_ENT`: MaxEnt IRL, recursive logit; NLL = log z(start) - r(route).
- 0: advantages of 0 or less, no log-probs: their sum is what the route costs more than the cheapest one (the
  structured perceptron). With a margin, arcs that the demonstration does not pass cost that much less in the
  plan (max-margin planning, Ratliff et al. 2006).
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxpref.kernels.partition import each_region
from jaxpref.planning import roads
from jaxpref.policies.arcs import ArcCosts, known_arcs
from jaxpref.policies.base import Policy, answers_no_prompts, categorical
from jaxpref.policies.lookahead import MAX_ENT, Lookahead
from jaxpref.policies.regions import check_routes, known_regions
from jaxpref.types import Params, PRNGKey, Segments

__all__ = ["MAX_ENT", "RouteChoice", "route_logps", "route_planner"]


def route_planner(
    *,
    graph: Callable[[], roads.RoadGraph],
    features: Callable[[], Any],
    initial: Any,
    horizon: float = 10,
    arcs_table: bool = False,
    hidden: tuple[int, ...] = (),
    regions: Callable[[], Any] | None = None,
    planner: roads.Planner | None = roads.sweeps,
    horizon_values: Callable[..., Any] = roads.horizon_values,
    margin: float = 0.0,
    tolerance: float = 1e-4,
    max_sweeps: int = 10_000,
    param_dtype: str = "float32",
) -> Policy:
    """Receding-horizon inverse planning and its neighbours (arXiv:2305.11290), trained by `algorithms.sft`.

    *Differs from* implementations in which horizon 0 is one soft step; here that is horizon 1.

    Args:
      graph: builds the graph, in the layout to be used (`planning.roads.padded`).
      features: builds features `[e, f]` of its arcs, 0 or more.
      initial: weights `[f]` above 0 that `init` returns, or one number for all of them.
      arcs_table: a factor exp(table) for every arc, starting at 1. It does not generalise: hold it near 0 by
        weight decay.
      hidden: widths of an MLP on the features whose output, a softplus, is added to the costs.
      regions: builds the number of each node's region `[n]`, 0 to x - 1, see `policies.regions`.
      planner: cheapest paths, `planning.roads.sweeps` on devices or `dijkstra` on the host. None, for
        `MAX_ENT` alone: start from the destination instead.
      horizon, horizon_values, tolerance, max_sweeps: see `policies.lookahead`. Where values are not finite a
        run stops, and `Policy.explain` names the spectral radius.
      margin: of max-margin planning, 0 or more, with horizon 0 alone.

    Raises:
      ValueError: an argument out of range.
      DivergentPartition (a ValueError): `MAX_ENT` has no finite sum at the initial weights.
    """
    net = graph()
    ahead = Lookahead(net, horizon, planner, horizon_values, tolerance, max_sweeps)
    given, first = known_arcs(net, features, initial)
    if horizon == MAX_ENT:
        roads.check_partition(net, given @ first)
    region, axis = known_regions(regions, net.num_nodes)
    costs = ArcCosts(given, first, arcs_table, hidden, axis, param_dtype)
    return RouteChoice(costs, ahead, region, margin).policy()


@dataclasses.dataclass(frozen=True, eq=False)
class RouteChoice:
    """The choice of the next arc: a softmax of minus its cost plus the value of where it leads."""

    costs: ArcCosts
    lookahead: Lookahead
    region: Int[np.ndarray, " n"]  # of each node; looked at where there are several
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.margin < 0 or (self.margin and self.lookahead.horizon != 0):
            raise ValueError(
                "route_planner.margin: expected 0 or more, and horizon 0 (a margin is of the cheapest path), "
                f"got {self.margin} with horizon {self.lookahead.horizon}"
            )

    def token_logps(self, params: Params, batch: Segments) -> Float[Array, "b k t"]:
        b, k, t = batch.mask.shape
        costs = self.costs.costs(params)
        routes = (batch.actions, batch.mask, batch.observations[:, :, 0, 1])
        if self.costs.regions:
            if k != self.costs.regions[0]:
                raise ValueError(
                    f"route_planner: rows of {k} segments, and {self.costs.regions[0]} regions; a row holds "
                    "one demonstration of each region in their order (`data.roads.routes.by_region`)"
                )
            return each_region(self.scores, costs, *(x.swapaxes(0, 1) for x in routes)).swapaxes(0, 1)
        return self.scores(costs, *(x.reshape(b * k, *x.shape[2:]) for x in routes)).reshape(b, k, t)

    def scores(
        self,
        costs: Float[Array, " e"],
        arcs: Int[Array, "d t"],
        mask: Bool[Array, "d t"],
        ends: Int[Array, " d"],
    ) -> Float[Array, "d t"]:
        """Log-probs (at horizon 0 advantages) of routes to their ends under these costs, 0 where masked."""
        rewards, e = -costs, self.lookahead.graph.num_arcs
        if self.margin:
            passed = jnp.zeros((len(ends), e + 1), bool)
            row = jnp.arange(len(ends))[:, None]
            passed = passed.at[row, jnp.where(mask, arcs, e)].set(True)[:, :-1].T
            costly, cheap = costs[:, None], jnp.maximum(costs - self.margin, 0)[:, None]
            rewards = -jnp.where(passed, costly, cheap)
        return route_logps(self.lookahead.graph, costs, arcs, mask, *self.lookahead.values(rewards, ends))

    def act(
        self, params: Params, observations: Int[Array, "*rows 2"], key: PRNGKey | None
    ) -> Int[Array, "*rows"]:
        """The next arc of each node and destination."""
        net, rows = self.lookahead.graph, observations.reshape(-1, 2)
        costs = self.costs.costs(params)
        if self.costs.regions:  # whoever acts goes anywhere, in no order of regions
            costs = costs[jnp.asarray(self.region)[rows[:, 1]]].T
        ahead, _ = self.lookahead.values(-costs, rows[:, 1])
        q = ahead[jnp.asarray(net.heads)].T - costs.reshape(net.num_arcs, -1).T
        q = jnp.where(jnp.asarray(net.tails)[None] == rows[:, :1], q, -jnp.inf)
        arcs = q.argmax(-1) if key is None else categorical(key, q)
        return arcs.reshape(observations.shape[:-1])

    def policy(self) -> Policy:
        graph = self.lookahead.graph
        return Policy(
            self.costs.init,
            self.token_logps,
            sample=answers_no_prompts,
            axes=self.costs.axes,
            flops=lambda batch: 0.0,
            vocab_size=graph.num_arcs,
            act=self.act,
            explain=lambda params: self.lookahead.explain(np.asarray(self.costs.costs(params), np.float64)),
            check=partial(check_routes, graph=graph, region=self.region if self.costs.regions else None),
        )


def route_logps(
    graph: roads.RoadGraph,
    costs: Float[Array, " e"],
    arcs: Int[Array, "d t"],
    mask: Bool[Array, "d t"],
    ahead: Float[Array, "n d"],
    here: Float[Array, "n d"],
) -> Float[Array, "d t"]:
    """-cost + ahead(end) - here(start) of each arc of a route, 0 where masked; values to its destination."""
    column, arcs = jnp.arange(arcs.shape[0])[:, None], jnp.where(mask, arcs, 0)
    logps = ahead[jnp.asarray(graph.heads)[arcs], column] - costs[arcs]
    return jnp.where(mask, logps - here[jnp.asarray(graph.tails)[arcs], column], 0)
