"""Bayesian reward learning: draws of reward weights on the unit sphere from their posterior."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpref.types import PRNGKey

__all__ = ["RewardPosterior", "reward_posterior"]


class RewardPosterior(NamedTuple):
    """A chain, in the order it was drawn. The mean of `weights` is the point estimate."""

    weights: Float[Array, "n m"]  # of length 1
    log_likelihoods: Float[Array, " n"]  # nats
    accepted: Float[Array, ""]  # share of proposals that were taken


def reward_posterior(
    log_likelihood: Callable[[Float[Array, " m"]], Float[Array, ""]],
    key: PRNGKey,
    *,
    size: int,
    num_samples: int,
    width: float = 0.1,
    burn_in: int = 0,
    thin: int = 1,
    start: Float[Array, " m"] | None = None,
) -> RewardPosterior:
    """Metropolis-Hastings on weights of length 1 under a uniform prior: B-REX's sampler.

    Brown et al. 2020, arXiv:2002.09089, whose likelihood is `losses.trajectories.ranking_log_likelihood`. Any
    other will do: summed `token_logps` of `policies.planned(optimal=True)` give the posterior of Bayesian IRL
    (Ramachandran & Amir 2007), planned anew for each proposal where PolicyWalk repairs the last plan. The
    proposal is a normal step of standard deviation `width` in each weight, scaled back to length 1: its
    density depends on the angle alone, so it is symmetric, and acceptance needs likelihoods only. Length 1
    is the L2 norm here (which norm the paper's code uses, and its width, have not been verified).

    Args:
      size: m, number of weights. num_samples: draws that are kept.
      burn_in: draws at the beginning that are dropped. thin: of so many draws after that, one is kept.
      start: first state of the chain, of length 1 (such as the last `weights` of another); None: random.
    """
    if size < 2 or num_samples < 1 or burn_in < 0 or thin < 1 or not width > 0:
        raise ValueError(
            "reward_posterior: expected size of 2 or more, num_samples and thin of 1 or more, burn_in of 0 "
            f"or more and width above 0, got {size}, {num_samples}, {thin}, {burn_in} and {width}"
        )
    first, chain = jax.random.split(key)

    def move(state: tuple[Array, Array, Array], key: PRNGKey) -> tuple[tuple[Array, Array, Array], None]:
        weights, at, taken = state
        step, coin = jax.random.split(key)
        proposed = _scaled(weights + width * jax.random.normal(step, weights.shape))
        there = log_likelihood(proposed)
        accept = jnp.log(jax.random.uniform(coin)) < there - at
        return (jnp.where(accept, proposed, weights), jnp.where(accept, there, at), taken + accept), None

    def kept(state: tuple[Array, Array, Array], keys: Array):
        state, _ = jax.lax.scan(move, state, keys)
        return state, state[:2]

    start = _scaled(jax.random.normal(first, (size,)) if start is None else start)
    keys = jax.random.split(chain, burn_in + num_samples * thin)
    state, _ = jax.lax.scan(move, (start, log_likelihood(start), jnp.float32(0)), keys[:burn_in])
    state = (*state[:2], jnp.float32(0))
    (_, _, taken), (weights, log_likelihoods) = jax.lax.scan(
        kept, state, keys[burn_in:].reshape(num_samples, thin)
    )
    return RewardPosterior(weights, log_likelihoods, taken / (num_samples * thin))


def _scaled(weights: Float[Array, " m"]) -> Float[Array, " m"]:
    return weights / jnp.linalg.norm(weights)
