"""Bayesian reward learning: draws of reward weights on the unit sphere from their posterior.

Both proposals are symmetric, so acceptance needs likelihoods only. On the L2 sphere (B-REX's released Atari
code): a normal step in every weight, scaled back to length 1, whose density depends on the angle alone. On
the L1 sphere (its released gridworld code): pairs of weights, as many as there are, each moved along the
square |w_i| + |w_j| = const, one way round or the other.

Any likelihood will do: summed `token_logps` of `policies.planned(optimal=True)` give the posterior of
Bayesian IRL (Ramachandran & Amir 2007), planned anew for each proposal where PolicyWalk repairs its plan.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpref.types import PRNGKey

__all__ = ["Norm", "RewardPosterior", "length", "reward_posterior"]

Norm = Literal["l2", "l1"]


class RewardPosterior(NamedTuple):
    """A chain, in the order it was drawn. The mean of `weights` is the point estimate."""

    weights: Float[Array, "n m"]  # of length 1 in the norm of the chain
    log_likelihoods: Float[Array, " n"]  # nats
    accepted: Float[Array, ""]  # share of proposals that were taken


def reward_posterior(
    log_likelihood: Callable[[Float[Array, " m"]], Float[Array, ""]],
    key: PRNGKey,
    *,
    size: int,
    num_samples: int,
    width: float = 0.1,
    norm: Norm = "l2",
    burn_in: int = 0,
    thin: int = 1,
    start: Float[Array, " m"] | None = None,
) -> RewardPosterior:
    """Metropolis-Hastings on weights of length 1 under a uniform prior: B-REX's sampler.

    Brown et al. 2020, arXiv:2002.09089, whose likelihood is `losses.trajectories.ranking_log_likelihood`.

    Differs from the released gridworld code, which takes every pair once, in an order whose reverse it cannot
    draw: pairs are drawn independently here.

    Args:
      size: m, number of weights. num_samples: draws that are kept.
      width: above 0, of a step: its standard deviation (L2), or its length in each of the two weights (L1:
        small against 1 / size, since the chain stays on a grid of this spacing).
      norm: in which weights have length 1, and the prior is uniform.
      burn_in: draws at the beginning that are dropped. thin: of so many draws after that, one is kept.
      start: first state of the chain, of length 1 (such as the last `weights` of another); None: random.

    Returns:
      The chain: weights `[num_samples, size]`, their log-likelihoods (nats), and the share of accepted steps.

    Raises:
      ValueError: a number is out of range, or the norm is none of the two.
    """
    _check(size, num_samples, thin, burn_in, width, norm)
    propose = _normal_step if norm == "l2" else _steps_round_squares
    first, chain = jax.random.split(key)

    def move(state: tuple[Array, Array, Array], key: PRNGKey) -> tuple[tuple[Array, Array, Array], None]:
        weights, at, taken = state
        step, coin = jax.random.split(key)
        proposed = propose(weights, width, step)
        there = log_likelihood(proposed)
        accept = jnp.log(jax.random.uniform(coin)) < there - at
        return (jnp.where(accept, proposed, weights), jnp.where(accept, there, at), taken + accept), None

    def kept(state: tuple[Array, Array, Array], keys: Array):
        state, _ = jax.lax.scan(move, state, keys)
        return state, state[:2]

    start = jax.random.normal(first, (size,)) if start is None else start
    start = start / length(start, norm)
    keys = jax.random.split(chain, burn_in + num_samples * thin)
    state, _ = jax.lax.scan(move, (start, log_likelihood(start), jnp.float32(0)), keys[:burn_in])
    state = (*state[:2], jnp.float32(0))
    (_, _, taken), (weights, log_likelihoods) = jax.lax.scan(
        kept, state, keys[burn_in:].reshape(num_samples, thin)
    )
    return RewardPosterior(weights, log_likelihoods, taken / (num_samples * thin))


def _check(size: int, num_samples: int, thin: int, burn_in: int, width: float, norm: str) -> None:
    if size < 2 or num_samples < 1 or burn_in < 0 or thin < 1 or not width > 0:
        raise ValueError(
            "reward_posterior: expected size of 2 or more, num_samples and thin of 1 or more, burn_in of 0 "
            f"or more and width above 0, got {size}, {num_samples}, {thin}, {burn_in} and {width}"
        )
    if norm not in ("l2", "l1"):
        raise ValueError(f"reward_posterior: expected norm 'l2' or 'l1', got {norm!r}")


def length(weights: Float[Array, "*n m"], norm: Norm) -> Float[Array, "*n"]:
    """Length of the last axis in the norm of a chain.

    Example:
      >>> weights = jnp.array([0.6, -0.8])
      >>> print(float(length(weights, "l2")), float(length(weights, "l1")))
      1.0 1.4
    """
    return jnp.linalg.norm(weights, None if norm == "l2" else 1, axis=-1)


def _normal_step(weights: Float[Array, " m"], width: float, key: PRNGKey) -> Float[Array, " m"]:
    moved = weights + width * jax.random.normal(key, weights.shape)
    return moved / length(moved, "l2")


def _steps_round_squares(weights: Float[Array, " m"], width: float, key: PRNGKey) -> Float[Array, " m"]:
    """m (m - 1) / 2 pairs of weights, one after another, each a step round the square of its two."""
    size = weights.shape[0]
    shape, most = (2, size * (size - 1) // 2), jnp.array([[size], [size - 1]])
    first, other = jax.random.randint(key, shape, 0, most)
    second = other + (other >= first)

    def move(weights: Float[Array, " m"], at: tuple[Array, Array]):
        i, j = at  # (j, i) goes the other way round
        x, y = _round_square(weights[i], weights[j], width)
        return weights.at[i].set(x).at[j].set(y), None

    moved, _ = jax.lax.scan(move, weights, (first, second))
    return moved / length(moved, "l1")  # against rounding


def _round_square(x: Array, y: Array, step: float) -> tuple[Array, Array]:
    """The point `step` further round |x| + |y| = side, measured in x (y moves as much). (0, 0) stays."""
    side = jnp.abs(x) + jnp.abs(y)
    # How far round from (side, 0), counter-clockwise; a turn is 4 sides.
    at = jnp.where(y >= 0, side - x, 3 * side + x) + step
    turn = jnp.where(side > 0, 4 * side, 1)

    def wave(at: Array) -> Array:
        return jnp.where(side > 0, jnp.abs(jnp.mod(at, turn) - 2 * side) - side, 0)

    return wave(at), wave(at - side)
