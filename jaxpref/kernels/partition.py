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
from jaxtyping import Array, Float, Int

__all__ = [
    "EMBED",
    "EXPERTS",
    "ROWS",
    "VOCAB",
    "Partition",
    "by_expert",
    "kernels_are_placed",
    "looked_up",
    "partition_of",
]

# Mesh axes that a kernel has to know; `training.sharding` maps logical axes of weights to the same names.
ROWS = ("data", "fsdp")
VOCAB = "tensor"
EXPERTS = VOCAB  # an axis that does not split rows: every expert sees its part of all of them
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


def looked_up(table: Float[Array, "v d"], tokens: Int[Array, "b t"]) -> Float[Array, "b t d"]:
    """`table[tokens]`, rows over the batch axes of the mesh in context.

    An axis that splits rows may split the width of the table too. Left to XLA the result is split like the
    table and then gathered whole to be split by rows, and so is its gradient; here the table's width is
    gathered first, as for any product with weights. A loop over layers keeps the layout that it begins with.
    """
    partition = partition_of(len(tokens), *table.shape)
    if partition.embed is not None:
        table = jax.lax.with_sharding_constraint(table, partition.by_word)
    found = table[tokens]
    return jax.lax.with_sharding_constraint(found, partition.by_row) if partition.rows else found


def by_expert(function: Callable[..., Any], experts: Any, *rows: Any) -> Any:
    """`function(expert, *rows)` of each expert with rows of its own: `experts` `[x, ...]`, `rows` and results
    `[x, b, ...]`. On the mesh in context each device does its experts for its rows, and talks to no other.
    """
    x, b = jax.tree.leaves(rows)[0].shape[:2]
    partition, batched = partition_of(b, x, 1), jax.vmap(function)
    if not partition.splits:
        return batched(experts, *rows)
    # Left to XLA, a loop that ends when all have ended would ask every device in every iteration.
    both = P(partition.vocab, partition.rows or None)
    return partition.run(batched, (partition.by_word, *[both] * len(rows)), both)(experts, *rows)
