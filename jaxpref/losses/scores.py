"""Scores: how a response's summed log-probs become the number that methods compare."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpref.losses.checks import as_floats

__all__ = ["bounded_exp", "log_odds", "log_ratio", "log_ratios", "per_token"]

Batch = Float[Array, " b"]

_LARGEST_EXPONENT = 40.0


def log_ratio(logps: Float[Array, "*b"], reference_logps: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """log pi(y|x) - log pi_ref(y|x). The reference is data: its gradient is exactly zero.

    Returns:
      [*b] nats; 0 where policy and reference agree.

    Example:
      >>> print(log_ratio(jnp.array([-1.0]), jnp.array([-2.0])))
      [1.0000]
    """
    return logps - jax.lax.stop_gradient(reference_logps)


def log_ratios(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
) -> tuple[Batch, Batch]:
    """`log_ratio` of the chosen and of the rejected response.

    Returns:
      Two arrays [b] in nats, float32 or better.

    Raises:
      ValueError: shapes differ.

    Example:
      >>> print(*log_ratios(jnp.array([-1.0]), jnp.array([-3.0]), jnp.array([-2.0]), jnp.array([-2.0])))
      [1.0000] [-1.0000]
    """
    chosen, rejected, reference_chosen, reference_rejected = as_floats(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        reference_chosen_logps=reference_chosen_logps,
        reference_rejected_logps=reference_rejected_logps,
    )
    return log_ratio(chosen, reference_chosen), log_ratio(rejected, reference_rejected)


def per_token(scores: Float[Array, "*b"], lengths: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Score per scored token, scores / max(lengths, 1) (SimPO, arXiv:2405.14734).

    Args:
      scores: sums over the scored tokens of a response.
      lengths: tokens, 0 or more.

    Returns:
      [*b] in the unit of `scores` a token; 0 for a response of no tokens, whose sum is 0.

    Example:
      >>> print(per_token(jnp.array([-6.0, 0.0]), jnp.array([3, 0])))
      [-2.0000 0.0000]
    """
    return scores / jnp.maximum(lengths, 1)


def log_odds(log_p: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """log(p / (1 - p)) of log-probs (ORPO, arXiv:2403.07691), held at p = 1 - 1e-6.

    Args:
      log_p: log p in nats, 0 or less.

    Returns:
      [*b] nats; 0 at p = 1/2, at most about 13.8.

    Example:
      >>> print(log_odds(jnp.log(jnp.array([0.5, 0.75]))))  # 0 and log 3
      [0.0000 1.0986]
    """
    log_p = jnp.minimum(log_p, -1e-6)
    # Two forms of log(1 - p), each exact where the other loses digits; both see harmless arguments only.
    near = jnp.log(-jnp.expm1(jnp.maximum(log_p, -1.0)))
    far = jnp.log1p(-jnp.exp(jnp.minimum(log_p, -0.5)))
    return log_p - jnp.where(log_p > -0.6931, near, far)


def bounded_exp(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """exp(x), constant beyond x = 40: log-ratios of 100 nats are ordinary, and must not become infinite.

    Returns:
      [*b], 0 or more; exp(40), with no gradient, beyond 40.

    Example:
      >>> print(jnp.log(bounded_exp(jnp.array([1.0, 100.0]))))
      [1.0000 40.0000]
    """
    return jnp.exp(jnp.minimum(x, _LARGEST_EXPONENT))
