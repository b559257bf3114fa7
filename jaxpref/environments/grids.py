"""Grids of cells with moves in four directions: worlds for inverse reinforcement learning."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxpref.planning import TabularMDP

__all__ = ["MOVES", "gridworld", "object_features"]

MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1), (0, 0))  # up, down, left, right, stay: rows grow downwards


def gridworld(
    *,
    height: int,
    width: int,
    rewards: Sequence[float] | NDArray | None = None,
    slip: float = 0.0,
    terminal: Sequence[int] = (),
    discount: float = 0.9,
) -> TabularMDP:
    """`height * width` states, row by row, and five actions: `MOVES`. A move off the grid stays where it is.

    Args:
      rewards: earned in each state, `[states]`, whatever the action; None: 0.
      slip: probability that one of the five moves is made at random instead, in [0, 1].
      terminal: numbers of the states that end it; nothing is earned there.

    Raises:
      ValueError: sizes, shapes, numbers of states or probabilities that do not fit.
    """
    states = height * width
    if height < 1 or width < 1 or not 0 <= slip <= 1 or not 0 < discount <= 1:
        raise ValueError(
            f"gridworld: expected height and width of 1 or more, slip in [0, 1] and discount in (0, 1], got "
            f"{height}, {width}, {slip} and {discount}"
        )
    ends = np.zeros(states, bool)
    if any(not 0 <= s < states for s in terminal):
        raise ValueError(f"gridworld.terminal: expected numbers of states below {states}, got {terminal}")
    ends[list(terminal)] = True
    earned = np.zeros(states) if rewards is None else np.asarray(rewards, np.float64)
    if earned.shape != (states,):
        raise ValueError(f"gridworld.rewards: expected {states} numbers, got shape {earned.shape}")
    rows, columns = np.divmod(np.arange(states), width)
    after = np.zeros((states, len(MOVES), states))
    for a, (down, right) in enumerate(MOVES):
        inside = (rows + down >= 0) & (rows + down < height) & (columns + right >= 0)
        inside &= columns + right < width
        to = np.where(inside, (rows + down) * width + columns + right, np.arange(states))
        after[np.arange(states), a, to] = 1
    mixed = (1 - slip) * after + slip * after.mean(1, keepdims=True)
    wide = np.broadcast_to(earned[:, None], (states, len(MOVES)))
    return TabularMDP(jnp.asarray(mixed), jnp.asarray(wide), jnp.asarray(ends), discount)


def object_features(
    *, height: int, width: int, objects: int, kinds: int, reach: float = 1.0, seed: int = 0
) -> NDArray[np.float64]:
    """Closeness of each cell to the nearest object of each kind, `[states, kinds]`: exp(-steps / reach).

    Objects lie in different cells drawn by the seed, kinds in turn; steps are those of `MOVES`. In the spirit
    of the objectworld of Levine et al. 2011, with features that are smooth instead of thresholds.

    Raises:
      ValueError: more objects than cells, or fewer than kinds.
    """
    if not 0 < kinds <= objects <= height * width:
        raise ValueError(
            f"object_features: expected kinds <= objects <= cells, got {kinds}, {objects} and "
            f"{height * width} cells"
        )
    cells = np.stack(np.divmod(np.arange(height * width), width), 1)
    placed = cells[np.random.default_rng(seed).choice(len(cells), objects, replace=False)]
    steps = np.abs(cells[:, None] - placed[None]).sum(-1)
    nearest = np.stack([steps[:, kind::kinds].min(1) for kind in range(kinds)], 1)
    return np.exp(-nearest / reach)
