"""Mosaic GPU kernels (compute capability 9 and later): a fold over logits in a single read of them.

XLA reads logits twice, for the maximum and for the sum. Here a warpgroup reads its row once, in the widest
loads that the row's alignment allows, with several in flight per thread. Every lane of every thread folds
what it reads itself, with its own maximum, so that threads synchronise once per row, not once per block.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from jaxpref.kernels.machines import current_machine
from jaxpref.kernels.token_logps import fold
from jaxpref.kernels.token_logps.head import Head, Operands, pick
from jaxpref.kernels.token_logps.xla import token_scan_fold

__all__ = ["interpreted", "pallas_gpu_fold", "row_fold"]

_THREADS = 128  # of a warpgroup
_LOAD_BYTES = 16  # widest load of one thread
_DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)

# Bytes of one thread in flight. 64 leave 72 registers a thread for bfloat16 logits, 44 for float32, none
# spilled (ptxas, sm_90a): 7 warpgroups a multiprocessor with 56 KiB on the way, where 4.8 TB/s over
# 1 us of latency need 36. The speed itself has not been measured.
IN_FLIGHT = 64

_interpret: Any = None


@contextlib.contextmanager
def interpreted(**options: Any) -> Iterator[None]:
    """Kernels traced inside run on any platform, in Pallas' interpreter of GPUs (jax 0.11.2 and later).

    Args:
      options: of `plgpu.InterpretGPUParams`.

    Returns:
      A context.

    Example:
      >>> import contextlib
      >>> from jax.experimental.pallas import mosaic_gpu
      >>> from jaxpref.kernels.token_logps import pallas_gpu, token_logps
      >>> able = hasattr(mosaic_gpu, "InterpretGPUParams")  # jax 0.11.2 and later
      >>> with pallas_gpu.interpreted() if able else contextlib.nullcontext():
      ...     kernel = "pallas_gpu" if able else "xla"
      ...     print(token_logps(jnp.zeros((1, 256)), jnp.array([3]), implementation=kernel))  # -log 256
      [-5.5452]
    """
    global _interpret
    before, _interpret = _interpret, plgpu.InterpretGPUParams(**options)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        _interpret = before


def interpret_params() -> Any:
    """What kernels take as `interpret`."""
    return _interpret


def check_device(name: str, *, exactly: int | None = None) -> None:
    """Checks that the device compiled for can run these kernels, or that they are interpreted.

    Raises:
      ValueError: it is no GPU of compute capability 9 or later (or `exactly`).
    """
    machine = current_machine()
    able = machine.capability == exactly if exactly else machine.capability >= 9
    if _interpret is None and not (machine.platform == "gpu" and able):
        raise ValueError(
            f"implementation={name!r} needs an NVIDIA GPU of compute capability {exactly or '9 or later'}, "
            f"and this is {machine.kind!r}; use vocab_scan (xla for given logits), or None to choose"
        )


def row_fold(
    statistics: tuple[str, ...],
    logits: Float[Array, "n v"],
    targets: Int[Array, " n"],
    *,
    in_flight: int = IN_FLIGHT,
) -> fold.Carry:
    """The fold over rows of logits, in float32; nothing is padded or copied.

    Rows of fewer than 128 logits, which would leave threads idle, and float64 logits are folded by XLA.

    Args:
      targets: one outside `[0, v)` adds nothing.
      in_flight: bytes that one thread loads at a time.

    Returns:
      The carry, `[n, 1]` each.

    Raises:
      ValueError: the device compiled for is no GPU of compute capability 9 or later.

    Example:
      >>> from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh
      >>> from jaxpref.kernels.token_logps.pallas_gpu import row_fold
      >>> device, shapes = AbstractDevice("NVIDIA H200", 132, "gpu"), ((2, 512), (2,))
      >>> logits, targets = map(jax.ShapeDtypeStruct, shapes, (jnp.bfloat16, jnp.int32))
      >>> with use_abstract_mesh(AbstractMesh((1,), ("x",), (AxisType.Auto,), abstract_device=device)):
      ...     carry = jax.eval_shape(partial(row_fold, ("entropy",)), logits, targets)
      >>> print({name: (x.shape, str(x.dtype)) for name, x in carry.items() if name == "entropy"})
      {'entropy': ((2, 1), 'float32')}
    """
    check_device("pallas_gpu")
    rows, vocab = logits.shape
    if vocab < _THREADS or not rows or logits.dtype not in _DTYPES:
        wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        return fold.add(fold.start(rows, statistics, wide.dtype), wide, pick(wide, targets))
    # Rows begin at multiples of `vocab` elements: that is the alignment of every load.
    lanes = min(_LOAD_BYTES // logits.dtype.itemsize, vocab & -vocab)
    while _THREADS * lanes > vocab:
        lanes //= 2
    loads = max(in_flight // (lanes * logits.dtype.itemsize), 1)
    names = tuple(fold.start(0, statistics, jnp.dtype(jnp.float32)))
    column = jax.ShapeDtypeStruct((rows,), jnp.float32)
    kernel = plgpu.kernel(
        functools.partial(_row_kernel, names=names, lanes=lanes, loads=loads),
        out_type=(column,) * len(names),
        grid=(rows,),
        grid_names=("row",),
        kernel_name="token_logps_rows",
        interpret=_interpret,
        compiler_params=plgpu.CompilerParams(
            # exp as one instruction: relative error 2^-22, against the 2^-21 that float32 logits of 8 have.
            approx_math=True,
            lowering_semantics=plgpu.LoweringSemantics.Warpgroup,
        ),
    )
    results = kernel(logits, targets.astype(jnp.int32))
    return {name: x[:, None] for name, x in zip(names, results, strict=True)}


def _row_kernel(logits, targets, *results, names: tuple[str, ...], lanes: int, loads: int) -> None:
    row, vocab, width = jax.lax.axis_index("row"), logits.shape[1], _THREADS * lanes
    layout = plgpu.Layout.WG_STRIDED((width,), vec_size=lanes)

    def read(begin: Array | int) -> Array:
        return plgpu.layout_cast(logits[row, pl.ds(begin, width)], layout).astype(jnp.float32)

    def full(value: float) -> Array:
        return plgpu.layout_cast(jnp.full((width,), value, jnp.float32), layout)

    target = targets[row]
    picked = logits[row, jnp.clip(target, 0, vocab - 1)].astype(jnp.float32)
    carry = {name: full(fold.LOWEST if name == "top" else 0.0) for name in names}
    carry["target"] = jnp.where((target >= 0) & (target < vocab), picked, 0)
    blocks, rest = divmod(vocab, loads * width)
    if blocks:

        def block(i: Array, carry: fold.Carry) -> fold.Carry:
            begin = i * (loads * width)
            return _add(carry, [read(begin + j * width) for j in range(loads)])

        carry = jax.lax.fori_loop(0, blocks, block, carry)
    begin = vocab - rest
    tail = [read(begin + j * width) for j in range(rest // width)]
    if left := rest % width:  # the last load ends with the row: what it shares with the one before is masked
        column = plgpu.broadcasted_iota(jnp.int32, (width,), 0, layout=layout)
        tail.append(jnp.where(column >= width - left, read(vocab - width), -jnp.inf))
    if tail:
        carry = _add(carry, tail)

    top = jnp.max(carry["top"])
    whole = fold.rebased(carry, top)
    for name, result in zip(names, results, strict=True):
        result[row] = whole[name] if name in ("top", "target") else jnp.sum(whole[name])


def _add(carry: fold.Carry, blocks: list[Array]) -> fold.Carry:
    """`fold.add` of each lane by itself, several logits at a time so that most exponentials are of logits."""
    top = functools.reduce(jnp.maximum, blocks, carry["top"])
    new = fold.rebased(carry, top)
    for logits in blocks:
        shifted = logits - top
        p = jnp.exp(shifted)
        new["total"] += p
        if "entropy" in new:
            new["entropy"] += jnp.where(p > 0, p * shifted, 0)
        if "log_sum_p2" in new:
            new["log_sum_p2"] += p * p
    return new


def pallas_gpu_fold(head: Head, x: Operands, block: int) -> tuple[fold.Carry, None]:
    """Blocks of `block` tokens: XLA's product, a float32 tile of logits, and one read of it by `row_fold`.

    Returns:
      The carry, `[n, 1]` each, and None: no logits are kept.

    Raises:
      ValueError: the device compiled for is no GPU of compute capability 9 or later.

    Example:
      >>> import contextlib
      >>> from jax.experimental.pallas import mosaic_gpu
      >>> from jaxpref.kernels.token_logps import linear_token_logps, pallas_gpu
      >>> able = hasattr(mosaic_gpu, "InterpretGPUParams")  # jax 0.11.2 and later
      >>> x, kernel = jnp.zeros((256, 2)), "pallas_gpu" if able else "vocab_scan"
      >>> with pallas_gpu.interpreted() if able else contextlib.nullcontext():
      ...     print(linear_token_logps(x[:1], x, jnp.array([3]), implementation=kernel))  # -log 256
      [-5.5452]
    """
    check_device("pallas_gpu")

    def fold_rows(head: Head, x: Operands) -> fold.Carry:
        return row_fold(head.statistics, head.logits(x.hidden, x.weight, x.bias), x.targets)

    return token_scan_fold(head, x, block, fold_rows)[0], None
