"""Ranked trajectories: Bradley-Terry of returns with a floor and a clip (T-REX), and B-REX's likelihood."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpref.losses.checks import as_floats, check_axes, positive, within
from jaxpref.losses.links import logistic

__all__ = ["ranking_log_likelihood", "trajectory_bradley_terry"]

Batch = Float[Array, " b"]


def trajectory_bradley_terry(
    chosen_rewards: Batch,
    rejected_rewards: Batch,
    *,
    noise_prob: float = 0.0,
    clip: float | None = None,
    link: Callable[[Array], Array] = logistic,
) -> Batch:
    """-log(noise_prob / 2 + (1 - noise_prob) sigmoid(h)), h the difference of returns, clipped: T-REX.

    Brown et al. 2019, arXiv:1904.06387 (returns of whole trajectories or pieces of them: what the policy's
    head sums over steps). `noise_prob` is how often the label is a fair coin, which bounds a pair's loss at
    -log(noise_prob / 2). `clip` holds h in [-clip, clip], with no gradient beyond. Neither is in the paper;
    `imitation` has 0 and 50.

    Args:
      noise_prob: in [0, 1). clip: above 0, or None. (Both are off, as in the paper.)
      link: -log P(chosen) of a margin; with a `losses.links.hinge` there is no probability to mix, so
        `noise_prob` must be 0.

    Returns:
      [b] nats, 0 or more; log 2 at equal returns.

    Raises:
      ValueError: shapes differ, a hyper-parameter is outside its range, or link does not allow noise_prob.

    Example:
      >>> w, x = jnp.log(jnp.array([6.0])), jnp.log(jnp.array([2.0]))  # -log(3/4); -log(1/4 + 1/2 * 3/4)
      >>> loss = partial(losses.trajectory_bradley_terry, w, x)
      >>> print(loss(), loss(noise_prob=0.5))
      [0.2877] [0.4700]
    """
    within("noise_prob", noise_prob, 0, 1)
    if noise_prob and link is not logistic:
        raise ValueError(f"noise_prob: expected 0 with a link other than logistic, got {noise_prob}")
    chosen, rejected = as_floats(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    margins = chosen - rejected
    if clip is not None:
        positive(clip=clip)
        margins = jnp.clip(margins, -clip, clip)
    if not noise_prob:
        return link(margins)
    return -jnp.logaddexp(jnp.log(noise_prob / 2), jnp.log1p(-noise_prob) - logistic(margins))


def ranking_log_likelihood(
    weights: Float[Array, " m"],
    chosen_features: Float[Array, "n m"],
    rejected_features: Float[Array, "n m"],
    *,
    confidence: float = 1.0,
    counts: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """log P(rankings | weights) = -sum counts log(1 + exp(-confidence w . (f_w - f_l))).

    The likelihood of Bayesian reward extrapolation, Brown et al. 2020, arXiv:2002.09089: rewards are linear
    in features that are fixed and summed over each trajectory beforehand, so a proposal costs one product.
    Its posterior on the unit sphere: `algorithms.reward_posterior`.

    Args:
      confidence: above 0: the unit of weights that are held to length 1.
      counts: how often each pair was seen, 0 or more; None: once.

    Returns:
      A number in nats, 0 or less: the sum over all `n` pairs.

    Raises:
      ValueError: shapes differ, or confidence is not above 0.

    Example:
      >>> better, worse = jnp.log(jnp.array([[6.0, 9.0], [2.0, 9.0]])), jnp.log(jnp.array([[2.0, 1.0]] * 2))
      >>> print(ranking_log_likelihood(jnp.array([1.0, 0.0]), better, worse))  # log(3/4) + log(1/2)
      -0.9808
    """
    positive(confidence=confidence)
    check_axes(
        weights=(weights, "m"),
        chosen_features=(chosen_features, "n m"),
        rejected_features=(rejected_features, "n m"),
    )
    losses = logistic(confidence * (chosen_features - rejected_features) @ weights)
    return -(losses if counts is None else jnp.where(counts > 0, counts * losses, 0)).sum()
