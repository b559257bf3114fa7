"""Writes small .osm.pbf files field by field, in forms that osmium reads and does not write.

https://wiki.openstreetmap.org/wiki/PBF_Format: blobs of protocol-buffer messages. Coordinates are in steps of
`granularity` nano-degrees from an offset.
"""

import struct
import zlib
from collections.abc import Iterable, Sequence

STRINGS = (
    "",
    "highway",
    "residential",
    "oneway",
    "yes",
    "primary",
)  # of every block; tags are numbers of these


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def signed(value: int) -> bytes:
    """Zigzag: 0, -1, 1, -2, ... are 0, 1, 2, 3, ..."""
    return varint(2 * value if value >= 0 else -2 * value - 1)


def deltas(values: Iterable[int]) -> bytes:
    values = list(values)
    return b"".join(signed(b - a) for a, b in zip([0, *values], values, strict=False))


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def blob(kind: bytes, data: bytes) -> bytes:
    packed = field(2, len(data)) + field(3, zlib.compress(data))
    header = field(1, kind) + field(3, len(packed))
    return struct.pack(">I", len(header)) + header + packed


def header(required: Sequence[bytes] = (), optional: Sequence[bytes] = ()) -> bytes:
    needed = (b"OsmSchema-V0.6", b"DenseNodes", *required)
    return blob(b"OSMHeader", b"".join([*(field(4, x) for x in needed), *(field(5, x) for x in optional)]))


def block(
    groups: Sequence[bytes], *, granularity: int | None = None, lat: int | None = None, lon: int | None = None
) -> bytes:
    """A block of groups of elements; offsets in nano-degrees."""
    parts = [field(1, b"".join(field(1, text.encode()) for text in STRINGS)), *(field(2, g) for g in groups)]
    parts += [field(n, v) for n, v in ((17, granularity), (19, lat), (20, lon)) if v is not None]
    return blob(b"OSMData", b"".join(parts))


def node(number: int, lon: int, lat: int, info: bytes = b"") -> bytes:
    """A plain node."""
    places = varint(8 << 3) + signed(lat) + varint(9 << 3) + signed(lon)
    return field(1, varint(1 << 3) + signed(number) + (field(4, info) if info else b"") + places)


def dense(numbers: Sequence[int], lons: Sequence[int], lats: Sequence[int], info: bytes = b"") -> bytes:
    """Dense nodes: columns of differences."""
    meta = field(5, info) if info else b""
    return field(2, field(1, deltas(numbers)) + meta + field(8, deltas(lats)) + field(9, deltas(lons)))


def way(
    number: int,
    nodes: Sequence[int],
    tags: Sequence[tuple[int, int]],
    lons: Sequence[int] = (),
    lats: Sequence[int] = (),
) -> bytes:
    """A way, with the places of its nodes in it where they are given (`LocationsOnWays`)."""
    keys, values = (b"".join(map(varint, side)) for side in zip(*tags, strict=True))
    places = field(9, deltas(lats)) + field(10, deltas(lons)) if lons else b""
    return field(3, field(1, number) + field(2, keys) + field(3, values) + field(8, deltas(nodes)) + places)
