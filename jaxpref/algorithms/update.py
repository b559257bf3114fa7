"""One optimizer update with exact gradient accumulation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxpref.metrics import Mean, Metrics, merge
from jaxpref.types import Params

__all__ = ["accumulated_gradient", "apply_gradient"]

LossOfBatch = Callable[[Params, Any], tuple[Mean, Metrics]]


def accumulated_gradient(
    loss: LossOfBatch, params: Params, batch: Any, microbatches: int = 1
) -> tuple[Params, Metrics]:
    """Gradient of `loss.total / loss.count` over the whole batch, computed in `microbatches` equal parts.

    The totals are differentiated and the sum divided once by the global count, so parts of unequal weight
    (ragged responses, padding rows) give exactly the full-batch gradient; a mean of means would not. Counts
    are treated as data. Losses that couple the examples of a batch see one part at a time.

    Rows are dealt out in a strided way (row i goes to part i mod n) so that a batch sharded over devices
    stays sharded in every part.
    """

    def total(params, part):
        mean, metrics = loss(params, part)
        return mean.total, (mean.count, metrics)

    differentiate = jax.grad(total, has_aux=True)
    if microbatches == 1:
        gradient, (count, metrics) = differentiate(params, batch)
    else:
        rows = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
        if any(n % microbatches for n in rows):
            raise ValueError(f"microbatches={microbatches} does not divide a batch of {sorted(rows)} rows")
        parts = jax.tree.map(lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), batch)

        def add(carry, part):
            gradient, count, metrics = carry
            g, (n, m) = differentiate(params, part)
            return (jax.tree.map(jnp.add, gradient, g), count + n, merge(metrics, m)), None

        shapes = jax.eval_shape(differentiate, params, jax.tree.map(lambda x: x[0], parts))
        gradient, (count, metrics) = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        (gradient, count, metrics), _ = jax.lax.scan(add, (gradient, count, metrics), parts)
    scale = 1 / jnp.maximum(count, 1)
    return jax.tree.map(lambda g: (g * scale).astype(g.dtype), gradient), metrics


def apply_gradient(
    optimizer: optax.GradientTransformation, params: Params, opt_state: optax.OptState, gradient: Params
) -> tuple[Params, optax.OptState, Metrics]:
    """Optimizer update; adds `grad_norm` (before any clipping) and `learning_rate` where it is injected."""
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    metrics = {"grad_norm": Mean(optax.tree.norm(gradient), jnp.float32(1))}
    hyperparams = optax.tree.get(opt_state, "hyperparams", {})
    if "learning_rate" in hyperparams:
        metrics["learning_rate"] = Mean(jnp.float32(hyperparams["learning_rate"]), jnp.float32(1))
    return optax.apply_updates(params, updates), opt_state, metrics
