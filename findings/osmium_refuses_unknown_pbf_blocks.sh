#!/usr/bin/env bash
# pyosmium: a .osm.pbf with a block of a type of its own is refused, which the format says to skip.
#
# Expected: the format (OpenStreetMap wiki, page PBF Format, "File format") has two types of blocks,
#   OSMHeader and OSMData, leaves room for more, and wants parsers to skip the types that they do not know. So a file
#   with one more block (an index, say) reads as without it.
# Seen (osmium 4.3.2): RuntimeError "PBF error: blob does not have expected type (OSMHeader in first blob, OSMData in
#   following blobs)", wherever the block is; nodes before it are read first.
# What helps: rewriting the file with the tool that made it, without the additional blocks.
#
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "osmium==4.3.2" 2>/dev/null

cat >"$work/blocks.py" <<'PY'
import struct
import sys
from importlib import metadata

import osmium

print("osmium", metadata.version("osmium"))
changed = []


def field(number, value):  # of a protocol buffer; all numbers here are below 128
    return bytes([number << 3, value]) if isinstance(value, int) else bytes([number << 3 | 2, len(value)]) + value


def blob(kind, data):
    packed = field(1, data)
    header = field(1, kind) + field(3, len(packed))
    return struct.pack(">I", len(header)) + header + packed


HEADER = blob(b"OSMHeader", field(4, b"OsmSchema-V0.6"))
DATA = blob(b"OSMData", field(1, field(1, b"")) + field(2, field(1, field(1, 2) + field(8, 2) + field(9, 2))))
OTHER = blob(b"Index", b"abc")


def read(*blobs):
    with open("a.osm.pbf", "wb") as file:
        file.write(b"".join(blobs))
    try:
        return sum(1 for _ in osmium.FileProcessor("a.osm.pbf"))
    except RuntimeError as error:
        return str(error)


refused = "PBF error: blob does not have expected type (OSMHeader in first blob, OSMData in following blobs)"
for what, blobs, expected in (
    ("header, data", (HEADER, DATA), 1),
    ("header, other, data", (HEADER, OTHER, DATA), refused),
    ("header, data, other", (HEADER, DATA, OTHER), refused),
):
    found = read(*blobs)
    print(f"  {what:<22} {found}")
    if found != expected:
        changed.append(what)
if changed:
    sys.exit(f"changed: {changed}")
PY
cd "$work"
venv/bin/python blocks.py
