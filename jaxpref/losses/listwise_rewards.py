"""Losses of reward models on lists: scalar `rewards` [b, k] of the model against `scores` [b, k] from data.

Only the order of `scores` matters, except in `reward_list_net`. A constant added to the rewards of a list
changes nothing. A list of one response has loss 0.
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

    Luce 1959; Plackett 1975. Two responses give `bradley_terry`. Tied responses do not compete with each
    other (`rankings.plackett_luce`), so the sum over strict rankings of exp(-loss) is 1.

    Args:
      top: count the first `top` places only, 1 or more (None: all).

    Returns:
      [b], nats, 0 or more; log k! for k equal rewards and no ties.

    Raises:
      ValueError: top is below 1, or shapes differ.

    Example:
      >>> scores, where = jnp.array([[9.0, 5.0, 2.0]]), jnp.ones((1, 3), bool)
      >>> print(losses.reward_plackett_luce(jnp.zeros((1, 3)), scores, where), jnp.log(6.0))
      [1.7918] 1.7918
    """
    rewards, scores = lists(where, rewards=rewards, scores=scores)
    return plackett_luce(rewards, scores, where, top=top)


def reward_list_pairs(rewards: Lists, scores: Lists, where: Exists) -> Batch:
    """Bradley-Terry over all pairs of a list: mean of -log sigmoid(r_i - r_j) where score_i > score_j; nats.

    Ouyang et al. 2022, arXiv:2203.02155, Eq. 1, whose mean is over all pairs of k responses; here tied pairs
    are left out of the mean. Two responses give `bradley_terry`.

    Returns:
      [b], nats, 0 or more; log 2 for equal rewards of a list whose scores are not all equal.

    Raises:
      ValueError: shapes differ.

    Example:
      >>> scores, where = jnp.array([[9.0, 5.0, 2.0]]), jnp.ones((1, 3), bool)
      >>> rewards = jnp.array([[2.0, 1.0, 0.0]])
      >>> print(losses.reward_list_pairs(rewards, scores, where))  # (2 * 0.3133 + 0.1269) / 3
      [0.2512]
    """
    rewards, scores = lists(where, rewards=rewards, scores=scores)
    return pair_logistic(rewards, scores, where)


def reward_softmax(rewards: Lists, scores: Lists, where: Exists) -> Batch:
    """-log-probability that the best response is chosen from the list (conditional logit); nats.

    McFadden 1974; the first place of `reward_plackett_luce`. Where several share the best score it is the sum
    over them, each against itself and the worse ones.

    Returns:
      [b], nats, 0 or more; log k for k equal rewards and one best score.

    Raises:
      ValueError: shapes differ.

    Example:
      >>> scores, where = jnp.array([[9.0, 5.0, 2.0]]), jnp.ones((1, 3), bool)
      >>> rewards = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
      >>> print(losses.reward_softmax(rewards, scores, where))  # -log 0.5
      [0.6931]
    """
    return reward_plackett_luce(rewards, scores, where, top=1)


def reward_list_net(rewards: Lists, scores: Lists, where: Exists, *, temperature: float = 1.0) -> Batch:
    """ListNet with first places: cross entropy of softmax(rewards) against softmax(scores / temperature).

    Cao et al. 2007, "Learning to rank"; nats. Equal scores make equal rewards the best.

    Args:
      temperature: of the scores, above 0 (1 is ours). Towards 0: `reward_softmax`.

    Returns:
      [b], nats, the entropy of softmax(scores / temperature) or more; log k for k equal rewards.

    Raises:
      ValueError: temperature is not above 0, or shapes differ.

    Example:
      >>> shares, where = jnp.array([[0.5, 0.25, 0.25]]), jnp.ones((1, 3), bool)  # entropy 1.5 log 2
      >>> print(losses.reward_list_net(jnp.log(shares), jnp.log(shares), where), 1.5 * jnp.log(2.0))
      [1.0397] 1.0397
    """
    positive(temperature=temperature)
    rewards, scores = lists(where, rewards=rewards, scores=scores)
    return softmax_cross_entropy(jnp.exp(log_softmax(scores / temperature, where)), rewards, where)
