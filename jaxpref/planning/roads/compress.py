"""Graphs with the same values: chains contracted, nodes of many arcs split. On the host."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxpref.planning.roads.graph import RoadGraph, road_graph

__all__ = ["Merged", "Split", "merge_chains", "split_degrees"]

Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Merged:
    """A graph without the nodes that leave no choice."""

    graph: RoadGraph
    nodes: Ints  # [m] original number of each node, ascending
    # Offsets `[e + 1]` and original arcs: arc i is made of arcs[offsets[i]:offsets[i + 1]].
    members: tuple[Ints, Ints]

    def summed(self, per_arc: ArrayLike) -> np.ndarray:
        """Costs or features `[e_before, ...]` of original arcs summed over merged arcs; for linear costs."""
        offsets, arcs = self.members
        values = np.asarray(per_arc)[arcs]
        return np.add.reduceat(values, offsets[:-1], axis=0)

    def node(self, before: int) -> int:
        """Number of a node that was kept."""
        at = int(np.searchsorted(self.nodes, before))
        if at == len(self.nodes) or self.nodes[at] != before:
            raise ValueError(f"merged graph: node {before} was contracted; name it in `keep`")
        return at

    def route(self, arcs: Sequence[int]) -> list[int]:
        """A route of the original graph, between kept nodes, as merged arcs."""
        offsets, members = self.members
        by_first = {int(members[offsets[i]]): i for i in range(len(offsets) - 1)}
        merged_arcs, at = [], 0
        while at < len(arcs):
            merged = by_first.get(int(arcs[at]))
            ahead = [] if merged is None else members[offsets[merged] : offsets[merged + 1]].tolist()
            if merged is None or list(map(int, arcs[at : at + len(ahead)])) != ahead:
                raise ValueError(
                    f"merged graph: step {at} of the route starts or ends inside a contracted chain"
                )
            merged_arcs.append(merged)
            at += len(ahead)
        return merged_arcs


def merge_chains(graph: RoadGraph, keep: ArrayLike = ()) -> Merged:
    """Contracts every node with one arc out of it, except those of `keep` (origins, destinations).

    Values at kept nodes, to kept destinations, and log-probs of routes between them stay what they are for
    rewards that are sums over arcs: with no choice there is nothing to decide. A dead end with one arc back
    becomes a self loop. A finite horizon then counts decisions, not arcs. Paths that end in no kept node are
    dropped.

    Returns:
      The smaller graph, with the original arcs that each of its arcs is made of.

    Example:
      >>> from jaxpref.planning import roads
      >>> graph, _ = roads.road_graph([0, 0, 1], [1, 2, 2])
      >>> merged = roads.merge_chains(graph, keep=[2])  # 0 to 1 to 2 becomes one arc
      >>> print(merged.nodes, merged.summed([1.0, 3.0, 1.0]))
      [0 2] [2.0000 3.0000]
    """
    tails, heads = np.asarray(graph.tails), np.asarray(graph.heads)
    degrees = np.bincount(tails, minlength=graph.num_nodes)
    stays = degrees != 1
    stays[np.asarray(keep, np.int64)] = True
    only = np.searchsorted(tails, np.arange(graph.num_nodes))  # the arc out, where there is one
    arc = np.flatnonzero(stays[tails])
    at, which = heads[arc].astype(np.int64), np.arange(len(arc))
    steps = [(which, arc)]
    inside = np.flatnonzero(~stays[at])
    for _ in range(graph.num_nodes):
        if not len(inside):
            break
        following = only[at[inside]]
        steps.append((inside, following))
        at[inside] = heads[following]
        inside = inside[~stays[at[inside]]]
    ends = np.ones(len(arc), bool)
    ends[inside] = False  # still inside after n steps: a cycle that leads nowhere
    owner, passed = (np.concatenate([s[i] for s in steps]) for i in (0, 1))
    order = np.argsort(owner, kind="stable")
    owner, passed = owner[order], passed[order]
    passed = passed[ends[owner]]
    counts = np.bincount(owner, minlength=len(arc))[ends]
    kept = np.flatnonzero(stays)
    new = np.cumsum(stays) - 1
    merged, order = road_graph(new[tails[arc[ends]]], new[at[ends]], len(kept), self_loops=True)
    # Arcs were taken in the order of their tails, and renumbering nodes keeps it.
    assert (order == np.arange(len(order))).all()
    return Merged(merged, kept, (np.concatenate([[0], np.cumsum(counts)]), passed))


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """A graph whose nodes have few arcs; the first `n` nodes are the original ones."""

    graph: RoadGraph
    arcs: Ints  # [e] original number of each arc, -1 for the free ones inside a node

    def spread(self, per_arc: ArrayLike) -> np.ndarray:
        """Costs or features of original arcs, `[e_before, ...]`, for the split graph: 0 on free arcs."""
        values = np.asarray(per_arc)
        return np.where((self.arcs >= 0).reshape(-1, *[1] * (values.ndim - 1)), values[self.arcs], 0)

    def route(self, arcs: Sequence[int]) -> list[int]:
        """A route of the original graph as arcs of the split graph, free ones included."""
        tails, heads = np.asarray(self.graph.tails), np.asarray(self.graph.heads)
        into = {
            int(heads[i]): int(i) for i in np.flatnonzero(self.arcs < 0)
        }  # the free arc into each new node
        place = {int(old): i for i, old in enumerate(self.arcs) if old >= 0}
        split_arcs = []
        for arc in arcs:
            chain = [place[int(arc)]]
            while int(tails[chain[0]]) in into:
                chain.insert(0, into[int(tails[chain[0]])])
            split_arcs += chain
        return split_arcs


def split_degrees(graph: RoadGraph, most: int) -> Split:
    """Nodes with more than `most` arcs out become chains of nodes joined by free arcs.

    Padded neighbours then have `most` columns. Values stay exactly what they are, hard ones and converged
    soft ones, and so do log-probs of routes; a finite horizon counts the free arcs as steps.

    Returns:
      The larger graph, with the original number of each of its arcs.

    Raises:
      ValueError: `most` is below 2.

    Example:
      >>> from jaxpref.planning import roads
      >>> graph, _ = roads.road_graph([0, 0, 0], [1, 2, 3])
      >>> split = roads.split_degrees(graph, 2)  # node 4 takes over two of the three arcs
      >>> print(split.graph.tails, split.graph.heads, split.spread([5.0, 6.0, 7.0]))
      [0 0 4 4] [1 4 2 3] [5.0000 0.0000 6.0000 7.0000]
    """
    if most < 2:
        raise ValueError(f"split_degrees: expected 2 arcs or more to a node, got {most}")
    tails, heads = np.asarray(graph.tails, np.int64), np.asarray(graph.heads, np.int64)
    n, e = graph.num_nodes, graph.num_arcs
    degrees = np.bincount(tails, minlength=n)
    column = np.arange(e) - (np.cumsum(degrees) - degrees)[tails]
    # Links of a chain hold most - 1 arcs and one onwards; the last one holds up to `most`.
    links = np.where(degrees > most, -(-(degrees - 1) // (most - 1)), 1)
    first = n + np.cumsum(links - 1) - (links - 1)  # number of a node's second link
    link = np.minimum(column // (most - 1), links[tails] - 1)
    new_tails = np.where(link == 0, tails, first[tails] + link - 1)
    owner = np.repeat(np.arange(n), links - 1)
    index = np.arange(len(owner)) - np.repeat(np.cumsum(links - 1) - (links - 1), links - 1)
    free_tails = np.where(index == 0, owner, first[owner] + index - 1)
    split, order = road_graph(
        np.concatenate([new_tails, free_tails]),
        np.concatenate([heads, first[owner] + index]),
        n + len(owner),
        self_loops=True,
    )
    return Split(split, np.concatenate([np.arange(e), np.full(len(owner), -1)])[order])
