"""Scores: how a response's summed log-probs become the number that methods compare."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

__all__ = ["log_ratio", "per_token"]


def log_ratio(logps: Float[Array, "*b"], reference_logps: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """log pi(y|x) - log pi_ref(y|x), nats. The reference is data: its gradient is exactly zero."""
    return logps - jax.lax.stop_gradient(reference_logps)


def per_token(scores: Float[Array, "*b"], lengths: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Score divided by the number of scored tokens; 0 for a response of no tokens (which has no weight)."""
    return scores / jnp.maximum(lengths, 1)
