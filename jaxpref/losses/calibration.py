"""Is a probability of 0.8 right four times in five? Calibration of preference probabilities.

The number depends on how pairs are laid out: with the chosen response always first every outcome is 1, and
a model that is rightly unsure counts as badly calibrated. `pair_calibration_error` counts each pair in both
orders. The expected calibration error is that of arXiv:1706.04599.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpref.losses.checks import as_floats, check_axes, positive

__all__ = [
    "calibration_bins",
    "calibration_error_of_bins",
    "expected_calibration_error",
    "fit_temperature",
    "pair_calibration_error",
]


def calibration_bins(
    probabilities: Float[Array, " n"],
    outcomes: Float[Array, " n"],
    where: Bool[Array, " n"] | None = None,
    *,
    bins: int = 10,
) -> Float[Array, "bins 3"]:
    """Sums of probabilities, outcomes and ones over equal bins of [0, 1] (arXiv:1706.04599).

    The last bin contains 1. Items that do not exist (`where`) may hold anything.

    Args:
      probabilities: of the event, in [0, 1]. outcomes: 1 where it happened, else 0.
      bins: how many, 1 or more (10 is ours).

    Returns:
      [bins, 3], sums; those of parts of the data add up to those of the whole.

    Raises:
      ValueError: bins is not above 0, or shapes differ.

    Example:
      >>> probabilities, outcomes = jnp.array([0.1, 0.9, 0.8]), jnp.array([0.0, 1.0, 1.0])
      >>> print(losses.calibration.calibration_bins(probabilities, outcomes, bins=2))
      [[0.100 0.000 1.000]
       [1.700 2.000 2.000]]
    """
    positive(bins=bins)
    p, y = as_floats(probabilities=probabilities, outcomes=outcomes)
    where = jnp.ones(p.shape, bool) if where is None else where
    check_axes(probabilities=(p, "n"), where=(where, "n"))
    p, y = jnp.where(where, p, 0), jnp.where(where, y, 0)
    index = jnp.clip((p * bins).astype(int), 0, bins - 1)
    rows = jnp.stack([p, y, where.astype(p.dtype)], -1)
    return jax.ops.segment_sum(rows, index, num_segments=bins)


def calibration_error_of_bins(sums: Float[Array, "bins 3"]) -> Float[Array, ""]:
    """sum over bins of |sum of p - sum of y| / n, of `calibration_bins` (arXiv:1706.04599).

    Returns:
      a scalar in [0, 1]; 0 where there is nothing.

    Example:
      >>> sums = jnp.array([[0.1, 0.0, 1.0], [1.7, 2.0, 2.0]])
      >>> print(losses.calibration.calibration_error_of_bins(sums))  # (0.1 + 0.3) / 3
      0.1333
    """
    return jnp.abs(sums[:, 0] - sums[:, 1]).sum() / jnp.maximum(sums[:, 2].sum(), 1)


def expected_calibration_error(
    probabilities: Float[Array, " n"],
    outcomes: Float[Array, " n"],
    where: Bool[Array, " n"] | None = None,
    *,
    bins: int = 10,
) -> Float[Array, ""]:
    """Gap between probability and frequency, averaged over items.

    Guo et al. 2017, arXiv:1706.04599, for P(event), in the orientation that is given: where the chosen
    response always comes first, use `pair_calibration_error`.

    Args:
      probabilities: of the event, in [0, 1]. outcomes: 1 where it happened, else 0.
      bins: equal parts of [0, 1], 1 or more (10 is ours).

    Returns:
      a scalar in [0, 1]; 0 where each bin is right on average.

    Raises:
      ValueError: bins is not above 0, or shapes differ.

    Example:
      >>> outcomes = jnp.array([1.0, 1.0, 1.0, 0.0])
      >>> print(losses.calibration.expected_calibration_error(jnp.full(4, 0.75), outcomes))
      0.0000
      >>> print(losses.calibration.expected_calibration_error(jnp.full(4, 0.95), outcomes))
      0.2000
    """
    return calibration_error_of_bins(calibration_bins(probabilities, outcomes, where, bins=bins))


def pair_calibration_error(
    chosen_rewards: Float[Array, " n"],
    rejected_rewards: Float[Array, " n"],
    where: Bool[Array, " n"] | None = None,
    *,
    bins: int = 10,
    temperature: float = 1.0,
) -> Float[Array, ""]:
    """Calibration error of sigmoid((r_w - r_l) / temperature), each pair in both orders (arXiv:1706.04599).

    The orders are (p, won) and (1 - p, lost), so bins come in mirrored pairs and counts double; a random
    order for each pair estimates the same number with more noise.

    Args:
      chosen_rewards, rejected_rewards: r_w and r_l, nats. temperature: above 0. bins: 1 or more (10 is ours).

    Returns:
      a scalar in [0, 1]; 0 for equal rewards, which claim nothing.

    Raises:
      ValueError: temperature or bins is not above 0, or shapes differ.

    Example:
      >>> gaps = jnp.log(3.0) * jnp.array([1.0, 1.0, 1.0, -1.0])  # sure of 3/4, right in 3 of 4
      >>> for n in (4, 3):  # and of the first three, all of them right
      ...     print(losses.calibration.pair_calibration_error(gaps[:n], jnp.zeros(n)))
      0.0000
      0.2500
    """
    positive(temperature=temperature)
    chosen, rejected = as_floats(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    logits = (chosen - rejected) / temperature
    p = jnp.concatenate([jax.nn.sigmoid(logits), jax.nn.sigmoid(-logits)])
    y = jnp.concatenate([jnp.ones_like(chosen), jnp.zeros_like(chosen)])
    both = None if where is None else jnp.concatenate([where, where])
    return expected_calibration_error(p, y, both, bins=bins)


def fit_temperature(
    logits: Float[Array, " n"],
    outcomes: Float[Array, " n"],
    where: Bool[Array, " n"] | None = None,
    *,
    low: float = 1e-3,
    high: float = 1e3,
) -> Float[Array, ""]:
    """The temperature in [low, high] at which sigmoid(logits / temperature) is most likely.

    Guo et al. 2017, arXiv:1706.04599. The likelihood is concave in 1 / temperature, so bisection on its slope
    finds it. For pairs: logits r_w - r_l, outcomes all 1.

    Args:
      logits: nats. outcomes: 1 where the event happened, else 0.
      low, high: ends of the range, 0 < low < high (ours).

    Returns:
      a scalar in [low, high]: low where all items are right, high where they are no better than chance.

    Raises:
      ValueError: low is not above 0 or high not above low, or shapes differ.

    Example:
      >>> logits = jnp.full(4, 2 * jnp.log(3.0))  # sigmoid: 0.9, while 3 of 4 are right
      >>> outcomes = jnp.array([1.0, 1.0, 1.0, 0.0])
      >>> print(losses.calibration.fit_temperature(logits, outcomes))  # sigmoid(log 3) = 3/4
      2.0000
    """
    positive(low=low)
    if not high > low:
        raise ValueError(f"high: expected a number above low = {low}, got {high}")
    logits, y = as_floats(logits=logits, outcomes=outcomes)
    where = jnp.ones(logits.shape, bool) if where is None else where
    logits, y = jnp.where(where, logits, 0), jnp.where(where, y, 0)

    def halve(_: int, ends: Float[Array, "2"]) -> Float[Array, "2"]:
        middle = ends.mean()
        slope = ((jax.nn.sigmoid(logits * jnp.exp(-middle)) - y) * logits).sum()
        # A positive slope in 1 / T means that 1 / T is too large, so T too small.
        return jnp.where(slope > 0, jnp.stack([middle, ends[1]]), jnp.stack([ends[0], middle]))

    ends = jnp.log(jnp.stack([jnp.asarray(low, logits.dtype), jnp.asarray(high, logits.dtype)]))
    return jnp.exp(jax.lax.fori_loop(0, 60, halve, ends).mean())
