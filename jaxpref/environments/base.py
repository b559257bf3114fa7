"""What an environment is: who beats whom, in arrays, small enough to solve exactly. float64, on the host."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxpref.losses.preference_model import check_preferences

__all__ = ["Bandit", "Game", "bandit", "bradley_terry_table", "game"]

Float64 = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Game:
    """A preference game for each of `x` prompts, over the same `y` responses."""

    preferences: Float64  # [x, y, y], P(i beats j): P + P^T = 1
    reference: Float64  # [x, y], probabilities of the reference policy, all above 0

    def __post_init__(self) -> None:
        check_preferences(self.preferences, tolerance=1e-9)  # pyright: ignore[reportArgumentType]
        _check_policy("reference", self.reference, self.preferences.shape[:-1])


@dataclasses.dataclass(frozen=True, eq=False)
class Bandit:
    """Responses with rewards. Comparisons follow Bradley-Terry, and only covered responses are compared."""

    rewards: Float64  # [x, y], higher is better
    reference: Float64  # [x, y], probabilities of the reference policy, all above 0
    covered: NDArray[np.bool_]  # [x, y], True where the recorded comparisons reach
    scale: float = 1.0  # P(i beats j) = sigmoid(scale * (r_i - r_j))

    def __post_init__(self) -> None:
        _check_policy("reference", self.reference, self.rewards.shape)
        if self.covered.shape != self.rewards.shape:
            raise ValueError(f"covered: expected shape {self.rewards.shape}, got {self.covered.shape}")

    @property
    def preferences(self) -> Float64:
        """P(i beats j) [x, y, y], of covered and uncovered responses."""
        return bradley_terry_table(self.scale * self.rewards)

    @property
    def game(self) -> Game:
        return Game(self.preferences, self.reference)

    def value(self, policy: ArrayLike) -> Float64:
        """Expected reward `[x]` of probabilities `[x, y]`."""
        return (np.asarray(policy, np.float64) * self.rewards).sum(-1)


def game(preferences: Any, reference: Any = None) -> Game:
    """A game of one prompt, or of several where `preferences` is `[x, y, y]`; a uniform reference by default.

    A reference `[y]` is the same for all prompts.
    """
    p = np.asarray(preferences, np.float64)
    p = p[None] if p.ndim == 2 else p
    return Game(p, _policy(reference, p.shape[:-1]))


def bandit(rewards: Any, reference: Any = None, *, covered: Any = None, scale: float = 1.0) -> Bandit:
    """A bandit of one prompt, or of several where `rewards` is `[x, y]`; uniform reference, all covered."""
    r = np.asarray(rewards, np.float64)
    r = r[None] if r.ndim == 1 else r
    seen = np.broadcast_to(np.ones(r.shape[-1], bool) if covered is None else np.asarray(covered), r.shape)
    return Bandit(r, _policy(reference, r.shape), seen.astype(bool), scale)


def bradley_terry_table(rewards: Float64) -> Float64:
    """sigmoid(r_i - r_j) `[..., y, y]` of rewards `[..., y]`, in float64."""
    difference = rewards[..., :, None] - rewards[..., None, :]
    return np.exp(-np.logaddexp(0, -difference))


def _policy(given: Any, shape: tuple[int, ...]) -> Float64:
    policy = np.full(shape[-1], 1 / shape[-1]) if given is None else np.asarray(given, np.float64)
    if policy.shape[-1:] != shape[-1:]:
        raise ValueError(f"reference: expected {shape[-1]} probabilities, got shape {policy.shape}")
    return np.broadcast_to(policy, shape).copy()


def _check_policy(name: str, policy: Float64, shape: tuple[int, ...]) -> None:
    if policy.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {policy.shape}")
    if (policy <= 0).any() or np.abs(policy.sum(-1) - 1).max() > 1e-9:
        raise ValueError(f"{name}: expected probabilities above 0 that sum to 1 for each prompt")
