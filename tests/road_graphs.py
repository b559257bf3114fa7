"""Small graphs, and what plain loops say of them."""

import itertools

import numpy as np

from jaxpref.planning.roads import road_graph

__all__ = ["dense", "random_roads", "ways"]


def random_roads(n=9, arcs=30, seed=0, low=1.2, high=3.0):
    """A ring with chords and a parallel arc, strongly connected, and costs: `(graph, costs)`."""
    generator = np.random.default_rng(seed)
    ring = [(i, (i + 1) % n) for i in range(n)] + [((i + 1) % n, i) for i in range(n)]
    pairs = [p for p in itertools.product(range(n), repeat=2) if p[0] != p[1]]
    chords = [pairs[i] for i in generator.integers(len(pairs), size=arcs - 2 * n - 1)]
    every = np.array([*ring, *chords, ring[0]])
    graph, _ = road_graph(every[:, 0], every[:, 1])
    return graph, generator.uniform(low, high, len(every))


def dense(graph, costs, destination):
    """A `[n, n]` with the destination's row 0, multi-edges summed."""
    a = np.zeros((graph.num_nodes, graph.num_nodes))
    np.add.at(a, (graph.tails, graph.heads), np.exp(-np.asarray(costs)))
    a[destination] = 0
    return a


def ways(graph, start, destination, most):
    """Every way of up to `most` arcs that ends when it is at the destination."""
    found, open_ = [], [((), start)]
    for _ in range(most + 1):
        open_, done = (
            [
                ((*w, i), int(graph.heads[i]))
                for w, at in open_
                if at != destination
                for i in np.flatnonzero(graph.tails == at)
            ],
            [w for w, at in open_ if at == destination],
        )
        found += done
    return found
