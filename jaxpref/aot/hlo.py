"""Reads a compiled program's text: instructions, how often loops run them, and the lines they come from.

XLA's own figures count the body of a loop once, name no buffer and hide collectives in custom calls. The text
of a compiled module (`compiled.as_text()`) has all of that, in the order in which it is run.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

__all__ = ["Instruction", "Module", "members", "nbytes"]

_BITS = {"pred": 8, "token": 0, "opaque": 0}  # every other type says its bits: bf16, s32, f8e4m3fn
_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([\d,]*)((?::[^{}]*)?)\})?")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|branch_computations)=\{?(%[\w.\-]+(?:, %[\w.\-]+)*)")
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_LINE = re.compile(r'source_file="([^"]*)".*?source_line=(\d+)')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation: `%name = type opcode(operands), attributes`."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """Computations that it names."""
        return tuple(
            name.strip().lstrip("%")
            for match in _CALLED.finditer(self.attributes)
            for name in match[1].split(",")
        )

    @property
    def label(self) -> str:
        """What it computes, as jax named it; "" where XLA made it."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""


def nbytes(type_: str, *, device: bool = True) -> int:
    """Bytes of an array or tuple type with its layout: dimensions filled up to whole tiles.

    `device`: only what lies in a device's main memory (a layout's `S(n)` says that an array lies elsewhere:
    on the chip, or on the host).
    """
    total = 0
    for dtype, dims, order, rest in _ARRAY.findall(type_):
        if device and re.search(r"S\([1-9]\d*\)", rest):
            continue
        sizes = [int(n.lstrip("<=")) for n in dims.split(",") if n]
        digits = re.search(r"\d+", dtype)
        bits = _BITS[dtype] if dtype in _BITS else int(digits[0]) if digits else 8
        total += math.prod(_padded(sizes, order, rest)) * bits // 8
    return total


def members(type_: str) -> list[str]:
    """Types that a tuple type has, each perhaps a tuple itself."""
    found, start, i = [], 1, 1
    while i < len(type_) - 1:
        if type_[i] in "([{":
            i = _closing(type_, i)
        elif type_[i] == ",":
            found.append(type_[start:i].strip())
            start = i + 1
        i += 1
    return [*found, type_[start : len(type_) - 1].strip()]


def _padded(sizes: list[int], order: str, rest: str) -> list[int]:
    tile = re.search(r"T\(([\d,]+)\)", rest)
    if not tile or not sizes or not order:
        return sizes
    minor = [sizes[int(axis)] for axis in order.split(",")]  # the fastest dimension first
    for i, size in enumerate(reversed([int(n) for n in tile[1].split(",")])):
        if i < len(minor):
            minor[i] = -(-minor[i] // size) * size
        else:
            minor.append(size)
    return minor


class Module:
    """A compiled module. `run()` gives its instructions, each with the number of times that it is run."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        lines: list[Instruction] | None = None
        tables: dict[str, dict[int, str]] = {}
        table: dict[int, str] | None = None
        for line in text.split("\n"):
            if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
                table = tables.setdefault(line, {})
            elif table is not None and (row := re.match(r"(\d+) (.*)", line)):
                table[int(row[1])] = row[2]
            elif line.endswith("{") and (head := re.match(r"(ENTRY )?%?([\w.\-]+) \(", line)):
                table, lines = None, self.computations.setdefault(head[2], [])
                self.entry = head[2] if head[1] else self.entry
            elif line == "}":
                lines = None
            elif lines is not None and (found := _INSTRUCTION.match(line)):
                lines.append(_instruction(found, line))
            elif lines:  # what a kernel says of itself may go over several lines
                more = f"{lines[-1].attributes}\n{line}"
                lines[-1] = dataclasses.replace(lines[-1], attributes=more)
        self._tables = tables

    def run(self) -> Iterator[tuple[Instruction, int]]:
        """Instructions of the entry, of loops and of all branches, not what is inside of fusions."""
        todo = [(self.entry, 1)]
        while todo:
            name, times = todo.pop()
            for one in self.computations.get(name, []):
                yield one, times
                if one.opcode == "while":
                    todo.append((_named(one, "body"), times * self.trips(one)))
                elif one.opcode in ("conditional", "call", "async-start"):
                    todo += [(called, times) for called in one.called]

    def trips(self, loop: Instruction) -> int:
        """How often a loop runs at most: what its condition compares a counter from 0 with."""
        known = re.search(r"known_trip_count[^\d]*(\d+)", loop.attributes)
        if known:
            return int(known[1])
        constants = [
            int(value)
            for one in self._within(_named(loop, "condition"))
            if one.opcode == "constant" and (value := ",".join(one.operands)).isdigit()
        ]
        return max(constants, default=1) or 1

    def root(self, computation: str) -> Instruction | None:
        """What a computation gives."""
        return next((x for x in self.computations.get(computation, []) if x.root), None)

    def line(self, one: Instruction) -> str:
        """`jaxpref/models/attention.py:52`: the innermost line that is not a library's; "" if unknown."""
        direct = _LINE.search(one.attributes)
        if direct:
            return f"{_short(direct[1])}:{direct[2]}"
        frame = _FRAME.search(one.attributes)
        lines = [] if frame is None else list(self._frames(int(frame[1])))
        return next((x for x in lines if "site-packages" not in x), lines[0] if lines else "")

    def _frames(self, frame: int) -> Iterator[str]:
        frames, places = (self._tables.get(name, {}) for name in ("StackFrames", "FileLocations"))
        while frame in frames:
            place, parent = (int(x) for x in re.findall(r"=(\d+)", frames[frame])[:2])
            found = re.search(r"file_name_id=(\d+).*? line=(\d+)", places.get(place, ""))
            if found:
                yield f"{_short(self._tables['FileNames'][int(found[1])].strip(chr(34)))}:{found[2]}"
            if parent - 1 >= frame:  # parents are written one higher than frames are
                return
            frame = parent - 1

    def _within(self, computation: str) -> Iterator[Instruction]:
        for one in self.computations.get(computation, []):
            yield one
            for called in one.called:
                yield from self._within(called)


def _named(one: Instruction, what: str) -> str:
    match = re.search(rf"{what}=%?([\w.\-]+)", one.attributes)
    return match[1] if match else ""


def _short(path: str) -> str:
    """From the last folder of ours on; of a library, from its package on."""
    for root in ("/site-packages/", "/jaxpref/", "/experiments/"):
        if root in path:
            tail = path.rsplit(root, 1)[1]
            return f"site-packages/{tail}" if root == "/site-packages/" else f"{root[1:]}{tail}"
    return path


def _closing(text: str, start: int) -> int:
    """Where the bracket at `start` closes."""
    opening = text[start]
    closing = {"(": ")", "[": "]", "{": "}"}[opening]
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == opening) - (text[i] == closing)
        if depth == 0:
            return i
    return len(text)


def _instruction(found: re.Match[str], line: str) -> Instruction:
    begin = found.end()
    end = _closing(line, begin) + 1 if line[begin] == "(" else line.index(" ", begin)
    type_, rest = line[begin:end], line[end:].lstrip()
    opcode, _, inside = rest.partition("(")
    close = _closing(rest, len(opcode)) if inside else len(rest)
    given = rest[len(opcode) + 1 : close]
    names = re.findall(r"%([\w.\-]+)", given) or [x.strip() for x in given.split(",") if x.strip()]
    return Instruction(found[2], type_, opcode, tuple(names), rest[close + 1 :], bool(found[1]))
