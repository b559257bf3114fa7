#!/usr/bin/env bash
# pyosmium: places of a .osm.pbf finer than 1e-7 degrees are cut towards zero; the same places as text are rounded.
#
# Expected: osmium keeps places as whole numbers of 1e-7 degrees, so a finer one becomes the nearest of them, whatever
#   the format (a .osm.pbf has a granularity and offsets in nano-degrees).
# Seen (osmium 4.3.2): 199 nano-degrees are 1 (text: 2), -199 are -1 (text: -2), 99 are 0 (text: 1). So the same map as
#   .osm.pbf and as .osm differs by up to 1e-7 degrees (11 mm), towards the equator and Greenwich; an offset that is no
#   multiple of 100 nano-degrees moves every node of its block. Places with the usual granularity of 100 are exact.
# What helps: nothing in the library; lengths of streets do not feel it, equality of two conversions does.
#
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "osmium==4.3.2" 2>/dev/null

cat >"$work/places.py" <<'PY'
import struct
import sys
from importlib import metadata

import osmium

print("osmium", metadata.version("osmium"))
changed = []


def varint(value):
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def field(number, value):  # of a protocol buffer
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def blob(kind, data):
    packed = field(1, data)
    header = field(1, kind) + field(3, len(packed))
    return struct.pack(">I", len(header)) + header + packed


def binary(nano):
    zigzag = 2 * nano if nano >= 0 else -2 * nano - 1
    node = field(1, 2) + field(8, zigzag) + field(9, zigzag)
    with open("a.osm.pbf", "wb") as file:
        file.write(blob(b"OSMHeader", field(4, b"OsmSchema-V0.6")))
        file.write(blob(b"OSMData", field(1, field(1, b"")) + field(2, field(1, node)) + field(17, 1)))
    return place("a.osm.pbf")


def text(nano):
    with open("a.osm", "w") as file:
        file.write(f'<osm version="0.6"><node id="1" version="1" lat="{nano:d}e-9" lon="{nano:d}e-9"/></osm>')
    return place("a.osm")


def place(name):
    ((x, y),) = [(node.location.x, node.location.y) for node in osmium.FileProcessor(name, osmium.osm.NODE)]
    assert x == y
    return x


for nano, expected in ((100, (1, 1)), (199, (1, 2)), (-199, (-1, -2)), (99, (0, 1)), (-99, (0, -1))):
    found = binary(nano), text(nano)
    print(f"  {nano:>5} nano-degrees: {found[0]:>2} from .osm.pbf, {found[1]:>2} from .osm (in 1e-7 degrees)")
    if found != expected:
        changed.append(nano)
if changed:
    sys.exit(f"changed: {changed}")
PY
cd "$work"
venv/bin/python places.py
