"""Roads and routes from tables (CSV): a line is an arc, or a step of a route."""

import csv
import itertools
import logging
import math
from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxpref.data.roads.networks import Roads
from jaxpref.planning.roads import check_route, road_graph

__all__ = ["csv_roads", "csv_routes"]

logger = logging.getLogger("jaxpref.data")


class _Row(NamedTuple):
    where: str  # file and line, from 1
    cells: dict[str, str]


def csv_roads(path: str | Path) -> Roads:
    """A table of arcs: columns `tail` and `head` (names of nodes), the others numbers; a row is an arc.

    UTF-8, with commas, with or without a byte order mark; blank lines and blanks around a cell do not count.
    The graph sorts arcs; the column "row" says which row of the file each one was, from 0 (the header and
    blank lines are none).

    Raises:
      ValueError: no such file, a column is missing, and, with file and line, a row of more or fewer cells
        than the header, a cell without a finite number, an arc from a node to itself, or nodes written as
        `3` here and `3.0` there.
    """
    rows = _table(path, ("tail", "head"))
    others = [name for name in rows[0].cells if name not in ("tail", "head")]
    if "row" in others:
        raise ValueError(
            f"{path}:1: a column `row` is made here (the row of each arc); rename that of the file"
        )
    tails, heads = ([row.cells[end] for row in rows] for end in ("tail", "head"))
    names = list(dict.fromkeys([*tails, *heads]))
    number = {name: i for i, name in enumerate(names)}
    for row in rows:
        _check_ends(row, number)
    graph, order = road_graph([number[t] for t in tails], [number[h] for h in heads], len(names))
    columns = {"row": order.astype(float)}
    for name in others:
        columns[name] = np.array([_number(row, name) for row in rows])[order]
    logger.info("%s: %d nodes and %d arcs with columns %s", path, len(names), len(rows), others)
    return Roads(graph, columns, tuple(names), metadata={"source": Path(path).name})


def _check_ends(row: _Row, names: Container[str]) -> None:
    tail, head = row.cells["tail"], row.cells["head"]
    if tail == head:
        raise ValueError(f"{row.where}: an arc from {tail!r} to itself; drop the row")
    for name in (tail, head):
        if name.endswith(".0") and name[:-2] in names:
            raise ValueError(
                f"{row.where}: nodes {name!r} and {name[:-2]!r} would be two; write whole numbers in all rows"
            )


def csv_routes(path: str | Path, roads: Roads) -> list[list[int]]:
    """Routes over `csv_roads`, in order: columns `route`, and `arc` (row of its file, from 0) or `node`.

    Other columns are not read, which the log says. Rows of routes may alternate: those of a route are its
    steps, in the order of the file.

    Raises:
      ValueError: with file and line: an arc that is no row of the arcs or a node that is none of theirs, two
        nodes that no arc joins or several do (then give arcs), a step that does not start where the last one
        ended, a route of one node, or one that passes its end before; see `csv_roads` for the table.
    """
    rows = _table(path, ("route",))
    given = list(rows[0].cells)
    kind = next((name for name in ("arc", "node") if name in given), None)
    if kind is None:
        raise ValueError(f"{path}:1: expected a column `arc` or `node` beside `route`, got {given}")
    unread = [name for name in given if name not in ("route", kind)]
    if unread:
        logger.warning("%s: columns %s are not read; routes are of `route` and `%s`", path, unread, kind)
    if kind == "arc" and "row" not in roads.columns:
        raise ValueError(
            f"{path}:1: column `arc` counts rows of a table, and these roads are of none; use `node`"
        )
    routes: dict[str, list[_Row]] = {}
    for row in rows:
        routes.setdefault(row.cells["route"], []).append(row)
    steps = _by_arcs(routes, roads) if kind == "arc" else _by_nodes(routes, roads)
    for arcs, (name, passed) in zip(steps, routes.items(), strict=True):
        check_route(roads.graph, arcs, name=f"{passed[0].where}: route {name}")
    return steps


def _by_arcs(routes: dict[str, list[_Row]], roads: Roads) -> list[list[int]]:
    place = {int(row): arc for arc, row in enumerate(roads.columns["row"])}
    ends = [[roads.names[node] for node in side] for side in (roads.graph.tails, roads.graph.heads)]
    steps = []
    for name, passed in routes.items():
        arcs = [_known_arc(row, name, place) for row in passed]
        for (before, after), row in zip(itertools.pairwise(arcs), passed[1:], strict=True):
            if ends[1][before] != ends[0][after]:
                raise ValueError(
                    f"{row.where}: route {name}: arc {row.cells['arc']} starts at {ends[0][after]}, and the "
                    f"step before it ended at {ends[1][before]}: an arc is missing"
                )
        steps.append(arcs)
    return steps


def _known_arc(row: _Row, route: str, place: dict[int, int]) -> int:
    said = row.cells["arc"]
    number = int(said) if said.isascii() and said.isdigit() and len(said) < 19 else -1
    if number not in place:
        raise ValueError(
            f"{row.where}: route {route}: arc {said[:40]!r} is not in the table of arcs; expected the number "
            f"of one of its rows, a whole number from 0 to {len(place) - 1}"
        )
    return place[number]


def _by_nodes(routes: dict[str, list[_Row]], roads: Roads) -> list[list[int]]:
    node = {name: i for i, name in enumerate(roads.names)}
    between: dict[tuple[int, int], list[int]] = {}
    for arc, ends in enumerate(zip(roads.graph.tails.tolist(), roads.graph.heads.tolist(), strict=True)):
        between.setdefault(ends, []).append(arc)
    steps = []
    for name, passed in routes.items():
        for row in passed:
            if row.cells["node"] not in node:
                raise ValueError(
                    f"{row.where}: route {name}: node {row.cells['node']!r} is not in the table of arcs"
                )
        if len(passed) < 2:
            raise ValueError(f"{passed[0].where}: route {name} has one node; expected two or more")
        arcs = []
        for before, row in itertools.pairwise(passed):
            a, b = before.cells["node"], row.cells["node"]
            joined = between.get((node[a], node[b]), [])
            if len(joined) != 1:
                said = "several arcs; give a column `arc`" if joined else "no arc"
                raise ValueError(f"{row.where}: route {name}: {a} to {b}: {said}")
            arcs.append(joined[0])
        steps.append(arcs)
    return steps


def _number(row: _Row, name: str) -> float:
    try:
        number = float(row.cells[name])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"{row.where}: column {name!r}: expected a finite number, got {row.cells[name][:40]!r}"
        )
    return number


def _table(path: str | Path, needed: Sequence[str]) -> list[_Row]:
    """The rows below the header, one or more; cells of the needed columns are not empty."""
    if not Path(path).is_file():
        raise ValueError(f"no file {path}; expected a CSV file with columns {list(needed)}")
    header: list[str] = []
    rows = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                stripped, where = [cell.strip() for cell in cells], f"{path}:{reader.line_num}"
                if not any(stripped) and len(stripped) < 2:
                    continue
                if not header:
                    header = _header(where, stripped, needed)
                    continue
                if len(stripped) != len(header):
                    hint = (
                        "quote cells that hold a comma" if len(stripped) > len(header) else "one is missing"
                    )
                    raise ValueError(
                        f"{where}: {len(stripped)} cells under a header of {len(header)} ({', '.join(header)}"
                        f"); {hint}"
                    )
                rows.append(_Row(where, dict(zip(header, stripped, strict=True))))
                empty = next((name for name in needed if not rows[-1].cells[name]), None)
                if empty is not None:
                    raise ValueError(f"{where}: nothing in column {empty!r}")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: not CSV: {error}") from error  # pyright: ignore
    if not rows:
        said = "no rows below its header" if header else "empty"
        raise ValueError(f"{path}: {said}; expected a header with {list(needed)} and rows")
    return rows


def _header(where: str, names: list[str], needed: Sequence[str]) -> list[str]:
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    missing = [name for name in needed if name not in names]
    if missing:
        hint = "; separate columns by commas" if len(names) == 1 else ""
        raise ValueError(
            f"{where}: expected a header with {list(needed)}; {missing[0]!r} is missing in {names}{hint}"
        )
    if twice is not None or "" in names:
        said = f"column {twice!r} is there twice" if twice else "a column has no name"
        raise ValueError(f"{where}: {said}, in {names}; expected one name for each column")
    return names
