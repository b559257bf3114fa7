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
from jaxpref.kernels.token_logps.frozen import frozen_fold
from jaxpref.kernels.token_logps.head import Gradients, Head, Operands
from jaxpref.kernels.token_logps.placement import (
    gathered,
    gradient_specs,
    local_targets,
    operand_specs,
    summed_over_devices,
    weight_sum,
)

__all__ = ["Call", "Static", "scores"]


@dataclasses.dataclass(frozen=True)
class Call:
    """Everything static about one call."""

    head: Head
    plan: Plan
    partition: Partition


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Static:
    """Which gradients are wanted, and in which dtypes; kept among the residuals."""

    wanted: tuple[str, ...]
    dtypes: tuple[jnp.dtype, ...]


def _forward(call: Call, step: Step, x: Operands) -> tuple[dict[str, Array], Any]:
    partition = call.partition

    def on_device(x: Operands):
        x = local_targets(gathered(x, partition), partition)
        carry, kept = step.fold(call.head, x, step.fold_block)
        if partition.vocab is not None:
            carry = fold.merge_devices(carry, partition.vocab)
        return fold.finish(carry), kept

    if not partition.splits:
        return on_device(x)
    tile = P(partition.rows or None, partition.vocab)
    return partition.run(on_device, (operand_specs(x, partition),), (partition.by_row, tile))(x)


def _backward(
    call: Call,
    x: Operands,
    outputs: dict[str, Array],
    upstream: dict[str, Array],
    kept: Any,
    static: Static,
) -> Gradients:
    partition, step, wanted = call.partition, call.plan.training, static.wanted
    like = dict(zip(wanted, static.dtypes, strict=True))

    def on_device(x: Operands, outputs: dict, upstream: dict, kept: Any) -> Gradients:
        x = local_targets(gathered(x, partition), partition)
        blocks = step.gradient_block, weight_sum(partition)
        gradients = step.gradient(call.head, x, outputs, upstream, kept, wanted, *blocks)
        gradients = summed_over_devices(gradients, partition)
        gradients = {name: g.astype(like[name]) for name, g in gradients.items()}
        # That of the weights would otherwise wait until all layers are done, beside what it is made of.
        return jax.lax.optimization_barrier(gradients) if partition.rows else gradients

    if not partition.splits:
        return on_device(x, outputs, upstream, kept)
    by_row = partition.by_row
    tile = P(partition.rows or None, partition.vocab)
    specs = (operand_specs(x, partition), by_row, by_row, tile)
    return partition.run(on_device, specs, gradient_specs(partition, wanted))(x, outputs, upstream, kept)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def scores(call: Call, x: Operands) -> dict[str, Array]:
    """Log-probs and the statistics of `call.head`, differentiable in hidden states, weights and bias.

    Returns:
      `logps` in nats and each statistic by name, `[n, 1]`.

    Example:
      >>> from jaxpref.kernels.partition import Partition
      >>> from jaxpref.kernels.token_logps.dispatch import Shape, plan_for
      >>> from jaxpref.kernels.token_logps.head import Head, Operands
      >>> from jaxpref.kernels.token_logps.primitive import Call, scores
      >>> x = Operands(jnp.ones((1, 1)), jnp.log(jnp.array([[0.25], [0.75]])), jnp.array([1]))
      >>> call = Call(Head(), plan_for(Shape(rows=1, vocab=2, embed=1)), Partition())
      >>> print(jnp.exp(scores(call, x)["logps"]))
      [[0.7500]]
    """
    call.plan.announce(call.plan.scoring)
    return _forward(call, call.plan.scoring, x)[0]


def is_primal(leaf: Any) -> bool:
    """Whether this is an argument that says if it is differentiated (`symbolic_zeros`)."""
    return hasattr(leaf, "perturbed")


def values_and_wanted(x: Any) -> tuple[Any, Static]:
    """Operands as arrays, and which of them are differentiated."""
    names = ("hidden", "weight", "bias")
    given = {name: getattr(x, name) for name in names}
    wanted = tuple(name for name, leaf in given.items() if leaf is not None and leaf.perturbed)
    x = jax.tree.map(lambda leaf: leaf.value, x, is_leaf=is_primal)
    return x, Static(wanted, tuple(getattr(x, name).dtype for name in wanted))


def given_upstream(upstream: dict[str, Any], outputs: dict[str, Array]) -> dict[str, Array]:
    """Gradients that are not known to be zero; that of `logps` always."""
    given = {
        name: g
        for name, g in upstream.items()
        if not isinstance(g, SymbolicZero) and g.dtype != jax.dtypes.float0
    }
    return {"logps": jnp.zeros_like(outputs["logps"])} | given


def _is_frozen(call: Call, wanted: tuple[str, ...]) -> bool:
    """Whether only hidden states are differentiated, in log-probs alone, where that takes two passes."""
    return wanted == ("hidden",) and not call.head.statistics and call.plan.training.name == "vocab_scan"


def _frozen_forward(call: Call, x: Operands) -> tuple[dict[str, Array], Array]:
    """Results, and the gradient of the log-probs in hidden states."""
    partition, block = call.partition, call.plan.training.fold_block

    def on_device(x: Operands):
        x = local_targets(gathered(x, partition), partition)
        carry, slope = frozen_fold(call.head, x, block, partition.vocab)
        return fold.finish(carry), slope

    if not partition.splits:
        return on_device(x)
    by_row = partition.by_row
    return partition.run(on_device, (operand_specs(x, partition),), (by_row, by_row))(x)


def _scores_forward(call: Call, x: Any):
    x, static = values_and_wanted(x)
    call.plan.announce(call.plan.training)
    if _is_frozen(call, static.wanted):
        outputs, slope = _frozen_forward(call, x)
        return outputs, (None, None, slope, static)
    outputs, kept = _forward(call, call.plan.training, x)
    return outputs, (x, outputs, kept, static)


def _scores_backward(call: Call, saved: tuple, upstream: dict[str, Any]):
    x, outputs, kept, static = saved
    if x is None:  # frozen
        given = given_upstream(upstream, {"logps": kept[:, :1]})
        assert given.keys() == {"logps"}, "no statistic was asked for, and one is differentiated"
        return (cotangents({"hidden": (given["logps"] * kept).astype(static.dtypes[0])}),)
    gradients = _backward(call, x, outputs, given_upstream(upstream, outputs), kept, static)
    return (cotangents(gradients),)


def cotangents(gradients: Gradients) -> Operands:
    """One for each operand; None is zero."""
    given: list[Any] = [gradients.get(name) for name in ("hidden", "weight", "targets", "bias", "reference")]
    return Operands(*given)


scores.defvjp(_scores_forward, _scores_backward, symbolic_zeros=True)
