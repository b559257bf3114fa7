"""Safetensors files, read slice by slice and written whole.

A file is 8 bytes (the length n of the header, unsigned, little-endian), n bytes of JSON that name each
tensor's dtype, shape and place, and the tensors, row-major and little-endian, without a gap. Source: the
format's description and the reader and writer of the package safetensors 0.8.0, which is not needed.

*Differs from* that package: what is contiguous is read with `pread` and not through a memory map, so that a
disk that fails is an error rather than the end of the process; columns are read through maps of a few MiB, so
that resident memory is what was asked for. The writer takes arrays of any strides (0.8.0 writes transposed
ones in the wrong order), and duplicate names, unknown keys and boolean bytes other than 0 and 1 are errors.
"""

import collections
import json
import math
import mmap
import os
import pathlib
import struct
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxpref.models.hub.lazy import Bounds, LazyArray, Piece, blocks, in_order, within, wrapped

__all__ = ["Entry", "Header", "load_json", "open_file", "read_header", "write_file"]

_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    **{f"{sign}{8 * n}": np.dtype(f"<{sign.lower()}{n}") for sign in "IU" for n in (1, 2, 4, 8)},
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LARGEST_HEADER = 100_000_000  # bytes; the package's own limit
_MOST_AXES = 32


class Entry(NamedTuple):
    """A tensor of a file: its dtype, shape, and where it begins and ends, in bytes from the file's start."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class Header(NamedTuple):
    tensors: dict[str, Entry]  # in the order of their places in the file
    metadata: dict[str, str]


def read_header(path: str | os.PathLike[str]) -> Header:
    """What a file holds, checked against its size: no tensor reaches outside of it or into another.

    Raises:
      ValueError: there is no such file, it is not a whole safetensors file, or it has a dtype that is not
        read.
    """
    with _File(path) as file:
        return _header(file)


def open_file(path: str | os.PathLike[str]) -> dict[str, LazyArray]:
    """The tensors of a file by name; nothing but the header is read.

    The file stays open as long as one of them is there.

    Raises:
      ValueError: as `read_header`; and later, where a tensor cannot be read in full.
    """
    file = _File(path)
    return {name: _Stored(file, name, entry) for name, entry in _header(file).tensors.items()}


def write_file(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a new file and waits until it is on the disk. Of a lazy one some rows at a time are in memory.

    Args:
      tensors: numpy, jax or lazy arrays of any strides.
      metadata: `format` is "pt" unless it says another: without it transformers refuses a file.

    Raises:
      ValueError: the file is there already, or a name, a dtype or the metadata cannot be written.
      OSError: the disk is full or fails. What was written remains.
    """
    arrays = {name: wrapped(array) for name, array in tensors.items()}
    head = _head(arrays, {"format": "pt"} | dict(metadata or {}))
    try:
        file = open(path, "xb")  # noqa: SIM115  # what fails below is another error
    except FileExistsError:
        raise ValueError(f"{path}: there already; nothing is written over, choose another place") from None
    with file:
        file.write(struct.pack("<Q", len(head)) + head)
        for name in _order(arrays):
            for part in in_order(arrays[name]):
                file.write(part.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def _order(arrays: Mapping[str, LazyArray]) -> list[str]:
    """Wider types first, so that each tensor begins at a multiple of its own width."""
    return sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)


def _head(arrays: Mapping[str, LazyArray], metadata: dict[str, str]) -> bytes:
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise ValueError(f"metadata of a safetensors file are texts by name; got {metadata}")
    head: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name in _order(arrays):
        array = arrays[name]
        if name == "__metadata__" or array.dtype not in _NAMES:
            raise ValueError(f"{name}: a tensor of this name or of type {array.dtype} cannot be written")
        place = [at, at + array.nbytes]
        head[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": place}
        at = place[1]
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)


def load_json(text: bytes, where: str) -> dict[str, Any]:
    """A JSON object in which no name is given twice.

    Raises:
      ValueError: it is another thing; `where` says what was read.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        given = dict(pairs)
        if len(given) < len(pairs):
            ((name, _),) = collections.Counter(name for name, _ in pairs).most_common(1)
            raise ValueError(f"{name!r} is there twice")
        "".join(given).encode()  # half a character, as JSON may escape it, is no text
        return given

    try:
        read = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is damaged: {error}; fetch it again") from None
    if not isinstance(read, dict):
        raise ValueError(f"{where} is damaged: expected an object of names; fetch it again")
    return read


class _File:
    """An open file of known size, read at any place by any thread."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)
        try:
            self.descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise ValueError(
                f"{path}: cannot be opened ({error.strerror}); expected a safetensors file"
            ) from None
        self.close = weakref.finalize(self, os.close, self.descriptor)
        self.size = os.fstat(self.descriptor).st_size

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def read(self, start: int, out: np.ndarray) -> None:
        """Fills a contiguous array with the bytes from `start`."""
        left = out.reshape(-1).view(np.uint8).data
        while left:
            try:
                count = os.preadv(self.descriptor, [left], start)
            except OSError as error:
                raise ValueError(f"{self.path}: cannot be read at byte {start} ({error.strerror})") from error
            if count == 0:
                raise ValueError(f"{self.path}: ends at byte {start}; it was cut short")
            left, start = left[count:], start + count

    def mapped(self, start: int, size: int) -> memoryview:
        """Bytes of the file that need not be looked at: what is not, is not read."""
        if os.fstat(self.descriptor).st_size < start + size:
            raise ValueError(f"{self.path}: ends before byte {start + size}; it was cut short")
        before = start % mmap.ALLOCATIONGRANULARITY
        window = mmap.mmap(self.descriptor, before + size, access=mmap.ACCESS_READ, offset=start - before)
        return memoryview(window)[before:]


def _header(file: _File) -> Header:
    path = file.path
    if file.size < 8:
        raise ValueError(
            f"{path}: {file.size} bytes are no safetensors file; it is truncated, fetch it again"
        )
    length = np.empty(1, "<u8")
    file.read(0, length)
    size = int(length[0])
    if size > min(file.size - 8, _LARGEST_HEADER):
        raise ValueError(
            f"{path}: a header of {size} bytes in a file of {file.size}: truncated, or of another format"
        )
    text = np.empty(size, np.uint8)
    file.read(8, text)
    head = load_json(text.tobytes(), f"{path}: its header")
    if text[0] != ord("{"):
        raise ValueError(f"{path}: its header is damaged: it does not begin with a brace; fetch it again")
    metadata = head.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(x, str) for x in metadata.values()):
        raise ValueError(f"{path}: its __metadata__ are damaged: expected texts by name; fetch it again")
    entries = {name: _entry(given, 8 + size, f"{path}: {name!r}") for name, given in head.items()}
    placed = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    _check_places(placed, 8 + size, file)
    return Header(placed, metadata)


def _check_places(tensors: dict[str, Entry], begin: int, file: _File) -> None:
    """One tensor after the other, without a gap, to the end of the file."""
    at, before = begin, "the header"
    for name, entry in tensors.items():
        if entry.start != at:
            how = "overlaps" if entry.start < at else "leaves a gap after"
            raise ValueError(f"{file.path}: {name!r} {how} {before}; the file is damaged, fetch it again")
        at, before = entry.stop, repr(name)
    if at != file.size:
        why = "truncated" if at > file.size else "followed by bytes of no tensor"
        raise ValueError(
            f"{file.path}: its tensors end at byte {at} and the file at {file.size}: it is {why}; fetch it "
            "again"
        )


def _entry(given: Any, begin: int, where: str) -> Entry:
    wanted = {"dtype", "shape", "data_offsets"}
    if not isinstance(given, dict) or given.keys() != wanted:
        raise ValueError(f"{where}: expected the entries {sorted(wanted)}, got {_short(given)}")
    name, shape, offsets = given["dtype"], given["shape"], given["data_offsets"]
    if not isinstance(name, str) or name not in _DTYPES:
        raise ValueError(
            f"{where}: dtype {_short(name)} is not read; it is one of {', '.join(_DTYPES)} (convert others, "
            "such as 8-bit floats, with the tool that wrote them)"
        )
    if not _counts(shape) or len(shape) > _MOST_AXES:
        raise ValueError(f"{where}: its shape {_short(shape)} is no list of at most {_MOST_AXES} sizes")
    if not _counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{where}: its data_offsets {_short(offsets)} are no two places")
    dtype = _DTYPES[name]
    size = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != size or math.prod(max(n, 1) for n in shape) >= 2**60:
        raise ValueError(
            f"{where}: {name} of shape {_short(shape)} has {_short(size)} bytes, but its data_offsets are "
            f"{_short(offsets)}; the file is damaged, fetch it again"
        )
    return Entry(dtype, tuple(shape), begin + offsets[0], begin + offsets[1])


def _counts(given: Any) -> bool:
    return isinstance(given, list) and all(type(n) is int and 0 <= n < 2**63 for n in given)


def _short(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 80 else f"{text[:77]}..."


class _Stored(LazyArray):
    """A tensor in a file."""

    def __init__(self, file: _File, name: str, entry: Entry) -> None:
        super().__init__(entry.shape, entry.dtype)
        self._file, self._name, self._start = file, name, entry.start

    def pieces(self, bounds: Bounds) -> Iterator[Piece]:
        for part in blocks(bounds, self.dtype.itemsize, self.shape):
            yield within(part, bounds), lambda part=part: self._block(part)

    def _block(self, part: Bounds) -> np.ndarray:
        shape = tuple(stop - start for start, stop in part)
        strides = [self.dtype.itemsize * math.prod(self.shape[i + 1 :]) for i in range(self.ndim)]
        start = self._start + sum(first * stride for (first, _), stride in zip(part, strides, strict=True))
        reach = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + self.dtype.itemsize
        out = np.empty(shape, self.dtype)
        if reach == out.nbytes:
            self._file.read(start, out)
        else:
            raw = np.dtype(f"u{self.dtype.itemsize}")
            out.view(raw)[...] = np.ndarray(shape, raw, self._file.mapped(start, reach), strides=strides)
        if self.dtype == np.bool_ and out.view(np.uint8).max() > 1:
            raise ValueError(f"{self._file.path}: {self._name!r} has bytes that are neither true nor false")
        return out
