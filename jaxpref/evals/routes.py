"""Learnt costs of roads on held-out routes: likelihood, the cheapest path against the driven one, a map."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxpref.data.roads.networks import Roads
from jaxpref.data.roads.routes import by_region, places_by_region, routes_of
from jaxpref.data.segments import SegmentRecords
from jaxpref.environments.drivers import walk
from jaxpref.evals.base import Context, Evaluation, Picture
from jaxpref.evals.intervals import clustered, exact, share
from jaxpref.planning.roads.host import cheapest
from jaxpref.policies.arcs import arc_costs

__all__ = ["overlap", "route_choice"]


def route_choice(
    context: Context,
    *,
    records: Callable[[], SegmentRecords],
    roads: Callable[[], Roads],
    features: Callable[[], Any],
    hidden: Callable[[], Any] | None = None,
    likelihood: bool = True,
    regions: Callable[[], Any] | None = None,
    num_prompts: int = 400,
    batch_size: int = 32,
    name: str = "routes",
) -> Evaluation:
    """Measures of the first `num_prompts` routes under the params of `policies.routes.route_planner`.

    - `nll`: nats per route. With `likelihood=False` (horizon 0, whose scores are no log-probs) it is called
      `excess cost`: what the route costs more than the cheapest path, in the learnt unit.
    - `exact match`: share of routes that are the cheapest path under the learnt costs, whatever the horizon
      they were learnt with.
    - `overlap`: length of the arcs that both have by that of the arcs that either has (IoU).
    - `cost error`: with `hidden` costs `[e]`, standard deviation over arcs of log(learnt / hidden): a common
      factor does not count. With `regions` it is over the arcs of all of them, each about its own mean.

    Intervals take the routes from one origin to one destination as a group. The map shows the learnt cost per
    metre, and the route whose overlap is the median.
    """
    table = records()
    table = table.take(np.arange(min(num_prompts, len(table))))
    network = roads()
    given = jnp.asarray(features(), jnp.float32)
    costs = np.asarray(context.fetch(context.compiled(arc_costs)(context.params, given)), np.float64)
    driven = routes_of(table)
    if (costs.ndim == 2) != (regions is not None):
        raise ValueError("route_choice: give `regions` where the policy has weights for each")
    region = None if regions is None else np.asarray(regions())
    nats = -_nats(context, table, region, batch_size)
    planned = _cheapest(network, costs, driven, region)
    lengths = network.columns["length"]
    shared = np.array([overlap(a, b, lengths) for a, b in zip(driven, planned, strict=True)])
    same = np.array([float(a == b) for a, b in zip(driven, planned, strict=True)])
    metrics = {
        "nll" if likelihood else "excess cost": clustered(nats, table.group, "lower"),
        "exact match": share(same, table.group),
        "overlap": share(shared, table.group),
    }
    if hidden is not None:
        ratios = np.log(costs / np.asarray(hidden(), np.float64))
        error = float(np.sqrt(ratios.var(-1).mean()))
        metrics["cost error"] = exact(error, ratios.size, "lower")
    middle = int(np.argsort(shared)[len(shared) // 2])
    drawn = (
        ()
        if network.coordinates is None
        else (_map(network, costs.reshape(-1, costs.shape[-1]).mean(0), driven[middle], planned[middle]),)
    )
    return Evaluation(name, metrics, pictures=drawn)


def overlap(first: list[int], second: list[int], lengths: NDArray[np.float64]) -> float:
    """Length of the arcs in both routes over that of the arcs in either, in [0, 1]; each arc counts once."""
    a, b = set(first), set(second)
    return float(lengths[sorted(a & b)].sum() / lengths[sorted(a | b)].sum())


def _nats(
    context: Context, table: SegmentRecords, region: NDArray[np.int64] | None, batch_size: int
) -> NDArray[np.float64]:
    """Log-prob of each route, under the weights of the region where it ends, if there are regions."""
    if region is None:
        return _scores(context, table, batch_size)[:, 0]
    place = places_by_region(table, region)
    scores = _scores(context, by_region(table, region), -(-batch_size // place.shape[1]))
    nats = np.zeros(len(table))
    nats[place[place >= 0]] = scores[place >= 0]
    return nats


def _scores(context: Context, table: SegmentRecords, batch_size: int) -> NDArray[np.float64]:
    """Summed `token_logps` of each segment, `[n, k]`."""
    rows = context.rows(batch_size)
    room = -(-int(table.step_lengths.max()) // 8) * 8
    score = context.compiled(context.policy.token_logps)
    parts = []
    for first in range(0, len(table), rows):
        index = np.arange(first, first + rows)
        batch = table.rows(np.where(index < len(table), index, -1), response_length=room)
        logps = context.fetch(score(context.params, jax.tree.map(jnp.asarray, context.put(batch))))
        parts.append(np.asarray(logps, np.float64).sum(-1))
    return np.concatenate(parts)[: len(table)]


def _cheapest(
    network: Roads, costs: NDArray[np.float64], driven: list[list[int]], region: NDArray[np.int64] | None
) -> list[list[int]]:
    tails, heads = np.asarray(network.graph.tails), np.asarray(network.graph.heads)
    starts, ends = [int(tails[r[0]]) for r in driven], [int(heads[r[-1]]) for r in driven]
    goals, column = np.unique(ends, return_inverse=True)
    routes: list[list[int]] = [[] for _ in driven]
    for i in range(0, len(goals), 64):
        seen = costs if region is None else costs[region[goals[i : i + 64]]].T
        _, arc = cheapest(tails, heads, network.graph.num_nodes, seen, goals[i : i + 64])
        for row in np.flatnonzero((column >= i) & (column < i + 64)):
            routes[row] = walk(heads, arc[:, column[row] - i], starts[row], ends[row])
    return routes


def _map(network: Roads, costs: NDArray[np.float64], driven: list[int], planned: list[int]) -> Picture:
    """Both directions of a street are one line, with the mean of their costs."""
    rates = costs / np.maximum(network.columns["length"], 1)
    streets: dict[tuple, list[float]] = {}
    for arc in range(len(costs)):
        line = _line(network, [arc])
        streets.setdefault(min(line, line[::-1]), []).append(float(rates[arc]))
    routes = {"demonstrated": _line(network, driven), "predicted": _line(network, planned)}
    values = tuple(float(np.mean(v)) for v in streets.values())
    data = {
        "lines": tuple(streets),
        "values": values,
        "value_label": "cost per metre",
        "routes": routes,
        "credit": network.credit,
    }
    return Picture("Learnt cost, and a route", "road map", data)


def _line(network: Roads, arcs: list[int]) -> tuple[tuple[float, float], ...]:
    """Longitude and latitude along arcs, to a metre."""
    points = [(round(float(x), 5), round(float(y), 5)) for a in arcs for x, y in _shape(network, a)]
    return tuple(p for i, p in enumerate(points) if i == 0 or p != points[i - 1])


def _shape(network: Roads, arc: int) -> Any:
    if network.shapes:
        return network.shapes[arc]
    assert network.coordinates is not None
    return network.coordinates[[network.graph.tails[arc], network.graph.heads[arc]]]
