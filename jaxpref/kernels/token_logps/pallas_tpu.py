"""TPU kernels: the fold over the vocabulary with logits that only ever exist in on-chip memory.

Both kernels walk a grid (blocks of rows, blocks of the vocabulary[, blocks of the width]). The carry of a
block of rows is the kernel's output: its block index is the same for all blocks of the vocabulary, so it
stays on chip and is written once. Nothing is padded: a tile that hangs over the end of an array holds
garbage there (NaN, in the worst case), which `where` replaces before anything is summed over it.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxpref.kernels.machines import current_machine
from jaxpref.kernels.token_logps import fold
from jaxpref.kernels.token_logps.block_sizes import ROW_TILES, ROW_VMEM, Tiles, balanced, tpu_tiles
from jaxpref.kernels.token_logps.head import Head, Operands, products

__all__ = ["interpreted", "pallas_tpu_fold", "row_fold"]

# What stands in for logits beyond the vocabulary: below `fold.start`'s top, so that even in a row whose other
# logits are all -inf they weigh 0; finite, so that no difference is NaN.
_NOTHING = float(jnp.finfo(jnp.float32).min)

_interpret: Any = False


@contextlib.contextmanager
def interpreted(how: Any = True) -> Iterator[None]:
    """Kernels traced inside run on any platform, in Pallas' interpreter: for tests.

    Args:
      how: True, or `pltpu.InterpretParams(...)`, which can poison memory that was never written.

    Returns:
      A context.

    Example:
      >>> from jaxpref.kernels.token_logps import token_logps
      >>> from jaxpref.kernels.token_logps.pallas_tpu import interpreted
      >>> with interpreted():
      ...     print(token_logps(jnp.zeros((1, 4)), jnp.array([2]), implementation="pallas_tpu"))  # -log 4
      [-1.3863]
    """
    global _interpret
    before, _interpret = _interpret, how
    try:
        yield
    finally:
        _interpret = before


def _call(kernel: Callable, **how: Any) -> Callable:
    """`pl.pallas_call` on each device of the mesh in context: XLA does not split kernels by itself."""
    if not _interpret and (platform := current_machine().platform) != "tpu":
        raise ValueError(f"pallas_tpu runs on TPU; this is {platform}. None chooses what runs here")
    call = pl.pallas_call(kernel, interpret=_interpret, **how)
    mesh = jax.sharding.get_abstract_mesh()
    axes = {a for a, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind != AxisType.Manual}
    if math.prod(mesh.shape[axis] for axis in axes) == 1:
        return call
    # What the caller did not split is whole on every device.
    return jax.shard_map(call, in_specs=P(), out_specs=P(), axis_names=axes, check_vma=False)


def _add(carry_refs: fold.Carry, logits: Float[Array, "n c"], targets: Int[Array, "n 1"], left: Any) -> None:
    """One more tile into the carry. `targets` and `left`, the columns that exist, count from its start."""
    column = jax.lax.broadcasted_iota(jnp.int32, (1, logits.shape[1]), 1)
    if left is not None:
        logits = jnp.where(column < left, logits, _NOTHING)
    picked = jnp.sum(jnp.where(column == targets, logits, 0), axis=1, keepdims=True)
    carry = fold.add({name: ref[...] for name, ref in carry_refs.items()}, logits, picked)
    for name, ref in carry_refs.items():
        ref[...] = carry[name]


def _start(carry_refs: fold.Carry, statistics: tuple[str, ...]) -> None:
    rows = carry_refs["top"].shape[0]
    for name, value in fold.start(rows, statistics, jnp.dtype(jnp.float32)).items():
        carry_refs[name][...] = value


def _carry_specs(statistics: tuple[str, ...], rows: int, block: int) -> tuple[dict, dict]:
    """Shapes of the carry of all rows, and blocks of it. Each `[n, 1]` fills 128 lanes while a kernel runs:
    half a KiB a row, a sixteenth of a state of width 4,096 in bfloat16."""
    names = fold.start(1, statistics, jnp.dtype(jnp.float32))
    shapes = {name: jax.ShapeDtypeStruct((rows, 1), jnp.float32) for name in names}
    return shapes, {name: pl.BlockSpec((block, 1), lambda i, *_: (i, 0)) for name in names}


def _column_targets(targets: Int[Array, " n"], vocab: int) -> Int[Array, "n 1"]:
    """Targets beyond the vocabulary (another device's) become -1: they would hit the last tile's overhang."""
    return jnp.where(targets < vocab, targets, -1).astype(jnp.int32)[:, None]


def _fused_kernel(
    head: Head, vocab: int, width: int, tiles: Tiles, targets, hidden, weight, bias, carry, sums=None
) -> None:
    j, k = pl.program_id(1), pl.program_id(2)
    last = pl.num_programs(2) - 1

    @pl.when((j == 0) & (k == 0))
    def _():
        _start(carry, head.statistics)

    def existing(x: Array) -> Array:
        if width % tiles.width == 0:
            return x
        column = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
        return jnp.where(column < width - k * tiles.width, x, jnp.zeros_like(x))

    more = products(existing(hidden[...]), existing(weight[...]))

    def complete(x: Array) -> None:
        logits = head.after_products(x, None if bias is None else bias[0])
        begin = j * tiles.vocab
        _add(carry, logits, targets[...] - begin, vocab - begin if vocab % tiles.vocab else None)

    if sums is None:
        complete(more)
        return

    @pl.when(k == 0)
    def _():
        sums[...] = more

    @pl.when(k > 0)
    def _():
        sums[...] += more

    @pl.when(k == last)
    def _():
        complete(sums[...])


def pallas_tpu_fold(head: Head, x: Operands, block: int) -> tuple[fold.Carry, None]:
    """Carry of `[n, d]` states and `[v, d]` weights over the vocabulary; see `xla.vocab_scan_fold`.

    `block` columns a tile, rounded up to 128; 0 takes `block_sizes.TPU_TILES`. Targets may lie outside
    `[0, v)`. bfloat16 operands are multiplied as such, float32 ones as float32; float32 weights beside
    bfloat16 states are rounded tile by tile.

    Returns:
      The carry, `[n, 1]` each, and None: no logits are kept.

    Raises:
      ValueError: not on a TPU, or operands of another dtype than bfloat16 and float32.

    Example:
      >>> from jaxpref.kernels.token_logps import fold, pallas_tpu
      >>> from jaxpref.kernels.token_logps.head import Head, Operands
      >>> x = Operands(jnp.ones((1, 1)), jnp.log(jnp.array([[0.25], [0.75]])), jnp.array([1]))
      >>> with pallas_tpu.interpreted():
      ...     carry, _ = pallas_tpu.pallas_tpu_fold(Head(), x, 0)
      >>> print(jnp.exp(fold.finish(carry)["logps"]))
      [[0.7500]]
    """
    (rows, width), vocab = x.hidden.shape, x.weight.shape[0]
    for name, dtype in (("hidden", x.hidden.dtype), ("weight", x.weight.dtype)):
        if dtype not in (jnp.bfloat16, jnp.float32):
            raise ValueError(f"pallas_tpu takes bfloat16 and float32, not {dtype} ({name}); use vocab_scan")
    sizes = (x.hidden.dtype.itemsize, x.weight.dtype.itemsize)
    tiles = tpu_tiles(current_machine(), rows=rows, vocab=vocab, width=width, sizes=sizes, block=block)
    grid = (pl.cdiv(rows, tiles.rows), pl.cdiv(vocab, tiles.vocab), pl.cdiv(width, tiles.width))
    shapes, carry_specs = _carry_specs(head.statistics, rows, tiles.rows)
    in_specs = [
        pl.BlockSpec((tiles.rows, 1), lambda i, j, k: (i, 0)),
        pl.BlockSpec((tiles.rows, tiles.width), lambda i, j, k: (i, k)),
        pl.BlockSpec((tiles.vocab, tiles.width), lambda i, j, k: (j, k)),
        None if x.bias is None else pl.BlockSpec((1, tiles.vocab), lambda i, j, k: (0, j)),
    ]
    states_read = grid[1] if grid[2] > 1 else 1  # whole states stay on chip
    read = grid[0] * vocab * width * sizes[1] + states_read * rows * width * sizes[0]
    call = _call(
        partial(_fused_kernel, head, vocab, width, tiles),
        name="token_logps_fold",
        grid=grid,
        in_specs=in_specs,
        out_specs=carry_specs,
        out_shape=shapes,
        scratch_shapes=[pltpu.VMEM((tiles.rows, tiles.vocab), jnp.float32)] if grid[2] > 1 else [],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=tiles.vmem
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * rows * vocab * width, transcendentals=rows * vocab, bytes_accessed=read
        ),
    )
    bias = None if x.bias is None else x.bias.astype(jnp.float32)[None]
    return call(_column_targets(x.targets, vocab), x.hidden, x.weight, bias), None


def _row_kernel(statistics: tuple[str, ...], vocab: int, targets, logits, carry) -> None:
    j, columns = pl.program_id(1), logits.shape[1]

    @pl.when(j == 0)
    def _():
        _start(carry, statistics)

    begin = j * columns
    left = vocab - begin if vocab % columns else None
    _add(carry, logits[...].astype(jnp.float32), targets[...] - begin, left)


def row_fold(
    statistics: tuple[str, ...], logits: Float[Array, "n v"], targets: Int[Array, " n"]
) -> fold.Carry:
    """Carry of logits that exist already, which are read once. Targets may lie outside `[0, v)`.

    Returns:
      The carry, `[n, 1]` each.

    Raises:
      ValueError: not on a TPU, or float64 logits.

    Example:
      >>> from jaxpref.kernels.token_logps import fold, pallas_tpu
      >>> with pallas_tpu.interpreted():
      ...     carry = pallas_tpu.row_fold((), jnp.log(jnp.array([[1.0, 3.0]])), jnp.array([1]))
      >>> print(jnp.exp(fold.finish(carry)["logps"]))
      [[0.7500]]
    """
    rows, vocab = logits.shape
    if logits.dtype.itemsize > 4:
        raise ValueError(f"pallas_tpu computes in float32, too little for {logits.dtype}; use xla")
    tile = (balanced(rows, ROW_TILES[0], multiple=16), balanced(vocab, ROW_TILES[1]))
    shapes, carry_specs = _carry_specs(statistics, rows, tile[0])
    call = _call(
        partial(_row_kernel, statistics, vocab),
        name="token_logps_rows",
        grid=(pl.cdiv(rows, tile[0]), pl.cdiv(vocab, tile[1])),
        in_specs=[
            pl.BlockSpec((tile[0], 1), lambda i, j: (i, 0)),
            pl.BlockSpec(tile, lambda i, j: (i, j)),
        ],
        out_specs=carry_specs,
        out_shape=shapes,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=ROW_VMEM
        ),
        cost_estimate=pl.CostEstimate(
            flops=8 * rows * vocab,
            transcendentals=rows * vocab,
            bytes_accessed=rows * vocab * logits.dtype.itemsize,
        ),
    )
    return call(_column_targets(targets, vocab), logits)
