"""OpenStreetMap extracts: ways and nodes of a file (read by `osmium`), and arcs of streets between crossings.

The library reads; which ways are roads, their direction and where they are cut are rules of ours.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["DRIVABLE", "Nodes", "StreetArcs", "Way", "read_osm", "street_arcs"]

DRIVABLE = (
    "motorway",
    "trunk",
    "primary",
    "secondary",
    "tertiary",
    "unclassified",
    "residential",
    "living_street",
    "service",
)
_ACCESS = ("motorcar", "motor_vehicle", "vehicle", "access")  # for cars, the most specific first
_TAGS = ("highway", "oneway", "junction", "area", *_ACCESS)
_EARTH = 6_371_000.0  # metres


class Way(NamedTuple):
    nodes: NDArray[np.int64]  # ids, in order
    tags: dict[str, str]  # those that the rules below read


class Nodes(NamedTuple):
    ids: NDArray[np.int64]  # ascending
    coordinates: NDArray[np.float64]  # [n, 2], longitude and latitude in degrees


class StreetArcs(NamedTuple):
    """Arcs between numbered crossings; not sorted."""

    tails: NDArray[np.int64]
    heads: NDArray[np.int64]
    lengths: NDArray[np.float64]  # metres, along the shape
    classes: NDArray[np.int64]  # index of `class_names`
    class_names: tuple[str, ...]
    shapes: list[NDArray[np.float64]]  # [points, 2] each
    ids: NDArray[np.int64]  # of the crossings
    coordinates: NDArray[np.float64]
    counts: dict[str, int]  # ways, closed_ways, missing_nodes, lost_links


def read_osm(path: str | Path) -> tuple[Nodes, list[Way]]:
    """The ways that have a tag `highway`, and the nodes they name, as far as the file has them.

    The name says the format: .osm.pbf, .osm (XML), .opl or .o5m, the texts also with .gz or .bz2. Nodes may
    be plain or dense, before or after ways, or written into them (`LocationsOnWays`); ids may be negative.
    Deleted objects (`visible="false"`), and nodes without a place on Earth, are not there. Places are whole
    numbers of 1e-7 degrees. A .osm.pbf has no mark of its end: one that is cut between two of its blocks is
    read as far as it goes.

    *Differs from* osmium's own `with_locations`, which leaves ways without places where ids are negative,
    nodes come after ways or are written into them (`findings/osmium_with_locations_loses_places.sh`).

    Raises:
      ImportError: `osmium` is not installed.
      ValueError: no such file; cut short, damaged or of no known format; several versions of an object.
    """
    osmium = _osmium()
    if not Path(path).is_file():
        raise ValueError(f"no file {path}; expected an OpenStreetMap extract (.osm.pbf, .osm, .osm.bz2)")
    places: dict[int, tuple[int, int]] = {}
    ways: dict[int, Way] = {}
    try:
        processor = osmium.FileProcessor(str(path), osmium.osm.WAY)
        if processor.header.has_multiple_object_versions:
            raise ValueError(
                f"{path}: a history or a change file, with several versions of an object; give an extract of "
                "one date (`osmium time-filter` makes one)"
            )
        for way in processor.with_filter(osmium.filter.KeyFilter("highway")):
            if not way.deleted:
                _once(path, "way", way.id, ways)
                ways[way.id] = _way(way, places)
        wanted = set(itertools.chain.from_iterable(way.nodes.tolist() for way in ways.values())) - set(places)
        seen: set[int] = set()
        for node in osmium.FileProcessor(str(path), osmium.osm.NODE) if wanted else ():
            if node.id in wanted and not node.deleted:
                _once(path, "node", node.id, seen)
                seen.add(node.id)
                if node.location.valid():
                    places[node.id] = node.location.x, node.location.y
    except (RuntimeError, UnicodeDecodeError, osmium.InvalidLocationError) as error:
        raise ValueError(
            f"{path}: not an intact OpenStreetMap file of the format that its name says ({error}); get it "
            "again, or name it after its format (.osm.pbf, .osm, .osm.bz2, .osm.gz, .opl, .o5m)"
        ) from error
    ids = np.array(sorted(places), np.int64)
    tenths = np.array([places[i] for i in ids.tolist()], np.int64).reshape(-1, 2)
    return Nodes(ids, tenths / 1e7), list(ways.values())


def street_arcs(nodes: Nodes, ways: list[Way], classes: tuple[str, ...] = DRIVABLE) -> StreetArcs:
    """Arcs of the ways of these classes (and their links), cut where ways meet or end.

    Arcs go in both directions unless the way is `oneway`, a motorway or a roundabout. Ways closed to cars are
    left out: the most specific of `motorcar`, `motor_vehicle`, `vehicle` and `access` that a way has is "no".
    A way ends at a node that the extract lacks: the links to such nodes are counted as `lost_links`. Turns
    happen at crossings only.
    """
    used: list[tuple[NDArray[np.int64], str, int]] = []
    counts = {"ways": 0, "closed_ways": 0, "lost_links": 0}
    missing: set[int] = set()
    for way in ways:
        kind = way.tags.get("highway", "").removesuffix("_link")
        if kind not in classes or way.tags.get("area") == "yes":
            continue
        if _closed(way.tags):
            counts["closed_ways"] += 1
            continue
        parts, absent = _known_parts(nodes.ids, way.nodes)
        counts["ways"] += 1
        counts["lost_links"] += max(len(way.nodes) - 1, 0) - sum(len(part) - 1 for part in parts)
        missing.update(absent)
        used += [(part, kind, _direction(way.tags, kind)) for part in parts if len(part) > 1]
    arcs = list(_arcs(nodes, used))
    tails, heads = (np.array([arc[k] for arc in arcs], np.int64) for k in (0, 1))
    crossings, ends = np.unique(np.stack([tails, heads]), return_inverse=True)
    tails, heads = ends.reshape(2, -1)
    return StreetArcs(
        tails,
        heads,
        np.array([_length(arc[2]) for arc in arcs]),
        np.array([classes.index(arc[3]) for arc in arcs], np.int64),
        classes,
        [arc[2] for arc in arcs],
        nodes.ids[crossings],
        nodes.coordinates[crossings],
        {**counts, "missing_nodes": len(missing)},
    )


def _osmium() -> Any:
    try:
        import osmium
        import osmium.filter
    except ImportError as error:
        raise ImportError(
            "OpenStreetMap files are read with osmium, which is not installed: pip install 'jaxpref[maps]'"
        ) from error
    return osmium


def _once(path: str | Path, kind: str, number: int, seen: set[int] | dict[int, Way]) -> None:
    if number in seen:
        raise ValueError(
            f"{path}: {kind} {number} is there twice; give an extract of one date, joined by "
            "`osmium merge` if of several"
        )


def _way(way: Any, places: dict[int, tuple[int, int]]) -> Way:
    """A copy of what osmium lends; places that are written in the way itself go to `places`."""
    for node in way.nodes:
        if node.location.valid():
            places[node.ref] = node.location.x, node.location.y
    tags = {key: value for key in _TAGS if (value := way.tags.get(key)) is not None}
    return Way(np.array([node.ref for node in way.nodes], np.int64), tags)


def _closed(tags: dict[str, str]) -> bool:
    """Whether cars may not: what some may use (private, destination, ...) is open."""
    return next((tags[key] for key in _ACCESS if key in tags), "yes") == "no"


def _known_parts(
    ids: NDArray[np.int64], wanted: NDArray[np.int64]
) -> tuple[list[NDArray[np.int64]], list[int]]:
    """Rows of the nodes of a way, in runs without a gap, and the ids that are not there."""
    if not len(ids):
        return [], wanted.tolist()
    place = np.searchsorted(ids, wanted).clip(max=len(ids) - 1)
    known = ids[place] == wanted
    runs = np.split(np.arange(len(place)), np.flatnonzero(np.diff(known)) + 1)
    return [place[run] for run in runs if len(run) and known[run[0]]], wanted[~known].tolist()


def _arcs(
    nodes: Nodes, used: list[tuple[NDArray[np.int64], str, int]]
) -> Iterator[tuple[int, int, NDArray[np.float64], str]]:
    """(tail, head, shape, class) of each arc, in rows of nodes."""
    passes = np.zeros(len(nodes.ids), np.int64)
    for part, _, _ in used:
        np.add.at(passes, part, 1)
        passes[part[[0, -1]]] += 2  # an end is a crossing
    for part, kind, direction in used:
        for i, j in itertools.pairwise(np.flatnonzero(passes[part] > 1)):
            shape = nodes.coordinates[part[i : j + 1]]
            if direction >= 0:
                yield int(part[i]), int(part[j]), shape, kind
            if direction <= 0:
                yield int(part[j]), int(part[i]), shape[::-1], kind


def _direction(tags: dict[str, str], kind: str) -> int:
    """1: as drawn, -1: against it, 0: both."""
    said = tags.get("oneway", "")
    if said in ("yes", "true", "1"):
        return 1
    if said in ("-1", "reverse"):
        return -1
    circular = tags.get("junction") in ("roundabout", "circular")
    return 1 if said != "no" and (kind == "motorway" or circular) else 0


def _length(shape: NDArray[np.float64]) -> float:
    """Metres along points, on a sphere (haversine)."""
    lon, lat = np.radians(shape).T
    half = np.sin(np.diff(lat) / 2) ** 2 + np.cos(lat[:-1]) * np.cos(lat[1:]) * np.sin(np.diff(lon) / 2) ** 2
    return float((2 * _EARTH * np.arcsin(np.sqrt(half))).sum())
