"""Rankings of lists by averages: per token (PRO) or per step (Tree PO)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpref.losses.checks import check_axes, floats, not_negative, positive
from jaxpref.losses.links import logistic
from jaxpref.losses.rankings import better, differences, lambda_weights, lists, mean_over_pairs
from jaxpref.losses.scores import log_ratio, per_token

__all__ = ["pro", "step_rewards", "tree_po"]

Lists = Float[Array, "b k"]
Exists = Bool[Array, "b k"]
Batch = Float[Array, " b"]
Tokens = Float[Array, "b k r"]


def pro(
    logps: Lists,
    lengths: Int[Array, "b k"],
    scores: Lists,
    where: Exists,
    *,
    sft_weight: float = 0.05,
) -> Batch:
    """Preference ranking optimisation: each response against all worse ones, + likelihood of the best; nats.

    `sum_i [logsumexp(a_i t_i, {a_j (R_i - R_j)}_{j worse}) - a_i t_i]`, a = logp per token, R = scores, t_i =
    max_j (R_i - R_j), `+ sft_weight (n - 1)^2 (-logp of the best)`, n responses. Song et al. 2023,
    arXiv:2306.17492, as released; no reference. Two responses: `-log sigmoid((R_1 - R_2)(a_1 - a_2))`. The
    ranking averages over tokens, the likelihood sums, as released. Tied responses do not compete; those tied
    for best share the likelihood.

    Differs from the released code, which exponentiates without subtracting the maximum, counts a tie as a
    competitor of weight exp(0), and scores the response mask one position too early.

    Args:
      scores: rewards, any real; their differences are the temperatures.
      sft_weight: 0 or more (released: 0.05).

    Returns:
      [b], nats, 0 or more; 0 where no response is worse than another.

    Raises:
      ValueError: sft_weight is below 0, or shapes differ.

    Example:
      >>> logps, lengths = jnp.array([[-2.0, -4.0]]), jnp.array([[2, 2]])  # a = -1, -2
      >>> scores, where = jnp.array([[1.0, 0.0]]), jnp.array([[True, True]])
      >>> print(losses.pro(logps, lengths, scores, where))  # 0.3133 + 0.05 * (2 - 1)^2 * 2
      [0.4133]
    """
    not_negative(sft_weight=sft_weight)
    check_axes(logps=(logps, "b k"), lengths=(lengths, "b k"))
    logps, scores = lists(where, logps=logps, scores=scores)
    averages = per_token(logps, lengths)
    worse = better(scores, where)
    gaps = jnp.where(worse, differences(scores), 0)
    own = averages * gaps.max(-1)
    others = jnp.where(worse, averages[:, None, :] * gaps - own[:, :, None], -jnp.inf)
    places = jax.nn.logsumexp(jnp.concatenate([jnp.zeros_like(own)[:, :, None], others], -1), axis=-1)
    best = worse.any(-1) & ~worse.any(-2)
    likelihood = jnp.where(best, logps, 0).sum(-1) / jnp.maximum(best.sum(-1), 1)
    return places.sum(-1) - sft_weight * (where.sum(-1) - 1) ** 2 * likelihood


def step_rewards(
    log_ratios: Tokens, mask: Bool[Array, "b k r"], step_ids: Int[Array, "b k r"], step_weights: Tokens
) -> Lists:
    """Weighted mean over steps of the mean log-ratio of a step's tokens: the reward of `tree_po`
    (arXiv:2410.12854).

    Args:
      step_ids: the step of each token, in [0, r). step_weights: 0 or more; negative ones count as 0.

    Returns:
      [b, k], nats a token; 0 where no token counts.

    Example:
      >>> ratios, steps = jnp.array([[[1.0, 3.0, 5.0]]]), jnp.array([[[0, 0, 1]]])
      >>> mask, weights = jnp.ones((1, 1, 3), bool), jnp.ones((1, 1, 3))
      >>> print(losses.list_averages.step_rewards(ratios, mask, steps, weights))  # (2 + 5) / 2
      [[3.500]]
    """
    r = mask.shape[-1]
    counted = mask & (step_ids >= 0) & (step_ids < r)
    ids = jnp.where(counted, step_ids, 0)
    sizes = jax.vmap(jax.vmap(lambda c, i: jax.ops.segment_sum(c, i, r)))(counted.astype(int), ids)
    size = jnp.take_along_axis(sizes, ids, -1)
    weights = jnp.where(counted, jnp.maximum(step_weights, 0), 0) / jnp.maximum(size, 1)
    total = weights.sum(-1)
    return (weights * jnp.where(counted, log_ratios, 0)).sum(-1) / jnp.where(total > 0, total, 1)


def tree_po(
    token_logps: Tokens,
    reference_token_logps: Tokens,
    mask: Bool[Array, "b k r"],
    step_ids: Int[Array, "b k r"],
    step_weights: Tokens,
    scores: Lists,
    where: Exists,
    *,
    beta: float = 0.5,
) -> Batch:
    """Tree preference optimisation: LiPO-lambda on rewards that weigh the steps of a response; nats.

    The reward of a response is beta times the weighted mean over its steps of the mean log-ratio of a step's
    tokens; the loss is that of `lipo_lambda` (a mean over pairs). Liao et al. 2024, arXiv:2410.12854: our
    reading of the composition it describes; its equation for the step weight has not been verified.

    Differs from the released code, which minimises -log sigmoid(beta * ranking loss) and so makes the ranking
    worse, has no gains or discounts, and ignores the mask.

    Args:
      step_ids: the step of each token, in [0, r); tokens with other ids, or not scored, do not count.
      step_weights: 0 or more, the same on all tokens of a step (released: 1 + cosine of the step's embedding
        with that step of response 0); data. Negative ones count as 0.
      scores: in [0, 1], as in `lipo_lambda`.
      beta: above 0 (released script: 0.5).

    Returns:
      [b], nats times the weights of pairs, 0 or more; 0 where no two scores differ.

    Raises:
      ValueError: beta is not above 0, or shapes differ.

    Example:
      >>> logps, reference = jnp.array([[[-1.0], [-3.0]]]), jnp.full((1, 2, 1), -2.0)
      >>> ids, mask = jnp.zeros((1, 2, 1), int), jnp.ones((1, 2, 1), bool)
      >>> inputs = logps, reference, mask, ids, jnp.ones((1, 2, 1)), jnp.array([[1.0, 0.0]]), mask[..., 0]
      >>> print(losses.tree_po(*inputs))  # 0.3133 * (2 - 1) * (1 / log 2 - 1 / log 3), as `lipo_lambda`
      [0.1668]
    """
    positive(beta=beta)
    tokens = {"token_logps": token_logps, "reference_token_logps": reference_token_logps, "mask": mask}
    tokens |= {"step_ids": step_ids, "step_weights": step_weights}
    lists_ = {"scores": (scores, "b k"), "where": (where, "b k")}
    check_axes(**{name: (array, "b k r") for name, array in tokens.items()}, **lists_)
    token_logps, reference, weights = floats(token_logps, reference_token_logps, step_weights)
    (labels,) = lists(where, scores=scores)
    counted = mask & where[..., None]
    ratios = log_ratio(jnp.where(counted, token_logps, 0), jnp.where(counted, reference, 0))
    rewards = beta * step_rewards(ratios, counted, step_ids, jax.lax.stop_gradient(weights))
    weighted = lambda_weights(rewards, labels, where) * logistic(differences(rewards))
    return mean_over_pairs(weighted, better(labels, where))
