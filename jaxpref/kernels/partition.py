"""How a kernel's operands lie over the mesh in context.

Kernels that loop over the vocabulary say explicitly what each device does: XLA would gather the weights
again in every iteration. They read the mesh from `jax.set_mesh`, which `training` enters around every
compiled function; with no mesh in context they see one device.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

__all__ = [
    "EMBED",
    "REGIONS",
    "ROWS",
    "VOCAB",
    "Partition",
    "each_region",
    "kernels_are_placed",
    "partition_of",
    "places_kernels",
]

# Mesh axes that a kernel has to know; `training.sharding` maps logical axes of weights to the same names.
ROWS = ("data", "fsdp")
VOCAB = "tensor"
REGIONS = VOCAB  # an axis that does not split rows: each region reads its segment of every row
EMBED = "fsdp"


@dataclasses.dataclass(frozen=True)
class Partition:
    """Mesh axes that split rows, the vocabulary and, at rest, the width of the weights."""

    rows: tuple[str, ...] = ()
    vocab: str | None = None
    embed: str | None = None
    row_shards: int = 1
    vocab_shards: int = 1

    @property
    def splits(self) -> bool:
        return bool(self.rows or self.vocab)

    @property
    def by_row(self) -> P:
        return P(self.rows or None)

    @property
    def by_word(self) -> P:
        return P(self.vocab)

    def run(self, function: Callable, in_specs: Any, out_specs: Any) -> Callable:
        """`function` on each device's part."""
        return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def kernels_are_placed() -> bool:
    """Whether a kernel may be chosen, that is, whether the placement of its operands is known.

    With several devices and no mesh in context they may be split in a way that only XLA sees, and XLA cannot
    split a kernel.

    Returns:
      True with a mesh in context, and on a single device.

    Example:
      >>> from jax.sharding import AbstractMesh, AxisType, use_abstract_mesh
      >>> from jaxpref.kernels.partition import kernels_are_placed
      >>> with use_abstract_mesh(AbstractMesh((2,), ("data",), (AxisType.Auto,))):
      ...     print(kernels_are_placed())
      True
    """
    return bool(jax.sharding.get_abstract_mesh().axis_names) or jax.device_count() == 1


def places_kernels(partition: Partition) -> bool:
    """Whether every device of the mesh in context has a part of its own, so that a kernel computes it once.

    Returns:
      True also on a single device without a mesh.

    Example:
      >>> from jax.sharding import AbstractMesh, AxisType, use_abstract_mesh
      >>> from jaxpref.kernels.partition import partition_of, places_kernels
      >>> with use_abstract_mesh(AbstractMesh((2, 4), ("data", "tensor"), (AxisType.Auto,) * 2)):
      ...     print([places_kernels(partition_of(6, heads, 1)) for heads in (8, 2)])  # 4 does not divide 2
      [True, False]
    """
    devices = math.prod(jax.sharding.get_abstract_mesh().axis_sizes)
    return kernels_are_placed() and partition.row_shards * partition.vocab_shards == devices


def partition_of(rows: int, vocab: int, embed: int) -> Partition:
    """How `[rows, embed]` states and `[vocab, embed]` weights lie on the mesh in context.

    Returns:
      The axes that split each dimension; one that an axis does not divide stays whole.

    Example:
      >>> from jax.sharding import AbstractMesh, AxisType, use_abstract_mesh
      >>> from jaxpref.kernels.partition import partition_of
      >>> with use_abstract_mesh(AbstractMesh((2, 4), ("data", "tensor"), (AxisType.Auto,) * 2)):
      ...     parts = partition_of(6, 32, 8), partition_of(6, 33, 8)  # 4 does not divide 33
      >>> print([(part.row_shards, part.vocab_shards) for part in parts])
      [(2, 4), (2, 1)]
    """
    mesh = jax.sharding.get_abstract_mesh()
    sizes = {
        name: size
        for name, size, kind in zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
        if kind != AxisType.Manual and size > 1
    }
    by_row = tuple(axis for axis in ROWS if axis in sizes)
    if rows % math.prod(sizes[axis] for axis in by_row):
        by_row = ()
    by_word = VOCAB if VOCAB in sizes and vocab % sizes[VOCAB] == 0 else None
    at_rest = EMBED if EMBED in by_row and embed % sizes[EMBED] == 0 else None
    return Partition(
        by_row,
        by_word,
        at_rest,
        math.prod(sizes[axis] for axis in by_row),
        sizes[VOCAB] if by_word else 1,
    )


def each_region(function: Callable[..., Any], params: Any, *rows: Any) -> Any:
    """`function(params, *rows)` for each of `x` regions with its own params and rows.

    On the mesh in context each device computes its regions for its rows and exchanges nothing with the
    others.

    Args:
      params: a tree of arrays `[x, ...]`. rows: trees of arrays `[x, b, ...]`.

    Returns:
      A tree of arrays `[x, b, ...]`.

    Example:
      >>> from jaxpref.kernels.partition import each_region
      >>> params, rows = jnp.array([1.0, 10.0]), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> print(each_region(lambda scale, row: scale * row, params, rows))
      [[1.0 2.0]
       [30.0 40.0]]
    """
    x, b = jax.tree.leaves(rows)[0].shape[:2]
    partition, batched = partition_of(b, x, 1), jax.vmap(function)
    if not partition.splits:
        return batched(params, *rows)
    # Left to XLA, a loop that ends when all have ended would ask every device in every iteration.
    both = P(partition.vocab, partition.rows or None)
    return partition.run(batched, (partition.by_word, *[both] * len(rows)), both)(params, *rows)
