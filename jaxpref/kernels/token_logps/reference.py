"""The textbook form, differentiated by JAX: what the others are tested against, and any-order derivatives."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxpref.kernels.token_logps.head import Head, Operands

__all__ = ["reference_scores"]


def reference_scores(head: Head, x: Operands) -> dict[str, Array]:
    """Log-probs and the statistics of `head`, through full `[n, v]` arrays.

    Returns:
      `logps` in nats and each statistic by name, `[n, 1]`.

    Example:
      >>> from jaxpref.kernels.token_logps.head import Head, Operands
      >>> from jaxpref.kernels.token_logps.reference import reference_scores
      >>> x = Operands(jnp.ones((1, 1)), jnp.log(jnp.array([[0.25], [0.75]])), jnp.array([1]))
      >>> print(jnp.exp(reference_scores(Head(), x)["logps"]))
      [[0.7500]]
    """
    logits = head.logits(x.hidden, x.weight, x.bias)
    return logits_scores(head.statistics, logits, x.targets, _reference_logits(head, x))


def _reference_logits(head: Head, x: Operands) -> Array | None:
    return None if x.reference is None else jax.lax.stop_gradient(head.logits(*x.reference))


def logits_scores(
    statistics: tuple[str, ...], logits: Array, targets: Array, reference_logits: Array | None = None
) -> dict[str, Array]:
    """As `reference_scores`, of given logits."""
    log_p = jax.nn.log_softmax(logits)
    p = jnp.exp(log_p)
    picked = jnp.take_along_axis(log_p, targets[:, None], 1, mode="clip")
    scores = {"logps": picked, "logsumexp": jax.nn.logsumexp(logits, 1, keepdims=True)}
    scores["top1"] = picked >= log_p.max(1, keepdims=True)
    finite = jnp.where(p > 0, log_p, 0)  # 0 log 0 = 0
    scores["entropy"] = -(p * finite).sum(1, keepdims=True)
    scores["log_sum_p2"] = jax.nn.logsumexp(2 * log_p, 1, keepdims=True)
    if reference_logits is not None:
        log_q = jax.nn.log_softmax(reference_logits)
        q = jnp.exp(log_q)
        apart = log_p - log_q
        scores["reverse_kl"] = jnp.where(p > 0, p * apart, 0).sum(1, keepdims=True)
        scores["forward_kl"] = jnp.where(q > 0, -q * apart, 0).sum(1, keepdims=True)
    return {name: scores[name] for name in ("logps", *statistics)}
