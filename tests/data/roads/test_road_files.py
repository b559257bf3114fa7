"""Road files: the two real ones, the formats, and what is wrong with bad ones."""

import gzip
import lzma

import numpy as np
import pytest

from jaxpref.data.roads.networks import csv_roads, csv_routes, gr_graph, liechtenstein_roads, new_york_graph
from jaxpref.data.roads.osm import Nodes, Way, read_pbf, street_arcs


def test_new_york_is_what_its_readme_says(data_root):
    graph = new_york_graph(str(data_root))
    assert (graph.num_nodes, graph.num_arcs) == (264_346, 730_100)
    assert (np.diff(graph.tails) >= 0).all()
    forth = np.sort(graph.tails.astype(np.int64) * graph.num_nodes + graph.heads)
    back = np.sort(graph.heads.astype(np.int64) * graph.num_nodes + graph.tails)
    np.testing.assert_array_equal(forth, back)
    assert np.bincount(graph.tails).max() == 8


def test_liechtenstein_is_a_connected_country(data_root):
    roads = liechtenstein_roads(str(data_root))
    graph, length = roads.graph, roads.columns["length"]
    assert (graph.num_nodes, graph.num_arcs) == (3016, 6691)
    # The country has 0.35 thousand kilometres of such roads, most of them in both directions.
    assert length.sum() / 1e3 == pytest.approx(704, abs=1)
    assert roads.classes[int(roads.columns["class"][length.argmax()])] in roads.classes
    straight = np.hypot(
        *((roads.coordinates[graph.heads] - roads.coordinates[graph.tails]) * [75_600, 111_200]).T
    )
    assert (length >= 0.99 * straight).all()
    for arc in (0, 3000, 6690):
        shape = roads.shapes[arc]
        np.testing.assert_array_equal(shape[[0, -1]], roads.coordinates[[graph.tails[arc], graph.heads[arc]]])
    with pytest.raises(ValueError, match="no column 'toll'; there are"):
        roads.features(["toll"])


def test_a_missing_or_changed_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no road_new_york/NY\.gr\.xz; get it from https"):
        new_york_graph(str(tmp_path))
    (tmp_path / "NY.gr.xz").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"checksum mismatch: .*expected 12fe28df"):
        new_york_graph(str(tmp_path))
    (tmp_path / "cut.osm.pbf").write_bytes(b"\x00\x00\x00\x0e\x0a\x09OSMHea")
    with pytest.raises(ValueError, match=r"cut\.osm\.pbf: not an intact"):
        read_pbf(tmp_path / "cut.osm.pbf")


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\n", "expected a first line"),
        ("p tw 3 2\n1 2\n", "the header says 2 lines, and there are 1"),
        ("p tw 3 2\n1 2\n2\n", "line 2 after the header has another form"),
        ("p tw 3 1\n1 x\n", "a word is no number"),
        ("p tw 3 1\n1 4\n", r"tail 3 is not in \[0, 3\)"),
        ("p tw 3 1\n2 2\n", "self loop"),
    ],
)
def test_bad_graph_files_are_named(tmp_path, text, message):
    (tmp_path / "g.gr").write_text(text)
    with pytest.raises(ValueError, match=message):
        gr_graph(tmp_path / "g.gr")


ARCS = "tail,head,length\nb,c,2\na,b,1\nb,a,1.5\nb,c,3\n"


def test_tables_of_arcs_and_routes(tmp_path):
    (tmp_path / "arcs.csv").write_text(ARCS)
    roads = csv_roads(tmp_path / "arcs.csv")
    assert roads.names == ("b", "a", "c")
    np.testing.assert_array_equal(roads.columns["length"], [2, 1.5, 3, 1])
    np.testing.assert_array_equal(roads.columns["row"], [0, 2, 3, 1])
    assert roads.features(["length", "row"]).shape == (4, 2)
    (tmp_path / "routes.csv").write_text("route,arc\nx,1\nx,3\ny,2\n")
    assert csv_routes(tmp_path / "routes.csv", roads) == [[3, 2], [1]]
    (tmp_path / "routes.csv").write_text("route,node\nx,a\nx,b\nx,a\n")
    assert csv_routes(tmp_path / "routes.csv", roads) == [[3, 1]]


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        ("route,node\nx,a\nx,b\nx,c\n", "route x: b to c: several arcs; give a column `arc`"),
        ("route,node\nx,a\nx,c\n", "route x: a to c: no arc"),
        ("route,node\nx,a\nx,z\n", "route x: node 'z' is not in the table of arcs"),
        ("route,arc\nx,9\n", "route x: arc '9' is not in the table of arcs"),
        ("route\nx\n", "expected a column `arc` or `node`"),
        ("arc\n1\n", "'route' is missing"),
    ],
)
def test_bad_tables_are_named(tmp_path, routes, message):
    (tmp_path / "arcs.csv").write_text(ARCS)
    (tmp_path / "routes.csv").write_text(routes)
    with pytest.raises(ValueError, match=message):
        csv_routes(tmp_path / "routes.csv", csv_roads(tmp_path / "arcs.csv"))
    (tmp_path / "arcs.csv").write_text("tail,head,length\na,b,far\n")
    with pytest.raises(ValueError, match="column 'length': expected numbers"):
        csv_roads(tmp_path / "arcs.csv")
