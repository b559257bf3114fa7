"""One optimizer update with exact gradient accumulation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxpref.metrics import Mean, Metrics, merge
from jaxpref.types import Params

__all__ = ["accumulated_gradient", "apply_gradient"]

# Of a part of the batch: its total and count, its metrics, and anything else (kept where there is one part).
LossOfBatch = Callable[[Params, Any], tuple[Mean, tuple[Metrics, Any]]]


def accumulated_gradient(
    loss: LossOfBatch,
    params: Params,
    batch: Any,
    microbatches: int = 1,
    combine: Callable[[Params], Params] | None = None,
) -> tuple[Params, tuple[Metrics, Any]]:
    """Gradient of `loss.total / loss.count` over the whole batch, computed in `microbatches` equal parts.

    The totals are differentiated and the sum divided once by the global count, so parts of unequal weight
    (ragged responses, padding rows) give exactly the full-batch gradient; a mean of means would not. Counts
    are treated as data. Losses that couple the examples of a batch see one part at a time.

    With `combine` the totals are `[o]`, and it gets their gradients (a leading axis `o`) of the whole batch.

    Rows are dealt out in a strided way (row i goes to part i mod n) so that a batch sharded over devices
    stays sharded in every part.
    """

    def total(params, part):
        mean, aux = loss(params, part)
        return mean.total, (mean.count, aux)

    differentiate = jax.grad(total, has_aux=True) if combine is None else _by_objective(total)
    if microbatches == 1:
        gradient, (count, aux) = differentiate(params, batch)
    else:
        rows = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
        if any(n % microbatches for n in rows):
            raise ValueError(f"microbatches={microbatches} does not divide a batch of {sorted(rows)} rows")
        parts = jax.tree.map(lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), batch)

        def add(carry, part):
            gradient, count, metrics = carry
            g, (n, (m, _)) = differentiate(params, part)
            return (jax.tree.map(jnp.add, gradient, g), count + n, merge(metrics, m)), None

        shapes = jax.eval_shape(differentiate, params, jax.tree.map(lambda x: x[0], parts))
        gradient, (count, (metrics, _)) = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        (gradient, count, metrics), _ = jax.lax.scan(add, (gradient, count, metrics), parts)
        aux = (metrics, None)
    scale = 1 / jnp.maximum(count, 1)
    gradient = jax.tree.map(lambda g: (g * scale).astype(g.dtype), gradient)
    return gradient if combine is None else combine(gradient), aux


def _by_objective(total: Callable[..., Any]) -> Callable[..., Any]:
    """Gradients of each entry of a vector of totals, stacked: one forward pass, a backward pass for each."""

    def differentiate(params, part):
        totals, pull, aux = jax.vjp(lambda p: total(p, part), params, has_aux=True)
        return jax.vmap(lambda one: pull(one)[0])(jnp.eye(len(totals), dtype=totals.dtype)), aux

    return differentiate


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
