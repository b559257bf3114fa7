"""Demonstrated routes as segments: node and destination before each step, and the arc taken."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxpref.data.segments import SegmentRecords
from jaxpref.planning.roads import RoadGraph, check_route

__all__ = ["route_records", "routes_of"]


def route_records(graph: RoadGraph, routes: Sequence[Sequence[int]], **others: Any) -> SegmentRecords:
    """One row for each route (arcs), which goes to the end of its last arc.

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
    """The arcs of every route."""
    return [records.actions[i, 0, : records.step_lengths[i, 0]].tolist() for i in range(len(records))]
