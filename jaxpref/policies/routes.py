"""Route choice by planning: params are costs of arcs, and log-probs are those of a plan."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxpref.kernels.partition import each_region
from jaxpref.planning import roads
from jaxpref.policies.base import Policy, answers_no_prompts
from jaxpref.policies.perceptron import perceptron, perceptron_init
from jaxpref.types import Params, PRNGKey, Segments

__all__ = ["MAX_ENT", "arc_costs", "check_routes", "route_logps", "route_planner"]

MAX_ENT = math.inf  # the horizon of converged soft values


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

    Of `Segments` whose observations `[b, k, t, 2]` are node and destination and whose actions are numbers of
    arcs, `token_logps` are log pi(arc | node, destination) = r + v'(end) - v(node), with rewards r = minus
    the costs:

    - `horizon` 1, 2, ...: v' is h - 1 soft sweeps of the values of the cheapest ways, v one more (RHIP).
      With 1, a softmax of r + v_cheapest: Bayesian IRL's likelihood at its mode. The gradient is exact.
    - `MAX_ENT`: both are converged soft values: MaxEnt IRL, recursive logit; NLL = log z(start) - r(route).
    - 0: v' and v of the cheapest ways. These are advantages of 0 or less, no log-probs: their sum is what the
      route costs more than the cheapest one (the structured perceptron). With a `margin`, arcs that the
      demonstration does not pass cost that much less in the plan (max-margin planning, Ratliff et al. 2006).

    Costs are positive, see `arc_costs`. Params: "weights" `[f]`, and where asked for "arcs" `[e]` and
    "hidden"; with regions "weights" `[x, f]` and "arcs" `[x, e]`.

    *Differs from* implementations in which horizon 0 is one soft step; here that is horizon 1.

    Args:
      graph: builds the graph, in the layout to be used (`planning.roads.padded`).
      features: builds features `[e, f]` of its arcs, 0 or more.
      initial: weights `[f]` above 0 that `init` returns, or one number for all of them.
      arcs_table: a factor exp(table) for every arc, starting at 1. It does not generalise: hold it near 0 by
        weight decay.
      hidden: widths of an MLP on the features whose output, a softplus, is added to the costs.
      regions: builds the number of each node's region `[n]`, from 0 to x - 1. Each region has weights and a
        table of its own, which plan the routes that end there (the "mixture of experts" of
        arXiv:2305.11290). Rows then hold x segments, one demonstration of each region in their order, or
        none (`data.roads.routes.by_region`). The logical axis of regions is "regions"; where a mesh splits
        it, no device needs another's costs, and only "hidden", which all regions share, has a gradient summed
        over them. *Differs from* the paper's: origins do not choose, and every region has costs of all arcs.
      planner: cheapest ways: `planning.roads.sweeps` on devices or `planning.roads.dijkstra` on the host.
        None, for `MAX_ENT` alone: start from the destination instead of the cheapest ways.
      horizon_values: of a finite horizon, with its gradient: `planning.roads.horizon_values` by rollout, in
        O(sqrt(H) n d) memory; `horizon_values_autodiff`, the same numbers in O(H n d); or
        `stationary_horizon_values`, the simpler reading of the paper's algorithm (UNVERIFIED), which is not
        the likelihood's gradient.
      tolerance, max_sweeps: of `MAX_ENT`, see `planning.roads.soft_values`. Too few sweeps, or costs so small
        that there is no finite sum, give NaN, which stops a run; `Policy.explain` then names the spectral
        radius. Costs that are so at the start are named here.

    Raises:
      ValueError: features below 0 or not `[e, f]`, weights not above 0, an unknown horizon, a
        margin with a horizon above 0.
      DivergentPartition (a ValueError): `MAX_ENT` has no finite sum at the initial weights.
    """
    net, given = graph(), np.asarray(features(), np.float64)
    _check_settings(horizon, margin, planner)
    if given.ndim != 2 or len(given) != net.num_arcs or not np.isfinite(given).all() or (given < 0).any():
        raise ValueError(
            f"route_planner.features: expected finite numbers of 0 or more [{net.num_arcs}, f], got shape "
            f"{given.shape} and a smallest of {given.min(initial=0)}"
        )
    first = np.broadcast_to(np.asarray(initial, np.float64), given.shape[1:])
    if not (first > 0).all():
        raise ValueError(f"route_planner.initial: expected weights above 0, got {first.min()}")
    if horizon == MAX_ENT:
        roads.check_partition(net, given @ first)
    region, axis = _regions(regions, net.num_nodes)

    def init(key: PRNGKey) -> Params:
        # softplus(x) = w
        raw = np.broadcast_to(first + np.log(-np.expm1(-first)), (*axis, len(first)))
        params: dict[str, Any] = {"weights": jnp.asarray(raw, param_dtype)}
        if arcs_table:
            params["arcs"] = jnp.zeros((*axis, net.num_arcs), param_dtype)
        if hidden:
            params["hidden"] = perceptron_init(
                key, (given.shape[1], *hidden, 1), last_scale=0.0, dtype=param_dtype
            )
        return params

    def token_logps(params: Params, batch: Segments) -> Float[Array, "b k t"]:
        b, k, t = batch.mask.shape
        costs = arc_costs(params, jnp.asarray(given, params["weights"].dtype))
        routes = (batch.actions, batch.mask, batch.observations[:, :, 0, 1])
        if axis:
            if k != axis[0]:
                raise ValueError(
                    f"route_planner: rows of {k} segments, and {axis[0]} regions; a row holds one "
                    "demonstration of each region in their order (`data.roads.routes.by_region`)"
                )
            return each_region(scores, costs, *(x.swapaxes(0, 1) for x in routes)).swapaxes(0, 1)
        return scores(costs, *(x.reshape(b * k, *x.shape[2:]) for x in routes)).reshape(b, k, t)

    def scores(
        costs: Float[Array, " e"], arcs: Int[Array, "d t"], mask: Bool[Array, "d t"], ends: Int[Array, " d"]
    ) -> Float[Array, "d t"]:
        rewards = -costs
        if margin:
            passed = jnp.zeros((len(ends), net.num_arcs + 1), bool)
            row = jnp.arange(len(ends))[:, None]
            passed = passed.at[row, jnp.where(mask, arcs, net.num_arcs)].set(True)
            rewards = -jnp.where(passed[:, :-1].T, costs[:, None], jnp.maximum(costs - margin, 0)[:, None])
        return route_logps(net, costs, arcs, mask, *values(rewards, ends))

    def values(rewards: Array, ends: Int[Array, " d"]) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        plan = roads.sweeps if planner is None else planner
        v: Any
        if horizon == MAX_ENT:
            v = roads.soft_values(net, rewards, ends, planner, tolerance, max_sweeps)
            return v, v
        if horizon == 0:
            v = roads.hard_values(net, rewards, ends, plan)
            return v, v
        return horizon_values(net, rewards, ends, int(horizon), plan)

    def act(params: Params, observations: Int[Array, "*rows 2"], key: PRNGKey | None) -> Int[Array, "*rows"]:
        rows = observations.reshape(-1, 2)
        costs = arc_costs(params, jnp.asarray(given, params["weights"].dtype))
        if axis:  # whoever acts goes anywhere, in no order of regions
            costs = costs[jnp.asarray(region)[rows[:, 1]]].T
        ahead, _ = values(-costs, rows[:, 1])
        q = ahead[jnp.asarray(net.heads)].T - costs.reshape(net.num_arcs, -1).T
        q = jnp.where(jnp.asarray(net.tails)[None] == rows[:, :1], q, -jnp.inf)
        arcs = q.argmax(-1) if key is None else jax.random.categorical(key, q)
        return arcs.reshape(observations.shape[:-1])

    def explain(params: Params) -> str | None:
        costs = np.asarray(arc_costs(params, jnp.asarray(given, params["weights"].dtype)), np.float64)
        return _divergence(net, costs, tolerance, max_sweeps) if horizon == MAX_ENT else None

    def axes() -> Any:
        shapes = jax.eval_shape(init, jax.random.key(0))
        names = jax.tree.map(lambda x: (None,) * x.ndim, shapes)
        return names | {name: ("regions", None) for name in ("weights", "arcs") if axis and name in names}

    return Policy(
        init,
        token_logps,
        sample=answers_no_prompts,
        axes=axes,
        flops=lambda batch: 0.0,
        vocab_size=net.num_arcs,
        act=act,
        explain=explain,
        check=lambda records: check_routes(records, net, region if axis else None),
    )


def check_routes(records: Any, graph: roads.RoadGraph, region: np.ndarray | None = None) -> None:
    """Host side: `data.SegmentRecords` whose steps are arcs of this graph, each from the node it says.

    Args:
      region: of each node, where every segment of a row is to end in the region of its number.

    Raises:
      ValueError: an unknown arc, an arc that does not leave the node of its step, or a segment that ends in
        another region than its own.
    """
    steps = np.arange(records.actions.shape[2]) < records.step_lengths[..., None]
    arcs, seen = records.actions, records.observations
    known = (arcs >= 0) & (arcs < graph.num_arcs)
    leaves = known & (np.asarray(graph.tails)[np.where(known, arcs, 0)] == seen[..., 0])
    if (steps & ~leaves).any():
        row, k, t = np.argwhere(steps & ~leaves)[0]
        raise ValueError(
            f"records: row {row}, segment {k}, step {t} takes arc {arcs[row, k, t]} from node "
            f"{seen[row, k, t, 0]}, and the graph of {graph.num_arcs} arcs has no such arc there: were they "
            "made on another graph, or before its arcs were sorted (`data.roads.routes.route_records`)?"
        )
    if region is None:
        return
    place = np.where(steps[..., 0], region[np.where(steps[..., 0], seen[..., 0, 1], 0)], np.arange(records.k))
    if (place != np.arange(records.k)).any():
        row, k = np.argwhere(place != np.arange(records.k))[0]
        raise ValueError(
            f"records: row {row}, segment {k} ends in region {place[row, k]}; a row holds one demonstration "
            "of each region in their order (`data.roads.routes.by_region`)"
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


def arc_costs(params: Params, features: Float[Array, "e f"]) -> Float[Array, "*x e"]:
    """Costs of arcs: (features @ softplus(weights) + softplus(MLP(features) - 5)) * exp(table).

    `[e]`, or `[x, e]` where params hold the weights of `x` regions.

    *Differs from* the paper's sum with a cost for each arc: a factor keeps costs positive and is neutral
    at 0.
    """
    costs = jax.nn.softplus(params["weights"]) @ features.T
    if "hidden" in params:
        # At the start softplus(-5), next to nothing.
        more = jax.nn.softplus(perceptron(params["hidden"], features) - 5)[:, 0]
        costs += jnp.broadcast_to(more, costs.shape)
    return costs * jnp.exp(params["arcs"]) if "arcs" in params else costs


def _regions(regions: Callable[[], Any] | None, num_nodes: int) -> tuple[np.ndarray, tuple[()] | tuple[int]]:
    """Each node's region `[n]`, and the leading axis of params: `(x,)`, or `()` without regions."""
    if regions is None:
        return np.zeros(num_nodes, np.int32), ()
    region = np.asarray(regions())
    if region.shape != (num_nodes,) or region.dtype.kind not in "iu" or region.min() < 0:
        raise ValueError(
            f"route_planner.regions: expected a number from 0 for each of {num_nodes} nodes, got "
            f"{region.dtype} {region.shape}"
        )
    return region.astype(np.int32), (int(region.max()) + 1,)


def _divergence(
    net: roads.RoadGraph, costs: Float[np.ndarray, "*x e"], tolerance: float, max_sweeps: int
) -> str | None:
    """Why soft values under these costs are not finite, and what to do."""
    for region, of_one in enumerate(costs.reshape(-1, net.num_arcs)):
        where = f"MaxEnt, region {region}" if costs.ndim == 2 else "MaxEnt"
        if not np.isfinite(of_one).all():
            return f"{where}: costs are not finite; lower the learning rate"
        try:
            radius = roads.check_partition(net, of_one)
        except roads.DivergentPartition as error:
            return (
                f"{where}: {error}. In training: start from larger costs (`initial`), or take smaller steps "
                "(a lower learning rate)"
            )
        if radius**max_sweeps > tolerance:
            return (
                f"{where}: the spectral radius of exp(-cost) is {radius:.6g}, near 1, and max_sweeps="
                f"{max_sweeps} is not enough for it; raise that, or start from larger costs (`initial`)"
            )
    return None


def _check_settings(horizon: float, margin: float, planner: Any) -> None:
    if horizon != MAX_ENT and (horizon < 0 or horizon != int(horizon)):
        raise ValueError(f"route_planner.horizon: expected 0, 1, 2, ... or inf (MaxEnt), got {horizon}")
    if margin < 0 or (margin and horizon != 0):
        raise ValueError(
            f"route_planner.margin: expected 0 or more, and horizon 0 (a margin is of the cheapest way), got "
            f"{margin} with horizon {horizon}"
        )
    if planner is None and horizon != MAX_ENT:
        raise ValueError("route_planner.planner: None is for MaxEnt alone; use planning.roads.sweeps")
