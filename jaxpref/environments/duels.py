"""Contextual dueling bandits whose utilities are linear in features."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxpref.environments.base import Float64, bradley_terry_table

__all__ = ["LinearDuels", "linear_duels"]


@dataclasses.dataclass(frozen=True, eq=False)
class LinearDuels:
    """`n` rounds with `k` arms each; arm i beats arm j with probability sigmoid(theta . (x_i - x_j))."""

    theta: Float64  # [d], to be found
    features: Float64  # [n, k, d]

    @property
    def utilities(self) -> Float64:
        """theta . x, `[n, k]`."""
        return self.features @ self.theta

    @property
    def preferences(self) -> Float64:
        """P(i beats j) `[n, k, k]`."""
        return bradley_terry_table(self.utilities)

    def weak_regret(self, first: ArrayLike, second: ArrayLike) -> Float64:
        """Best utility less that of the better of two arms, ids `[n]`; 0 or more, `[n]`."""
        u, rounds = self.utilities, np.arange(len(self.features))
        return u.max(-1) - np.maximum(u[rounds, np.asarray(first)], u[rounds, np.asarray(second)])

    def strong_regret(self, first: ArrayLike, second: ArrayLike) -> Float64:
        """Best utility less that of the worse of two arms, ids `[n]`; 0 or more, `[n]`."""
        u, rounds = self.utilities, np.arange(len(self.features))
        return u.max(-1) - np.minimum(u[rounds, np.asarray(first)], u[rounds, np.asarray(second)])


def linear_duels(
    *, theta: Any = (1.0, 0.5, 0.2), num_arms: int = 10, num_rounds: int = 1000, seed: int = 0
) -> LinearDuels:
    """Normal features, new ones each round (the setting of CoLSTIM, Bengs et al. 2022; numbers ours)."""
    weights = np.asarray(theta, np.float64)
    features = np.random.default_rng(seed).normal(size=(num_rounds, num_arms, len(weights)))
    return LinearDuels(weights, features)
