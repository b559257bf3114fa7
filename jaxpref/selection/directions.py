"""Directions in the space of ratings: how much of each attribute is wanted, and who has most of it."""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpref.types import PRNGKey

__all__ = ["best_along", "direction_text", "directions_near"]


def directions_near(
    target: Float[Array, " m"], key: PRNGKey, *, num: int = 5, max_angle: float = math.radians(30)
) -> Float[Array, "num m"]:
    """Unit vectors within `max_angle` of a target: robust preference selection (RPS, arXiv:2510.20498).

    One response is drawn under each, and `best_along` the target is kept: the same compute as `num` samples
    under the target itself, which is what `max_angle=0` gives. The paper takes 5 within 30 degrees; the law
    is ours: an angle uniform in [0, max_angle], and any direction around the target.

    Args:
      target: any vector but 0. max_angle: radians, in [0, pi / 2].

    Returns:
      `num` vectors of length 1.

    Raises:
      ValueError: `max_angle` is out of its range, or `num` below 1.

    Example:
      >>> near = selection.directions_near(jnp.array([3.0, 4.0]), jax.random.key(0), num=2, max_angle=0.0)
      >>> print(near)
      [[0.6000 0.8000]
       [0.6000 0.8000]]
    """
    if not 0 <= max_angle <= math.pi / 2 or num < 1:
        raise ValueError(
            f"directions_near: expected max_angle in [0, pi / 2] and num above 0, got {max_angle} and {num}"
        )
    unit = target / jnp.linalg.norm(target)
    angle_key, side_key = jax.random.split(key)
    sides = jax.random.normal(side_key, (num, len(target)), unit.dtype)
    sides = sides - (sides @ unit)[:, None] * unit[None]
    sides = sides / jnp.maximum(jnp.linalg.norm(sides, axis=-1, keepdims=True), 1e-12)
    angles = max_angle * jax.random.uniform(angle_key, (num, 1), unit.dtype)
    return jnp.cos(angles) * unit[None] + jnp.sin(angles) * sides


def best_along(
    ratings: Float[Array, "b k m"], target: Float[Array, " m"], where: Bool[Array, "b k"] | None = None
) -> Int[Array, " b"]:
    """Index of the response with the largest target . ratings, the first of equals.

    The choice of DPA (arXiv:2402.18571) when it makes data by rejection sampling, and of RPS.

    Args:
      where: responses that may be chosen; None allows all.

    Returns:
      `[b]`, in [0, k).

    Example:
      >>> ratings = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])  # 0.2 and 0.8 along the target
      >>> print(selection.best_along(ratings, jnp.array([0.2, 0.8])))
      [1]
    """
    values = ratings @ target
    return jnp.argmax(values if where is None else jnp.where(where, values, -jnp.inf), -1)


def direction_text(
    direction: Sequence[float],
    *,
    names: Sequence[str] = ("helpfulness", "verbosity"),
    form: str = "maximize weighted rating = {terms}",
) -> str:
    """A direction in words, as DPA's models read it (arXiv:2402.18571): weights are round(100 v) of the unit
    vector v.

    Its authors advise a weight of helpfulness of at least 71.

    Args:
      names: of the attributes, in the order of the vector.
      form: text with `{terms}` where the weighted attributes go.

    Returns:
      The text.

    Raises:
      ValueError: the vector is 0, or does not have one number for each name.

    Example:
      >>> print(selection.direction_text([3.0, 4.0]))
      maximize weighted rating = helpfulness*60 + verbosity*80
    """
    norm = math.sqrt(sum(float(x) ** 2 for x in direction))
    if len(direction) != len(names) or not norm > 0:
        raise ValueError(
            f"direction_text: expected a vector of {len(names)} numbers that is not 0, got {list(direction)}"
        )
    weights: Mapping[str, int] = {
        n: round(100 * float(x) / norm) for n, x in zip(names, direction, strict=True)
    }
    return form.format(terms=" + ".join(f"{name}*{weight}" for name, weight in weights.items()))
