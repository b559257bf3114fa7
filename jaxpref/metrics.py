"""Metrics that merge exactly over microbatches, hosts and steps."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = ["Mean", "Metrics", "merge", "summed", "to_floats", "weighted_mean", "widened"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean kept as its total and its count, so that means of unequal parts merge exactly."""

    total: Float[Array, ""]
    count: Float[Array, ""]

    @property
    def value(self) -> Float[Array, ""]:
        """`total / count`; the total itself where nothing was counted (0, or a `summed` quantity)."""
        return self.total / jnp.where(self.count == 0, 1, self.count)

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)


Metrics = dict[str, Mean]


def widened(tree: Any) -> Any:
    """Floats of less than float32 as float32: what many small numbers are added up in."""

    def wide(x: Array) -> Array:
        narrow = jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)) if narrow else x

    return jax.tree.map(wide, tree)


def weighted_mean(
    values: Float[Array, "..."],  # the shape of `weights`, and then `rest`
    weights: Bool[Array, "*shape"] | Float[Array, "*shape"] | None = None,
) -> Mean:
    """Mean of `values` with `weights` of 0 or more: the one mean of losses, metrics and evaluators.

    Values of weight 0 may be anything, NaN too (not their gradients: mask what made them). `rest` are axes
    that stay, such as objectives.

    Args:
      weights: True is 1, and None means that all weights are 1.
    """
    if weights is None:
        values = widened(values)
        return Mean(values.sum(), jnp.float32(values.size))
    values = widened(values)
    weights = weights.astype(jnp.float32) if weights.dtype == bool else weights
    axes = tuple(range(weights.ndim))
    spread = weights.reshape(weights.shape + (1,) * (values.ndim - weights.ndim))
    return Mean(jnp.where(spread > 0, spread * values, 0).sum(axes), weights.sum())


def summed(values: Float[Array, "..."]) -> Mean:
    """A quantity that adds up over microbatches, hosts and steps, such as tokens: a total with count 0."""
    return Mean(widened(values).sum().astype(jnp.float32), jnp.float32(0))


def merge(first: Metrics, second: Metrics) -> Metrics:
    """Adds two metric dicts; both must have the same names."""
    if first.keys() != second.keys():
        raise ValueError(f"metrics differ in names: {sorted(first.keys() ^ second.keys())}")
    return {name: first[name] + second[name] for name in first}


def to_floats(metrics: Metrics) -> dict[str, float]:
    """Host values of fetched metrics."""
    return {name: float(mean.value) for name, mean in metrics.items()}
