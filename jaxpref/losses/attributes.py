"""Rewards of several attributes (helpfulness, verbosity, ...): regression, and a user's direction in them."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpref.losses.checks import check_axes, floats

__all__ = ["attribute_regression", "directional_reward", "preference_direction"]


def attribute_regression(
    embeddings: Float[Array, "b k m"], ratings: Float[Array, "b k m"], where: Bool[Array, "b k"]
) -> Float[Array, " b"]:
    """Mean squared error of each head against the attribute it predicts, over the ratings that exist.

    The reward model of DPA, Wang et al. 2024, arXiv:2402.18571; in squared units of the ratings (there 0 to
    100), not nats. NaN in `ratings` is missing, and `where` tells which responses exist; a row without any
    rating gives 0. The mean is over a row, so a row of few ratings weighs as much as one of many (ours).

    Returns:
      [b], squared units of the ratings, 0 or more. (The heads are no log-probs.)

    Raises:
      ValueError: shapes differ.

    Example:
      >>> heads, ratings = jnp.array([[[3.0, 1.0]]]), jnp.array([[[1.0, jnp.nan]]])
      >>> print(losses.attribute_regression(heads, ratings, jnp.array([[True]])))  # (3 - 1)^2
      [4.000]
    """
    check_axes(embeddings=(embeddings, "b k m"), ratings=(ratings, "b k m"), where=(where, "b k"))
    predicted, ratings = floats(embeddings, ratings)
    present = ~jnp.isnan(ratings) & where[..., None]
    # Both sides are replaced before they meet: a NaN that is only masked afterwards still has a gradient.
    errors = jnp.where(present, predicted, 0) - jnp.where(present, ratings, 0)
    return (errors**2).sum((-1, -2)) / jnp.maximum(present.sum((-1, -2)), 1)


def preference_direction(angle: Float[Array, "*b"] | float) -> Float[Array, "*b 2"]:
    """The unit vector (cos, sin) of an angle in radians: weights of two attributes (arXiv:2402.18571).

    Returns:
      [.., 2], of length 1.

    Example:
      >>> print(losses.attributes.preference_direction(jnp.pi / 6))
      [0.8660 0.5000]
    """
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)


def directional_reward(outputs: Float[Array, "*b m"], direction: Float[Array, " m"]) -> Float[Array, "*b"]:
    """direction . outputs: what a user with these weights makes of the attributes (arXiv:2402.18571).

    Returns:
      [..], in units of the attributes.

    Example:
      >>> print(losses.attributes.directional_reward(jnp.array([3.0, 4.0]), jnp.array([0.6, 0.8])))
      5.000
    """
    outputs, direction = floats(outputs, direction)
    return outputs @ direction
