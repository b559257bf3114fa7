"""Columns beside the tokens or steps of a table: their axes, and whether they fit."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxpref.types import COLUMNS, check_column, column_axes

__all__ = ["FIELDS", "axes_in", "declared_axes", "fitting", "with_tokens"]

# Columns with a field of their own in `Completions`; the others go into its `columns`.
FIELDS = {"reference_logps": "b k", "preferences": "b k k"}


def axes_in(name: str, values: np.ndarray, metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The axes of a column of a table with this metadata."""
    return column_axes(name, values, FIELDS | metadata.get("column_axes", {}))


def fitting(
    name: str, values: np.ndarray, axes: str | None, metadata: Mapping[str, Any], sizes: Mapping[str, int]
) -> tuple[np.ndarray, Mapping[str, Any]]:
    """A column as an array, and metadata that know its axes.

    Raises:
      ValueError: its shape, type or range does not fit, or its axes are not declared.
    """
    values, metadata = np.asarray(values), _with_axes(metadata, name, axes)
    known = axes_in(name, values, metadata)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"column {name}: expected numbers, got {values.dtype}")
    fits = all(sizes.get(axis, size) == size for axis, size in zip(known, values.shape, strict=False))
    if not fits or values.ndim != len(known):
        wanted = ", ".join(str(sizes.get(axis, axis)) for axis in known)
        raise ValueError(f"column {name}: expected shape [{wanted}], got {values.shape}")
    if name in COLUMNS:
        check_column(name, values, known, dict(sizes))
    elif name in FIELDS and not np.isfinite(values).all():
        raise ValueError(f"column {name}: row {np.argwhere(~np.isfinite(values))[0][0]} is not finite")
    return values, metadata


def with_tokens(values: np.ndarray, axes: Sequence[str], room: int) -> np.ndarray:
    """A column whose axis `r` (tokens or steps) is cut or padded with zeros to `room` places."""
    if "r" not in axes:
        return values
    at = axes.index("r")
    missing = max(room - values.shape[at], 0)
    padding = [(0, missing if axis == at else 0) for axis in range(values.ndim)]
    return np.pad(values, padding).take(np.arange(room), at)


def declared_axes(metadata: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Axes declared with columns, by name: a field of batches."""
    return tuple(sorted(metadata.get("column_axes", {}).items()))


def _with_axes(metadata: Mapping[str, Any], name: str, axes: str | None) -> Mapping[str, Any]:
    """`metadata` with the axes of a column added.

    Raises:
      ValueError: `types.COLUMNS` knows the column by other axes, or the first axis is not `b`.
    """
    if axes is None:
        return metadata
    known = {n: a for n, (a, _) in COLUMNS.items()} | FIELDS
    if axes.split()[:1] != ["b"] or known.get(name, axes) != axes:
        expected = known.get(name, "b first, such as b k")
        raise ValueError(f"column {name}: axes {axes!r}, expected {expected!r}")
    if name in known:
        return metadata
    return MappingProxyType({**metadata, "column_axes": {**metadata.get("column_axes", {}), name: axes}})
