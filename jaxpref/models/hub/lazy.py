"""Arrays that are read where they are asked for: slices of tensors in files, and views of them.

A `LazyArray` may be a leaf of params wherever a host array may: `training.sharding.put_params` asks it for
the slices that the devices of the process hold, and no other bytes are read. Views (`T`, `rows`, `astype`,
`stacked`) read nothing. What is read moves in blocks of a MiB, so that memory beside the result stays
small, on two threads for each core, since the disk, casting and transposing all take a part of the time.
"""

import abc
import concurrent.futures
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

__all__ = [
    "BLOCK",
    "Bounds",
    "LazyArray",
    "Piece",
    "aligned_empty",
    "blocks",
    "cast",
    "in_order",
    "stacked",
    "within",
    "wrapped",
]

BLOCK = 2**20  # bytes that are read at a time; with its transpose it stays in a core's cache
_ROWS = 2**25  # bytes of a large array that are read at a time where all are wanted in order
_ALONE = 2**22  # bytes below which threads are not worth their start

Bounds = tuple[tuple[int, int], ...]  # start and stop on each axis
Piece = tuple[tuple[slice, ...], Callable[[], np.ndarray]]  # a part of what was asked for, and what reads it


class LazyArray(abc.ABC):
    """An array of known `shape` and `dtype` (numpy's, with ml_dtypes' bfloat16) whose values are elsewhere.

    Example:
      >>> x = wrapped(np.arange(6, dtype=np.int32).reshape(2, 3)).T
      >>> x.shape, x[1:3].tolist()
      ((3, 2), [[1, 4], [2, 5]])
    """

    is_stack = False  # whether axis 0 is one of arrays that may be read one by one (`stacked`)

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)

    @abc.abstractmethod
    def pieces(self, bounds: Bounds) -> Iterator[Piece]:
        """What lies within `bounds`, in any order, in parts of about `BLOCK` bytes for any thread to read."""

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def T(self) -> "LazyArray":
        """The axes in reverse order."""
        return _Transposed(self)

    def rows(self, index: slice | Sequence[int] | np.ndarray) -> "LazyArray":
        """Some rows of axis 0, in the order of `index`: a slice of step 1, or integers from 0.

        Raises:
          ValueError: it has no such rows.
        """
        return _Rows(self, index)

    def astype(self, dtype: Any) -> "LazyArray":
        """Cast as it is read."""
        return self if np.dtype(dtype) == self.dtype else _Cast(self, dtype)

    def __getitem__(self, index: Any) -> np.ndarray:
        """The slice as a new array, aligned to 64 bytes: jax takes it over on CPU without a copy.

        Args:
          index: slices of step 1, one for each axis or for the first ones, as jax gives them; `...`: all.

        Raises:
          ValueError: another index; or what lies behind cannot be read.
        """
        bounds = _bounds(index, self.shape)
        out = aligned_empty(tuple(stop - start for start, stop in bounds), self.dtype)
        if out.size:
            _fill(out, self.pieces(bounds))
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a lazy array is read into a new one: it cannot be had without a copy")
        return self[...] if dtype is None else self.astype(dtype)[...]

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an array without axes has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__.lstrip('_')}(shape={self.shape}, dtype={self.dtype})"


def stacked(arrays: Sequence[Any]) -> LazyArray:
    """Arrays of one shape and dtype, lazy or not, along a new axis 0.

    Raises:
      ValueError: there are none, or they differ.
    """
    return _Stacked([wrapped(x) for x in arrays])


def wrapped(array: Any) -> LazyArray:
    """A numpy or jax array as a lazy one, which shares its memory; a lazy one as it is."""
    return array if isinstance(array, LazyArray) else _Wrapped(array)


def cast(array: Any, dtype: Any) -> Any:
    """The array itself where it has the dtype, else a lazy one that is cast as it is read."""
    return array if array.dtype == dtype else wrapped(array).astype(dtype)


def in_order(array: LazyArray) -> Iterator[np.ndarray]:
    """All values in row-major order, as some rows at a time: at most 32 MiB where a row is not larger."""
    if not array.ndim:
        yield array[...]
        return
    count = max(1, _ROWS * len(array) // max(array.nbytes, 1))
    for first in range(0, len(array), count):
        yield array[first : first + count]


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """`np.empty` at an address that is a multiple of 64, where XLA for CPU needs no copy of its own."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(dtype).reshape(shape)


class _Wrapped(LazyArray):
    def __init__(self, array: Any) -> None:
        super().__init__(array.shape, array.dtype)
        self._array = array

    def pieces(self, bounds: Bounds) -> Iterator[Piece]:
        array = np.asarray(self._array)
        for part in blocks(bounds, self.dtype.itemsize):
            index = tuple(slice(start, stop) for start, stop in part)
            yield within(part, bounds), lambda index=index: array[index]


class _Transposed(LazyArray):
    def __init__(self, base: LazyArray) -> None:
        super().__init__(base.shape[::-1], base.dtype)
        self._base = base

    @property
    def T(self) -> LazyArray:
        return self._base

    def pieces(self, bounds: Bounds) -> Iterator[Piece]:
        for where, read in self._base.pieces(bounds[::-1]):
            yield where[::-1], lambda read=read: read().T


class _Cast(LazyArray):
    def __init__(self, base: LazyArray, dtype: Any) -> None:
        super().__init__(base.shape, dtype)
        self._base, self.is_stack = base, base.is_stack

    def pieces(self, bounds: Bounds) -> Iterator[Piece]:
        for where, read in self._base.pieces(bounds):
            yield where, lambda read=read: read().astype(self.dtype)


class _Rows(LazyArray):
    def __init__(self, base: LazyArray, index: slice | Sequence[int] | np.ndarray) -> None:
        if base.ndim == 0:
            raise ValueError("an array without axes has no rows")
        if isinstance(index, slice):
            ((start, stop),) = _bounds(index, base.shape[:1])
            index = np.arange(start, stop)
        chosen = np.asarray(index, np.int64 if np.size(index) == 0 else None)
        if chosen.ndim != 1 or not np.issubdtype(chosen.dtype, np.integer):
            raise ValueError(f"rows are chosen by a vector of integers, got {chosen.dtype} {chosen.shape}")
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < base.shape[0]:
            raise ValueError(
                f"rows {chosen.min()} to {chosen.max()} asked for of an array with {base.shape[0]}"
            )
        super().__init__((len(chosen), *base.shape[1:]), base.dtype)
        self._base, self._chosen = base, chosen

    def pieces(self, bounds: Bounds) -> Iterator[Piece]:
        (start, stop), *rest = bounds
        chosen = self._chosen[start:stop]
        ends = [*(np.flatnonzero(np.diff(chosen) != 1) + 1).tolist(), len(chosen)]
        begin = 0
        for end in ends if len(chosen) else ():
            run = int(chosen[begin]), int(chosen[end - 1]) + 1  # rows that follow one another
            for (first, *others), read in self._base.pieces((run, *rest)):
                yield (slice(first.start + begin, first.stop + begin), *others), read
            begin = end


class _Stacked(LazyArray):
    is_stack = True

    def __init__(self, arrays: Sequence[LazyArray]) -> None:
        kinds = {(x.shape, x.dtype) for x in arrays}
        if len(kinds) != 1:
            raise ValueError(
                "stacked: expected arrays of one shape and dtype, got "
                + (", ".join(sorted(f"{dtype} {list(shape)}" for shape, dtype in kinds)) or "none")
            )
        super().__init__((len(arrays), *arrays[0].shape), arrays[0].dtype)
        self._arrays = tuple(arrays)

    def pieces(self, bounds: Bounds) -> Iterator[Piece]:
        (start, stop), *rest = bounds
        for i in range(start, stop):
            for where, read in self._arrays[i].pieces(tuple(rest)):
                yield (slice(i - start, i - start + 1), *where), lambda read=read: read()[None]


def blocks(bounds: Bounds, itemsize: int, shape: tuple[int, ...] | None = None) -> Iterator[Bounds]:
    """`bounds` cut along the first axes into parts of about `BLOCK` bytes, in row-major order; of an array of
    `shape`, they lie within 8 `BLOCK` of it."""
    if not bounds:
        yield bounds
        return
    (start, stop), *rest = bounds
    row = itemsize * math.prod(b - a for a, b in rest)
    if shape is not None:
        row = max(row, itemsize * math.prod(shape[1:]) // 8)
    if row > BLOCK and rest:
        for i in range(start, stop):
            for part in blocks(tuple(rest), itemsize, shape and shape[1:]):
                yield ((i, i + 1), *part)
        return
    step = max(1, BLOCK // max(row, 1))
    for first in range(start, stop, step):
        yield ((first, min(first + step, stop)), *rest)


def within(part: Bounds, bounds: Bounds) -> tuple[slice, ...]:
    return tuple(slice(a - start, b - start) for (a, b), (start, _) in zip(part, bounds, strict=True))


def _bounds(index: Any, shape: tuple[int, ...]) -> Bounds:
    given = () if index is Ellipsis else index if isinstance(index, tuple) else (index,)
    if len(given) > len(shape) or not all(isinstance(i, slice) for i in given):
        raise ValueError(f"a lazy array of shape {shape} is read by slices, one for each axis; got {index}")
    bounds = []
    for size, one in zip(shape, (*given, *[slice(None)] * (len(shape) - len(given))), strict=True):
        start, stop, step = one.indices(size)
        if step != 1:
            raise ValueError(f"a lazy array is read by slices of step 1; got {index}")
        bounds.append((start, max(start, stop)))
    return tuple(bounds)


def _fill(out: np.ndarray, pieces: Iterator[Piece]) -> None:
    """Copies all pieces to their places in `out`, on several threads where that is worth it."""
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                piece = next(pieces, None)
            if piece is None:
                return
            where, read = piece
            try:
                _copy(out[(*where, ...)], read())  # of a scalar, too, this is a view
            except BaseException:
                with lock:
                    pieces.close()  # type: ignore[attr-defined]  # generators, all of them
                raise

    if out.nbytes <= _ALONE:
        work()
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = min(2 * cores, 16)  # while one waits for the disk, another copies
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result()


def _copy(target: np.ndarray, source: np.ndarray) -> None:
    # As integers: numpy keeps Python's lock, and copies one by one, for types that are not its own.
    if target.itemsize in (1, 2, 4, 8):
        kind = np.dtype(f"u{target.itemsize}")
        target, source = target.view(kind), source.view(kind)
    while target.ndim > 2 and target.shape[0] == 1:
        target, source = target[0], source[0]
    if target.ndim != 2 or source.strides[0] >= source.strides[1]:
        target[...] = source
        return
    # Transposed. Rows of the source often begin multiples of 4096 bytes apart, which all fall into one set of
    # a core's cache; a copy whose rows are 64 bytes longer is transposed six times faster.
    columns, rows = source.shape
    padded = np.empty((rows, columns + 64 // source.itemsize), source.dtype)[:, :columns]
    padded[...] = source.T
    target[...] = padded.T
