"""The differentiable primitive: one custom VJP over every implementation, on one device or a mesh."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from jaxpref.kernels.partition import Partition
from jaxpref.kernels.token_logps import fold
from jaxpref.kernels.token_logps.dispatch import Plan, Step
from jaxpref.kernels.token_logps.head import Gradients, Head, Operands

__all__ = ["Call", "scores"]


@dataclasses.dataclass(frozen=True)
class Call:
    """Everything static about one call."""

    head: Head
    plan: Plan
    partition: Partition


# How the operands lie over the devices while the kernel runs: weights whole but for the vocabulary.
def _specs(x: Operands, partition: Partition) -> Operands:
    by_row, by_word = partition.by_row, partition.by_word
    specs: list[Any] = [by_row, by_word, by_row, None, None]
    if x.bias is not None:
        specs[3] = by_word
    if x.reference is not None:
        specs[4] = (by_row, by_word)
    return Operands(*specs)


def _gathered(x: Operands, partition: Partition) -> Operands:
    """Weights in the dtype they are multiplied in, where they are about to travel between devices."""
    if not partition.rows:
        return x
    reference = x.reference
    if reference is not None:
        reference = (reference[0], reference[1].astype(reference[0].dtype))
    return x._replace(weight=x.weight.astype(x.hidden.dtype), reference=reference)


def _local_targets(x: Operands, partition: Partition) -> Operands:
    """Targets counted from the start of this device's part of the vocabulary."""
    if partition.vocab is None:
        return x
    begin = jax.lax.axis_index(partition.vocab) * x.weight.shape[0]
    return x._replace(targets=x.targets - begin.astype(x.targets.dtype))


def _forward(call: Call, step: Step, x: Operands) -> tuple[dict[str, Array], Any]:
    partition = call.partition

    def on_device(x: Operands):
        carry, kept = step.fold(call.head, _local_targets(x, partition), step.fold_block)
        if partition.vocab is not None:
            carry = fold.merge_devices(carry, partition.vocab)
        return fold.finish(carry), kept

    if not partition.splits:
        return on_device(x)
    x = _gathered(x, partition)
    tile = P(partition.rows or None, partition.vocab)
    specs = _specs(x, partition)
    return partition.run(on_device, (specs,), (partition.by_row, tile))(x)


def _backward(
    call: Call,
    x: Operands,
    found: dict[str, Array],
    upstream: dict[str, Array],
    kept: Any,
    wanted: tuple[str, ...],
) -> Gradients:
    partition, step = call.partition, call.plan.training
    like = {
        "hidden": x.hidden.dtype,
        "weight": x.weight.dtype,
        "bias": None if x.bias is None else x.bias.dtype,
    }

    def on_device(x: Operands, found: dict, upstream: dict, kept: Any) -> Gradients:
        x = _local_targets(x, partition)
        gradients = step.gradient(call.head, x, found, upstream, kept, wanted, step.gradient_block)
        if "hidden" in wanted and partition.vocab:
            gradients["hidden"] = jax.lax.psum(gradients["hidden"], partition.vocab)
        if "bias" in wanted and partition.rows:
            gradients["bias"] = jax.lax.psum(gradients["bias"], partition.rows)
        if "weight" in wanted and partition.rows:
            weight = gradients["weight"]
            others = tuple(axis for axis in partition.rows if axis != partition.embed)
            weight = jax.lax.psum(weight, others) if others else weight
            if partition.embed:  # each device keeps the columns that it stores
                weight = jax.lax.psum_scatter(weight, partition.embed, scatter_dimension=1, tiled=True)
            gradients["weight"] = weight
        return {name: g.astype(like[name]) for name, g in gradients.items()}

    if not partition.splits:
        return on_device(x, found, upstream, kept)
    by_row, by_word = partition.by_row, partition.by_word
    tile = P(partition.rows or None, partition.vocab)
    out = {"hidden": by_row, "weight": P(partition.vocab, partition.embed), "bias": by_word}
    x = _gathered(x, partition)
    specs = (_specs(x, partition), by_row, by_row, tile)
    return partition.run(on_device, specs, {name: out[name] for name in wanted})(x, found, upstream, kept)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def scores(call: Call, x: Operands) -> dict[str, Array]:
    """`logps` and the statistics of `call.head`, each `[n, 1]`."""
    call.plan.announce(call.plan.scoring)
    return _forward(call, call.plan.scoring, x)[0]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Static:
    wanted: tuple[str, ...]


def _is_primal(leaf: Any) -> bool:
    return hasattr(leaf, "perturbed")


def _scores_forward(call: Call, x: Any):
    given = {"hidden": x.hidden, "weight": x.weight, "bias": x.bias}
    wanted = tuple(name for name, leaf in given.items() if leaf is not None and leaf.perturbed)
    x = jax.tree.map(lambda leaf: leaf.value, x, is_leaf=_is_primal)
    call.plan.announce(call.plan.training)
    found, kept = _forward(call, call.plan.training, x)
    return found, (x, found, kept, _Static(wanted))


def _scores_backward(call: Call, saved: tuple, upstream: dict[str, Any]):
    x, found, kept, static = saved
    given = {
        name: g
        for name, g in upstream.items()
        if not isinstance(g, SymbolicZero) and g.dtype != jax.dtypes.float0
    }
    given.setdefault("logps", jnp.zeros_like(found["logps"]))
    gradients = _backward(call, x, found, given, kept, static.wanted)
    cotangents: list[Any] = [
        gradients.get(name) for name in ("hidden", "weight", "targets", "bias", "reference")
    ]
    return (Operands(*cotangents),)


scores.defvjp(_scores_forward, _scores_backward, symbolic_zeros=True)
