"""What a table of records holds, as a fingerprint: two tables of one size may differ in every row."""

import dataclasses
import hashlib
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["content_of", "same_rows"]

_ROWS = 65536  # gathered at a time
_KNOWN: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()  # of tables: the hash of their rows


def content_of(table: Any, *, columns: bool = True) -> str:
    """SHA-256 (hex) of the rows in their order: tokens or steps, what is scored, groups and columns.

    Where the table was put together from does not count, nor its metadata: `take` of all rows, a copy and the
    same files read again have one content. The rows of a table, which must not change, are read once.

    Args:
      table: `Records`, or another dataclass whose array fields have one row a record (`SegmentRecords`).
      columns: False: without them, so that a column can name the rows it was made for.
    """
    if table not in _KNOWN:
        _KNOWN[table] = _rows(table)
    digest = _KNOWN[table].copy()
    for name in sorted(table.columns) if columns else ():
        digest.update(f"column {name}\n".encode())
        _update(digest, np.asarray(table.columns[name]))
    return digest.hexdigest()


def same_rows(table: Any, other: Any) -> Any:
    """`other`, which has the rows of `table` and other columns or metadata: its rows are not read again."""
    if table in _KNOWN:
        _KNOWN[other] = _KNOWN[table]
    return other


def _rows(table: Any) -> Any:
    digest = hashlib.sha256(f"{type(table).__name__}\n".encode())
    arrays = _ragged(table) if hasattr(table, "prompt_tokens") else _fields(table)
    for name, parts in arrays:
        digest.update(f"{name}\n".encode())
        for part in parts:
            _update(digest, part)
    return digest


def _update(digest: Any, array: np.ndarray) -> None:
    digest.update(f"{array.dtype.str} {array.shape}\n".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _fields(table: Any) -> Iterator[tuple[str, list[np.ndarray]]]:
    for field in dataclasses.fields(table):
        value = getattr(table, field.name)
        if isinstance(value, np.ndarray):
            yield field.name, [value]


def _ragged(records: Any) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
    for name in ("prompt", "response"):
        begin, lengths = getattr(records, f"{name}_starts"), getattr(records, f"{name}_lengths")
        yield f"{name} lengths", iter([np.asarray(lengths, np.int64)])
        yield f"{name} tokens", _gathered(getattr(records, f"{name}_tokens"), begin.ravel(), lengths.ravel())
    yield "unscored", iter([np.asarray(records.unscored, np.int64)])
    yield "group", iter([np.asarray(records.group, np.int64)])


def _gathered(tokens: np.ndarray, begin: np.ndarray, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Tokens row by row, wherever each row starts."""
    for first in range(0, len(begin), _ROWS):
        at, sizes = begin[first : first + _ROWS], lengths[first : first + _ROWS]
        index = np.repeat(at - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())
        yield np.asarray(tokens[index], np.int32)
