"""A small reader of OpenStreetMap's .osm.pbf: nodes, ways, and arcs of streets from crossing to crossing.

It decodes the few protocol-buffer fields that are needed: https://wiki.openstreetmap.org/wiki/PBF_Format.
"""

import itertools
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["DRIVABLE", "StreetArcs", "Way", "read_pbf", "street_arcs"]

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
_EARTH = 6_371_000.0  # metres


class Way(NamedTuple):
    nodes: NDArray[np.int64]  # ids, in order
    tags: dict[str, str]


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


def read_pbf(path: str | Path) -> tuple[Nodes, list[Way]]:
    """All nodes and all ways with their tags; relations are skipped.

    Raises:
      ValueError: the file is cut short or damaged, or packs its blocks in a way other than zlib.
    """
    ids: list[NDArray[np.int64]] = []
    places: list[NDArray[np.float64]] = []
    ways: list[Way] = []
    try:
        for kind, block in _blocks(Path(path).read_bytes()):
            if kind == b"OSMData":
                _read_block(block, ids, places, ways)
    except (struct.error, zlib.error, IndexError, KeyError) as error:
        raise ValueError(f"{path}: not an intact .osm.pbf ({type(error).__name__}: {error})") from error
    if not ids:
        raise ValueError(f"{path}: no nodes found")
    every, where = np.concatenate(ids), np.concatenate(places)
    order = np.argsort(every)
    return Nodes(every[order], where[order]), ways


def street_arcs(nodes: Nodes, ways: list[Way], classes: tuple[str, ...] = DRIVABLE) -> StreetArcs:
    """Arcs of the ways of these classes (and their links), cut where ways meet or end.

    Arcs go in both directions unless the way is `oneway`, a motorway or a roundabout. Ways closed to motor
    vehicles are left out, and a way ends at a point that the extract lacks. Turns happen at crossings only.
    """
    used = []
    for way in ways:
        kind = way.tags.get("highway", "").removesuffix("_link")
        closed = "no" in (way.tags.get(key) for key in ("access", "vehicle", "motor_vehicle"))
        if kind not in classes or closed or way.tags.get("area") == "yes":
            continue
        place = np.searchsorted(nodes.ids, way.nodes).clip(max=len(nodes.ids) - 1)
        known = nodes.ids[place] == way.nodes
        parts = np.split(np.arange(len(place)), np.flatnonzero(np.diff(known)) + 1)
        kept = [place[part] for part in parts if len(part) > 1 and known[part[0]]]
        used += [(part, kind, _direction(way.tags, kind)) for part in kept]
    passes = np.zeros(len(nodes.ids), np.int64)
    for part, _, _ in used:
        np.add.at(passes, part, 1)
        passes[part[[0, -1]]] += 2  # an end is a crossing
    arcs: list[tuple[int, int, float, int, NDArray[np.float64]]] = []
    for part, kind, direction in used:
        cuts = np.flatnonzero(passes[part] > 1)
        for i, j in itertools.pairwise(cuts):
            shape = nodes.coordinates[part[i : j + 1]]
            length, number = _length(shape), classes.index(kind)
            if direction >= 0:
                arcs.append((part[i], part[j], length, number, shape))
            if direction <= 0:
                arcs.append((part[j], part[i], length, number, shape[::-1]))
    tails, heads = (np.array([arc[k] for arc in arcs]) for k in (0, 1))
    crossings, ends = np.unique(np.stack([tails, heads]), return_inverse=True)
    tails, heads = ends.reshape(2, -1)
    return StreetArcs(
        tails,
        heads,
        np.array([arc[2] for arc in arcs]),
        np.array([arc[3] for arc in arcs]),
        classes,
        [arc[4] for arc in arcs],
        nodes.ids[crossings],
        nodes.coordinates[crossings],
    )


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


def _blocks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        header = dict(_fields(data[at + 4 : at + 4 + size]))
        at += 4 + size
        if at + header[3] > len(data):
            raise IndexError("a block is cut short")
        blob = dict(_fields(data[at : at + header[3]]))
        at += header[3]
        yield header[1], zlib.decompress(blob[3]) if 3 in blob else blob[1]


def _read_block(block: bytes, ids: list, places: list, ways: list[Way]) -> None:
    fields: dict[int, list[Any]] = {}
    for number, value in _fields(block):
        fields.setdefault(number, []).append(value)
    strings = [value.decode("utf-8", "replace") for number, value in _fields(fields[1][0]) if number == 1]
    step, lat0, lon0 = (fields.get(k, [d])[0] for k, d in ((17, 100), (19, 0), (20, 0)))
    for group in fields.get(2, []):
        for number, value in _fields(group):
            if number == 2:  # dense nodes: deltas of ids and places
                dense = dict(_fields(value))
                ids.append(np.cumsum(_signed(dense[1])))
                lat, lon = (
                    1e-9 * (o + step * np.cumsum(_signed(dense[k]))) for o, k in ((lat0, 8), (lon0, 9))
                )
                places.append(np.stack([lon, lat], 1))
            elif number == 3:
                way = dict(_fields(value))
                keys, values = (_varints(way.get(k, b"")).tolist() for k in (2, 3))
                tags = {strings[k]: strings[v] for k, v in zip(keys, values, strict=True)}
                ways.append(Way(np.cumsum(_signed(way.get(8, b""))), tags))


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a message: ints, or bytes of what has a length."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            value, at = data[at : at + size], at + size
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _varints(data: bytes) -> NDArray[np.int64]:
    """A packed array of varints: 7 bits a byte, lowest first; the last byte of each is below 128."""
    raw = np.frombuffer(data, np.uint8)
    if not len(raw):
        return np.zeros(0, np.int64)
    ends = np.flatnonzero(raw < 128)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(raw)) - np.repeat(starts, ends - starts + 1)
    parts = (raw & 127).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.add.reduceat(parts, starts).astype(np.int64)


def _signed(data: bytes) -> NDArray[np.int64]:
    """Zigzag: 0, -1, 1, -2, ..."""
    values = _varints(data)
    return (values >> 1) ^ -(values & 1)
