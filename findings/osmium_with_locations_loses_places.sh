#!/usr/bin/env bash
# pyosmium: with_locations leaves the nodes of ways without a place, in silence, in three kinds of valid file.
#
# Expected: after `FileProcessor(file).with_locations()` each node of a way has the place that the file gives it, or
#   there is an error, as with the handler NodeLocationsForWays ("location for one or more nodes not found").
# Seen (osmium 4.3.2): `location.valid()` is False, and nothing else is said, where
#   - the node has a negative id (JOSM's files and others that are not uploaded yet; XML, OPL and PBF allow such ids):
#     also with `SimpleHandler.apply_file(locations=True)`; NodeLocationsForWays raises, although the nodes are there;
#   - ways come before nodes (only the optional feature Sort.Type_then_ID promises the usual order);
#   - the places are in the way itself (LocationsOnWays: the nodes are left out of such a file): read without
#     with_locations they are there, and with it they are overwritten by none.
# What helps: reading nodes and ways by oneself, in two passes, and taking `node.location` of a way where it is valid.
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
NODES = ['<node id="{}" version="1" lat="1" lon="2"/>'.format(i) for i in (1, -2)]
WAY = '<way id="5" version="1"><nd ref="1"/><nd ref="-2"/></way>'


def text(name, *parts):
    with open(name, "w") as file:
        file.write(f'<osm version="0.6">{"".join(parts)}</osm>')
    return name


def field(number, value):  # of a protocol buffer; all numbers here are below 128
    return bytes([number << 3, value]) if isinstance(value, int) else bytes([number << 3 | 2, len(value)]) + value


def blob(kind, data):
    packed = field(1, data)
    header = field(1, kind) + field(3, len(packed))
    return struct.pack(">I", len(header)) + header + packed


def located(name):  # a way over nodes 1 and 2, with places (2, 1) and (3, 2) in it, in units of 1e-7 degrees
    way = field(1, 5) + field(8, bytes([2, 2])) + field(9, bytes([2, 2])) + field(10, bytes([4, 2]))
    with open(name, "wb") as file:
        file.write(blob(b"OSMHeader", field(4, b"OsmSchema-V0.6") + field(5, b"LocationsOnWays")))
        file.write(blob(b"OSMData", field(1, field(1, b"")) + field(2, field(3, way))))
    return name


class Valid(osmium.SimpleHandler):
    def way(self, way):
        self.found = [node.location.valid() for node in way.nodes]


def processed(name, locations=True):
    processor = osmium.FileProcessor(name, osmium.osm.NODE | osmium.osm.WAY)
    (found,) = [
        [node.location.valid() for node in item.nodes]
        for item in (processor.with_locations() if locations else processor)
        if item.is_way()
    ]
    return found


def applied(name):
    handler = Valid()
    handler.apply_file(name, locations=True)
    return handler.found


def strict(name):
    places = osmium.NodeLocationsForWays(osmium.index.create_map("flex_mem"))
    try:
        osmium.apply(name, places, Valid())
    except KeyError as error:
        return error.args[0]
    return "no error"


def expect(what, found, expected):
    print(f"  {what:<58} {found}")
    if found != expected:
        changed.append(what)


usual, turned = text("a.osm", *NODES, WAY), text("b.osm", WAY, *NODES)
raised = "location for one or more nodes not found in node location index"
expect("ids 1 and -2, with_locations", processed(usual), [True, False])
expect("ids 1 and -2, SimpleHandler with locations", applied(usual), [True, False])
expect("ids 1 and -2, NodeLocationsForWays", strict(usual), raised)
expect("ways first, with_locations", processed(turned), [False, False])
expect("ways first, NodeLocationsForWays", strict(turned), raised)
expect("LocationsOnWays, no with_locations", processed(located("c.osm.pbf"), locations=False), [True, True])
expect("LocationsOnWays, with_locations", processed(located("c.osm.pbf")), [False, False])
if changed:
    sys.exit(f"changed: {changed}")
PY
cd "$work"
venv/bin/python places.py
