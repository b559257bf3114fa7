"""Road files: text formats, the real graph, where ways are cut. Bad files: `tests/data/test_bad_roads.py`."""

import gzip
import lzma

import numpy as np
import pytest

from jaxpref.data.roads.networks import gr_graph, new_york_graph
from jaxpref.data.roads.osm import Nodes, Way, street_arcs


def test_new_york_is_what_its_readme_says(data_root):
    graph = new_york_graph(str(data_root))
    assert (graph.num_nodes, graph.num_arcs) == (264_346, 730_100)
    assert (np.diff(graph.tails) >= 0).all()
    forth = np.sort(graph.tails.astype(np.int64) * graph.num_nodes + graph.heads)
    back = np.sort(graph.heads.astype(np.int64) * graph.num_nodes + graph.tails)
    np.testing.assert_array_equal(forth, back)
    assert np.bincount(graph.tails).max() == 8


def test_a_missing_or_changed_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no road_new_york/NY\.gr\.xz; get it from https"):
        new_york_graph(str(tmp_path))
    (tmp_path / "NY.gr.xz").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"checksum mismatch: .*expected 12fe28df"):
        new_york_graph(str(tmp_path))


def test_ways_are_cut_at_crossings_and_know_their_direction():
    ids = np.arange(10, 17)
    nodes = Nodes(ids, np.stack([np.arange(7) * 0.001, np.zeros(7)], 1))
    ways = [
        Way(np.array([10, 11, 12, 13]), {"highway": "primary"}),  # crossed at 12
        Way(np.array([12, 14]), {"highway": "residential", "oneway": "yes"}),
        Way(np.array([15, 14]), {"highway": "motorway_link"}),  # one way without saying so
        Way(np.array([14, 15]), {"highway": "service", "oneway": "-1"}),
        Way(np.array([10, 99, 16]), {"highway": "primary"}),  # 99 is not in the extract
        Way(np.array([10, 16]), {"highway": "footway"}),
        Way(np.array([10, 16]), {"highway": "service", "motor_vehicle": "no"}),
    ]
    arcs = street_arcs(nodes, ways)
    ends = {(int(arcs.ids[t]), int(arcs.ids[h])) for t, h in zip(arcs.tails, arcs.heads, strict=True)}
    assert ends == {(10, 12), (12, 10), (12, 13), (13, 12), (12, 14), (15, 14)}
    assert len(arcs.tails) == 7  # both ways from 15 to 14
    both = next(i for i in range(7) if arcs.ids[arcs.tails[i]] == 10)
    assert arcs.lengths[both] == pytest.approx(2 * 111.19, abs=0.05)  # a thousandth of a degree, twice
    assert len(arcs.shapes[both]) == 3


@pytest.mark.parametrize("packed", ["plain", "gz", "xz"])
def test_graphs_of_both_text_formats(tmp_path, packed):
    directed = b"c distances\np sp 3 3\na 2 1 7\na 1 2 5\na 2 3 9\n"
    name, opener = {"plain": ("g.gr", open), "gz": ("g.gr.gz", gzip.open), "xz": ("g.gr.xz", lzma.open)}[
        packed
    ]
    with opener(tmp_path / name, "wb") as file:
        file.write(directed)
    graph, lengths = gr_graph(tmp_path / name)
    assert graph.tails.tolist() == [0, 1, 1]
    assert graph.heads.tolist() == [1, 0, 2]
    assert lengths.tolist() == [5, 7, 9]
    (tmp_path / "u.gr").write_bytes(b"p tw 3 2\n1 2\n2 3\n")
    graph, lengths = gr_graph(tmp_path / "u.gr")
    assert graph.tails.tolist() == [0, 1, 1, 2]
    assert lengths is None
