"""LiPO: losses of learning to rank, on lists of responses with the scores s = beta * log-ratio.

Liu et al. 2024, arXiv:2402.01878. `scores` are the labels psi in [0, 1] (in the paper the mean probability of
winning against the list). Pairs are those with psi_i > psi_j; where the paper writes their sum, these are
means over them, as in Rax, which the paper used, so that the length of the list does not set the step. A list
without pairs (one response, or ties only) has loss 0, except in the losses that use no pairs.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpref.losses.checks import positive
from jaxpref.losses.links import hinge, logistic
from jaxpref.losses.rankings import (
    better,
    differences,
    lambda_weights,
    lists,
    mean_over_items,
    mean_over_pairs,
    pair_logistic,
    plackett_luce,
    softmax_cross_entropy,
)
from jaxpref.losses.scores import log_ratio

__all__ = [
    "lipo_lambda",
    "list_mle",
    "list_pair_hinge",
    "list_pair_logistic",
    "list_point_mse",
    "list_point_sigmoid",
    "list_softmax",
]

Lists = Float[Array, "b k"]
Exists = Bool[Array, "b k"]
Batch = Float[Array, " b"]


def _inputs(
    logps: Lists, reference_logps: Lists, scores: Lists, where: Exists, beta: float
) -> tuple[Lists, Lists]:
    """(s, psi), 0 where no response exists."""
    positive(beta=beta)
    logps, reference_logps, labels = lists(where, logps=logps, reference_logps=reference_logps, scores=scores)
    return beta * log_ratio(logps, reference_logps), labels


def lipo_lambda(
    logps: Lists, reference_logps: Lists, scores: Lists, where: Exists, *, beta: float = 0.05
) -> Batch:
    """LiPO-lambda: logistic loss of every pair, weighted by what swapping it costs in ranking quality.

    Mean over pairs of `w_ij log(1 + exp(s_j - s_i))`, `w_ij = |2^psi_i - 2^psi_j| * |1 / log(1 + rank_i) -
    1 / log(1 + rank_j)|`, the ranks by the model's current s, without gradient. Liu et al. 2024,
    arXiv:2402.01878; nats. With two responses it is a constant times `dpo`. Equal s (a policy that is still
    its reference) rank in the order of the list, so there the weights depend on that order.

    Differs from the paper's formula, a sum over pairs, and from Rax, which is `k log 2` times this.

    Args:
      scores: psi in [0, 1]; far larger ones overflow 2^psi.
      beta: above 0 (paper: 0.05).

    Returns:
      [b], nats times the weights, 0 or more; 0 for a list without pairs.

    Raises:
      ValueError: beta is not above 0, or shapes differ.

    Example:
      >>> logps, reference = jnp.array([[-1.0, -3.0]]), jnp.full((1, 2), -2.0)  # u = 1, -1
      >>> scores, where = jnp.array([[1.0, 0.0]]), jnp.array([[True, True]])
      >>> print(losses.lipo_lambda(logps, reference, scores, where, beta=0.5))
      [0.1668]
      >>> print(0.3133 * (2 - 1) * (1 / np.log(2) - 1 / np.log(3)))  # -log sigmoid(1) times the weight
      0.1668
    """
    model, labels = _inputs(logps, reference_logps, scores, where, beta)
    weighted = lambda_weights(model, labels, where) * logistic(differences(model))
    return mean_over_pairs(weighted, better(labels, where))


def list_pair_logistic(
    logps: Lists, reference_logps: Lists, scores: Lists, where: Exists, *, beta: float = 0.05
) -> Batch:
    """Logistic loss of every pair of a list: mean over pairs of -log sigmoid(s_i - s_j), nats.

    Liu et al. 2024, arXiv:2402.01878 (RankNet on log-ratios). Two responses give `dpo`.

    Args:
      beta: above 0 (paper: 0.05).

    Returns:
      [b], nats, 0 or more; log 2 where policy and reference agree and the list has pairs.

    Raises:
      ValueError: beta is not above 0, or shapes differ.

    Example:
      >>> logps, reference = jnp.array([[-1.0, -3.0]]), jnp.full((1, 2), -2.0)  # u = 1, -1
      >>> scores, where = jnp.array([[1.0, 0.0]]), jnp.array([[True, True]])
      >>> print(losses.list_pair_logistic(logps, reference, scores, where, beta=0.5))  # -log sigmoid(1)
      [0.3133]
    """
    model, labels = _inputs(logps, reference_logps, scores, where, beta)
    return pair_logistic(model, labels, where)


def list_pair_hinge(
    logps: Lists, reference_logps: Lists, scores: Lists, where: Exists, *, beta: float = 0.05
) -> Batch:
    """Hinge loss of every pair of a list: mean over pairs of max(0, 1 - (s_i - s_j)), nats times beta.

    Liu et al. 2024, arXiv:2402.01878. Two responses give `rso_hinge`.

    Args:
      beta: above 0 (paper: 0.05).

    Returns:
      [b], nats times beta, 0 or more; 1 where policy and reference agree and the list has pairs.

    Raises:
      ValueError: beta is not above 0, or shapes differ.

    Example:
      >>> logps, reference = jnp.array([[-1.0, -3.0]]), jnp.full((1, 2), -2.0)  # u = 1, -1
      >>> scores, where = jnp.array([[1.0, 0.0]]), jnp.array([[True, True]])
      >>> print(losses.list_pair_hinge(logps, reference, scores, where, beta=0.1))  # 1 - 0.1 * 2
      [0.800]
    """
    model, labels = _inputs(logps, reference_logps, scores, where, beta)
    return mean_over_pairs(hinge(differences(model), 1.0), better(labels, where))


def list_mle(
    logps: Lists, reference_logps: Lists, scores: Lists, where: Exists, *, beta: float = 0.05
) -> Batch:
    """List-MLE, which is DPO under Plackett-Luce: -log-likelihood of the ranking, summed over places; nats.

    Liu et al. 2024, arXiv:2402.01878; DPO of rankings is in Rafailov et al. 2023, arXiv:2305.18290. Two
    responses give `dpo`. Tied responses do not compete with each other (`rankings.plackett_luce`).

    Differs from `rax.listmle_loss`, which breaks ties at random or by position.

    Args:
      beta: above 0 (paper: 0.05).

    Returns:
      [b], nats, 0 or more; log k! where policy and reference agree on k responses without ties.

    Raises:
      ValueError: beta is not above 0, or shapes differ.

    Example:
      >>> same, scores, where = jnp.full((1, 3), -2.0), jnp.array([[1.0, 0.5, 0.0]]), jnp.ones((1, 3), bool)
      >>> print(losses.list_mle(same, same, scores, where), jnp.log(6.0))
      [1.7918] 1.7918
    """
    model, labels = _inputs(logps, reference_logps, scores, where, beta)
    return plackett_luce(model, labels, where)


def list_softmax(
    logps: Lists, reference_logps: Lists, scores: Lists, where: Exists, *, beta: float = 0.05
) -> Batch:
    """Softmax cross entropy of a list: -sum_k psi_k / sum(psi) * log softmax(s)_k, nats.

    Liu et al. 2024, arXiv:2402.01878. Equal labels make equal s the best. A negative label counts as 0.

    Differs from `rax.softmax_loss`, which does not normalise the labels.

    Args:
      beta: above 0 (paper: 0.05).

    Returns:
      [b], nats, the entropy of the labels or more; log k where policy and reference agree on k responses; 0
      for one response, or where no label is positive.

    Raises:
      ValueError: beta is not above 0, or shapes differ.

    Example:
      >>> same, scores, where = jnp.full((1, 3), -2.0), jnp.array([[1.0, 0.5, 0.0]]), jnp.ones((1, 3), bool)
      >>> print(losses.list_softmax(same, same, scores, where), jnp.log(3.0))
      [1.0986] 1.0986
    """
    model, labels = _inputs(logps, reference_logps, scores, where, beta)
    labels = jnp.maximum(labels, 0)
    total = labels.sum(-1, keepdims=True)
    return softmax_cross_entropy(labels / jnp.where(total > 0, total, 1), model, where)


def list_point_mse(
    logps: Lists, reference_logps: Lists, scores: Lists, where: Exists, *, beta: float = 0.05
) -> Batch:
    """Each response by itself: mean over the list of (s_k - psi_k)^2, nats squared times beta squared.

    Liu et al. 2024, arXiv:2402.01878.

    Args:
      beta: above 0 (paper: 0.05).

    Returns:
      [b], (nats times beta) squared, 0 or more; 0 where each s_k is its label.

    Raises:
      ValueError: beta is not above 0, or shapes differ.

    Example:
      >>> logps, reference = jnp.array([[-1.0, -3.0]]), jnp.full((1, 2), -2.0)  # u = 1, -1
      >>> scores, where = jnp.array([[1.0, 0.0]]), jnp.array([[True, True]])
      >>> print(losses.list_point_mse(logps, reference, scores, where, beta=0.5))  # (0.5^2 + 0.5^2) / 2
      [0.250]
    """
    model, labels = _inputs(logps, reference_logps, scores, where, beta)
    return mean_over_items((model - labels) ** 2, where)


def list_point_sigmoid(
    logps: Lists, reference_logps: Lists, scores: Lists, where: Exists, *, beta: float = 0.05
) -> Batch:
    """Each response by itself: mean over the list of psi l(s) + (1 - psi) l(-s), l = -log sigmoid; nats.

    Liu et al. 2024, arXiv:2402.01878. The minimum is at s = log(psi / (1 - psi)). Labels are clipped to
    [0, 1].

    Args:
      beta: above 0 (paper: 0.05).

    Returns:
      [b], nats, 0 or more; log 2 where policy and reference agree.

    Raises:
      ValueError: beta is not above 0, or shapes differ.

    Example:
      >>> logps, reference = jnp.array([[-1.0, -3.0]]), jnp.full((1, 2), -2.0)  # u = 1, -1
      >>> scores, where = jnp.array([[1.0, 0.0]]), jnp.array([[True, True]])
      >>> print(losses.list_point_sigmoid(logps, reference, scores, where, beta=0.5))  # -log sigmoid(0.5)
      [0.4741]
    """
    model, labels = _inputs(logps, reference_logps, scores, where, beta)
    return mean_over_items(logistic(model) + (1 - jnp.clip(labels, 0, 1)) * model, where)
