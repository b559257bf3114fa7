"""Hybrid preferences: which instances are worth a human label, when the rest are labelled by a model.

Miranda et al. 2024, arXiv:2410.19133. Train preference models on many random mixes of human and model labels;
regress their scores on how many human-labelled instances have each feature; an instance's gain is what the
regression says that one more such instance adds.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpref.losses.checks import check_axes, not_negative

__all__ = ["Routing", "fit_routing", "route", "routing_gains", "routing_score"]


class Routing(NamedTuple):
    """score(counts) = intercept + linear . counts + quadratic . counts^2."""

    intercept: Float[Array, ""]
    linear: Float[Array, " f"]
    quadratic: Float[Array, " f"]  # 0 for a linear fit


def fit_routing(
    counts: Float[Array, "n f"], scores: Float[Array, " n"], *, quadratic: bool = False, ridge: float = 0.0
) -> Routing:
    """Least squares of the scores of n mixes on their counts of human-labelled instances by feature.

    Features that never vary get the coefficient of least norm, 0.

    Args:
      quadratic: squares of the counts too (no products of different features).
      ridge: 0 or more; penalty on coefficients of counts scaled to [-1, 1].

    Returns:
      The fitted coefficients, in units of the scores for each instance.

    Raises:
      ValueError: shapes do not fit, or `ridge` is below 0.

    Example:
      >>> fit = selection.fit_routing(jnp.array([[0.0], [1.0], [2.0]]), jnp.array([1.0, 3.0, 5.0]))
      >>> print(float(fit.intercept), fit.linear, fit.quadratic)
      1.0000 [2.0000] [0.0000]
    """
    check_axes(counts=(counts, "n f"), scores=(scores, "n"))
    not_negative(ridge=ridge)
    f = counts.shape[1]
    columns = jnp.concatenate([counts, counts**2], 1) if quadratic else counts
    scale = jnp.maximum(jnp.abs(columns).max(0), 1e-30)
    mean = columns.mean(0)
    centred = (columns - mean[None]) / scale[None]
    target = scores - scores.mean()
    if ridge:
        width = columns.shape[1]
        centred = jnp.concatenate([centred, jnp.sqrt(ridge) * jnp.eye(width, dtype=centred.dtype)])
        target = jnp.concatenate([target, jnp.zeros(width, target.dtype)])
    coefficients = jnp.linalg.lstsq(centred, target)[0] / scale
    intercept = scores.mean() - mean @ coefficients
    squares = coefficients[f:] if quadratic else jnp.zeros(f, coefficients.dtype)
    return Routing(intercept, coefficients[:f], squares)


def routing_score(model: Routing, counts: Float[Array, "n f"]) -> Float[Array, " n"]:
    """Predicted score of a mix: intercept + linear . counts + quadratic . counts^2.

    Returns:
      `[n]`, in the unit of the scores that were fitted.

    Example:
      >>> from jaxpref.selection.routing import routing_score
      >>> model = selection.Routing(jnp.array(1.0), jnp.array([2.0]), jnp.array([0.5]))
      >>> print(routing_score(model, jnp.array([[0.0], [2.0]])))  # 1, and 1 + 4 + 2
      [1.0000 7.0000]
    """
    return model.intercept + counts @ model.linear + counts**2 @ model.quadratic


def routing_gains(
    model: Routing, features: Float[Array, "n f"], counts: Float[Array, " f"] | None = None
) -> Float[Array, " n"]:
    """What each instance adds to the predicted score of a mix with these counts (0): f(c + x) - f(c).

    For a linear fit that is the sum of the coefficients of its features, whatever the counts are.

    Args:
      features: 1 where an instance has the feature, else 0.

    Returns:
      `[n]`, in the unit of the scores that were fitted.

    Example:
      >>> model = selection.Routing(jnp.array(0.0), jnp.array([2.0, -1.0]), jnp.zeros(2))
      >>> print(selection.routing_gains(model, jnp.array([[1.0, 0.0], [1.0, 1.0]])))
      [2.0000 1.0000]
    """
    start = jnp.zeros(features.shape[1], features.dtype) if counts is None else counts
    return features @ model.linear + (features**2 + 2 * start[None] * features) @ model.quadratic


def route(gains: Float[Array, " n"], budget: float) -> Bool[Array, " n"]:
    """Which instances go to a human: the share `budget` of the largest gains, the first of equals.

    The number is rounded to the nearest one. 0 sends none and 1 sends all, so the mix is then one kind of
    label.

    Returns:
      `[n]`, True for instances that go to a human.

    Raises:
      ValueError: `budget` is not in [0, 1].

    Example:
      >>> print(selection.route(jnp.array([0.1, 0.9, 0.5, 0.2]), 0.5))
      [False  True  True False]
    """
    if not 0 <= budget <= 1:
        raise ValueError(f"budget: expected a share in [0, 1], got {budget}")
    n = gains.shape[0]
    chosen = jax.lax.top_k(gains, round(budget * n))[1]
    return jnp.zeros(n, bool).at[chosen].set(True)
