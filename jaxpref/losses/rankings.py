"""Rankings of lists: what the losses of policies and of reward models share. Not exported as losses.

All take `scores` [b, k] (the model's: higher ranks higher), `targets` [b, k] (data: higher is better) and
`where` [b, k] (which responses exist). What stands where none exists has no influence and gets no gradient.
Two responses of equal target are not compared, so a list of one, or of ties only, is 0. Weights of pairs are
those of LiPO (arXiv:2402.01878).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpref.losses.checks import check_axes, floats
from jaxpref.losses.links import logistic

__all__ = [
    "better",
    "differences",
    "lambda_weights",
    "lists",
    "log_softmax",
    "mean_over_items",
    "mean_over_pairs",
    "model_ranks",
    "pair_logistic",
    "plackett_luce",
    "softmax_cross_entropy",
]

Lists = Float[Array, "b k"]
Exists = Bool[Array, "b k"]
Batch = Float[Array, " b"]
Pairs = Float[Array, "b k k"]


def lists(where: Exists, **arrays: Array) -> list[Lists]:
    """The arrays in float32 or better, with 0 where no response exists.

    Returns:
      A list of arrays [b, k], in the order given.

    Raises:
      ValueError: shapes differ.

    Example:
      >>> print(lists(jnp.array([[True, False]]), scores=jnp.array([[1.5, jnp.nan]]))[0])
      [[1.5000 0.0000]]
    """
    check_axes(**{name: (array, "b k") for name, array in arrays.items()}, where=(where, "b k"))
    return [jnp.where(where, a, 0) for a in floats(*arrays.values())]


def better(targets: Lists, where: Exists) -> Bool[Array, "b k k"]:
    """Which pairs are compared: both responses exist and i has the strictly higher target.

    Returns:
      [b, k, k] booleans, True at [i, j] where i is better than j.

    Example:
      >>> print(better(jnp.array([[3.0, 1.0, 1.0]]), jnp.ones((1, 3), bool))[0].tolist())  # no tie
      [[False, True, True], [False, False, False], [False, False, False]]
    """
    above = targets[:, :, None] > targets[:, None, :]
    return above & where[:, :, None] & where[:, None, :]


def differences(scores: Lists) -> Pairs:
    """Score of i minus score of j.

    Returns:
      [b, k, k] in the unit of the scores; 0 on the diagonal.

    Example:
      >>> print(differences(jnp.array([[3.0, 1.0]])).tolist())
      [[[0.0000, 2.0000], [-2.0000, 0.0000]]]
    """
    return scores[:, :, None] - scores[:, None, :]


def mean_over_pairs(values: Pairs, pairs: Bool[Array, "b k k"]) -> Batch:
    """Mean of `values` over the `pairs` of each list.

    Returns:
      [b] in the unit of `values`; 0 for a list without pairs.

    Example:
      >>> scores, exists = jnp.array([[3.0, 1.0, 0.0]]), jnp.ones((1, 3), bool)  # gaps 2, 3 and 1
      >>> print(mean_over_pairs(differences(scores), better(scores, exists)))
      [2.0000]
    """
    return jnp.where(pairs, values, 0).sum((-1, -2)) / jnp.maximum(pairs.sum((-1, -2)), 1)


def mean_over_items(values: Lists, where: Exists) -> Batch:
    """Mean over the responses that exist.

    Returns:
      [b] in the unit of `values`; 0 for an empty list.

    Example:
      >>> print(mean_over_items(jnp.array([[1.0, 2.0, jnp.nan]]), jnp.array([[True, True, False]])))
      [1.5000]
    """
    return jnp.where(where, values, 0).sum(-1) / jnp.maximum(where.sum(-1), 1)


def model_ranks(scores: Lists, where: Exists) -> Int[Array, "b k"]:
    """1-based place of each response by falling score; equal scores keep the order of the list.

    Returns:
      [b, k] integers from 1 to k (without meaning for a response that does not exist).

    Example:
      >>> print(model_ranks(jnp.array([[0.1, 0.9, 0.9]]), jnp.ones((1, 3), bool)))
      [[3 1 2]]
    """
    gaps, earlier = differences(scores), jnp.tri(scores.shape[-1], k=-1, dtype=bool)[None]
    ahead = (gaps < 0) | ((gaps == 0) & earlier)  # [i, j]: j is ahead of i
    return 1 + (ahead & where[:, None, :]).sum(-1)


def lambda_weights(scores: Lists, targets: Lists, where: Exists) -> Pairs:
    """|2^target_i - 2^target_j| * |1 / log(1 + rank_i) - 1 / log(1 + rank_j)|, without gradient.

    What the discounted cumulative gain loses if i and j swap their places (LambdaLoss; Liu et al. 2024,
    arXiv:2402.01878). Natural logarithms.

    Returns:
      [b, k, k], 0 or more, symmetric; 0 for ties.

    Example:
      >>> scores, targets = jnp.array([[2.0, 1.0]]), jnp.array([[1.0, 0.0]])  # (2 - 1) * (1/log 2 - 1/log 3)
      >>> print(lambda_weights(scores, targets, jnp.ones((1, 2), bool))[0, 0])
      [0.0000 0.5325]
    """
    gains = jnp.exp2(jnp.where(where, targets, 0))
    discounts = 1 / jnp.log1p(model_ranks(scores, where).astype(gains.dtype))
    return jax.lax.stop_gradient(jnp.abs(differences(gains)) * jnp.abs(differences(discounts)))


def pair_logistic(scores: Lists, targets: Lists, where: Exists) -> Batch:
    """Mean of -log sigmoid(s_i - s_j) over the pairs in which i has the higher target.

    Returns:
      [b] nats, 0 or more; log 2 at equal scores, 0 for a list without pairs.

    Example:
      >>> scores, targets = jnp.log(jnp.array([[3.0, 1.0]])), jnp.array([[1.0, 0.0]])  # -log(3/4)
      >>> print(pair_logistic(scores, targets, jnp.ones((1, 2), bool)))
      [0.2877]
    """
    return mean_over_pairs(logistic(differences(scores)), better(targets, where))


def plackett_luce(scores: Lists, targets: Lists, where: Exists, *, top: int | None = None) -> Batch:
    """Negative log-likelihood of the ranking by targets under Plackett & Luce (1975).

    `sum_i log(1 + sum_{j worse than i} exp(s_j - s_i))`: each response is chosen from itself and those with a
    strictly lower target. Without ties that is the likelihood of the ranking, drawn from the best down. Tied
    responses do not compete with each other (each is chosen from itself and what is below the tie), so the
    order of the list has no influence.

    Args:
      top: count the first `top` places only (all that tie for the last of them); None: all.

    Returns:
      [b] nats, 0 or more; log k! at equal scores without ties, 0 for a list of one or of ties only.

    Raises:
      ValueError: top is below 1.

    Example:
      >>> scores, targets = jnp.log(jnp.array([[3.0, 1.0, 2.0]])), jnp.array([[9.0, 7.0, 8.0]])
      >>> loss = partial(plackett_luce, scores, targets, jnp.ones((1, 3), bool))
      >>> print(loss(), loss(top=1))  # -log(3/6 * 2/3) and -log(3/6)
      [1.0986] [0.6931]
    """
    if top is not None and top < 1:
        raise ValueError(f"top: expected 1 or more, or None, got {top}")
    worse = better(targets, where)
    competitors = jnp.where(worse, -differences(scores), -jnp.inf)  # [i, j]: s_j - s_i
    itself = jnp.zeros_like(competitors[:, :, :1])
    places = jax.nn.logsumexp(jnp.concatenate([itself, competitors], -1), axis=-1)
    if top is not None:
        places = jnp.where(worse.sum(-2) < top, places, 0)
    return places.sum(-1)


def log_softmax(scores: Lists, where: Exists) -> Lists:
    """log softmax over the responses that exist.

    Returns:
      [b, k] nats, 0 or less; 0 for a response that does not exist.

    Example:
      >>> scores = jnp.array([[jnp.log(3.0), 0.0, jnp.nan]])  # log(3/4) and log(1/4)
      >>> print(log_softmax(scores, jnp.array([[True, True, False]])))
      [[-0.2877 -1.3863 0.0000]]
    """
    peak = jax.lax.stop_gradient(jnp.where(where, scores, -jnp.inf).max(-1, keepdims=True))
    shifted = jnp.where(where, scores - jnp.where(jnp.isfinite(peak), peak, 0), 0)
    total = jnp.where(where, jnp.exp(shifted), 0).sum(-1, keepdims=True)
    return jnp.where(where, shifted - jnp.log(jnp.where(total > 0, total, 1)), 0)


def softmax_cross_entropy(targets: Lists, scores: Lists, where: Exists) -> Batch:
    """-sum_k targets_k log softmax(scores)_k, the targets as they are (not normalised).

    Returns:
      [b] nats; 0 or more for targets of 0 or more.

    Example:
      >>> targets, scores = jnp.array([[1.0, 0.0]]), jnp.log(jnp.array([[3.0, 1.0]]))  # -log(3/4)
      >>> print(softmax_cross_entropy(targets, scores, jnp.ones((1, 2), bool)))
      [0.2877]
    """
    return -(jnp.where(where, targets, 0) * log_softmax(scores, where)).sum(-1)
