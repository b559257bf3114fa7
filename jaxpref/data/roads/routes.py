"""Demonstrated routes as segments: node and destination before each step, and the arc taken."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxpref.data.segments import SegmentRecords
from jaxpref.planning.roads import RoadGraph, check_route

__all__ = ["by_region", "places_by_region", "route_records", "routes_of"]


def route_records(graph: RoadGraph, routes: Sequence[Sequence[int]], **others: Any) -> SegmentRecords:
    """One row for each route (arcs), whose destination is the head of its last arc.

    Observations are `[n, 1, t, 2]`, node and destination; actions are numbers of arcs. Rows with the same
    origin and destination are one group, so that `split` holds out whole pairs of them.

    Raises:
      ValueError: a route with a missing arc, an arc that is not in the graph, or a visit of its destination
        before its end, named by its number.
    """
    if not len(routes):
        raise ValueError("routes: expected one or more, got none")
    ends = [check_route(graph, route, name=f"route {i}") for i, route in enumerate(routes)]
    lengths = np.array([len(route) for route in routes])
    arcs = np.zeros((len(routes), 1, lengths.max()), np.int32)
    observations = np.zeros((*arcs.shape, 2), np.int32)
    tails = np.asarray(graph.tails)
    for i, route in enumerate(routes):
        arcs[i, 0, : len(route)] = route
        observations[i, 0, : len(route), 0] = tails[np.asarray(route)]
        observations[i, 0, :, 1] = ends[i]
    pairs = np.stack([observations[:, 0, 0, 0], observations[:, 0, 0, 1]], 1)
    group = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
    return SegmentRecords(observations, arcs, lengths[:, None], group=group, **others).checked()


def routes_of(records: SegmentRecords) -> list[list[int]]:
    """The arcs of each route, as `route_records` was given them."""
    return [records.actions[i, 0, : records.step_lengths[i, 0]].tolist() for i in range(len(records))]


def by_region(records: SegmentRecords, regions: ArrayLike) -> SegmentRecords:
    """Packs demonstrations (`k = 1`) into rows that hold one of each region, in the order of the regions.

    A demonstration belongs to the region of its destination; its origin and the nodes it passes may be
    anywhere. Regions with fewer demonstrations than the largest have absent segments (0 steps), spread over
    the rows. All preferences are 1/2. Groups are lost, so `split` first.

    Args:
      regions: number of each node's region `[nodes]`, from 0, as `policies.routes.route_planner` has them.

    Raises:
      ValueError: rows of several segments, columns (whose demonstration would they be of?), or a destination
        that has no region.
    """
    if records.columns:
        raise ValueError(f"by_region: columns {sorted(records.columns)} of single demonstrations; drop them")
    place = places_by_region(records, regions)
    n, x = place.shape
    # What stands in for an absent one is never scored, but planned to: a destination of the region, if any.
    index = np.where(place < 0, place.max(0), place)
    lengths = np.where(place < 0, 0, records.step_lengths[index, 0])
    ties = np.broadcast_to(np.float32(0.5), (n, x, x))
    return SegmentRecords(
        records.observations[index, 0],
        records.actions[index, 0],
        lengths,
        ties,
        metadata={**records.metadata, "regions": x},
    ).checked()


def places_by_region(records: SegmentRecords, regions: ArrayLike) -> NDArray[np.int64]:
    """Which demonstration `by_region` puts where: numbers of rows `[m, regions]`, -1 where there is none."""
    region, ends = np.asarray(regions), records.observations[:, 0, 0, 1]
    if records.k != 1 or region.ndim != 1 or region.dtype.kind not in "iu" or region.min(initial=0) < 0:
        raise ValueError(
            f"by_region: expected one demonstration a row and a number from 0 for each node, got "
            f"{records.k} a row and {region.dtype} {region.shape}"
        )
    if ends.max(initial=0) >= len(region):
        raise ValueError(f"by_region: destination {ends.max()} is not among the {len(region)} nodes")
    counts = np.bincount(region[ends], minlength=int(region.max()) + 1)
    place = np.full((counts.max(), len(counts)), -1)
    for i, count in enumerate(counts):
        place[np.arange(count) * len(place) // max(count, 1), i] = np.flatnonzero(region[ends] == i)
    return place
