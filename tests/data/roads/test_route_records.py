"""Routes as records, packed by the region of their destination."""

import numpy as np
import pytest
from road_graphs import random_roads, ways

from jaxpref.data import SegmentRecords
from jaxpref.data.roads.networks import boxes
from jaxpref.data.roads.routes import by_region, places_by_region, route_records, routes_of

GRAPH, _ = random_roads()
REGION = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3])
PAIRS = [(5, 0), (6, 1), (7, 2), (8, 0), (0, 4), (1, 4), (0, 7)]  # four to region 0, two to 1, one to 2


def trips():
    return route_records(GRAPH, [min(ways(GRAPH, a, b, 5), key=len) for a, b in PAIRS])


def test_rows_hold_one_demonstration_of_each_region():
    packed = by_region(trips(), REGION)
    np.testing.assert_array_equal(
        places_by_region(trips(), REGION), [[0, 4, 6, -1], [1, -1, -1, -1], [2, 5, -1, -1], [3, -1, -1, -1]]
    )
    np.testing.assert_array_equal(packed.step_lengths > 0, places_by_region(trips(), REGION) >= 0)
    assert sorted(routes_of(packed.flat())) == sorted(routes_of(trips()))
    for j in range(3):
        ends = packed.observations[:, j, 0, 1]  # those of absent ones too, which are planned to
        np.testing.assert_array_equal(REGION[ends], j)
    batch = packed.rows([1, -1])
    assert batch.mask.any(-1).tolist() == [[True, False, False, False], [False] * 4]
    assert int(batch.num_tokens) == packed.step_lengths[1, 0]


def test_bad_regions_are_named():
    with pytest.raises(ValueError, match="destination 7 is not among the 3 nodes"):
        by_region(trips(), REGION[:3])
    with pytest.raises(ValueError, match="a number from 0 for each node, got 1 a row and float64"):
        by_region(trips(), REGION.astype(float))
    with pytest.raises(ValueError, match="got 4 a row"):
        by_region(by_region(trips(), REGION), REGION)
    with pytest.raises(ValueError, match="columns \\['annotators'\\] of single"):
        by_region(trips().with_column("annotators", np.arange(7)), REGION)


def test_absent_segments_are_no_comparison(tmp_path):
    steps = np.zeros((2, 3, 4))
    lengths, ties = np.array([[4, 0, 2], [1, 1, 0]]), np.full((2, 3, 3), 0.5, np.float32)
    records = SegmentRecords(steps, steps, lengths, ties).checked()
    records.save(tmp_path / "r.npz")
    np.testing.assert_array_equal(SegmentRecords.load(tmp_path / "r.npz").step_lengths, lengths)
    for bad in ({"preferences": None}, {"step_lengths": lengths * [[1], [0]]}, {"step_lengths": lengths - 1}):
        given = {"step_lengths": lengths, "preferences": ties} | bad
        with pytest.raises(ValueError, match=r"steps; expected 1 to 4 \(0 beside others"):
            SegmentRecords(steps, steps, **given)
    with pytest.raises(ValueError, match="row 0, segment 1 has 0 steps; both segments of a pair"):
        SegmentRecords.pairs(steps[:1, :2], steps[:1, :2], np.array([0.5]), np.array([[4, 0]]))


def test_boxes_hold_as_many_nodes_each():
    place = np.random.default_rng(0).uniform(size=(64, 2)) * [10, 1]
    region = boxes(place, 4)
    np.testing.assert_array_equal(np.bincount(region), 16)
    assert place[region == 0, 0].max() <= min(place[region == i, 0].min() for i in (1, 2, 3))
    assert sorted(np.bincount(boxes(place, 3))) == [16, 16, 32]
    with pytest.raises(ValueError, match="expected 1 to 64 regions"):
        boxes(place, 65)
