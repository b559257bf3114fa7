"""Losses of reward models on lists: scalar `rewards` [b, k] of the model against `scores` [b, k] from data.

Only the order of `scores` matters, except in `reward_list_net`. All are invariant to a constant added to the
rewards of a list. A list of one response is 0.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpref.losses.checks import positive
from jaxpref.losses.rankings import lists, log_softmax, pair_logistic, plackett_luce, softmax_cross_entropy

__all__ = ["reward_list_net", "reward_list_pairs", "reward_plackett_luce", "reward_softmax"]

Lists = Float[Array, "b k"]
Exists = Bool[Array, "b k"]
Batch = Float[Array, " b"]


def reward_plackett_luce(rewards: Lists, scores: Lists, where: Exists, *, top: int | None = None) -> Batch:
    """-log-likelihood of the ranking by scores under Plackett-Luce, summed over places; nats.

    Luce 1959; Plackett 1975. Two responses: `bradley_terry`. Tied responses do not compete with each other
    (`rankings.plackett_luce`), so the sum over strict rankings of exp(-loss) is 1.

    Args:
      top: count the first `top` places only, 1 or more (None: all).
    """
    rewards, scores = lists(where, rewards=rewards, scores=scores)
    return plackett_luce(rewards, scores, where, top=top)


def reward_list_pairs(rewards: Lists, scores: Lists, where: Exists) -> Batch:
    """Bradley-Terry over all pairs of a list: mean of -log sigmoid(r_i - r_j) where score_i > score_j; nats.

    Ouyang et al. 2022, arXiv:2203.02155, Eq. 1, whose mean is over all pairs of k responses; here tied pairs
    are left out of the mean. Two responses: `bradley_terry`.
    """
    rewards, scores = lists(where, rewards=rewards, scores=scores)
    return pair_logistic(rewards, scores, where)


def reward_softmax(rewards: Lists, scores: Lists, where: Exists) -> Batch:
    """-log-probability that the best response is chosen from the list (conditional logit); nats.

    McFadden 1974; the first place of `reward_plackett_luce`. Where several share the best score, the sum over
    them, each against itself and the worse ones.
    """
    return reward_plackett_luce(rewards, scores, where, top=1)


def reward_list_net(rewards: Lists, scores: Lists, where: Exists, *, temperature: float = 1.0) -> Batch:
    """ListNet with first places: cross entropy of softmax(rewards) against softmax(scores / temperature).

    Cao et al. 2007, "Learning to rank"; nats. Equal scores ask for equal rewards.

    Args:
      temperature: of the scores, above 0 (1 is ours). Towards 0: `reward_softmax`.
    """
    positive(temperature=temperature)
    rewards, scores = lists(where, rewards=rewards, scores=scores)
    return softmax_cross_entropy(jnp.exp(log_softmax(scores / temperature, where)), rewards, where)
