"""Values on the New York graph: seconds of a sweep and to convergence, beside scipy and a dense solver."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from jaxpref.benchmarks.machine import facts, measured_bandwidth
from jaxpref.benchmarks.timing import timed
from jaxpref.data.roads.networks import new_york_graph
from jaxpref.planning import roads
from jaxpref.planning.roads import RoadGraph
from jaxpref.planning.roads.sweep import arcs_of, soft_step

__all__ = ["measure", "measured", "sweep_figures", "table"]

_SWEEPS = 10  # in a program whose time is divided by them


def measure(
    *,
    rounds: int = 3,
    data_root: str = "../shared/data",
    destinations: Sequence[int] = (1, 16),
    dense: int = 4096,
    scale: float = 1.0,
) -> dict[str, Any]:
    """Figures for random costs, uniform in [1.5, 3.5] times `scale`, and random destinations, both seeded.

    `dense`: nodes of the part that a dense solver gets too.
    """
    return measured(
        new_york_graph(data_root), rounds=rounds, destinations=destinations, dense=dense, scale=scale
    )


def measured(
    graph: RoadGraph, *, rounds: int, destinations: Sequence[int], dense: int, scale: float = 1.0
) -> dict[str, Any]:
    """The figures for any graph.

    The floor of a sweep is the least it must move: costs, ends and sources (or padded neighbours) of all
    arcs once, all values in and out once. Sweeps of both layouts take turns.
    """
    generator = np.random.default_rng(0)
    costs = scale * generator.uniform(1.5, 3.5, graph.num_arcs)
    every = generator.permutation(graph.num_nodes)
    bandwidth = measured_bandwidth()
    sweeps = sweep_figures(graph, costs, every, rounds=rounds, destinations=destinations, bandwidth=bandwidth)
    solved = {str(d): _converged(graph, costs, every[:d]) for d in destinations}
    return {
        "benchmark": "roads",
        **facts(),
        "nodes": graph.num_nodes,
        "arcs": graph.num_arcs,
        "scale": scale,
        "bytes_per_second": bandwidth,
        "sweeps": sweeps,
        "converged": solved,
        "linear": _linear(graph, costs, int(every[0])),
        "dense": _dense(graph, costs, int(every[0]), dense),
    }


def sweep_figures(
    graph: RoadGraph,
    costs: NDArray[np.float64],
    every: NDArray[np.integer],
    *,
    rounds: int,
    destinations: Sequence[int],
    bandwidth: float,
) -> dict[str, dict[str, float]]:
    """Figures of a soft sweep in each layout, towards the first `destinations` of the nodes `every`."""
    layouts = {"segments": graph, "padded": roads.padded(graph)}
    rewards = jnp.asarray(-costs, jnp.float32)
    calls: dict[tuple[str, int], Callable[[], Array]] = {}
    for name, layout in layouts.items():
        for d in destinations:
            v = jnp.full((graph.num_nodes, d), -20.0)
            calls[name, d] = partial(_many, layout, rewards, v, jnp.asarray(every[:d], jnp.int32))
    for call in calls.values():
        jax.block_until_ready(call())
    times: dict[tuple[str, int], list[dict[str, Any]]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            times[key].append(timed(call, 1))
    figures = {}
    for (name, d), turns in times.items():
        seconds, cpu = (min(turn[k][0] for turn in turns) / _SWEEPS for k in ("wall", "cpu"))
        layout = layouts[name]
        arcs = 3 * graph.num_arcs if layout.neighbours is None else 2 * layout.neighbours.size
        moved = 4 * (arcs + 2 * graph.num_nodes * d)
        figures[f"{name}, {d}"] = {
            "seconds": seconds,
            "cpu_seconds": cpu,
            "arcs_per_second": graph.num_arcs * d / seconds,
            "share_of_bandwidth": moved / seconds / bandwidth,
        }
    return figures


@jax.jit
def _many(graph: RoadGraph, rewards: Array, v: Array, ends: Array) -> Array:
    arcs = arcs_of(graph, rewards)  # laid out once, as in a solve
    return jax.lax.fori_loop(0, _SWEEPS, lambda _, v: soft_step(arcs, v, ends), v)


@jax.jit
def _solve(graph: RoadGraph, rewards: Array, ends: Array, start: Array | None) -> roads.Solved:
    return roads.solve_soft(graph, rewards, ends, start=start)


_hard = jax.jit(roads.sweeps)


def _converged(graph: RoadGraph, costs: NDArray[np.float64], ends: NDArray[np.integer]) -> dict[str, Any]:
    """Once each, after compiling: soft values from the destinations and from the cheapest paths, and the
    cheapest paths by sweeps and by Dijkstra."""
    rewards, goals = jnp.asarray(-costs, jnp.float32), jnp.asarray(ends, jnp.int32)
    tails, heads = np.asarray(graph.tails), np.asarray(graph.heads)
    roads.cheapest(tails, heads, graph.num_nodes, costs, ends[:1])  # sorts the arcs, once for a graph
    start = time.perf_counter()
    v, _ = roads.cheapest(tails, heads, graph.num_nodes, costs, ends)
    figures: dict[str, Any] = {"dijkstra_seconds": time.perf_counter() - start}
    cheapest = jnp.asarray(v, jnp.float32)
    by_sweeps, seconds = _once(_hard, graph, rewards[:, None], goals)
    figures["hard_seconds"] = seconds
    figures["hard_difference"] = float(jnp.abs(by_sweeps[0] - cheapest).max())
    values = {}
    for name, begun in (("cold", None), ("warm", cheapest)):
        values[name], seconds = _once(_solve, graph, rewards, goals, begun)
        figures[f"{name}_seconds"], figures[f"{name}_sweeps"] = seconds, int(values[name].sweeps)
        figures[f"{name}_converged"] = bool(values[name].converged)
    figures["difference"] = float(jnp.abs(values["cold"].values - values["warm"].values).max())
    figures["soft_less_hard"] = float((values["warm"].values - cheapest).max())
    return figures


def _once(function: Any, *arguments: Any) -> tuple[Any, float]:
    call = function.lower(*arguments).compile()
    start = time.perf_counter()
    result = jax.block_until_ready(call(*arguments))
    return result, time.perf_counter() - start


def _linear(graph: RoadGraph, costs: NDArray[np.float64], end: int) -> dict[str, Any]:
    """scipy's sparse solve of (I - A) z = e_d in float64, which answers where z does not underflow."""
    from scipy.sparse import csc_array, eye_array
    from scipy.sparse.linalg import spsolve

    n, tails, heads = graph.num_nodes, np.asarray(graph.tails), np.asarray(graph.heads)
    kept = tails != end
    a: Any = csc_array((np.exp(-costs[kept]), (tails[kept], heads[kept])), (n, n))
    right = np.zeros(n)
    right[end] = 1
    start = time.perf_counter()
    z: Any = spsolve((eye_array(n, format="csc") - a).tocsc(), right)
    seconds = time.perf_counter() - start
    v = np.asarray(_solve(graph, jnp.asarray(-costs, jnp.float32), jnp.asarray([end]), None).values)[:, 0]
    known = z > 1e-290
    difference = np.abs(np.log(z[known]) - v[known]).max()
    return {"seconds": seconds, "share_of_nodes": float(known.mean()), "difference": float(difference)}


def _dense(graph: RoadGraph, costs: NDArray[np.float64], end: int, most: int) -> dict[str, Any]:
    """The nodes nearest to the destination (in arcs), by sweeps and by a dense solve in float32."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order

    tails, heads = np.asarray(graph.tails), np.asarray(graph.heads)
    turned = csr_array((np.ones(len(tails), np.int8), (heads, tails)), (graph.num_nodes,) * 2)
    nodes = breadth_first_order(turned, end, return_predecessors=False)[:most]
    number = np.full(graph.num_nodes, -1)
    number[nodes] = np.arange(len(nodes))
    inside = (number[tails] >= 0) & (number[heads] >= 0)
    part, order = roads.road_graph(number[tails[inside]], number[heads[inside]], len(nodes))
    rewards = jnp.asarray(-costs[inside][order], jnp.float32)
    goal = jnp.zeros(1, jnp.int32)

    @jax.jit
    def solve(rewards: Array) -> Array:
        a = jnp.zeros((len(nodes),) * 2).at[part.tails, part.heads].add(jnp.exp(rewards)).at[0].set(0)
        return jnp.log(jnp.linalg.solve(jnp.eye(len(nodes)) - a, jnp.eye(1, len(nodes))[0]))

    exact, seconds = _once(solve, rewards)
    swept, sweeping = _once(_solve, part, rewards, goal, None)
    known = np.asarray(exact) > -60  # float32 has no finer z
    difference = np.abs(np.asarray(exact) - np.asarray(swept.values)[:, 0])[known].max()
    return {
        "nodes": len(nodes),
        "dense_seconds": seconds,
        "sweeps_seconds": sweeping,
        "sweeps": int(swept.sweeps),
        "share_of_nodes": float(known.mean()),
        "difference": float(difference),
        "dense_bytes_of_all": 4.0 * graph.num_nodes**2,
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [
        f"{figures['nodes']:,} nodes, {figures['arcs']:,} arcs, costs U(1.5, 3.5) x {figures['scale']:g}, "
        f"float32, on {figures['device']} ({figures['cores']} cores), jax {figures['jax']}; streaming "
        f"{figures['bytes_per_second'] / 1e9:.1f} GB/s; load {figures['load_average']:.1f}",
        f"{'layout, destinations':22s} {'ms/sweep':>9s} {'CPU ms':>7s} {'million arcs/s':>15s} "
        f"{'of bandwidth':>13s}",
    ]
    lines += [
        f"{name:22s} {v['seconds'] * 1e3:9.2f} {v['cpu_seconds'] * 1e3:7.2f} "
        f"{v['arcs_per_second'] / 1e6:15.1f} {v['share_of_bandwidth']:13.0%}"
        for name, v in figures["sweeps"].items()
    ]
    for d, v in figures["converged"].items():
        lines += [
            f"to {d}: Dijkstra {v['dijkstra_seconds']:.2f} s, max-plus sweeps {v['hard_seconds']:.2f} s, "
            f"differing by {v['hard_difference']:.1e}",
            f"  soft values: {v['cold_sweeps']} sweeps, {v['cold_seconds']:.2f} s; from the cheapest paths "
            f"{v['warm_sweeps']} sweeps, {v['warm_seconds']:.2f} s, differing by {v['difference']:.1e}; "
            f"up to {v['soft_less_hard']:.1f} above those of the cheapest paths",
        ]
    one, part = figures["linear"], figures["dense"]
    lines.append(
        f"spsolve, 1 destination: {one['seconds']:.2f} s; {one['share_of_nodes']:.0%} of nodes above "
        f"underflow, differing by {one['difference']:.1e}"
    )
    lines.append(
        f"dense solve of the nearest {part['nodes']:,} nodes: {part['dense_seconds']:.2f} s, sweeps "
        f"{part['sweeps_seconds']:.3f} s ({part['sweeps']}; differ by {part['difference']:.1e} on "
        f"{part['share_of_nodes']:.0%}); all nodes would take {part['dense_bytes_of_all'] / 1e9:.0f} GB"
    )
    return "\n".join(lines)
