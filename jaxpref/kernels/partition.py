"""How a kernel's operands lie over the mesh in context.

Kernels with loops over the vocabulary say themselves what each device does (XLA would gather the weights
anew in every iteration). They read the mesh from `jax.set_mesh`, which `training` enters around every
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
    """Whether a kernel may be chosen: it is known where its operands lie. With several devices and no mesh in
    context they may be split in a way that only XLA sees, and XLA cannot split a kernel."""
    return bool(jax.sharding.get_abstract_mesh().axis_names) or jax.device_count() == 1


def partition_of(rows: int, vocab: int, embed: int) -> Partition:
    """Of `[rows, embed]` states and `[vocab, embed]` weights on the mesh in context. A dimension that an
    axis does not divide stays whole."""
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

    `params` are `[x, ...]`, `rows` and results `[x, b, ...]`. On the mesh in context each device computes its
    regions for its rows and exchanges nothing with the others.
    """
    x, b = jax.tree.leaves(rows)[0].shape[:2]
    partition, batched = partition_of(b, x, 1), jax.vmap(function)
    if not partition.splits:
        return batched(params, *rows)
    # Left to XLA, a loop that ends when all have ended would ask every device in every iteration.
    both = P(partition.vocab, partition.rows or None)
    return partition.run(batched, (partition.by_word, *[both] * len(rows)), both)(params, *rows)
