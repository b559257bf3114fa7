"""What a compiled program moves: bytes of main memory, and collectives by the mesh axes that they go over."""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from jaxpref.aot.hlo import Instruction, Module, members, nbytes

__all__ = ["Buffer", "Collective", "collectives", "largest_buffers", "memory_bytes"]

# Instructions that name memory which is there already, or none.
_NO_MEMORY = {
    "parameter",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "while",
    "conditional",
    "call",
    "constant",
    "after-all",
    "opt-barrier",
    "optimization-barrier",
    "partition-id",
    "copy-done",
    "dynamic-update-slice",
    "send",
    "send-done",
    "recv-done",
}
_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# How many times the bytes of its result a collective moves over the links of a device, in a group of n.
_MOVED = {
    "all-gather": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}


@dataclasses.dataclass(frozen=True)
class Buffer:
    """An array in main memory while a program runs."""

    bytes: int  # of one device, filled up to whole tiles
    type: str  # dtype and shape on one device
    line: str  # file:line that it comes from; "" where the compiler made it
    label: str  # the operation, as jax named it


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind over the same axes."""

    kind: str
    axes: tuple[str, ...]
    devices: int  # in a group
    count: int  # how often they run in one call of the program
    bytes: float  # of their results, on one device
    moved: float  # bytes over the links of one device: those of a ring


def _in_place(one: Instruction, module: Module) -> bool:
    """A fusion that writes a slice into an operand, as loops stack what they keep."""
    if one.opcode != "fusion" or not one.called:
        return False
    root = module.root(one.called[0])
    return root is not None and root.opcode == "dynamic-update-slice"


def largest_buffers(module: Module, count: int = 5) -> list[Buffer]:
    """The largest arrays that the program makes in main memory (not its arguments), one for each line of code
    and shape. They need not all be there at the same time."""
    found: dict[tuple[str, str], Buffer] = {}
    for one, _ in module.run():
        if one.opcode in _NO_MEMORY or one.opcode.endswith("-done") or _in_place(one, module):
            continue
        for type_ in re.findall(r"\w+\[[\d,]*\](?:\{[^{}]*\})?", one.type):
            short = type_.partition("{")[0]
            buffer = Buffer(nbytes(type_), short, module.line(one), one.label)
            found.setdefault((buffer.line, short), buffer)
    named = {buffer.type for buffer in found.values() if buffer.line}
    kept = [buffer for buffer in found.values() if buffer.line or buffer.type not in named]
    return sorted(kept, key=lambda buffer: -buffer.bytes)[:count]


def memory_bytes(module: Module) -> float:
    """Bytes that one device reads and writes in main memory: operands and results of each instruction, as
    often as it runs. What is written in place counts whole only where it is read: an upper estimate."""
    total = 0.0
    types: dict[str, str] = {}
    for one, times in module.run():
        types[one.name] = one.type
        if one.opcode in _NO_MEMORY or one.opcode.endswith("-start"):
            continue
        moved = 0 if _in_place(one, module) else nbytes(one.type)
        if not one.opcode.endswith("-done"):
            moved += sum(_read(types.get(name, ""), one, module) for name in one.operands)
        total += times * moved
    return total


def _read(type_: str, one: Instruction, module: Module) -> int:
    """Bytes of an operand that are read: of stacked layers, that of a layer, as large as what comes out."""
    bytes_ = nbytes(type_)
    if one.opcode == "dynamic-slice" or _in_place(one, module):
        return min(bytes_, nbytes(one.type))
    if one.opcode == "fusion" and one.called:
        sliced = any(x.opcode == "dynamic-slice" for x in module.computations.get(one.called[0], []))
        return min(bytes_, max(nbytes(one.type), bytes_ // 64)) if sliced else bytes_
    return bytes_


def collectives(module: Module, shape: Mapping[str, int]) -> list[Collective]:
    """Collectives of a program over a mesh of this shape, in the order of its devices.

    On TPUs some have another name than what they do: an all-gather may be an all-reduce of zeros, and a
    reduce-scatter an all-reduce inside of a fusion. They are listed as they run.
    """
    found: dict[tuple[str, tuple[str, ...], int], list[float]] = collections.defaultdict(lambda: [0, 0.0])
    seen = set()
    for one, times in module.run():
        for kind, inner in _collective(one, module):
            # One that runs beside other work is named in each of the fusions that it runs beside.
            channel = re.search(r"channel_id=(\d+)", inner.attributes)
            place = (channel[1] if channel else inner.name, kind, times)
            if place in seen:
                continue
            seen.add(place)
            group = _group(inner.attributes, math.prod(shape.values()))
            if len(group) < 2:
                continue
            entry = found[kind, _axes(group, shape), len(group)]
            entry[0] += times
            entry[1] += times * nbytes(_result(inner), device=False)
    made = [
        Collective(kind, axes, n, int(count), size, size * _MOVED[kind](n))
        for (kind, axes, n), (count, size) in found.items()
    ]
    return sorted(made, key=lambda c: -c.moved)


def _collective(one: Instruction, module: Module) -> list[tuple[str, Instruction]]:
    """The collectives of an instruction: itself, or those inside of a fusion or an asynchronous start."""
    if one.opcode.endswith("-done"):
        return []
    kind = one.opcode.removesuffix("-start")
    if kind in _KINDS:
        return [(kind, one)]
    if one.opcode == "fusion" or one.opcode in ("custom-call", "async-start"):
        inside = [x for name in one.called for x in module.computations.get(name, [])]
        kinds = [(x.opcode.removesuffix("-start"), x) for x in inside]
        return [(kind, x) for kind, x in kinds if kind in _KINDS]
    return []


def _result(one: Instruction) -> str:
    """The type of what a collective gives. A start gives (operands, results, ...), but for a sum, which gives
    its results alone."""
    if one.opcode == "all-reduce-start" or not one.opcode.endswith("-start") or one.type[0] != "(":
        return one.type
    parts = members(one.type)
    return parts[1] if len(parts) > 1 else one.type


def _group(attributes: str, devices: int) -> Sequence[int]:
    """One of the groups that a collective goes over: places in the order of the program's devices."""
    pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", attributes)
    if pairs:
        return _reached(re.findall(r"\{(\d+),(\d+)\}", pairs[1]))
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    if listed:
        return [int(i) for i in listed[1].split(",")]
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if iota:
        return _order(devices, iota[3], iota[4]).reshape(int(iota[1]), int(iota[2]))[0].tolist()
    mesh = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?\s*\{([^}]*)\}",
        attributes,
    )
    if mesh:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        along = re.findall(r"'(\w+)'", mesh[4])
        order = _order(devices, mesh[2] or str(devices), mesh[3]).reshape([int(n) for n in sizes.values()])
        return order[tuple(slice(None) if name in along else 0 for name in sizes)].ravel().tolist()
    return list(range(devices))  # no groups: all of them


def _order(devices: int, shape: str, transposed: str | None) -> np.ndarray:
    """Places of devices, as `[4,2]T(1,0)` lists them."""
    order = np.arange(devices).reshape([int(n) for n in shape.split(",")])
    return order.transpose([int(n) for n in transposed.split(",")]) if transposed else order


def _reached(pairs: Sequence[tuple[str, str]]) -> list[int]:
    """The ring that the first pair of a permutation is part of."""
    follow = {int(a): int(b) for a, b in pairs}
    ring = [int(pairs[0][0])] if pairs else []
    while ring and (nxt := follow.get(ring[-1])) is not None and nxt not in ring:
        ring.append(nxt)
    return ring


def _axes(group: Sequence[int], shape: Mapping[str, int]) -> tuple[str, ...]:
    """Axes of the mesh along which the members of a group differ."""
    places = np.array(np.unravel_index(np.asarray(group), tuple(shape.values())))
    return tuple(name for name, row in zip(shape, places, strict=True) if len(set(row.tolist())) > 1)
