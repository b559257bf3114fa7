"""Bad files of roads and segments: each gets one line that says file and place, and how to mend it.

To add one, write a `Bad`: how it is read, what the file holds, words of the message.
"""

import bz2
import gzip
import io
import logging
from typing import NamedTuple

import numpy as np
import pytest

from jaxpref.data import SegmentRecords
from jaxpref.data.roads.networks import gr_graph, osm_roads
from jaxpref.data.roads.tables import csv_roads, csv_routes


class Bad(NamedTuple):
    id: str
    file: str  # its name says who reads it
    content: str | bytes
    words: tuple[str, ...]  # of the message, beside the file's name


ARCS = "tail,head,length\na,b,1\nb,a,1.5\nb,c,3\n"  # what bad routes go over
MAP = '<osm version="0.6">{}</osm>'
TWO = '<node id="1" version="1" lat="0" lon="0"/><node id="2" version="1" lat="0.001" lon="0"/>'
ROAD = '<way id="1" version="1"><nd ref="1"/><nd ref="2"/><tag k="highway" v="{}"/>{}</way>'


def archive(**changes: object) -> bytes:
    """Three pairs of four steps, with some arrays changed or (None) left out."""
    arrays: dict = {
        "observations": np.zeros((3, 2, 4, 1), np.float32),
        "actions": np.zeros((3, 2, 4), np.int32),
        "step_lengths": np.full((3, 2), 4),
    } | changes
    file = io.BytesIO()
    np.savez(file, **{name: values for name, values in arrays.items() if values is not None})
    return file.getvalue()


BAD = [
    # Tables of arcs
    Bad("arcs_empty", "arcs.csv", "", ("empty; expected a header with ['tail', 'head']",)),
    Bad("arcs_only_a_mark", "arcs.csv", b"\xef\xbb\xbf", ("empty; expected a header",)),
    Bad("arcs_no_rows", "arcs.csv", "tail,head,length\n\n", ("no rows below its header",)),
    Bad("arcs_no_header", "arcs.csv", "a,b,1\n", (":1: ", "'tail' is missing in ['a', 'b', '1']")),
    Bad("arcs_other_names", "arcs.csv", "from,to\na,b\n", (":1: ", "'tail' is missing in ['from', 'to']")),
    Bad("arcs_semicolons", "arcs.csv", "tail;head\na;b\n", (":1: ", "separate columns by commas")),
    Bad("arcs_twice", "arcs.csv", "tail,head,km,km\na,b,1,2\n", (":1: column 'km' is there twice",)),
    Bad("arcs_no_name", "arcs.csv", "tail,head,\na,b,1\n", (":1: a column has no name",)),
    Bad("arcs_row", "arcs.csv", "tail,head,row\na,b,1\n", (":1: a column `row`", "rename that of the file")),
    Bad(
        "arcs_short",
        "arcs.csv",
        "tail,head,km\na,b,1\n\nb,a\n",
        (":4: 2 cells under a header of 3", "one is missing"),
    ),
    Bad("arcs_long", "arcs.csv", "tail,head,km\na,b,1,5\n", (":2: 4 cells under a header of 3", "quote")),
    Bad("arcs_no_node", "arcs.csv", "tail,head,km\na,b,1\na,,1\n", (":3: nothing in column 'head'",)),
    Bad("arcs_text", "arcs.csv", "tail,head,km\na,b,1\nb,a,far\n", (":3: column 'km': ", "got 'far'")),
    Bad("arcs_no_number", "arcs.csv", "tail,head,km\na,b,\n", (":2: column 'km': ", "number, got ''")),
    Bad("arcs_nan", "arcs.csv", "tail,head,km\na,b,nan\n", (":2: column 'km': expected a finite number",)),
    Bad("arcs_infinite", "arcs.csv", "tail,head,km\na,b,1e999\n", (":2: column 'km': expected a finite",)),
    Bad(
        "arcs_as_fractions", "arcs.csv", "tail,head\n3,4\n4,3.0\n", (":3: nodes '3.0' and '3' would be two",)
    ),
    Bad("arcs_loop", "arcs.csv", "tail,head\na,b\nb,b\n", (":3: an arc from 'b' to itself; drop the row",)),
    Bad("arcs_utf_16", "arcs.csv", ARCS.encode("utf-16"), ("not UTF-8", "at byte 0", "save it as UTF-8")),
    Bad("arcs_latin_1", "arcs.csv", "tail,head\nü,b\n".encode("latin-1"), ("not UTF-8", "at byte 10")),
    Bad("arcs_open_quote", "arcs.csv", 'tail,head\n"a,b\nb,a\n', (":3: not CSV: unexpected end of data",)),
    Bad("arcs_after_a_quote", "arcs.csv", 'tail,head\n"a"x,b\n', (":2: not CSV: ",)),
    # Routes over them
    Bad("routes_empty", "routes.csv", "", ("empty; expected a header with ['route']",)),
    Bad("routes_no_route", "routes.csv", "arc\n1\n", (":1: ", "'route' is missing in ['arc']")),
    Bad("routes_no_steps", "routes.csv", "route\nx\n", (":1: expected a column `arc` or `node`",)),
    Bad("routes_short", "routes.csv", "route,arc\nx,0\nx\n", (":3: 1 cells under a header of 2",)),
    Bad("routes_no_arc", "routes.csv", "route,arc\nx,\n", (":2: route x: arc '' is not in the table",)),
    Bad("routes_no_name", "routes.csv", "route,arc\n,0\n", (":2: nothing in column 'route'",)),
    Bad("routes_float", "routes.csv", "route,arc\nx,0\nx,2.0\n", (":3: route x: arc '2.0'", "from 0 to 2")),
    Bad("routes_fraction", "routes.csv", "route,arc\nx,1.7\n", (":2: route x: arc '1.7'", "a whole number")),
    Bad("routes_negative", "routes.csv", "route,arc\nx,-1\n", (":2: route x: arc '-1'", "from 0 to 2")),
    Bad("routes_outside", "routes.csv", "route,arc\nx,0\ny,3\n", (":3: route y: arc '3'", "from 0 to 2")),
    Bad("routes_text", "routes.csv", "route,arc\nx,first\n", (":2: route x: arc 'first'", "a whole number")),
    Bad("routes_superscript", "routes.csv", "route,arc\nx,²\n", (":2: route x: arc '²'", "a whole number")),
    Bad("routes_huge", "routes.csv", f"route,arc\nx,{'9' * 5000}\n", (":2: route x: arc '999", "0 to 2")),
    Bad("routes_arc_twice", "routes.csv", "route,arc\nx,0\nx,0\n", (":3: route x: arc 0 starts at a",)),
    Bad("routes_gap", "routes.csv", "route,arc\nx,2\nx,0\n", (":3: ", "ended at c: an arc is missing")),
    Bad("routes_round", "routes.csv", "route,arc\nx,0\nx,1\n", (":2: route x: is at its destination",)),
    Bad("routes_no_such_node", "routes.csv", "route,node\nx,a\nx,z\n", (":3: route x: node 'z' is not in",)),
    Bad("routes_not_joined", "routes.csv", "route,node\nx,a\nx,c\n", (":3: route x: a to c: no arc",)),
    Bad("routes_node_twice", "routes.csv", "route,node\nx,a\nx,a\n", (":3: route x: a to a: no arc",)),
    Bad("routes_one_node", "routes.csv", "route,node\nx,a\n", (":2: route x has one node; expected two",)),
    # Graphs as text
    Bad("gr_empty", "g.gr", "", ("expected a first line `p sp NODES ARCS`",)),
    Bad("gr_no_header", "g.gr", "1 2\n", ("expected a first line",)),
    Bad("gr_header_of_words", "g.gr", "p tw three 2\n1 2\n", ("expected a first line",)),
    Bad("gr_fewer_lines", "g.gr", "p tw 3 2\n1 2\n", ("the header says 2 lines, and there are 1",)),
    Bad("gr_no_lines", "g.gr", "p tw 3 0\n", ("expected lines `U V` after the first, got none",)),
    Bad("gr_short", "g.gr", "c x\np tw 3 2\n1 2\nc y\n2\n", (":5: expected `U V`, got '2'",)),
    Bad("gr_long_and_short", "g.gr", "p tw 4 2\n1 2 3\n4\n", (":2: expected `U V`, got '1 2 3'",)),
    Bad("gr_other_letter", "g.gr", "p sp 3 1\ne 1 2 5\n", (":2: expected `a TAIL HEAD LENGTH`",)),
    Bad("gr_letter_inside", "g.gr", "p sp 3 1\n1 a 2 5\n", (":2: expected `a TAIL HEAD LENGTH`",)),
    Bad("gr_text", "g.gr", "p tw 3 2\n1 2\n1 x\n", (":3: expected `U V` in whole numbers, got '1 x'",)),
    Bad("gr_fraction", "g.gr", "p sp 3 1\na 1 2 1.5\n", (":2: ", "in whole numbers, got 'a 1 2 1.5'")),
    Bad("gr_huge", "g.gr", f"p sp 3 1\na 1 2 {2**63}\n", (":2: ", "in whole numbers, got 'a 1 2 9223")),
    Bad("gr_outside", "g.gr", "p tw 3 2\n1 2\n1 4\n", (":3: expected nodes from 1 to 3, got '1 4'",)),
    Bad("gr_zero", "g.gr", "p tw 3 1\n0 1\n", (":2: expected nodes from 1 to 3, got '0 1'",)),
    Bad("gr_loop", "g.gr", "p tw 3 1\n2 2\n", (":2: expected two nodes, no self loop",)),
    Bad("gr_cut_gz", "g.gr.gz", gzip.compress(b"p tw 3 1\n1 2\n")[:-9], ("damaged: ",)),
    Bad("gr_not_xz", "g.gr.xz", "p tw 3 1\n1 2\n", ("damaged: ",)),
    # OpenStreetMap
    Bad("osm_empty_pbf", "m.osm.pbf", "", ("not an intact OpenStreetMap file", "get it again")),
    Bad("osm_no_pbf", "m.osm.pbf", "no such format at all, is it?", ("not an intact OpenStreetMap file",)),
    Bad("osm_cut_pbf", "m.osm.pbf", b"\x00\x00\x00\x0e\x0a\x09OSMHea", ("not an intact", "get it again")),
    Bad("osm_xml_as_pbf", "m.osm.pbf", MAP.format(TWO), ("not an intact", "name it after its format")),
    Bad("osm_empty_xml", "m.osm", "", ("not an intact", "no element found")),
    Bad("osm_cut_xml", "m.osm", MAP.format(TWO + ROAD.format("service", ""))[:-9], ("not an intact",)),
    Bad("osm_other_xml", "m.osm", "<html></html>", ("not an intact", "top-level element: html")),
    Bad("osm_other_version", "m.osm", '<osm version="0.7"></osm>', ("not an intact", "version 0.7")),
    Bad(
        "osm_text_place",
        "m.osm",
        MAP.format(ROAD.format("service", "") + '<node id="1" lat="x" lon="0"/>'),
        ("for coordinate: 'x'",),
    ),
    Bad("osm_cut_bz2", "m.osm.bz2", bz2.compress(MAP.format(TWO).encode())[:-9], ("not an intact",)),
    Bad("osm_unpacked_bz2", "m.osm.bz2", MAP.format(TWO), ("not an intact", "name it after its format")),
    Bad("osm_other_name", "m.geojson", "{}", ("not an intact", "Could not detect file format")),
    Bad("osm_changes", "m.osc", '<osmChange version="0.6"></osmChange>', ("a history or a change file",)),
    Bad(
        "osm_way_twice",
        "m.osm",
        MAP.format(TWO + 2 * ROAD.format("service", "")),
        ("way 1 is there twice", "`osmium merge`"),
    ),
    Bad(
        "osm_node_twice",
        "m.osm",
        MAP.format(2 * TWO + ROAD.format("service", "")),
        ("node 1 is there twice", "`osmium merge`"),
    ),
    Bad("osm_no_ways", "m.osm", MAP.format(TWO), ("no road is left (0 ways", "expected ways")),
    Bad("osm_no_roads", "m.osm", MAP.format(TWO + ROAD.format("footway", "")), ("no road is left (0 ways",)),
    Bad(
        "osm_no_nodes",
        "m.osm",
        MAP.format(ROAD.format("service", "")),
        ("no road is left (1 ways", "1 lost links, 2 missing nodes"),
    ),
    Bad(
        "osm_closed",
        "m.osm",
        MAP.format(TWO + ROAD.format("service", '<tag k="access" v="no"/>')),
        ("no road is left (0 ways, 1 closed ways",),
    ),
    Bad(
        "osm_no_way_back",
        "m.osm",
        MAP.format(TWO + ROAD.format("service", '<tag k="oneway" v="yes"/>')),
        ("no road is left (1 ways", "there and back"),
    ),
    # Segments
    Bad("segments_no_archive", "s.npz", "text", ("no segments could be read", "write it again")),
    Bad("segments_cut", "s.npz", archive()[:-100], ("no segments could be read",)),
    Bad("segments_no_actions", "s.npz", archive(actions=None), ("'actions'", "write it again")),
    Bad("segments_more", "s.npz", archive(rewards=np.zeros(3)), ("'rewards'", "write it again")),
    Bad(
        "segments_flat",
        "s.npz",
        archive(step_lengths=np.full(3, 4)),
        ("step_lengths: expected integers [n, k]",),
    ),
    Bad(
        "segments_part_of_a_step",
        "s.npz",
        archive(step_lengths=np.full((3, 2), 2.5)),
        ("got float64 (3, 2)",),
    ),
    Bad("segments_too_long", "s.npz", archive(step_lengths=np.full((3, 2), 5)), ("row 0, segment 0 has 5",)),
    Bad("segments_text", "s.npz", archive(actions=np.full((3, 2, 4), "up")), ("actions: expected numbers",)),
    Bad(
        "segments_shape",
        "s.npz",
        archive(actions=np.zeros((3, 2, 5))),
        ("actions: expected numbers [3, 2, 4",),
    ),
    Bad(
        "segments_nan",
        "s.npz",
        archive(
            observations=np.where(np.arange(3)[:, None, None, None] == 1, np.nan, np.zeros((3, 2, 4, 1)))
        ),
        ("observations: row 1 has a number that is not finite",),
    ),
    Bad("segments_groups", "s.npz", archive(group=np.arange(2)), ("group: expected one for each of 3 rows",)),
    Bad(
        "segments_column",
        "s.npz",
        archive(**{"columns/ties": np.zeros(4)}),
        ("ties: expected one for each of 3",),
    ),
    Bad("segments_chance", "s.npz", archive(preferences=np.full((3, 2, 2), 1.5)), ("preferences: row 0",)),
]


@pytest.mark.parametrize("bad", BAD, ids=[bad.id for bad in BAD])
def test_a_bad_file_is_one_line(tmp_path, bad, caplog):
    path = tmp_path / bad.file
    path.write_bytes(bad.content if isinstance(bad.content, bytes) else bad.content.encode())
    caplog.set_level(logging.ERROR)
    with pytest.raises(ValueError) as error:
        read(path)
    said = str(error.value)
    assert "\n" not in said
    assert said.startswith(str(path)), said
    assert len(said) < 400 + len(str(path))
    for words in bad.words:
        assert words in said


def read(path):
    if path.name == "routes.csv":
        (path.parent / "arcs.csv").write_text(ARCS)
        return csv_routes(path, csv_roads(path.parent / "arcs.csv"))
    if path.name == "arcs.csv":
        return csv_roads(path)
    if path.suffix == ".npz":
        return SegmentRecords.load(path)
    return gr_graph(path) if path.name.startswith("g.gr") else osm_roads(path)


@pytest.mark.parametrize("name", ["arcs.csv", "routes.csv", "g.gr", "m.osm.pbf"])
def test_a_missing_file_is_named(tmp_path, name):
    reader = csv_roads if name == "arcs.csv" else read
    if name == "routes.csv":
        (tmp_path / "arcs.csv").write_text(ARCS)
    with pytest.raises(ValueError, match=f"no (graph )?file .*{name}; expected") as error:
        reader(tmp_path / name)
    assert "\n" not in str(error.value)
