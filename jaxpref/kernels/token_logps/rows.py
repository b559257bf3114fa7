"""Log-probs from logits that exist already: one pass forward; backward, the gradient takes their place."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from jaxpref.kernels.machines import current_machine
from jaxpref.kernels.partition import kernels_are_placed, partition_of
from jaxpref.kernels.token_logps import fold
from jaxpref.kernels.token_logps.head import hits, pick
from jaxpref.kernels.token_logps.primitive import given_upstream

__all__ = ["ROW_IMPLEMENTATIONS", "RowCall", "row_scores"]


def _xla(statistics: tuple[str, ...], logits: Array, targets: Array) -> fold.Carry:
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return fold.add(fold.start(len(targets), statistics, wide.dtype), wide, pick(wide, targets))


def _pallas_tpu(statistics: tuple[str, ...], logits: Array, targets: Array) -> fold.Carry:
    from jaxpref.kernels.token_logps.pallas_tpu import row_fold

    return row_fold(statistics, logits, targets)


def _pallas_gpu(statistics: tuple[str, ...], logits: Array, targets: Array) -> fold.Carry:
    from jaxpref.kernels.token_logps.pallas_gpu import row_fold

    return row_fold(statistics, logits, targets)


_FOLDS: dict[str, Callable[..., fold.Carry]] = {
    "xla": _xla,
    "pallas_tpu": _pallas_tpu,
    "pallas_gpu": _pallas_gpu,
}
ROW_IMPLEMENTATIONS = (*_FOLDS, "reference")


@dataclasses.dataclass(frozen=True)
class RowCall:
    """Static part of a call; `implementation` None takes the machine's kernel, or XLA where there is none.

    GPUs of compute capability 9 and later have one, chosen because it reads the logits once and XLA twice;
    its speed has not been measured.
    """

    statistics: tuple[str, ...] = ()
    implementation: str | None = None

    @property
    def fold(self) -> Callable[..., fold.Carry]:
        return _FOLDS[self.implementation or _choice()]


def _choice() -> str:
    machine = current_machine()
    if machine.platform == "tpu" and kernels_are_placed():
        return "pallas_tpu"
    able = machine.platform == "gpu" and machine.capability >= 9
    return "pallas_gpu" if able and kernels_are_placed() else "xla"


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def row_scores(call: RowCall, logits: Array, targets: Array) -> dict[str, Array]:
    """Log-probs and the statistics of `call`, of `[n, v]` logits; differentiable in them.

    Returns:
      `logps` in nats and each statistic by name, `[n, 1]`.

    Example:
      >>> from jaxpref.kernels.token_logps.rows import RowCall, row_scores
      >>> scores = row_scores(RowCall(("entropy",)), jnp.zeros((1, 4)), jnp.array([2]))
      >>> print(scores["logps"], scores["entropy"])  # log 4 both times
      [[-1.3863]] [[1.3863]]
    """
    if call.fold is _xla:
        return fold.finish(_xla(call.statistics, logits, targets))
    rows, vocab = logits.shape
    partition = partition_of(rows, vocab, 0)

    def on_device(logits: Array, targets: Array) -> dict[str, Array]:
        if partition.vocab is None:
            return fold.finish(call.fold(call.statistics, logits, targets))
        targets = targets - jax.lax.axis_index(partition.vocab) * logits.shape[1]
        carry = call.fold(call.statistics, logits, targets)
        return fold.finish(fold.merge_devices(carry, partition.vocab))

    if not partition.splits:
        return on_device(logits, targets)
    tile = P(partition.rows or None, partition.vocab)
    return partition.run(on_device, (tile, partition.by_row), partition.by_row)(logits, targets)


def _forward(call: RowCall, logits: Any, targets: Any):
    outputs = row_scores(call, logits.value, targets.value)
    return outputs, (logits.value, targets.value, outputs)


def _backward(call: RowCall, saved: tuple, upstream: dict[str, Any]):
    logits, targets, outputs = saved
    given = given_upstream(upstream, outputs)
    wide = logits.astype(outputs["logps"].dtype)
    gradient = fold.logits_gradient(outputs, given, wide, hits(targets, logits.shape[1]))
    return gradient.astype(logits.dtype), None


row_scores.defvjp(_forward, _backward, symbolic_zeros=True)
