"""Tables of arcs and routes: what is read, and what is said. Bad ones: `tests/data/test_bad_roads.py`."""

import logging

import numpy as np
import pytest

from jaxpref.data.roads.tables import csv_roads, csv_routes

ARCS = "tail,head,length\nb,c,2\na,b,1\nb,a,1.5\nb,c,3\n"


@pytest.fixture
def roads(tmp_path):
    (tmp_path / "arcs.csv").write_text(ARCS)
    return csv_roads(tmp_path / "arcs.csv")


def routes_of(tmp_path, text, roads):
    (tmp_path / "routes.csv").write_text(text)
    return csv_routes(tmp_path / "routes.csv", roads)


def test_tables_of_arcs_and_routes(tmp_path, roads):
    assert roads.names == ("b", "a", "c")
    np.testing.assert_array_equal(roads.columns["length"], [2, 1.5, 3, 1])
    np.testing.assert_array_equal(roads.columns["row"], [0, 2, 3, 1])
    assert roads.features(["length", "row"]).shape == (4, 2)
    assert routes_of(tmp_path, "route,arc\nx,1\nx,3\ny,2\n", roads) == [[3, 2], [1]]
    assert routes_of(tmp_path, "route,node\nx,a\nx,b\n", roads) == [[3]]
    assert routes_of(tmp_path, "route,node\nx,a\ny,b\nx,b\ny,a\n", roads) == [[3], [1]]  # by turns


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + ARCS.encode(),  # a byte order mark, as spreadsheets write it
        ARCS.replace("\n", "\r\n").encode(),
        ARCS.replace(",", " , ").encode(),
        ARCS.replace("\n", "\n\n").encode() + b"  \n",
        ARCS.replace("b", '"b"').encode(),
        ARCS.rstrip("\n").encode(),
    ],
    ids=["mark", "crlf", "blanks", "blank_lines", "quotes", "no_last_newline"],
)
def test_the_same_table_in_other_dress(tmp_path, roads, content):
    (tmp_path / "other.csv").write_bytes(content)
    found = csv_roads(tmp_path / "other.csv")
    assert found.names == roads.names
    assert list(found.columns) == list(roads.columns)
    for name, values in roads.columns.items():
        np.testing.assert_array_equal(found.columns[name], values)


def test_columns_that_are_read_and_not_read_are_said(tmp_path, caplog, roads):
    with caplog.at_level(logging.INFO, "jaxpref.data"):
        csv_roads(tmp_path / "arcs.csv")
        routes_of(tmp_path, "route,node,arc,time\nx,q,1,9\n", roads)
    table, unread = (line.getMessage() for line in caplog.records)
    assert table.endswith("arcs.csv: 3 nodes and 4 arcs with columns ['length']")
    assert unread.endswith(
        "routes.csv: columns ['node', 'time'] are not read; routes are of `route` and `arc`"
    )
