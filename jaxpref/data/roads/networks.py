"""Road networks from files: DIMACS and PACE graphs, OpenStreetMap extracts, tables of arcs."""

import csv
import dataclasses
import gzip
import itertools
import lzma
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxpref.data.roads.osm import read_pbf, street_arcs
from jaxpref.data.sources import sha256_of
from jaxpref.planning.roads import RoadGraph, road_graph

__all__ = ["Roads", "boxes", "csv_roads", "csv_routes", "gr_graph", "liechtenstein_roads", "new_york_graph"]

_NEW_YORK = (
    "road_new_york/NY.gr.xz",
    "12fe28df6045ea94f84af244a37f6e47eec1909e89f0c5571a928b53f374a9b1",
    "https://github.com/ben-strasser/road-graphs-pace16 (NY.gr.xz, public domain)",
)
_LIECHTENSTEIN = (
    "road_liechtenstein/liechtenstein-latest.osm.pbf",
    "b8b6c7f2122bd46a65b1d1c669b47c20df4f784a501ace3221d5ea6053121ecc",
    "https://github.com/valhalla/valhalla (test/data/liechtenstein-latest.osm.pbf, OpenStreetMap, ODbL)",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Roads:
    """A graph with the columns of its file. Arrays of arcs are in the order of the graph's arcs."""

    graph: RoadGraph
    columns: dict[str, NDArray[np.float64]]  # numbers of arcs, [e] each
    names: tuple[str, ...]  # of nodes
    classes: tuple[str, ...] = ()  # of roads; the column "class" holds their numbers
    coordinates: NDArray[np.float64] | None = None  # [n, 2], longitude and latitude
    shapes: tuple[NDArray[np.float64], ...] = ()  # of each arc, [points, 2], its ends included
    credit: str = ""  # attribution that a picture must show

    def features(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Columns side by side `[e, f]`."""
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise ValueError(f"roads: no column {missing[0]!r}; there are {sorted(self.columns)}")
        return np.stack([self.columns[name] for name in names], 1)


def new_york_graph(data_root: str) -> RoadGraph:
    """264,346 nodes and 730,100 arcs of New York (DIMACS challenge 9), without lengths or coordinates."""
    return gr_graph(_file(data_root, *_NEW_YORK))[0]


def liechtenstein_roads(data_root: str) -> Roads:
    """The drivable roads of Liechtenstein: arcs from crossing to crossing, the largest strong component.

    Columns: "length" (metres), "class" (a number into `classes`). (c) OpenStreetMap contributors, ODbL.
    """
    nodes, ways = read_pbf(_file(data_root, *_LIECHTENSTEIN))
    arcs = street_arcs(nodes, ways)
    kept = _strong(arcs.tails, arcs.heads)
    ids, ends = np.unique(np.stack([arcs.tails[kept], arcs.heads[kept]]), return_inverse=True)
    tails, heads = ends.reshape(2, -1)
    # Circular roads without a crossing lead nowhere.
    proper = tails != heads
    kept = kept[proper]
    graph, order = road_graph(tails[proper], heads[proper], len(ids))
    rows = kept[order]
    return Roads(
        graph,
        {"length": arcs.lengths[rows], "class": arcs.classes[rows].astype(float)},
        tuple(str(i) for i in arcs.ids[ids]),
        arcs.class_names,
        arcs.coordinates[ids],
        tuple(arcs.shapes[i] for i in rows),
        "(c) OpenStreetMap contributors, ODbL",
    )


def boxes(coordinates: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """The number of each node's region, from 0: the `regions` of `policies.routes.route_planner`.

    The region with the most nodes is cut across its longer side into two with equal numbers of nodes, until
    there are `count` rectangles. All have about equally many nodes where `count` is a power of 2.

    Args:
      coordinates: longitude and latitude `[n, 2]`, degrees.

    Raises:
      ValueError: more regions than nodes, or none.
    """
    if not 1 <= count <= len(coordinates):
        raise ValueError(f"boxes: expected 1 to {len(coordinates)} regions (as many as nodes), got {count}")
    flat = coordinates * [np.cos(np.radians(coordinates[:, 1].mean())), 1.0]
    region = np.zeros(len(flat), np.int64)
    for new in range(1, count):
        inside = np.flatnonzero(region == np.bincount(region).argmax())
        longer = int(np.ptp(flat[inside], axis=0).argmax())
        order = inside[np.argsort(flat[inside, longer], kind="stable")]
        region[order[len(order) // 2 :]] = new
    return region


def gr_graph(path: str | Path) -> tuple[RoadGraph, NDArray[np.float64] | None]:
    """`(graph, lengths [e] or None)` of a text file, plain, .gz or .xz, with nodes from 1.

    Two formats: `p sp NODES ARCS` and `a TAIL HEAD LENGTH` (DIMACS, directed), and `p tw NODES EDGES` and
    `U V` (PACE, each an arc in both directions). Lines that begin with `c` are comments.

    Raises:
      ValueError: no such file, no header, another number of lines than it says, or a bad line.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no graph file {path}; expected a .gr file, plain, .gz or .xz")
    opened = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
    try:
        with opened(path, "rb") as file:
            lines = [line for line in file.read().splitlines() if line and not line.startswith(b"c")]
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise ValueError(f"{path}: damaged: {error}") from error
    header = lines[0].split() if lines else []
    if len(header) != 4 or header[:1] != [b"p"] or header[1] not in (b"sp", b"tw"):
        raise ValueError(f"{path}: expected a first line `p sp NODES ARCS` or `p tw NODES EDGES`")
    directed, n, m = header[1] == b"sp", int(header[2]), int(header[3])
    if len(lines) - 1 != m:
        raise ValueError(f"{path}: the header says {m} lines, and there are {len(lines) - 1}")
    width = 3 if directed else 2
    words = b" ".join(lines[1:]).split()
    if directed:
        words = [word for word in words if word != b"a"]
    try:
        numbers = np.array(words, np.int64).reshape(m, width)
    except ValueError as error:
        odd = next((i for i, line in enumerate(lines[1:]) if len(line.split()) != width + directed), None)
        said = "a word is no number" if odd is None else f"line {odd + 1} after the header has another form"
        raise ValueError(f"{path}: {said}") from error
    tails, heads = numbers[:, 0] - 1, numbers[:, 1] - 1
    if not directed:
        tails, heads = np.concatenate([tails, heads]), np.concatenate([heads, tails])
    graph, order = road_graph(tails, heads, n)
    return graph, numbers[order, 2].astype(float) if directed else None


def csv_roads(path: str | Path) -> Roads:
    """A table of arcs: columns `tail` and `head` (names of nodes), the others numbers; a line is an arc.

    The graph sorts arcs; the column "row" says which line of the file each one was, from 0.
    """
    entries = _table(path, ("tail", "head"))
    tails, heads = [entry["tail"] for entry in entries], [entry["head"] for entry in entries]
    names = list(dict.fromkeys([*tails, *heads]))
    number = {name: i for i, name in enumerate(names)}
    graph, order = road_graph([number[t] for t in tails], [number[h] for h in heads], len(names))
    columns = {"row": order.astype(float)}
    for name in (c for c in entries[0] if c not in ("tail", "head")):
        try:
            columns[name] = np.array([float(entry[name]) for entry in entries])[order]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: column {name!r}: expected numbers: {error}") from error
    return Roads(graph, columns, tuple(names))


def csv_routes(path: str | Path, roads: Roads) -> list[list[int]]:
    """Routes over `csv_roads`, in order: columns `route`, and `arc` (line of its file, from 0) or `node`.

    Raises:
      ValueError: no arc joins two nodes, or several do (then give arcs); see also `data.roads.routes`.
    """
    entries = _table(path, ("route",))
    by_name: dict[str, list[str]] = {}
    kind = "arc" if "arc" in entries[0] else "node"
    if kind not in entries[0]:
        raise ValueError(f"{path}: expected a column `arc` or `node` beside `route`, got {list(entries[0])}")
    for entry in entries:
        by_name.setdefault(entry["route"], []).append(entry[kind])
    if kind == "arc":
        place = {int(line): i for i, line in enumerate(roads.columns["row"])}
        return [[_known(place, a, f"{path}: route {name}: arc") for a in r] for name, r in by_name.items()]
    node = {name: i for i, name in enumerate(roads.names)}
    between: dict[tuple[int, int], list[int]] = {}
    for arc, ends in enumerate(zip(roads.graph.tails.tolist(), roads.graph.heads.tolist(), strict=True)):
        between.setdefault(ends, []).append(arc)
    routes = []
    for name, passed in by_name.items():
        at = [_known(node, x, f"{path}: route {name}: node") for x in passed]
        arcs = [between.get((a, b), []) for a, b in itertools.pairwise(at)]
        odd = next((i for i, candidates in enumerate(arcs) if len(candidates) != 1), None)
        if odd is not None:
            said = "several arcs; give a column `arc`" if arcs[odd] else "no arc"
            raise ValueError(f"{path}: route {name}: {passed[odd]} to {passed[odd + 1]}: {said}")
        routes.append([candidates[0] for candidates in arcs])
    return routes


def _known(numbers: dict, key: str, where: str) -> int:
    wanted = int(key) if where.endswith("arc") and key.isdigit() else key
    if wanted not in numbers:
        raise ValueError(f"{where} {key!r} is not in the table of arcs")
    return numbers[wanted]


def _table(path: str | Path, needed: Sequence[str]) -> list[dict[str, str]]:
    if not Path(path).is_file():
        raise ValueError(f"no file {path}; expected a CSV file with columns {list(needed)}")
    with open(path, newline="", encoding="utf-8") as file:
        entries = list(csv.DictReader(file))
    missing = [name for name in needed if not entries or name not in entries[0]]
    if missing:
        raise ValueError(f"{path}: expected a header with {list(needed)} and rows; {missing[0]!r} is missing")
    return entries


def _strong(tails: NDArray[np.int64], heads: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of the arcs inside the largest strongly connected component."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    n = int(max(tails.max(), heads.max())) + 1
    graph = csr_array((np.ones(len(tails), np.int8), (tails, heads)), (n, n))
    part = connected_components(graph, connection="strong")[1]
    inside = part == np.bincount(part).argmax()
    return np.flatnonzero(inside[tails] & inside[heads])


def _file(data_root: str, name: str, known: str, home: str) -> Path:
    """The file under `data_root`, checked; raises ValueError with its home where it is missing or differs."""
    root = Path(data_root)
    path = next((p for p in (root / name, root / Path(name).name) if p.is_file()), None)
    if path is None:
        raise ValueError(f"{data_root} has no {name}; get it from {home}")
    listed = {
        (sums.parent / line.split(maxsplit=1)[1].strip().removeprefix("*")).resolve(): line.split()[0]
        for sums in (root / "SHA256SUMS", path.parent / "SHA256SUMS")
        if sums.is_file()
        for line in sums.read_text().splitlines()
        if len(line.split(maxsplit=1)) == 2
    }
    expected, actual = listed.get(path.resolve(), known), sha256_of(path)
    if actual != expected:
        raise ValueError(
            f"checksum mismatch: {path} has sha256 {actual[:16]}..., expected {expected[:16]}...; get it "
            f"again from {home}, or list this copy in {root}/SHA256SUMS"
        )
    return path
