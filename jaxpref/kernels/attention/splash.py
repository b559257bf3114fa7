"""Attention over rows by JAX's Pallas kernel for TPUs, splash attention, on each device's rows and heads.

A row is one sequence to the kernel. What shapes say of who reads whom is its mask, block by block: empty
blocks are skipped, full ones are not masked. Padding of a prompt is a segment of its own: it reads itself,
and nothing else reads it. A sliding window over a prompt depends on its length, which the kernel cannot say.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from jaxpref.kernels.attention.blockwise import OUTPUTS
from jaxpref.kernels.attention.rows import Row
from jaxpref.kernels.partition import Partition

__all__ = ["LANES", "splash"]

LANES = 128  # of a vector register; blocks are multiples of it
_BLOCK = 512


class _RowMask(masks.Mask):
    """Who reads whom in a row that ends with `room` tokens of padding, each of which reads all before it."""

    def __init__(self, row: Row, room: int) -> None:
        self.row, self.room = row, room
        self._segments = np.concatenate([row.segments(), np.full(room, -1, np.int32)])

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.row.length + self.room,) * 2

    def __getitem__(self, idx: Any) -> np.ndarray:
        queries, keys = (slice(*part.indices(self.shape[0])) for part in idx)
        if keys.start >= queries.stop:  # most blocks of a long row are empty or full: nothing is compared
            return np.zeros((queries.stop - queries.start, keys.stop - keys.start), bool)
        a, b = self._segments[queries], self._segments[keys]
        allowed = (a[:, None] == b[None]) | (b == 0)[None]
        if keys.stop <= queries.start + 1:
            return allowed
        order = np.arange(self.shape[0])
        return allowed & (order[queries, None] >= order[None, keys])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _RowMask) and (self.row, self.room) == (other.row, other.room)

    def __hash__(self) -> int:
        return hash((self.row, self.room))


def splash(
    queries: Float[Array, "b t n g h"],
    keys: Float[Array, "b t n h"],
    values: Float[Array, "b t n h"],
    real: Bool[Array, "b t"],
    row: Row,
    partition: Partition,
    *,
    scale: float,
    soft_cap: float | None = None,
    interpret: bool = False,
) -> Float[Array, "b t n g h"]:
    """Softmax attention of each token over those it reads. Padding of a prompt reads its own kind alone.

    Args:
      real: False for padding of the prompt.
      partition: mesh axes that split rows, and key heads in the place of a vocabulary.
      interpret: run the kernel's program in JAX, for tests without a TPU.

    Returns:
      `[b, t, n, g, h]` in the dtype of the queries. First-order gradients flow to queries, keys and values.

    Example:
      >>> from jaxpref.kernels.attention.rows import Row
      >>> from jaxpref.kernels.attention.splash import splash
      >>> from jaxpref.kernels.partition import Partition
      >>> values, real = jnp.array([2.0, 4.0]).reshape(1, 2, 1, 1), jnp.ones((1, 2), bool)
      >>> here = (Row(prompt=2), Partition())
      >>> read = splash(jnp.zeros((1, 2, 1, 1, 1)), values, values, real, *here, scale=1.0, interpret=True)
      >>> print(read.ravel())  # 2, and the mean of 2 and 4
      [2.0000 3.0000]
    """
    block = min(_BLOCK, -(-row.length // LANES) * LANES)
    room = -row.length % block
    call = _kernel(row, room, block, queries.shape[3], soft_cap, interpret)

    def on_device(q: Array, k: Array, v: Array, real: Array) -> Array:
        def of_row(q: Array, k: Array, v: Array, segments: Int[Array, " t"]) -> Array:
            ids = kernel.SegmentIds(segments, segments)
            return jax.vmap(call, in_axes=(0, 0, 0, None))(q, k, v, ids)

        padding = [(0, 0), (0, room)]
        q = jnp.pad(q * scale, [*padding, (0, 0), (0, 0), (0, 0)]).transpose(0, 2, 3, 1, 4)
        k, v = (jnp.pad(x, [*padding, (0, 0), (0, 0)]).transpose(0, 2, 1, 3) for x in (k, v))
        segments = jnp.pad(~real, padding).astype(jnp.int32)
        read = jax.vmap(of_row)(q, k, v, segments)
        return read.transpose(0, 3, 1, 2, 4)[:, : row.length]

    if not partition.splits:
        return on_device(queries, keys, values, real)
    by_head = P(partition.rows or None, None, partition.vocab)
    specs = (by_head, by_head, by_head, partition.by_row)
    return partition.run(on_device, specs, by_head)(queries, keys, values, real)


def _kernel(row: Row, room: int, block: int, heads: int, soft_cap: float | None, interpret: bool) -> Any:
    """Of the query heads of one key head."""
    mask = masks.MultiHeadMask([_RowMask(row, room)] * heads)
    names = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute")
    sizes: Any = kernel.BlockSizes(**dict.fromkeys((*names, "block_q_dq", "block_kv_dq"), block))  # pyright: ignore
    return kernel.make_splash_mqa(
        mask,
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=soft_cap,
        residual_checkpoint_name=OUTPUTS,
        interpret=interpret,
    )
