"""Road networks from files: DIMACS and PACE graphs, OpenStreetMap extracts."""

import dataclasses
import gzip
import logging
import lzma
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxpref.data.roads.osm import DRIVABLE, StreetArcs, read_osm, street_arcs
from jaxpref.data.sources import sha256_of
from jaxpref.planning.roads import RoadGraph, road_graph

__all__ = ["Roads", "boxes", "gr_graph", "liechtenstein_roads", "new_york_graph", "osm_roads"]

logger = logging.getLogger("jaxpref.data")

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
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the file: what was left out

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
    """The drivable roads of Liechtenstein, by `osm_roads`. (c) OpenStreetMap contributors, ODbL."""
    return osm_roads(_file(data_root, *_LIECHTENSTEIN))


def osm_roads(path: str | Path, *, classes: tuple[str, ...] = DRIVABLE) -> Roads:
    """Roads of an OpenStreetMap extract: arcs from crossing to crossing, the largest strong component.

    Columns: "length" (metres), "class" (a number into `classes`). `osm.read_osm` says which files, and
    `osm.street_arcs` which ways. What is left out is in `metadata` and in the log: `closed_ways` (to cars),
    `lost_links` (to a node that the file lacks) and those `missing_nodes`, `unconnected_arcs` (outside of the
    component) and `loops` (circular roads without a second crossing, which lead nowhere).

    Args:
      classes: values of `highway`, their `_link` included.

    Raises:
      ImportError: `osmium` is not installed.
      ValueError: the file cannot be read, or no road of these classes is left.
    """
    arcs = street_arcs(*read_osm(path), classes)
    kept = _strong(arcs.tails, arcs.heads) if len(arcs.tails) else np.zeros(0, np.int64)
    proper = kept[arcs.tails[kept] != arcs.heads[kept]]
    counts = {
        **arcs.counts,
        "unconnected_arcs": len(arcs.tails) - len(kept),
        "loops": len(kept) - len(proper),
    }
    said = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in counts.items())
    if not len(proper):
        raise ValueError(
            f"{path}: no road is left ({said}); expected ways with `highway` one of {', '.join(classes)}, "
            "and their nodes, in an area where one can drive there and back"
        )
    roads = _component(arcs, proper, {"source": Path(path).name, **counts})
    lost = counts["lost_links"]
    logger.log(
        logging.WARNING if lost else logging.INFO,
        "%s: %d crossings and %d arcs; %s%s",
        path,
        roads.graph.num_nodes,
        roads.graph.num_arcs,
        said,
        ": ways end where the extract lacks their nodes; extract with complete ways" if lost else "",
    )
    return roads


def _component(arcs: StreetArcs, kept: NDArray[np.int64], metadata: dict[str, Any]) -> Roads:
    ids, ends = np.unique(np.stack([arcs.tails[kept], arcs.heads[kept]]), return_inverse=True)
    tails, heads = ends.reshape(2, -1)
    graph, order = road_graph(tails, heads, len(ids))
    rows = kept[order]
    return Roads(
        graph,
        {"length": arcs.lengths[rows], "class": arcs.classes[rows].astype(float)},
        tuple(str(i) for i in arcs.ids[ids]),
        arcs.class_names,
        arcs.coordinates[ids],
        tuple(arcs.shapes[i] for i in rows),
        "(c) OpenStreetMap contributors, ODbL",
        metadata,
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
      ValueError: no such file, no header, another number of lines than it says, or a bad line, by its number.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no graph file {path}; expected a .gr file, plain, .gz or .xz")
    opened = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
    try:
        with opened(path, "rb") as file:
            every = file.read().splitlines()
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"{path}: damaged: {error}") from error
    numbers = np.array([i for i, line in enumerate(every) if line and not line.startswith(b"c")], np.int64)
    lines = [every[i] for i in numbers]
    header = lines[0].split() if lines else []
    known = len(header) == 4 and header[0] == b"p" and header[1] in (b"sp", b"tw")
    if not known or not all(word.isdigit() for word in header[2:]):
        raise ValueError(f"{path}: expected a first line `p sp NODES ARCS` or `p tw NODES EDGES`")
    directed, n, m = header[1] == b"sp", int(header[2]), int(header[3])
    if len(lines) - 1 != m:
        raise ValueError(f"{path}: the header says {m} lines, and there are {len(lines) - 1}")
    rows = _gr_rows(path, lines[1:], (numbers[1:] + 1).tolist(), directed, n)
    tails, heads = rows[:, 0] - 1, rows[:, 1] - 1
    if not directed:
        tails, heads = np.concatenate([tails, heads]), np.concatenate([heads, tails])
    graph, order = road_graph(tails, heads, n)
    return graph, rows[order, 2].astype(float) if directed else None


def _gr_rows(
    path: Path, lines: list[bytes], numbers: list[int], directed: bool, nodes: int
) -> NDArray[np.int64]:
    """The numbers of each line `[m, 2 or 3]`; raises ValueError with file and line number."""
    form = "a TAIL HEAD LENGTH" if directed else "U V"
    words = [line.split() for line in lines]
    letter, width = [b"a"] * directed, len(form.split())

    def wrong(i: int, said: str) -> ValueError:
        return ValueError(f"{path}:{numbers[i]}: {said}, got {lines[i][:60].decode('utf-8', 'replace')!r}")

    for i, found in enumerate(words):
        if len(found) != width or found[:directed] != letter:
            raise wrong(i, f"expected `{form}`")
    if not words:
        raise ValueError(f"{path}: expected lines `{form}` after the first, got none")
    try:
        rows = np.array([word for found in words for word in found[directed:]], np.int64).reshape(
            len(words), -1
        )
    except (ValueError, OverflowError) as error:
        odd = next((i for i, found in enumerate(words) if not _whole(found[directed:])), 0)
        raise wrong(odd, f"expected `{form}` in whole numbers") from error
    ends = rows[:, :2]
    outside, loops = ((ends < 1) | (ends > nodes)).any(1), ends[:, 0] == ends[:, 1]
    if outside.any():
        raise wrong(int(outside.argmax()), f"expected nodes from 1 to {nodes}")
    if loops.any():
        raise wrong(int(loops.argmax()), "expected two nodes, no self loop (drop such lines)")
    return rows


def _whole(words: list[bytes]) -> bool:
    """Whether all are whole numbers of 64 bits."""
    return all(word.removeprefix(b"-").isdigit() and abs(int(word)) < 2**63 for word in words)


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
