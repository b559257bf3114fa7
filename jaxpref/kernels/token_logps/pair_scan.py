"""A loss over examples whose head gradient is computed in the forward pass, a few examples at a time.

Where the loss of an example needs that example's log-probs only, its gradient is known as soon as they are:
logits are made once (no recompute, `6 n d v` FLOPs instead of `8 n d v`) and at most those of a few examples
exist. It is what Liger's chunked losses do per loss; here any loss goes through the one primitive.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, Int

from jaxpref.kernels.machines import current_machine
from jaxpref.kernels.partition import Partition, partition_of
from jaxpref.kernels.token_logps import fold, xla
from jaxpref.kernels.token_logps.api import Rows, check_shapes, linear_token_logps
from jaxpref.kernels.token_logps.block_sizes import blocks_for
from jaxpref.kernels.token_logps.head import Head, Operands, over_blocks, part
from jaxpref.kernels.token_logps.placement import (
    gathered,
    gradient_specs,
    local_targets,
    operand_specs,
    summed_over_devices,
    weight_sum,
)
from jaxpref.kernels.token_logps.primitive import cotangents, is_primal, values_and_wanted

__all__ = ["SummedLoss", "linear_summed_loss"]

SummedLoss = Callable[[Float[Array, "c k r"], Any], Float[Array, ""]]


def linear_summed_loss(
    loss: SummedLoss,
    hidden: Float[Array, "b k r d"],
    unembedding: Float[Array, "v d"],
    targets: Int[Array, "b k r"],
    data: Any,
    *,
    where: Bool[Array, "b k r"],
    soft_cap: float | None = None,
    examples: int | None = None,
) -> tuple[Float[Array, ""], Float[Array, "b k r"]]:
    """The sum of `loss` over examples, and log-probs: `linear_token_logps` and then `loss`, exactly.

    Args:
      loss: `(token_logps [c, k, r], data of those c examples) -> sum of their losses`; an example's loss may
        depend on that example only. Arrays that it needs come in `data`, not in its closure.
      data: a tree of arrays `[b, ...]`. Constants: differentiating with respect to them is an error.
      where: tokens that count, as in `linear_token_logps`.
      examples: how many are done at a time, so `examples k r` rows of logits exist at once; None takes about
        as many rows as `block_sizes` has for tokens.

    Returns:
      The sum, and the log-probs `[b, k, r]` in nats, for metrics: no gradient flows through them.

    Raises:
      ValueError: shapes disagree, or `data` is differentiated.

    Example:
      >>> from jaxpref.kernels.token_logps import linear_summed_loss
      >>> loss = lambda logps, weights: -(weights * logps.sum((1, 2))).sum()
      >>> hidden, unembedding = jnp.ones((1, 1, 1, 1)), jnp.log(jnp.array([[0.25], [0.75]]))
      >>> targets, weights, where = jnp.array([[[1]]]), jnp.array([2.0]), jnp.ones((1, 1, 1), bool)
      >>> total, logps = linear_summed_loss(loss, hidden, unembedding, targets, weights, where=where)
      >>> print(float(total), logps.ravel())  # -2 log(0.75), log(0.75)
      0.5754 [-0.2877]
    """
    if targets.ndim != 3:
        raise ValueError(f"linear_summed_loss: targets {targets.shape}; expected [b, k, r]")
    check_shapes("linear_summed_loss", hidden, unembedding, targets)
    b, vocab = targets.shape[0], unembedding.shape[0]
    kept = Rows(targets, where, vocab)
    partition = partition_of(b, vocab, unembedding.shape[1])
    if examples is None:
        rows = targets.shape[1] * targets.shape[2]
        blocks = blocks_for(current_machine(), rows=b * rows, vocab=vocab // partition.vocab_shards)
        examples = max(blocks.tokens // rows, 1)
    call = _Call(loss, Head(soft_cap), partition, examples, targets.shape[1:])
    x = Operands(kept.flat(hidden), unembedding, kept.targets)
    in_range = kept.valid.reshape(targets.shape)
    result: tuple[Array, Array] = _summed_loss(call, x, (where, in_range, data))
    total, logps = result
    return total, jax.lax.stop_gradient(logps)


@dataclasses.dataclass(frozen=True)
class _Call:
    loss: SummedLoss
    head: Head
    partition: Partition
    examples: int
    shape: tuple[int, ...]  # (k, r)


def _visible(logps: Array, where: Array, in_range: Array) -> Array:
    return jnp.where(where, jnp.where(in_range, logps, jnp.nan), 0)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed_loss(call: _Call, x: Operands, extras: tuple[Array, Array, Any]) -> tuple[Array, Array]:
    where, in_range, data = extras
    flat = linear_token_logps(x.hidden, x.weight, x.targets, soft_cap=call.head.soft_cap)
    logps = _visible(flat.reshape(where.shape), where, in_range)
    return call.loss(logps, data), logps


def _forward(call: _Call, x: Any, extras: Any):
    x, static = values_and_wanted(x)
    if any(leaf.perturbed for leaf in jax.tree.leaves(extras, is_leaf=is_primal)):
        raise ValueError("linear_summed_loss: `data` holds constants, and here they are differentiated")
    extras = jax.tree.map(lambda leaf: leaf.value, extras, is_leaf=is_primal)
    partition, wanted = call.partition, static.wanted

    def on_device(x: Operands, extras: Any):
        x = local_targets(gathered(x, partition), partition)
        total, logps, gradients = _scan(call, x, extras, wanted)
        over_rows = weight_sum(partition)
        if over_rows is not None and "weight" in gradients:
            gradients["weight"] = over_rows(gradients["weight"])
        if partition.rows:
            total = jax.lax.psum(total, partition.rows)
        return total, logps, summed_over_devices(gradients, partition)

    if partition.splits:
        by_row = partition.by_row
        out = (jax.sharding.PartitionSpec(), by_row, gradient_specs(partition, wanted))
        on_device = partition.run(on_device, (operand_specs(x, partition), by_row), out)
    total, logps, gradients = on_device(x, extras)
    return (total, logps), (gradients, static)


def _scan(call: _Call, x: Operands, extras: Any, wanted: tuple[str, ...]):
    """(sum of losses, log-probs [b, k, r], gradients of the sum) of one device's examples."""
    rows = call.shape[0] * call.shape[1]
    wide = jnp.promote_types(x.hidden.dtype, jnp.float32)

    def body(carry, begin, size):
        total, logps, sums = carry
        hidden, targets = (part(y, begin * rows, size * rows) for y in (x.hidden, x.targets))
        here = Operands(hidden, x.weight, targets)
        folded, kept = xla.materialized_fold(call.head, here, 0)
        if call.partition.vocab is not None:
            folded = fold.merge_devices(folded, call.partition.vocab)
        outputs = fold.finish(folded)
        where, in_range, data = jax.tree.map(lambda leaf: part(leaf, begin, size), extras)

        def loss(raw: Array) -> tuple[Array, Array]:
            visible = _visible(raw.reshape(size, *call.shape), where, in_range)
            return call.loss(visible, data), visible

        (value, visible), upstream = jax.value_and_grad(loss, has_aux=True)(outputs["logps"])
        more = xla.materialized_gradient(call.head, here, outputs, {"logps": upstream}, kept, wanted, 0)
        sums = {
            name: xla.put(whole, more[name], begin * rows) if name == "hidden" else whole + more[name]
            for name, whole in sums.items()
        }
        return total + value, xla.put(logps, visible, begin), sums

    shapes = {"hidden": x.hidden.shape, "weight": x.weight.shape}
    empty = (
        jnp.zeros((), wide),
        jnp.zeros((x.hidden.shape[0] // rows, *call.shape), wide),
        {name: jnp.zeros(shapes[name], wide) for name in wanted},
    )
    return over_blocks(x.hidden.shape[0] // rows, call.examples, body, empty)


def _backward(call: _Call, saved: tuple, upstream: tuple[Any, Any]):
    gradients, static = saved
    scale = 0.0 if isinstance(upstream[0], SymbolicZero) else upstream[0]
    dtypes = dict(zip(static.wanted, static.dtypes, strict=True))
    scaled = {name: (g * scale).astype(dtypes[name]) for name, g in gradients.items()}
    return cotangents(scaled), None


_summed_loss.defvjp(_forward, _backward, symbolic_zeros=True)
