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
    """The arrays [b, k] in float32 or better, 0 where no response exists; raises unless shapes are equal."""
    check_axes(**{name: (array, "b k") for name, array in arrays.items()}, where=(where, "b k"))
    return [jnp.where(where, a, 0) for a in floats(*arrays.values())]


def better(targets: Lists, where: Exists) -> Bool[Array, "b k k"]:
    """[i, j]: both exist and i has the strictly higher target."""
    above = targets[:, :, None] > targets[:, None, :]
    return above & where[:, :, None] & where[:, None, :]


def differences(scores: Lists) -> Pairs:
    """[i, j]: score of i minus score of j."""
    return scores[:, :, None] - scores[:, None, :]


def mean_over_pairs(values: Pairs, pairs: Bool[Array, "b k k"]) -> Batch:
    """Mean of `values` over the `pairs` of each list; 0 where there are none."""
    return jnp.where(pairs, values, 0).sum((-1, -2)) / jnp.maximum(pairs.sum((-1, -2)), 1)


def mean_over_items(values: Lists, where: Exists) -> Batch:
    """Mean over the responses that exist; 0 where there are none."""
    return jnp.where(where, values, 0).sum(-1) / jnp.maximum(where.sum(-1), 1)


def model_ranks(scores: Lists, where: Exists) -> Int[Array, "b k"]:
    """1-based place of each response by falling score; equal scores keep the order of the list."""
    gaps, earlier = differences(scores), jnp.tri(scores.shape[-1], k=-1, dtype=bool)[None]
    ahead = (gaps < 0) | ((gaps == 0) & earlier)  # [i, j]: j is ahead of i
    return 1 + (ahead & where[:, None, :]).sum(-1)


def lambda_weights(scores: Lists, targets: Lists, where: Exists) -> Pairs:
    """|2^target_i - 2^target_j| * |1 / log(1 + rank_i) - 1 / log(1 + rank_j)|, without gradient.

    What the discounted cumulative gain loses if i and j swap their places (LambdaLoss; Liu et al. 2024,
    arXiv:2402.01878). Natural logarithms.
    """
    gains = jnp.exp2(jnp.where(where, targets, 0))
    discounts = 1 / jnp.log1p(model_ranks(scores, where).astype(gains.dtype))
    return jax.lax.stop_gradient(jnp.abs(differences(gains)) * jnp.abs(differences(discounts)))


def pair_logistic(scores: Lists, targets: Lists, where: Exists) -> Batch:
    """Mean of -log sigmoid(s_i - s_j) over the pairs in which i has the higher target; nats."""
    return mean_over_pairs(logistic(differences(scores)), better(targets, where))


def plackett_luce(scores: Lists, targets: Lists, where: Exists, *, top: int | None = None) -> Batch:
    """Negative log-likelihood of the ranking by targets under Plackett & Luce (1975); nats.

    `sum_i log(1 + sum_{j worse than i} exp(s_j - s_i))`: each response is chosen from itself and those with a
    strictly lower target. Without ties that is the likelihood of the ranking, drawn from the best down. Tied
    responses do not compete with each other (each is chosen from itself and what is below the tie), which no
    order of the list can change.

    Args:
      top: count the first `top` places only (all that tie for the last of them); None: all.
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
    """log softmax over the responses that exist; 0 at the others."""
    peak = jax.lax.stop_gradient(jnp.where(where, scores, -jnp.inf).max(-1, keepdims=True))
    shifted = jnp.where(where, scores - jnp.where(jnp.isfinite(peak), peak, 0), 0)
    total = jnp.where(where, jnp.exp(shifted), 0).sum(-1, keepdims=True)
    return jnp.where(where, shifted - jnp.log(jnp.where(total > 0, total, 1)), 0)


def softmax_cross_entropy(targets: Lists, scores: Lists, where: Exists) -> Batch:
    """-sum_k targets_k log softmax(scores)_k, the targets as they are; nats."""
    return -(jnp.where(where, targets, 0) * log_softmax(scores, where)).sum(-1)
