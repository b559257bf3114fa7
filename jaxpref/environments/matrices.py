"""Small preference games: cycles, and games whose equilibrium is known in closed form."""

import math
from typing import Any

import numpy as np

from jaxpref.environments.base import Float64, Game, bradley_terry_table, game

__all__ = [
    "dice",
    "elo_game",
    "elo_policy",
    "population_game",
    "population_nash",
    "random_game",
    "rock_paper_scissors",
]


def dice(*, reference: Any = None) -> Game:
    """Three dice, each of which beats the next with probability 5/9: a weak cycle.

    P(1 > 2) = P(2 > 3) = P(3 > 1) = 5/9, from Munos et al. 2023, arXiv:2312.00886.
    """
    return _cycle(5 / 9, reference)


def rock_paper_scissors(*, reference: Any = None) -> Game:
    """P(1 > 2) = P(2 > 3) = P(3 > 1) = 1: the strongest cycle there is."""
    return _cycle(1.0, reference)


def population_game(*, epsilon: float = 0.0, reference: Any = None) -> Game:
    """Three kinds of people who disagree; a small `epsilon` changes their shares.

    P(2 > 1) = 2/3 - epsilon / 2, P(1 > 3) = P(3 > 2) = 2/3 + epsilon / 4 (arXiv:2312.00886). The equilibrium
    moves smoothly with epsilon, while the response with the highest Bradley-Terry reward is 1 above 0 and 2
    below it.
    """
    if abs(epsilon) > 0.5:
        raise ValueError(f"epsilon: expected a number in [-1/2, 1/2], got {epsilon}")
    one_two, one_three, two_three = 1 / 3 + epsilon / 2, 2 / 3 + epsilon / 4, 1 / 3 - epsilon / 4
    return game(_upper(one_two, one_three, two_three), reference)


def population_nash(epsilon: float) -> Float64:
    """Equilibrium of `population_game` (no regularisation), for epsilon up to 1/3: probabilities `[3]`.

    Against (1/3 + epsilon / 2, 1/3 + epsilon / 2, 1/3 - epsilon) every response wins half the time, exactly.
    """
    return np.array([1 / 3 + epsilon / 2, 1 / 3 + epsilon / 2, 1 / 3 - epsilon])


def elo_game(*, reference: Any = None) -> Game:
    """Elo scores (0, log 9, log 2) as logits: a game in which the highest mean score is not the best policy.

    Among policies with pi(1) = 2 pi(2), which `elo_policy` lists, the mean score is highest at (2/3, 1/3, 0),
    and that loses to (0, 0, 1) with 50/99, the equilibrium of that set (arXiv:2312.00886).
    """
    return game(bradley_terry_table(np.array([0, math.log(9), math.log(2)])), reference)


def elo_policy(weight: float) -> Float64:
    """(2 w, w, 1 - 3 w), for w in [0, 1/3]: probabilities `[3]` of a constrained policy of `elo_game`."""
    if not 0 <= weight <= 1 / 3:
        raise ValueError(f"weight: expected a number in [0, 1/3], got {weight}")
    return np.array([2 * weight, weight, 1 - 3 * weight])


def random_game(
    *, num_responses: int = 5, num_prompts: int = 1, scale: float = 1.0, seed: int = 0, uniform: bool = False
) -> Game:
    """P = sigmoid(A - A^T), A normal times `scale`, and a random reference (`uniform`: a uniform one)."""
    rng = np.random.default_rng(seed)
    scores = scale * rng.normal(size=(num_prompts, num_responses, num_responses))
    logits = rng.normal(size=(num_prompts, num_responses))
    reference = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    table = np.exp(-np.logaddexp(0, scores.swapaxes(1, 2) - scores))
    return game(table, None if uniform else reference)


def _cycle(p: float, reference: Any) -> Game:
    return game(_upper(p, 1 - p, p), reference)


def _upper(one_two: float, one_three: float, two_three: float) -> Float64:
    return np.array(
        [[0.5, one_two, one_three], [1 - one_two, 0.5, two_three], [1 - one_three, 1 - two_three, 0.5]]
    )
