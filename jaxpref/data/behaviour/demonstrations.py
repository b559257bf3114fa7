"""Demonstrations: trajectories of a policy in a finite MDP, sampled step by step."""

import numpy as np
from numpy.typing import ArrayLike

from jaxpref.data.segments import SegmentRecords
from jaxpref.planning import TabularMDP

__all__ = ["demonstrations"]


def demonstrations(
    mdp: TabularMDP, policy: ArrayLike, *, start: ArrayLike, num: int, steps: int, seed: int = 0
) -> SegmentRecords:
    """Samples `num` trajectories of at most `steps` steps: int32 states and actions [num, 1, steps].

    A trajectory ends when it reaches a terminal state. The sample is a function of the seed alone.

    Args:
      policy: probabilities of actions `[s, a]`, or of each time step `[steps, s, a]`.
      start: probabilities of the first state `[s]`, 0 for terminal states.

    Raises:
      ValueError: shapes do not fit, a row of probabilities does not sum to 1, or `start` has probability in
        a terminal state.
    """
    transitions, ends = np.asarray(mdp.transitions, np.float64), np.asarray(mdp.terminal)
    shares, first = np.asarray(policy, np.float64), np.asarray(start, np.float64)
    states, actions = np.shape(mdp.rewards)
    if shares.shape not in ((states, actions), (steps, states, actions)) or first.shape != (states,):
        raise ValueError(
            f"demonstrations: expected a policy [{states}, {actions}] or [{steps}, {states}, {actions}] and "
            f"{states} starting probabilities, got {shares.shape} and {first.shape}"
        )
    sums = max(np.abs(shares.sum(-1) - 1).max(), abs(first.sum() - 1))
    if not (sums <= 1e-4 and min(shares.min(), first.min()) >= 0):  # so that NaN is refused
        raise ValueError(f"demonstrations: probabilities are negative or off a sum of 1 by {sums:.2g}")
    if (first[ends] > 0).any():
        raise ValueError("demonstrations: start has probability in a terminal state; nothing is done there")
    if num < 1 or steps < 1:
        raise ValueError(f"demonstrations: expected num and steps of 1 or more, got {num} and {steps}")
    shares = np.broadcast_to(shares, (steps, states, actions))
    generator = np.random.default_rng(seed)
    visited, taken = np.zeros((2, num, 1, steps), np.int32)
    lengths = np.zeros((num, 1), np.int64)
    here = _drawn(np.broadcast_to(first, (num, states)), generator)
    for t in range(steps):
        action = _drawn(shares[t, here], generator)
        going = ~ends[here]
        visited[:, 0, t], taken[:, 0, t] = np.where(going, here, 0), np.where(going, action, 0)
        lengths[:, 0] += going
        here = np.where(going, _drawn(transitions[here, action], generator), here)
    return SegmentRecords(visited, taken, lengths, group=np.arange(num)).checked()


def _drawn(probabilities: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One outcome for each row, by inversion."""
    cumulative = np.cumsum(probabilities, -1)
    marks = generator.random(len(cumulative)) * cumulative[:, -1]
    return (cumulative <= marks[:, None]).sum(-1)
