"""Rows of a family's table: which tensor of the file is which array of params, and how it lies there.

Files of nearly all families hold a matrix as [outputs, inputs], and one tensor for each layer; params hold
[inputs, outputs], with layers on axis 0. A fused tensor is several projections, told apart by their rows.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxpref.models.architecture import TransformerSizes
from jaxpref.models.hub.lazy import Bounds, LazyArray, Piece, wrapped

__all__ = ["Rows", "Tensor", "concatenated", "embedding", "fused", "leaf", "linear", "norm"]

# Of each projection in a fused tensor, the numbers of its output rows there.
Rows = Callable[[TransformerSizes], tuple[np.ndarray, ...]]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of the file, `{}` in its name standing for the layer, and the arrays of params that it holds.

    `outputs_last`: a matrix lies as in params, [inputs, outputs]. `rows`: whose are which outputs, if fused.
    """

    name: str
    leaves: tuple[str, ...]  # "blocks.attention.query.weight"
    outputs_last: bool = False
    rows: Rows | None = None

    @property
    def stacked(self) -> bool:
        """Whether there is one for each layer."""
        return "{}" in self.name

    def names(self, sizes: TransformerSizes) -> list[str]:
        return [self.name.format(i) for i in range(sizes.layers)] if self.stacked else [self.name]

    def shape(self, sizes: TransformerSizes, shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
        """Of the tensor in the file, from those of params."""
        of = [shapes[name][1:] if self.stacked else shapes[name] for name in self.leaves]
        whole = (*of[0][:-1], sum(shape[-1] for shape in of))
        return whole if self.outputs_last else whole[::-1]

    def read(self, sizes: TransformerSizes, array: LazyArray) -> list[LazyArray]:
        """The arrays of params in one tensor, as views."""
        outputs_first = array.T if self.outputs_last else array
        parts = [outputs_first] if self.rows is None else [outputs_first.rows(i) for i in self.rows(sizes)]
        return [part.T for part in parts]

    def written(self, sizes: TransformerSizes, leaves: Sequence[LazyArray]) -> LazyArray:
        """The other way."""
        outputs_first = leaves[0].T
        if self.rows is not None:
            outputs_first = _Concatenated([leaf.T for leaf in leaves])
            outputs_first = outputs_first.rows(np.argsort(np.concatenate(self.rows(sizes))))
        return outputs_first.T if self.outputs_last else outputs_first


def linear(
    name: str, *projections: str, rows: Rows | None = None, outputs_last: bool = False
) -> list[Tensor]:
    """Weight and bias of a layer's projection, or of several in one."""
    return [
        Tensor(f"{name}.{kind}", tuple(f"blocks.{p}.{kind}" for p in projections), outputs_last or last, rows)
        for kind, last in (("weight", False), ("bias", True))
    ]


def norm(name: str, target: str) -> list[Tensor]:
    """Weight and bias of a norm."""
    kinds = (("weight", "scale"), ("bias", "bias"))
    return [Tensor(f"{name}.{theirs}", (f"{target}.{ours}",), outputs_last=True) for theirs, ours in kinds]


def embedding(name: str, target: str) -> Tensor:
    """A table of rows."""
    return Tensor(f"{name}.weight", (target,), outputs_last=True)


def fused(sizes: TransformerSizes) -> tuple[np.ndarray, ...]:
    """Rows of queries, then keys, then values."""
    queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    return concatenated(queries, keys, keys)


def concatenated(*lengths: int) -> tuple[np.ndarray, ...]:
    """Rows of parts that follow one another."""
    ends = np.cumsum(lengths)
    return tuple(np.arange(end - n, end) for end, n in zip(ends, lengths, strict=True))


def leaf(array: Any, layer: int | None) -> LazyArray:
    """An array of params, or a layer of it, as a lazy one."""
    if layer is None:
        return wrapped(array)
    if isinstance(array, LazyArray):
        return _Layer(array, layer)
    return wrapped(array[layer])


class _Layer(LazyArray):
    """`array[layer]` without reading it."""

    def __init__(self, array: LazyArray, layer: int) -> None:
        super().__init__(array.shape[1:], array.dtype)
        self._array, self._layer = array, layer

    def pieces(self, bounds: Bounds) -> Iterator[Piece]:
        for (_, *where), read in self._array.pieces(((self._layer, self._layer + 1), *bounds)):
            yield tuple(where), lambda read=read: read()[0]


class _Concatenated(LazyArray):
    """Arrays one after another on axis 0."""

    def __init__(self, arrays: Sequence[LazyArray]) -> None:
        kinds = {(x.shape[1:], x.dtype) for x in arrays}
        if len(kinds) != 1:
            raise ValueError(
                f"one tensor cannot hold projections of several dtypes or widths: {sorted(kinds)}"
            )
        super().__init__((sum(len(x) for x in arrays), *arrays[0].shape[1:]), arrays[0].dtype)
        self._arrays = arrays

    def pieces(self, bounds: Bounds) -> Iterator[Piece]:
        (start, stop), *rest = bounds
        first = 0
        for array in self._arrays:
            begin, end = max(start - first, 0), min(stop - first, len(array))
            if begin < end:
                offset = first + begin - start
                for (rows, *others), read in array.pieces(((begin, end), *rest)):
                    yield (slice(rows.start + offset, rows.stop + offset), *others), read
            first += len(array)
