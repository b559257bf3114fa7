"""Rows of a table by number, where a mesh splits the table, and their gradient.

Left to XLA the whole table is gathered, and its gradient is summed whole on every device: four times as much
as all activations of a layer, for a vocabulary of 128,256 over 64 devices. Here the tokens of a group of
devices travel to where the columns are, and what is found travels back.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxpref.kernels.partition import Partition, partition_of

__all__ = ["looked_up"]


class _Call(NamedTuple):
    partition: Partition
    vocab: int
    dtype: jnp.dtype  # of the table
    result: jnp.dtype


def looked_up(
    table: Float[Array, "v d"], tokens: Int[Array, "b t"], dtype: jnp.dtype | str | None = None
) -> Float[Array, "b t d"]:
    """`table[tokens]`, rows over the batch axes of the mesh in context; its gradient is summed in float32.

    An axis that splits rows may split the width of the table, and another one its rows: each device looks up
    the columns that it has for the tokens of all devices along the first one, and they exchange what they
    found. A loop over layers keeps the layout that it begins with.

    Args:
      dtype: of the result; None is that of the table.

    Returns:
      `[b, t, d]`. What a token outside of `[0, v)` gives depends on the mesh.

    Example:
      >>> from jaxpref.kernels.lookup import looked_up
      >>> print(looked_up(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[1, 0]])))
      [[[3. 4.]
        [1. 2.]]]
    """
    partition, result = partition_of(len(tokens), *table.shape), jnp.dtype(dtype or table.dtype)
    return _rows(_Call(partition, len(table), table.dtype, result), table, tokens)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rows(call: _Call, table: Array, tokens: Array) -> Array:
    partition = call.partition
    if partition.embed is None:
        return table[tokens].astype(call.result)
    return partition.run(
        functools.partial(_found, call), (_by_table(partition), partition.by_row), partition.by_row
    )(table, tokens)


def _by_table(partition: Partition) -> P:
    return P(partition.vocab, partition.embed)


def _local(call: _Call, tokens: Array, size: int) -> Array:
    """The tokens of all devices along the axis that splits the width, counted from the first row of this
    device's part of the table; `size`, which is beyond it, for those that lie elsewhere."""
    partition = call.partition
    tokens = jax.lax.all_gather(tokens, partition.embed, axis=0, tiled=True)
    if partition.vocab is None:
        return tokens
    tokens = tokens - jax.lax.axis_index(partition.vocab) * size
    return jnp.where((tokens >= 0) & (tokens < size), tokens, size)


def _found(call: _Call, table: Array, tokens: Array) -> Array:
    partition, local = call.partition, _local(call, tokens, len(table))
    rows = table.at[local].get(mode="fill", fill_value=0).astype(call.result)
    if partition.vocab is not None:
        rows = jax.lax.psum(rows, partition.vocab)  # of one number and zeros
    return jax.lax.all_to_all(rows, partition.embed, split_axis=0, concat_axis=2, tiled=True)


def _summed(call: _Call, upstream: Array, tokens: Array) -> Array:
    partition = call.partition
    local = _local(call, tokens, call.vocab // partition.vocab_shards)
    columns = jax.lax.all_to_all(upstream, partition.embed, split_axis=2, concat_axis=0, tiled=True)
    total = _scattered(call.vocab // partition.vocab_shards, local, columns)
    others = tuple(axis for axis in partition.rows if axis != partition.embed)
    return (jax.lax.psum(total, others) if others else total).astype(call.dtype)


def _scattered(size: int, tokens: Array, upstream: Array) -> Array:
    # Gradients of a frequent token are many: a bfloat16 sum of ones stops at 256.
    wide = jnp.promote_types(upstream.dtype, jnp.float32)
    return jnp.zeros((size, upstream.shape[-1]), wide).at[tokens].add(upstream.astype(wide), mode="drop")


def _rows_forward(call: _Call, table: Array, tokens: Array) -> tuple[Array, Array]:
    return _rows(call, table, tokens), tokens


def _rows_backward(call: _Call, tokens: Array, upstream: Array) -> tuple[Array, None]:
    partition = call.partition
    if partition.embed is None:
        return _scattered(call.vocab, tokens, upstream).astype(call.dtype), None
    by_row = partition.by_row
    summed = partition.run(functools.partial(_summed, call), (by_row, by_row), _by_table(partition))
    return summed(upstream, tokens), None


_rows.defvjp(_rows_forward, _rows_backward)
