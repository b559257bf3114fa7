"""Comparisons by simulated people, and behaviour of simulated agents, in a finite world of known rewards."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxpref.data.segments import SegmentRecords
from jaxpref.planning import World, score_by_regret, win_probability
from jaxpref.planning.budgets import budget_logps

__all__ = ["preferred_first", "random_segments", "simulated_agents", "simulated_comparisons"]


def random_segments(
    world: World, *, count: int, length: int, generator: np.random.Generator, absorbing: bool = True
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """States and actions `[count, length]` and numbers of steps: random actions from random first states.

    Args:
      absorbing: keep segments that meet a terminal state (they end there); False: draw such ones again, so
        that all segments have `length` steps before the end.

    Raises:
      ValueError: fewer than one in a hundred segments has `length` steps.
    """
    transitions = np.asarray(world.mdp.transitions, np.float64).cumsum(-1)
    terminal, start = np.asarray(world.mdp.terminal), np.asarray(world.start, np.float64)
    batches: list[tuple[np.ndarray, ...]] = []
    kept, drawn = 0, 0
    while kept < count:
        size = count if drawn == 0 else max(count, 1000)
        states = np.zeros((size, length + 1), np.int32)
        states[:, 0] = generator.choice(len(start), size, p=start / start.sum())
        actions = generator.integers(0, transitions.shape[1], (size, length), np.int32)
        steps = np.zeros(size, np.int64)
        for t in range(length):
            steps += ~terminal[states[:, t]]
            rows = transitions[states[:, t], actions[:, t]]
            after = (generator.random((size, 1)) * rows[:, -1:] > rows).sum(-1)
            states[:, t + 1] = np.where(terminal[states[:, t]], states[:, t], after)
        whole = np.ones(size, bool) if absorbing else steps == length
        batches.append((states[whole, :-1], actions[whole], steps[whole]))
        kept, drawn = kept + int(whole.sum()), drawn + size
        if kept < drawn / 100:
            raise ValueError(
                f"random_segments: {kept} of {drawn} segments have {length} steps before the end; use "
                "shorter segments or absorbing=True"
            )
    states, actions, steps = (np.concatenate(parts)[:count] for parts in zip(*batches, strict=True))
    return states, actions, steps


def simulated_comparisons(
    *,
    world: Callable[[], World],
    num_pairs: int,
    length: int = 3,
    score: Callable[..., object] = score_by_regret,
    temperature: float = 1.0,
    absorbing: bool = True,
    hard: bool = True,
    seed: int = 0,
) -> SegmentRecords:
    """Pairs of random segments compared by a simulated person, the preferred segment first.

    The person knows the true weights of the world.

    Args:
      score: what is compared, such as `planning.score_by_regret` or `score_by_return`, under true weights.
      temperature: of the comparison, P(first) = sigmoid(difference / temperature); at 0 the larger score
        wins, and ties are one half.
      absorbing: as in `random_segments`.
      hard: draw each label from its probability (0 or 1, ties of temperature 0 stay one half); False: the
        label is the probability itself.
    """
    built, generator = world(), np.random.default_rng(seed)
    states, actions, steps = random_segments(
        built, count=2 * num_pairs, length=length, generator=generator, absorbing=absorbing
    )
    mask = np.arange(length) < steps[:, None]
    scores = partial(score, built, built.weights)(states, actions, jnp.asarray(mask))
    first, second = np.asarray(scores, np.float64).reshape(num_pairs, 2).T
    wins = np.asarray(win_probability(jnp.asarray(second), jnp.asarray(first), temperature=temperature))
    if hard and temperature > 0:
        wins = generator.random(num_pairs) < wins
    records = SegmentRecords.pairs(
        states.reshape(num_pairs, 2, length),
        actions.reshape(num_pairs, 2, length),
        wins.astype(np.float64),
        steps.reshape(num_pairs, 2),
        metadata={"simulated": True},
    )
    return preferred_first(records)


def preferred_first(records: SegmentRecords) -> SegmentRecords:
    """The same pairs with the preferred segment as segment 0, as accuracies expect."""
    if records.k != 2 or records.preferences is None:
        raise ValueError(f"preferred_first: expected pairs, got {records.k} segments a row")
    order = np.array([[0, 1], [1, 0]])[(records.preferences[:, 0, 1] < 0.5).astype(int)]
    rows = np.arange(len(records))[:, None]
    return dataclasses.replace(
        records,
        observations=records.observations[rows, order],
        actions=records.actions[rows, order],
        step_lengths=records.step_lengths[rows, order],
        preferences=records.preferences[rows[:, :, None], order[:, :, None], order[:, None, :]],
    )


def simulated_agents(
    *,
    world: Callable[[], World],
    budgets: Sequence[int],
    shares: Sequence[Sequence[float]],
    num_segments: int,
    length: int = 20,
    temperature: float = 1.0,
    per_step: bool = True,
    seed: int = 0,
) -> SegmentRecords:
    """Segments of agents with latent budgets (`planning.budgets`): `k = 1`, the agent in column `annotators`.

    Args:
      shares: for each agent the probability of each budget.
      num_segments: of each agent.
      length: the largest number of steps; a segment ends where its episode does.
      per_step: draw a budget for every decision; False: one for the whole segment.
    """
    built, generator = world(), np.random.default_rng(seed)
    mixes = np.asarray(shares, np.float64)
    fits = mixes.ndim == 2 and mixes.shape[1] == len(budgets)
    if not fits or not ((mixes >= 0).all() and np.abs(mixes.sum(-1) - 1).max() <= 1e-6):  # NaN is refused
        raise ValueError(f"shares: expected one probability for each of {len(budgets)} budgets, got {shares}")
    policies = np.exp(np.asarray(budget_logps(built.mdp, budgets, temperature=temperature), np.float64))
    transitions = np.asarray(built.mdp.transitions, np.float64)
    terminal, start = np.asarray(built.mdp.terminal), np.asarray(built.start, np.float64)
    agent = np.repeat(np.arange(len(mixes)), num_segments)
    states = np.zeros((len(agent), length), np.int32)
    actions, at = np.zeros_like(states), generator.choice(len(start), len(agent), p=start / start.sum())
    budget = _drawn(mixes[agent], generator)
    for t in range(length):
        budget = _drawn(mixes[agent], generator) if per_step else budget
        states[:, t] = at
        actions[:, t] = _drawn(policies[budget, at], generator)
        at = np.where(terminal[at], at, _drawn(transitions[at, actions[:, t]], generator))
    return SegmentRecords(
        states[:, None],
        actions[:, None],
        (~terminal[states]).sum(-1)[:, None],
        columns={"annotators": agent.astype(np.int32)},
        metadata={"simulated": True},
    )


def _drawn(probabilities: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int64]:
    """One index for each row of probabilities."""
    below = probabilities.cumsum(-1)
    return (generator.random((len(below), 1)) * below[:, -1:] > below).sum(-1)
