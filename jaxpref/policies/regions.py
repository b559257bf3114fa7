"""Regions of a road graph with costs of their own, and records that a planner of routes can read.

Each region has weights and a table of its own, which plan the routes that end there (the "mixture of experts"
of arXiv:2305.11290). Rows of records then hold `x` segments, one demonstration of each region in their order,
or none (`data.roads.routes.by_region`). The logical axis of regions is "regions"; where a mesh splits it, no
device needs another's costs, and only the MLP, which all regions share, has a gradient summed over them.

*Differs from* the paper's: origins do not choose, and every region has costs of all arcs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxpref.planning import roads

__all__ = ["check_routes", "known_regions"]


def known_regions(
    regions: Callable[[], Any] | None, num_nodes: int
) -> tuple[Int[np.ndarray, " n"], tuple[()] | tuple[int]]:
    """Each node's region `[n]`, and the leading axis of params: `(x,)`, or `()` without regions.

    Raises:
      ValueError: no number from 0 for each node.
    """
    if regions is None:
        return np.zeros(num_nodes, np.int32), ()
    region = np.asarray(regions())
    if region.shape != (num_nodes,) or region.dtype.kind not in "iu" or region.min() < 0:
        raise ValueError(
            f"route_planner.regions: expected a number from 0 for each of {num_nodes} nodes, got "
            f"{region.dtype} {region.shape}"
        )
    return region.astype(np.int32), (int(region.max()) + 1,)


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
