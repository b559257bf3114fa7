"""Matmul and fold in one Mosaic GPU kernel for Hopper: logits never leave the registers they are summed in.

A thread block takes 128 rows and a share of the vocabulary. One of its warpgroups copies tiles of hidden
states and weights to shared memory, ahead of two that multiply them (wgmma), 64 rows each, and fold every
64 x 256 logits before the next. Never chosen by default: its speed has not been measured.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from jaxpref.kernels.token_logps import fold, pallas_gpu
from jaxpref.kernels.token_logps.head import Head, Operands

__all__ = ["pallas_gpu_fused_fold"]

_NAME = "pallas_gpu_fused"
_GROUPS = 2  # warpgroups that compute
_ROWS, _COLUMNS, _DEPTH = 64, 256, 64  # of one warpgroup's logits, and of the products between two waits
_STAGES = 4  # 4 x (128 + 256) x 64 bfloat16 = 192 KiB of the 227 KiB of shared memory
_HEIGHT = _GROUPS * _ROWS  # of a thread block
_BY_ROW, _BY_COLUMN = plgpu.Layout.WGMMA.reduce(1), plgpu.Layout.WGMMA.reduce(0)
_PROCESSORS = 132  # of an H100 or H200
_MEMORY_REGISTERS = 40


def pallas_gpu_fused_fold(head: Head, x: Operands, block: int) -> tuple[fold.Carry, None]:
    """The fold over the vocabulary. `block` is not used: tiles are what the registers hold.

    Returns:
      The carry, `[n, 1]` each, and None: no logits are kept.

    Raises:
      ValueError: not on Hopper; inputs other than bfloat16 or float16; a width that 64 does not divide; a
        vocabulary of fewer than 256 tokens, or one that 8 does not divide (the unit that copies take).

    Example:
      >>> import contextlib
      >>> from jax.experimental.pallas import mosaic_gpu
      >>> from jaxpref.kernels.token_logps import linear_token_logps, pallas_gpu
      >>> able, x = hasattr(mosaic_gpu, "InterpretGPUParams"), jnp.zeros((256, 64), jnp.bfloat16)
      >>> kernel = "pallas_gpu_fused" if able else "vocab_scan"
      >>> with pallas_gpu.interpreted() if able else contextlib.nullcontext():
      ...     print(linear_token_logps(x[:1], x, jnp.array([3]), implementation=kernel))  # -log 256
      [-5.5452]
    """
    del block
    pallas_gpu.check_device(_NAME, exactly=9)
    (rows, embed), vocab = x.hidden.shape, x.weight.shape[0]
    fits = vocab >= _COLUMNS and vocab % 8 == 0 and embed % _DEPTH == 0
    if not fits or x.hidden.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(
            f"implementation={_NAME!r} takes bfloat16 or float16, a vocabulary of {_COLUMNS} or more that 8 "
            f"divides and a width that {_DEPTH} divides; not {x.hidden.dtype}, {vocab} and {embed}"
        )
    names = tuple(fold.start(0, head.statistics, jnp.dtype(jnp.float32)))
    row_blocks, tiles = math.ceil(rows / _HEIGHT), math.ceil(vocab / _COLUMNS)
    splits = _splits(row_blocks, tiles)
    # Copies of weights stop at their end; what is small is padded, if it has to be.
    more = row_blocks * _HEIGHT - rows
    hidden = jnp.pad(x.hidden, ((0, more), (0, 0))) if more else x.hidden
    operands = [hidden, x.weight.astype(hidden.dtype), jnp.pad(x.targets.astype(jnp.int32), (0, more))]
    if x.bias is not None:
        operands.append(jnp.pad(x.bias.astype(jnp.float32), (0, tiles * _COLUMNS - vocab)))
    kernel = plgpu.kernel(
        functools.partial(_kernel, head=head, names=names, splits=splits, biased=x.bias is not None),
        out_type=[jax.ShapeDtypeStruct((splits, row_blocks * _HEIGHT), jnp.float32) for _ in names],
        grid=(splits, row_blocks),
        grid_names=("split", "rows"),
        num_threads=_GROUPS + 1,
        thread_name="group",
        kernel_name="linear_token_logps",
        interpret=pallas_gpu.interpret_params(),
        compiler_params=plgpu.CompilerParams(
            approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Warpgroup
        ),
    )
    results = kernel(*operands)
    carry = {name: result[:, :rows] for name, result in zip(names, results, strict=True)}
    return _merged(carry), None


def _splits(row_blocks: int, tiles: int) -> int:
    """Parts of the vocabulary such that thread blocks come in nearly full waves."""

    def waste(splits: int) -> float:
        return math.ceil(row_blocks * splits / _PROCESSORS) * math.ceil(tiles / splits)

    return min(range(1, min(tiles, 32) + 1), key=waste)


def _merged(carry: fold.Carry) -> fold.Carry:
    """`[n, 1]` of the whole vocabulary from `[splits, n]`."""
    local = fold.rebased(carry, carry["top"].max(0, keepdims=True))
    return {name: (x[0] if name == "top" else x.sum(0))[:, None] for name, x in local.items()}


@dataclasses.dataclass(frozen=True)
class _Warpgroup:
    """A warpgroup that computes: `carry` holds its sums, a row of shared memory for each of `names`."""

    head: Head
    names: tuple[str, ...]
    targets: Any
    bias: Any
    vocab: int
    group: Array
    row: Array  # the first of the thread block
    carry: list[Any]

    def start(self) -> None:
        for name, ref in zip(self.names, self.carry, strict=True):
            start = jnp.full((_ROWS,), fold.LOWEST if name == "top" else 0.0, jnp.float32)
            ref[self.group] = plgpu.layout_cast(start, _BY_ROW)

    def add(self, column: Array, logits: Array) -> None:
        """Folds `hidden @ weight.T` of 64 rows and the 256 tokens from `column` on."""
        if self.bias is not None:
            some = _load(self.bias.at[pl.ds(column, _COLUMNS)], _BY_COLUMN)
            logits += jax.lax.broadcast_in_dim(some, logits.shape, (1,))
        logits = self.head.capped(logits)
        here = plgpu.broadcasted_iota(jnp.int32, logits.shape, 1, layout=plgpu.Layout.WGMMA)
        logits = jnp.where(here < self.vocab - column, logits, -jnp.inf)
        target = _load(self.targets.at[pl.ds(self.row + self.group * _ROWS, _ROWS)], _BY_ROW) - column
        old = {
            name: plgpu.layout_cast(ref[self.group], _BY_ROW)
            for name, ref in zip(self.names, self.carry, strict=True)
        }
        new = _add(old, logits, here, target)
        for name, ref in zip(self.names, self.carry, strict=True):
            ref[self.group] = new[name]

    def write(self, results: Any, split: Array) -> None:
        for result, ref in zip(results, self.carry, strict=True):
            sums = plgpu.layout_cast(ref[self.group], _BY_ROW)
            result[split, pl.ds(self.row + self.group * _ROWS, _ROWS)] = sums


def _pipeline(embed: int, body: Any, context: Any) -> Any:
    """Tiles of states and weights come to shared memory, and `body` multiplies them, inside `context`."""
    swizzle = (plgpu.TilingTransform((8, _DEPTH)), plgpu.SwizzleTransform(2 * _DEPTH))
    return plgpu.emit_pipeline_warp_specialized(
        body,
        grid=(embed // _DEPTH,),
        memory_registers=_MEMORY_REGISTERS,
        in_specs=[
            plgpu.BlockSpec((n, _DEPTH), lambda k: (0, k), transforms=swizzle, memory_space=plgpu.SMEM)
            for n in (_HEIGHT, _COLUMNS)
        ],
        wg_axis="group",
        num_compute_wgs=_GROUPS,
        max_concurrent_steps=_STAGES,
        compute_context=context,
    )


def _kernel(hidden, weight, targets, *refs, head: Head, names: tuple[str, ...], splits: int, biased: bool):
    bias, results = (refs[0], refs[1:]) if biased else (None, refs)
    (vocab, embed), split, group = weight.shape, jax.lax.axis_index("split"), jax.lax.axis_index("group")
    row, tiles = jax.lax.axis_index("rows") * _HEIGHT, math.ceil(vocab / _COLUMNS)
    mine = pl.ds(group * _ROWS, _ROWS)

    def nothing(*_, **__) -> None: ...

    def multiply(_, hidden_tile, weight_tile, sums):
        plgpu.wgmma(sums, hidden_tile.at[mine], weight_tile.transpose((1, 0)))
        plgpu.wgmma_wait(0)
        return sums

    @functools.partial(
        pl.run_scoped,
        allocations=_pipeline(embed, nothing, nothing).get_allocations(hidden, weight),
        carry=[plgpu.SMEM((_GROUPS, _ROWS), jnp.float32) for _ in names],
        collective_axes="group",
    )
    def _(allocations, carry):
        worker = _Warpgroup(head, names, targets, bias, vocab, group, row, carry)
        pl.when(group < _GROUPS)(worker.start)

        def tile(i: Array, _: None) -> None:
            column = i * _COLUMNS

            def context(multiplied: Any) -> None:
                def folded(sums) -> None:
                    multiplied(sums)
                    worker.add(column, sums[...])

                pl.run_scoped(folded, plgpu.WGMMAAccumulatorRef((_ROWS, _COLUMNS), jnp.float32))

            _pipeline(embed, multiply, context)(
                hidden.at[pl.ds(row, _HEIGHT), :],
                weight.at[pl.ds(column, _COLUMNS), :],
                allocations=allocations,
            )

        share = math.ceil(tiles / splits)
        last = jnp.minimum((split + 1) * share, tiles)
        jax.lax.fori_loop(split * share, last, tile, None)
        pl.when(group < _GROUPS)(functools.partial(worker.write, results, split))


def _load(ref: Any, layout: Any) -> Array:
    """From global memory, in narrow loads."""
    index = ((),) if jax.__version_info__ < (0, 11) else ()  # then it is an argument, later deprecated
    return plgpu.load(ref, *index, layout=layout, optimized=False)


def _add(carry: fold.Carry, logits: Array, here: Array, target: Array) -> fold.Carry:
    """`fold.add` with rows of rank 1, which is how Mosaic GPU reduces."""

    def wide(x: Array) -> Array:
        return jax.lax.broadcast_in_dim(x, logits.shape, (0,))

    top = jnp.maximum(carry["top"], jnp.max(logits, axis=1))
    new = fold.rebased(carry, top)
    shifted = logits - wide(top)
    p = jnp.exp(shifted)
    new["total"] += jnp.sum(p, axis=1)
    new["target"] += jnp.sum(jnp.where(here == wide(target), logits, 0), axis=1)
    if "entropy" in new:
        new["entropy"] += jnp.sum(jnp.where(p > 0, p * shifted, 0), axis=1)
    if "log_sum_p2" in new:
        new["log_sum_p2"] += jnp.sum(p * p, axis=1)
    return new
