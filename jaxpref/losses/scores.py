"""Scores: how a response's summed log-probs become the number that methods compare."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpref.losses.checks import as_floats

__all__ = ["bounded_exp", "log_odds", "log_ratio", "log_ratios", "per_token"]

Batch = Float[Array, " b"]

_LARGEST_EXPONENT = 40.0


def log_ratio(logps: Float[Array, "*b"], reference_logps: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """log pi(y|x) - log pi_ref(y|x), nats. The reference is data: its gradient is exactly zero."""
    return logps - jax.lax.stop_gradient(reference_logps)


def log_ratios(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
) -> tuple[Batch, Batch]:
    """`log_ratio` of the chosen and of the rejected response, float32 or better; shapes must be equal."""
    chosen, rejected, reference_chosen, reference_rejected = as_floats(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        reference_chosen_logps=reference_chosen_logps,
        reference_rejected_logps=reference_rejected_logps,
    )
    return log_ratio(chosen, reference_chosen), log_ratio(rejected, reference_rejected)


def per_token(scores: Float[Array, "*b"], lengths: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Score per scored token (SimPO, arXiv:2405.14734); 0 for a response of no tokens (it has no weight)."""
    return scores / jnp.maximum(lengths, 1)


def log_odds(log_p: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """log(p / (1 - p)) of log-probs below 0, nats (ORPO, arXiv:2403.07691); held at p = 1 - 1e-6."""
    log_p = jnp.minimum(log_p, -1e-6)
    # Two forms of log(1 - p), each exact where the other loses digits; both see harmless arguments only.
    near = jnp.log(-jnp.expm1(jnp.maximum(log_p, -1.0)))
    far = jnp.log1p(-jnp.exp(jnp.minimum(log_p, -0.5)))
    return log_p - jnp.where(log_p > -0.6931, near, far)


def bounded_exp(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """exp(x), constant beyond x = 40: log-ratios of 100 nats are ordinary, and must not become infinite."""
    return jnp.exp(jnp.minimum(x, _LARGEST_EXPONENT))
