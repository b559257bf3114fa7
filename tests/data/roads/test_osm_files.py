"""OpenStreetMap files: one small map in every form, what is lost, who may drive, and the real extract."""

import logging
import sys

import numpy as np
import osmium
import pbf
import pytest
from osmium.osm import mutable

from jaxpref.data.roads.networks import liechtenstein_roads, osm_roads
from jaxpref.data.roads.osm import read_osm, street_arcs

# A cross in the south-west, in units of 1e-7 degrees: node 1 is its middle, -7 has a negative id.
#        2
#        |
#   3 -- 1 -- 4 -- -7       and a lane from 4 to 2, one way
LON, LAT = -705_000_000, -330_000_000
PLACES = {1: (0, 0), 2: (0, 20_000), 3: (-10_000, 0), 4: (10_000, 0), -7: (30_000, 0), 5: (5_000, 10_000)}
NODES = {i: (LON + x, LAT + y) for i, (x, y) in PLACES.items()}
WAYS = {11: ([3, 1, 4, -7], {"highway": "primary"}), 12: ([1, 2], {"highway": "residential"})}
WAYS[13] = ([4, 5, 2], {"highway": "residential", "oneway": "yes"})
# Lengths on a sphere of 6,371 km: a degree of a meridian is 111,194.93 m; of the parallel of 33 degrees south
# 93,255.91 m (times its cosine, 0.838671), as short stretches of it are.
UP, ALONG = 111_194.926_645, 93_255.91
HYPOT = float(np.hypot(0.0005 * ALONG, 0.001 * UP))
ARCS = {
    (1, 3): 0.001 * ALONG,
    (3, 1): 0.001 * ALONG,
    (1, 4): 0.001 * ALONG,
    (4, 1): 0.001 * ALONG,
    (4, -7): 0.002 * ALONG,
    (-7, 4): 0.002 * ALONG,
    (1, 2): 0.002 * UP,
    (2, 1): 0.002 * UP,
    (4, 2): 2 * HYPOT,
}


def written(path, *, options="", nodes=NODES, ways=WAYS, nodes_first=True, **common):
    """By osmium. Nodes are (lon, lat) in 1e-7 degrees."""
    with osmium.SimpleWriter(osmium.io.File(str(path), options) if options else str(path)) as writer:
        for kind in "nw" if nodes_first else "wn":
            if kind == "n":
                for i, (x, y) in nodes.items():
                    writer.add_node(mutable.Node(id=i, location=(x / 1e7, y / 1e7), **common))
            else:
                for i, (passed, tags) in ways.items():
                    writer.add_way(mutable.Way(id=i, nodes=passed, tags=tags, **common))
    return path


def encoded_ways(located=False):
    number = {text: i for i, text in enumerate(pbf.STRINGS)}
    groups = []
    for i, (passed, tags) in WAYS.items():
        places = zip(*(NODES[n] for n in passed), strict=True) if located else ()
        groups.append(pbf.way(i, passed, [(number[k], number[v]) for k, v in tags.items()], *places))
    return b"".join(groups)


def mixed(path):
    """Plain and dense nodes by turns in one group."""
    (a, b, *rest), plain = NODES, [pbf.node(i, *NODES[i]) for i in NODES]
    middle = pbf.dense(rest[:-1], *zip(*(NODES[i] for i in rest[:-1]), strict=True))
    group = plain[0] + middle + plain[1] + plain[-1]
    assert {a, b, *rest} == set(NODES)
    path.write_bytes(pbf.header() + pbf.block([group]) + pbf.block([encoded_ways()]))


def offsets(path):
    """Negative offsets and steps of 100,000 nano-degrees, and one node in steps of 1."""
    (first, *rest), block = NODES, {"granularity": 100_000, "lon": 100 * LON, "lat": 100 * LAT}
    coarse = pbf.dense(rest, *zip(*((PLACES[i][0] // 1000, PLACES[i][1] // 1000) for i in rest), strict=True))
    fine = pbf.node(first, 0, 0)
    body = pbf.block([fine], granularity=1, lon=100 * LON, lat=100 * LAT) + pbf.block([coarse], **block)
    path.write_bytes(pbf.header() + body + pbf.block([encoded_ways()]))


def unknown_versions(path):
    """Metadata as `-1` (the default of the format: unknown), and a time before 1970."""
    info = pbf.field(1, pbf.varint(-1) * 2) + pbf.field(2, pbf.deltas([-86_400, -5]))
    info += b"".join(pbf.field(i, pbf.deltas([0, 0])) for i in (3, 4, 5))
    first = pbf.dense([1, 2], *zip(NODES[1], NODES[2], strict=True), info)
    others = b"".join(pbf.node(i, *NODES[i], pbf.field(1, -1)) for i in NODES if i not in (1, 2))
    path.write_bytes(pbf.header() + pbf.block([first + others]) + pbf.block([encoded_ways()]))


def located(path):
    """Places in the ways, and one node alone by itself."""
    body = pbf.block([pbf.node(2, *NODES[2])]) + pbf.block([encoded_ways(located=True)])
    path.write_bytes(pbf.header(optional=[b"LocationsOnWays"]) + body)


FORMS = {
    "dense.osm.pbf": written,
    "plain.osm.pbf": lambda path: written(path, options="pbf,pbf_dense_nodes=false"),
    "unpacked.osm.pbf": lambda path: written(path, options="pbf,pbf_compression=none"),
    "mixed.osm.pbf": mixed,
    "offsets.osm.pbf": offsets,
    "unknown.osm.pbf": unknown_versions,
    "located.osm.pbf": located,
    "ways_first.osm.pbf": lambda path: written(path, nodes_first=False),
    "dated.osm": lambda path: written(path, version=3, timestamp="2021-02-03T04:05:06Z", uid=1, user="ü"),
    "text.osm": written,
    "text.osm.bz2": written,
    "text.osm.gz": written,
    "text.opl": written,
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_file_is_the_same_map(tmp_path, name):
    FORMS[name](tmp_path / name)
    nodes, ways = read_osm(tmp_path / name)
    found = dict(zip(nodes.ids.tolist(), np.round(nodes.coordinates * 1e7).astype(int).tolist(), strict=True))
    assert {i: tuple(place) for i, place in found.items()} == NODES
    assert [(way.nodes.tolist(), way.tags) for way in ways] == list(WAYS.values())
    roads = osm_roads(tmp_path / name)
    ends = [[int(roads.names[i]) for i in side] for side in (roads.graph.tails, roads.graph.heads)]
    lengths = dict(zip(zip(*ends, strict=True), roads.columns["length"], strict=True))
    assert lengths == pytest.approx(ARCS, rel=2e-5)
    assert len(ends[0]) == len(ARCS)
    left_out = ("closed_ways", "lost_links", "missing_nodes", "unconnected_arcs", "loops")
    assert {name: roads.metadata[name] for name in left_out} == dict.fromkeys(left_out, 0)


def test_links_to_missing_nodes_are_counted_and_said(tmp_path, caplog):
    """Of 3 - 1 - 99 - 98 - 4 - -7 two links are there and three are not; the lane lacks nothing."""
    ways = {**WAYS, 11: ([3, 1, 99, 98, 4, -7], {"highway": "primary"})}
    ways[14] = ([97, 96, 95], {"highway": "service"})  # two more
    ways[15] = ([97, 96], {"highway": "footway"})  # no road
    path = written(tmp_path / "cut.osm.pbf", ways=ways)
    arcs = street_arcs(*read_osm(path))
    assert (arcs.counts["lost_links"], arcs.counts["missing_nodes"]) == (5, 5)
    ends = {(int(arcs.ids[t]), int(arcs.ids[h])) for t, h in zip(arcs.tails, arcs.heads, strict=True)}
    assert ends == set(ARCS) - {(1, 4), (4, 1)}
    with caplog.at_level(logging.INFO, "jaxpref.data"):
        roads = osm_roads(path)
    assert roads.metadata["lost_links"] == 5
    (line,) = caplog.records
    assert line.levelname == "WARNING"
    for words in ("cut.osm.pbf: 3 crossings and 4 arcs", "5 lost links, 5 missing nodes", "complete ways"):
        assert words in line.getMessage()
    caplog.clear()
    with caplog.at_level(logging.INFO, "jaxpref.data"):
        osm_roads(written(tmp_path / "whole.osm.pbf"))
    assert [line.levelname for line in caplog.records] == ["INFO"]


def test_what_is_deleted_or_nowhere_is_not_there(tmp_path):
    text = """<osm version="0.6">
      <node id="1" version="1" lat="0" lon="0"/> <node id="2" version="1" lat="0.001" lon="0"/>
      <node id="3" version="2" visible="false" lat="0" lon="0.001"/>
      <node id="4" version="1" lat="95" lon="0"/>
      <node id="5" version="1"/>
      <way id="1" version="1"><nd ref="1"/><nd ref="2"/><nd ref="3"/><tag k="highway" v="service"/></way>
      <way id="2" version="2" visible="false"><nd ref="1"/><nd ref="2"/><tag k="highway" v="service"/></way>
      <way id="3" version="1"><nd ref="4"/><nd ref="2"/><nd ref="5"/><tag k="highway" v="service"/></way>
    </osm>"""
    (tmp_path / "a.osm").write_text(text)
    roads = osm_roads(tmp_path / "a.osm")
    assert sorted(roads.names) == ["1", "2"]
    assert roads.graph.num_arcs == 2
    assert (roads.metadata["ways"], roads.metadata["lost_links"], roads.metadata["missing_nodes"]) == (
        2,
        3,
        3,
    )


@pytest.mark.parametrize(
    ("tags", "open_to_cars"),
    [
        ("", True),
        ("access=no", False),
        ("access=private", True),
        ("vehicle=no", False),
        ("motor_vehicle=no", False),
        ("motorcar=no", False),
        ("motorcar=no motor_vehicle=yes vehicle=yes access=yes", False),
        ("motorcar=yes motor_vehicle=no", True),
        ("motorcar=destination access=no", True),
        ("motor_vehicle=yes vehicle=no access=no", True),
        ("motor_vehicle=no vehicle=yes access=yes", False),
        ("vehicle=permissive access=no", True),
        ("vehicle=no access=yes", False),
        ("motorcycle=no bicycle=no foot=no", True),
    ],
)
def test_the_most_specific_key_says_who_may_drive(tmp_path, tags, open_to_cars):
    """https://wiki.openstreetmap.org/wiki/Key:access, "Transport mode restrictions"."""
    given = {"highway": "service", **dict(pair.split("=") for pair in tags.split())}
    arcs = street_arcs(*read_osm(written(tmp_path / "a.osm.pbf", ways={**WAYS, 14: ([3, 2], given)})))
    assert (len(arcs.tails) - len(ARCS), arcs.counts["closed_ways"]) == ((2, 0) if open_to_cars else (0, 1))


def test_roads_of_other_classes(tmp_path):
    path = written(tmp_path / "a.osm.pbf")
    assert osm_roads(path, classes=("primary",)).graph.num_arcs == 2  # 3 to -7, nothing crosses
    with pytest.raises(
        ValueError, match=r"a\.osm\.pbf: no road is left \(0 ways.*one of motorway, and their"
    ):
        osm_roads(path, classes=("motorway",))


def test_osmium_is_an_extra(tmp_path, monkeypatch):
    path = written(tmp_path / "a.osm.pbf")
    monkeypatch.setitem(sys.modules, "osmium", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxpref\[maps\]'"):
        read_osm(path)


def test_liechtenstein_is_a_connected_country(data_root):
    roads = liechtenstein_roads(str(data_root))
    graph, length = roads.graph, roads.columns["length"]
    assert (graph.num_nodes, graph.num_arcs) == (3403, 7608)
    # The country has 0.4 thousand kilometres of such roads, most of them in both directions.
    assert length.sum() / 1e3 == pytest.approx(796.3, abs=0.1)
    assert {name: roads.metadata[name] for name in ("ways", "closed_ways", "lost_links")} == {
        "ways": 2363,
        "closed_ways": 25,
        "lost_links": 0,
    }
    straight = np.hypot(
        *((roads.coordinates[graph.heads] - roads.coordinates[graph.tails]) * [75_600, 111_200]).T
    )
    assert (length >= 0.99 * straight).all()
    for arc in (0, 3000, 7607):
        shape = roads.shapes[arc]
        np.testing.assert_array_equal(shape[[0, -1]], roads.coordinates[[graph.tails[arc], graph.heads[arc]]])
    with pytest.raises(ValueError, match="no column 'toll'; there are"):
        roads.features(["toll"])
