"""Columns of numbers beside the texts of a file's rows: which become columns of records, and why others do
not."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxpref.data.columns import FIELDS
from jaxpref.data.records import Records
from jaxpref.types import COLUMNS

__all__ = ["LARGEST", "Beside", "carry", "check_columns"]

_KNOWN = {name: axes for name, (axes, _) in COLUMNS.items()} | FIELDS
_MADE = ("example_ids", "full_lengths", "reference_logps")  # by this package, of these very tokens and params
LARGEST = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class Beside:
    """What stands beside the texts of one row."""

    values: Mapping[str, Any]
    given: int  # responses in the file's row
    order: Sequence[int]  # which of them the record keeps, in its order


class _Unfit(ValueError):
    """Why a column cannot be carried."""


def check_columns(columns: Mapping[str, str] | None) -> None:
    """Raises ValueError for axes that cannot be those of a column."""
    for name, axes in (columns or {}).items():
        if not isinstance(axes, str) or axes.split()[:1] != ["b"] or "r" in axes.split():
            raise ValueError(f"columns: {name}: expected axes such as 'b', 'b k' or 'b d', got {axes!r}")
        if name in _MADE:
            raise ValueError(f"columns: {name} is made by jaxpref, not read from a file")


def carry(records: Records, beside: Sequence[Beside], columns: Mapping[str, str] | None) -> Records:
    """The records with the columns that stood beside their texts.

    Args:
      beside: One for each row of the records.
      columns: Name -> axes of those to take, each of which every row must have; None takes those that are
        numbers in every row: one for each row, or of the axes that `types.COLUMNS` says.

    Columns that are not taken are in the manifest's `unread_columns`, with the reason. Raises ValueError for
    one that is asked for and does not fit.
    """
    names = sorted({name for row in beside for name in row.values})
    unread = {}
    for name in names if columns is None else sorted({*names, *columns}):
        if columns is not None and name not in columns:
            unread[name] = "not asked for"
            continue
        axes = _KNOWN.get(name, "b") if columns is None else columns[name]
        try:
            records = records.with_column(name, _array(name, axes, beside, records.k), axes=axes)
        except ValueError as error:
            if columns is not None:
                raise ValueError(f"column {name}: {str(error).removeprefix(f'column {name}: ')}") from error
            unread[name] = str(error).removeprefix(f"column {name}: ")
    return dataclasses.replace(records, metadata={**records.metadata, "unread_columns": unread})


def _array(name: str, axes: str, beside: Sequence[Beside], k: int) -> np.ndarray:
    letters = axes.split()
    if name in _MADE:
        raise _Unfit("is made by jaxpref, not read from a file")
    if not name.isidentifier():
        raise _Unfit("its name is not one of letters, digits and underscores")
    missing = [i for i, row in enumerate(beside) if name not in row.values]
    if missing:
        raise _Unfit(f"{len(missing)} of {len(beside)} rows do not have it")
    if "r" in letters:
        raise _Unfit("is of tokens, which a file of texts does not have")
    _check_numbers([row.values[name] for row in beside], missing=name == "ratings")
    rows = [_row(name, letters, row, k) for row in beside]
    try:
        values = np.array(rows)
    except ValueError as error:
        raise _Unfit(f"its rows are not of one shape [{axes}]") from error
    if values.ndim != len(letters):
        raise _Unfit(f"its rows are not of one shape [{axes}]")
    if values.dtype.kind == "f" and (np.abs(values[np.isfinite(values)]) > LARGEST).any():
        raise _Unfit("holds numbers beyond float32")
    if values.dtype.kind == "f" and name != "ratings" and not np.isfinite(values).all():
        raise _Unfit("holds numbers that are not finite")
    if values.dtype.kind in "iu" and (np.abs(values) > np.iinfo(np.int32).max).any():
        raise _Unfit("holds integers beyond 32 bits")
    return values


def _row(name: str, letters: Sequence[str], row: Beside, k: int) -> Any:
    value = row.values[name]
    if letters[1:2] != ["k"]:
        return value
    if not isinstance(value, list) or len(value) != row.given:
        raise _Unfit(
            f"expected a list with a number for each of the {row.given} responses, got {value!r:.60}"
        )
    array = np.array(value, float if name in ("ratings", "scores") else None)[list(row.order)]
    if letters[2:] == ["k"]:
        array = array[:, list(row.order)]
        return np.pad(array, (0, k - len(array)), constant_values=0.5)
    return np.pad(array, [(0, k - len(array)), *[(0, 0)] * (array.ndim - 1)])


def _check_numbers(value: Any, *, missing: bool) -> None:
    leaves, kinds = [value], set()
    while leaves:
        leaf = leaves.pop()
        if isinstance(leaf, list):
            leaves.extend(leaf)
        elif not (isinstance(leaf, int | float) or (missing and leaf is None)):
            raise _Unfit("text" if isinstance(leaf, str) else f"not numbers ({type(leaf).__name__})")
        else:
            kinds.add(isinstance(leaf, bool))
    if len(kinds) > 1:
        raise _Unfit("mixes numbers with true and false")
