"""Attention over rows a block of queries and a block of keys at a time, in plain XLA.

Forward, the softmax over the keys is folded block by block (online softmax, arXiv:1805.02867); backward, the
weights of a block are computed again from the log of the sum (arXiv:2205.14135). So nothing is ever of
the size of all pairs of tokens. The blocks are listed while tracing, and those in which nobody reads anybody
are not on the list: half of a long prompt, and what the responses to a prompt have of one another.

Letters: b rows, n key heads, g query heads per key head, t tokens, h head_dim; q, s tokens of a block.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from jaxpref.kernels.attention.rows import Marks, Row, part_of, reads

__all__ = ["Blocks", "blockwise"]

OUTPUTS = "attention"  # what a rematerialisation may keep, by name


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Everything static about one call. `window`: None also where it is known to the device only."""

    row: Row
    size: int
    soft_cap: float | None
    window: int | None

    @property
    def padded(self) -> int:
        return -(-self.row.length // self.size) * self.size

    def pairs(self) -> Array:
        return jnp.asarray(self.row.blocks(self.size, self.window))


def blockwise(
    queries: Float[Array, "b t n g h"],
    keys: Float[Array, "b t n h"],
    values: Float[Array, "b t n h"],
    marks: Marks,
    blocks: Blocks,
    *,
    scale: float,
) -> Float[Array, "b t n g h"]:
    """Softmax attention of each token over those it `reads`; softmax in float32 or wider.

    Returns:
      `[b, t, n, g, h]` in the dtype of the queries. First-order gradients flow to queries, keys and values.

    Example:
      >>> from jaxpref.kernels.attention.blockwise import Blocks, blockwise
      >>> from jaxpref.kernels.attention.rows import Marks, Row
      >>> row = Row(prompt=2)
      >>> marks = Marks(jnp.zeros((1, 2), int), jnp.arange(2)[None], jnp.ones((1, 2), bool), None)
      >>> queries, values = jnp.zeros((1, 2, 1, 1, 1)), jnp.array([2.0, 4.0]).reshape(1, 2, 1, 1)
      >>> blocks = Blocks(row, size=1, soft_cap=None, window=None)
      >>> print(blockwise(queries, values, values, marks, blocks, scale=1.0).ravel())  # 2, (2 + 4) / 2
      [2.0000 3.0000]
    """
    room = blocks.padded - blocks.row.length

    def fill(x: Array, value: int = 0) -> Array:
        return jnp.pad(x, [(0, 0), (0, room)] + [(0, 0)] * (x.ndim - 2), constant_values=value) if room else x

    # Tokens beyond the row are a segment of their own.
    marks = Marks(fill(marks.segment, -1), fill(marks.position), fill(marks.real), marks.window)
    q = jnp.transpose(fill(queries * scale), (0, 2, 3, 1, 4))
    k, v = (jnp.transpose(fill(x), (0, 2, 1, 3)) for x in (keys, values))
    read: Any = _attention(blocks, q, k, v, marks)
    return jnp.transpose(read, (0, 3, 1, 2, 4))[:, : blocks.row.length]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(blocks: Blocks, q: Array, k: Array, v: Array, marks: Marks) -> Float[Array, "b n g t h"]:
    return _forward(blocks, q, k, v, marks)[0]


def _cut(x: Array, block: Array, blocks: Blocks) -> Array:
    """The tokens of a block, of `[b, n, *g, t, h]`."""
    return part_of(x, block * blocks.size, blocks.size, x.ndim - 2)


def _put(x: Array, some: Array, block: Array, blocks: Blocks) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(x, some.astype(x.dtype), block * blocks.size, x.ndim - 2)


def _product(a: Array, b: Array, contract: tuple[int, int]) -> Float[Array, "b n x y"]:
    """`[b, n, ., .]` times `[b, n, ., .]` over one axis of each, summed in float32 or wider."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    dimensions = (((contract[0],), (contract[1],)), ((0, 1), (0, 1)))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=wide)


def _flat(x: Float[Array, "b n g q h"]) -> Float[Array, "b n x h"]:
    """Query heads of a key head one after the other."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _scores(
    blocks: Blocks, q: Array, k: Array, marks: Marks, i: Array, j: Array
) -> Float[Array, "b n g q s"]:
    """Of a block, capped; those of keys that are not read are very negative."""
    scores = _product(_flat(_cut(q, i, blocks)), _cut(k, j, blocks), (3, 3))
    if blocks.soft_cap is not None:
        scores = blocks.soft_cap * jnp.tanh(scores / blocks.soft_cap)
    scores = scores.reshape(*q.shape[:3], blocks.size, blocks.size)
    here, there = (marks.of(x * blocks.size, blocks.size) for x in (i, j))
    return jnp.where(reads(here, there)[:, None, None], scores, jnp.finfo(scores.dtype).min / 2)


def _forward(blocks: Blocks, q: Array, k: Array, v: Array, marks: Marks) -> tuple[Array, Array]:
    """What is read, and the log of the sum of exponentials, `[b, n, g, t, 1]`."""
    wide = jnp.promote_types(q.dtype, jnp.float32)

    def add(carry: tuple[Array, Array, Array], pair: Array) -> tuple[tuple[Array, Array, Array], None]:
        i, j = pair[0], pair[1]
        read, top, total = (_cut(x, i, blocks) for x in carry)
        scores = _scores(blocks, q, k, marks, i, j)
        # A query that reads nothing here adds garbage under the lowest top of all. It is multiplied by 0 as
        # soon as a key is read, and every token reads itself.
        higher = jnp.maximum(top, scores.max(-1, keepdims=True))
        weights, shrunk = jnp.exp(scores - higher), jnp.exp(top - higher)
        product = _product(_flat(weights.astype(v.dtype)), _cut(v, j, blocks), (3, 2)).reshape(read.shape)
        new = read * shrunk + product, higher, total * shrunk + weights.sum(-1, keepdims=True)
        return tuple(_put(x, y, i, blocks) for x, y in zip(carry, new, strict=True)), None  # pyright: ignore

    rows = (*q.shape[:-1], 1)
    lowest = jnp.full(rows, jnp.finfo(wide).min / 2, wide)
    start = jnp.zeros(q.shape, wide), lowest, jnp.zeros(rows, wide)
    (read, top, total), _ = jax.lax.scan(add, start, blocks.pairs())
    return (read / total).astype(q.dtype), top + jnp.log(total)


def _attention_forward(blocks: Blocks, q: Array, k: Array, v: Array, marks: Marks):
    read, log_total = (checkpoint_name(x, OUTPUTS) for x in _forward(blocks, q, k, v, marks))
    return read, (q, k, v, marks, read, log_total)


def _attention_backward(blocks: Blocks, saved: tuple, upstream: Array):
    q, k, v, marks, read, log_total = saved
    wide = log_total.dtype
    # sum of weight * gradient of weight, of each query
    mean = (upstream.astype(wide) * read.astype(wide)).sum(-1, keepdims=True)

    def add(carry: tuple[Array, Array, Array], pair: Array) -> tuple[tuple[Array, Array, Array], None]:
        i, j = pair[0], pair[1]
        scores = _scores(blocks, q, k, marks, i, j)
        weights = jnp.exp(scores - _cut(log_total, i, blocks))
        given = _flat(_cut(upstream, i, blocks))
        slope = _product(given, _cut(v, j, blocks), (3, 3)).reshape(scores.shape)
        slope = weights * (slope - _cut(mean, i, blocks))
        if blocks.soft_cap is not None:  # where nothing is read, `weights` and so `slope` are 0
            slope = jnp.where(weights > 0, slope * (1 - jnp.square(scores / blocks.soft_cap)), 0)
        slope, weights = (_flat(x.astype(q.dtype)) for x in (slope, weights))
        dq = _product(slope, _cut(k, j, blocks), (3, 2)).reshape(*q.shape[:3], blocks.size, -1)
        dk, dv = _product(slope, _flat(_cut(q, i, blocks)), (2, 2)), _product(weights, given, (2, 2))
        places = zip(carry, (dq, dk, dv), (i, j, j), strict=True)
        return tuple(_put(x, _cut(x, at, blocks) + y, at, blocks) for x, y, at in places), None  # pyright: ignore

    start: Any = tuple(jnp.zeros(x.shape, wide) for x in (q, k, v))
    gradients, _ = jax.lax.scan(add, start, blocks.pairs())
    given = (g.astype(x.dtype) for g, x in zip(gradients, (q, k, v), strict=True))
    return (*given, jax.tree.map(lambda x: np.zeros(x.shape, jax.dtypes.float0), marks))


_attention.defvjp(_attention_forward, _attention_backward)
