"""A game played on a fitted preference model and judged by the true one."""

import dataclasses

import numpy as np

from jaxpref.environments.base import Float64, Game, bradley_terry_table, game

__all__ = ["FittedGame", "fitted_game", "fitted_preferences", "fitted_rewards"]


@dataclasses.dataclass(frozen=True, eq=False)
class FittedGame:
    """The game as it is, and two models of it fitted to the same comparisons."""

    true: Game  # [1, y, y] and [1, y]
    fitted: Game  # preferences by a model of pairs
    rewards: Float64  # [1, y], of a Bradley-Terry model
    wins: Float64  # [y, y], how often i beat j


def fitted_game(
    *,
    num_responses: int = 40,
    num_comparisons: int = 3000,
    reward_scale: float = 1.0,
    cycle_scale: float = 2.0,
    pair_prior: float = 1.0,
    reward_prior: float = 1.0,
    seed: int = 0,
) -> FittedGame:
    """Comparisons of responses drawn from a Zipf reference, and two models fitted to them (numbers ours).

    The true logits are differences of rewards plus a part that no reward can express. A policy that moves far
    from the reference meets pairs that were seldom compared, where the fitted model is wrong.

    Args:
      reward_scale, cycle_scale: standard deviations of the two parts of the logits.
      pair_prior, reward_prior: standard deviations of the normal priors of the two fits.
    """
    rng = np.random.default_rng(seed)
    y = num_responses
    rewards = reward_scale * rng.normal(size=y)
    cycles = np.triu(cycle_scale * rng.normal(size=(y, y)), 1)
    logits = rewards[:, None] - rewards + cycles - cycles.T
    table = np.exp(-np.logaddexp(0, -logits))
    reference = 1 / np.arange(1, y + 1)
    reference = rng.permutation(reference / reference.sum())
    i, j = rng.choice(y, size=(2, num_comparisons), p=reference)
    i, j = i[i != j], j[i != j]
    won = rng.random(len(i)) < table[i, j]
    wins = np.zeros((y, y))
    np.add.at(wins, (np.where(won, i, j), np.where(won, j, i)), 1)
    fitted = game(fitted_preferences(wins, prior=pair_prior), reference)
    return FittedGame(game(table, reference), fitted, fitted_rewards(wins, prior=reward_prior)[None], wins)


def fitted_preferences(wins: Float64, *, prior: float) -> Float64:
    """P(i beats j) `[y, y]`, the most probable logit of each pair by itself, with prior N(0, prior^2).

    A pair never compared gets one half.
    """
    total, logits = wins + wins.T, np.zeros_like(wins)
    for _ in range(50):  # Newton; the objective is concave and its slope is at most the number of comparisons
        p = np.exp(-np.logaddexp(0, -logits))
        slope = wins - total * p - logits / prior**2
        logits = logits + slope / (total * np.maximum(p * (1 - p), 0.05) + 1 / prior**2)
    logits = (logits - logits.T) / 2
    return np.exp(-np.logaddexp(0, -logits))


def fitted_rewards(wins: Float64, *, prior: float) -> Float64:
    """Most probable Bradley-Terry rewards `[y]` with a normal prior N(0, prior^2); their mean is 0."""
    total, rewards = wins + wins.T, np.zeros(len(wins))
    for _ in range(100):
        p = bradley_terry_table(rewards)
        slope = (wins - total * p).sum(1) - rewards / prior**2
        weights = total * p * (1 - p)
        curvature = np.diag(weights.sum(1) + 1 / prior**2) - weights
        step = np.linalg.solve(curvature, slope)
        rewards = rewards + step / max(1.0, np.abs(step).max())  # steps of at most 1: Newton may overshoot
        rewards = rewards - rewards.mean()  # a flat direction where the prior is wide
        if np.abs(step).max() < 1e-13:
            break
    return rewards
