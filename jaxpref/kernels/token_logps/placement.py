"""Operands and gradients of the head over the devices of a mesh: who holds what while a kernel runs."""

from typing import Any

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from jaxpref.kernels.partition import Partition
from jaxpref.kernels.token_logps.head import Gradients, Operands, Summed

__all__ = [
    "gathered",
    "gradient_specs",
    "local_targets",
    "operand_specs",
    "summed_over_devices",
    "weight_sum",
]


def gathered(x: Operands, partition: Partition) -> Operands:
    """The weights that a device needs, in the dtype they are multiplied in, from what each device stores.

    They are gathered once, before any loop, and by hand: XLA would gather float32 columns and round then.

    Returns:
      The operands of this device; the same ones where no axis splits rows.

    Example:
      >>> from jaxpref.kernels.partition import Partition
      >>> from jaxpref.kernels.token_logps.head import Operands
      >>> from jaxpref.kernels.token_logps.placement import gathered
      >>> x = Operands(jnp.ones((2, 1), jnp.bfloat16), jnp.ones((3, 1)), jnp.array([0, 1]))
      >>> print(gathered(x, Partition()).weight.dtype, gathered(x, Partition(rows=("data",))).weight.dtype)
      float32 bfloat16
    """
    if not partition.rows:
        return x
    reference, weight = x.reference, x.weight.astype(x.hidden.dtype)
    if reference is not None:
        reference = (reference[0], reference[1].astype(reference[0].dtype))
    if partition.embed is not None:
        weight = jax.lax.all_gather(weight, partition.embed, axis=1, tiled=True)
    return x._replace(weight=weight, reference=reference)


def operand_specs(x: Operands, partition: Partition) -> Operands:
    """How operands enter a kernel: rows split, the vocabulary split, widths whole, except for the weights'.

    Returns:
      A `PartitionSpec` for each operand that there is.

    Example:
      >>> from jax.sharding import PartitionSpec as P
      >>> from jaxpref.kernels.partition import Partition
      >>> from jaxpref.kernels.token_logps.head import Operands
      >>> from jaxpref.kernels.token_logps.placement import operand_specs
      >>> x = Operands(jnp.ones((2, 1)), jnp.ones((4, 1)), jnp.array([0, 1]))
      >>> specs = operand_specs(x, Partition(rows=("data",), vocab="tensor"))
      >>> print(specs.weight == P("tensor"), specs.hidden == P(("data",)), specs.bias)
      True True None
    """
    by_row, by_word = partition.by_row, partition.by_word
    weight = by_word if partition.embed is None else P(partition.vocab, partition.embed)
    specs: list[Any] = [by_row, weight, by_row, None, None]
    if x.bias is not None:
        specs[3] = by_word
    if x.reference is not None:
        specs[4] = (by_row, by_word)
    return Operands(*specs)


def local_targets(x: Operands, partition: Partition) -> Operands:
    """Targets counted from the start of this device's part of the vocabulary.

    Returns:
      The operands; the same ones where no axis splits the vocabulary.

    Example:
      >>> from jaxpref.kernels.partition import Partition
      >>> from jaxpref.kernels.token_logps.head import Operands
      >>> from jaxpref.kernels.token_logps.placement import local_targets
      >>> x = lambda weight: Operands(jnp.ones((1, 1)), weight, jnp.array([4]))
      >>> here = lambda weight: local_targets(x(weight), Partition(vocab="tensor")).targets
      >>> print(jax.vmap(here, axis_name="tensor")(jnp.ones((2, 3, 1))).ravel())  # two devices of 3 tokens
      [4 1]
    """
    if partition.vocab is None:
        return x
    begin = jax.lax.axis_index(partition.vocab) * x.weight.shape[0]
    return x._replace(targets=x.targets - begin.astype(x.targets.dtype))


def gradient_specs(partition: Partition, wanted: tuple[str, ...]) -> dict[str, Any]:
    """How `summed_over_devices` leaves the gradients.

    Returns:
      A `PartitionSpec` for each of `wanted`.

    Example:
      >>> from jax.sharding import PartitionSpec as P
      >>> from jaxpref.kernels.partition import Partition
      >>> from jaxpref.kernels.token_logps.placement import gradient_specs
      >>> specs = gradient_specs(Partition(rows=("fsdp",), vocab="tensor", embed="fsdp"), ("weight",))
      >>> print(specs == {"weight": P("tensor", "fsdp")})
      True
    """
    specs = {
        "hidden": partition.by_row,
        "weight": P(partition.vocab, partition.embed),
        "bias": partition.by_word,
    }
    return {name: specs[name] for name in wanted}


def weight_sum(partition: Partition) -> Summed | None:
    """What makes the gradient of the weights, or of some rows of them, of each device's part of it.

    Returns:
      A function of `[c, d]` that gives the columns that this device stores, summed over rows of the batch;
      None where no axis splits rows.

    Example:
      >>> from jaxpref.kernels.partition import Partition
      >>> from jaxpref.kernels.token_logps.placement import weight_sum
      >>> total = weight_sum(Partition(rows=("data",)))
      >>> print(jax.vmap(total, axis_name="data")(jnp.array([[[1.0]], [[2.0]]])).ravel())  # on two devices
      [3.0 3.0]
    """
    if not partition.rows:
        return None

    def total(gradient: Array) -> Array:
        others = tuple(axis for axis in partition.rows if axis != partition.embed)
        gradient = jax.lax.psum(gradient, others) if others else gradient
        if partition.embed is None:
            return gradient
        return jax.lax.psum_scatter(gradient, partition.embed, scatter_dimension=1, tiled=True)

    return total


def summed_over_devices(gradients: Gradients, partition: Partition) -> Gradients:
    """Each device's part of the sums: of hidden states over the vocabulary's parts, of the bias over rows.
    Gradients of weights have been summed (`weight_sum`) as they were made.

    Returns:
      The gradients.

    Example:
      >>> from jaxpref.kernels.partition import Partition
      >>> from jaxpref.kernels.token_logps.placement import summed_over_devices
      >>> total = lambda bias: summed_over_devices({"bias": bias}, Partition(rows=("data",)))["bias"]
      >>> print(jax.vmap(total, axis_name="data")(jnp.array([[1.0], [2.0]])).ravel())  # on two devices
      [3.0 3.0]
    """
    out = dict(gradients)
    if "hidden" in out and partition.vocab:
        out["hidden"] = jax.lax.psum(out["hidden"], partition.vocab)
    if "bias" in out and partition.rows:
        out["bias"] = jax.lax.psum(out["bias"], partition.rows)
    return out
