"""Lists of responses as distributions: r = beta * log-ratio against the softmax of scores from data.

`scores` are any real numbers, `q = softmax(scores / temperature)` over the responses that exist. A list
without responses has loss 0.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpref.losses.checks import positive
from jaxpref.losses.links import logistic
from jaxpref.losses.rankings import lists, log_softmax, mean_over_items, softmax_cross_entropy
from jaxpref.losses.scores import log_ratio

__all__ = ["exo_list", "info_nca", "nca_list"]

Lists = Float[Array, "b k"]
Exists = Bool[Array, "b k"]
Batch = Float[Array, " b"]


def _inputs(
    logps: Lists,
    reference_logps: Lists,
    scores: Lists,
    where: Exists,
    beta: float,
    temperature: float,
) -> tuple[Lists, Lists]:
    """(r, log q), 0 where no response exists."""
    positive(beta=beta, temperature=temperature)
    logps, reference_logps, scores = lists(where, logps=logps, reference_logps=reference_logps, scores=scores)
    return beta * log_ratio(logps, reference_logps), log_softmax(scores / temperature, where)


def info_nca(
    logps: Lists,
    reference_logps: Lists,
    scores: Lists,
    where: Exists,
    *,
    beta: float = 0.01,
    temperature: float = 1e-4,
) -> Batch:
    """InfoNCA: cross entropy of softmax(r) against q = softmax(scores / temperature), nats.

    Chen et al. 2024, arXiv:2402.05369. Two responses and a temperature towards 0 give `dpo`. Only differences
    of r matter, so the best response may become less likely; `nca_list` does not allow that. Equal scores ask
    for equal r.

    Differs from the released code, which adds 0.01 to the score of response 0.

    Args:
      beta: above 0 (released: 0.01). temperature: the paper's alpha, above 0 (released: 1e-4, at which q is
        the best response alone unless scores tie).

    Returns:
      [b], nats, the entropy of q or more; log k where policy and reference agree on k responses.

    Raises:
      ValueError: beta or temperature is not above 0, or shapes differ.

    Example:
      >>> logps, reference = jnp.array([[-1.0, -3.0]]), jnp.full((1, 2), -2.0)  # u = 1, -1
      >>> scores, where = jnp.array([[1.0, 0.0]]), jnp.array([[True, True]])
      >>> print(losses.info_nca(logps, reference, scores, where, beta=0.5))  # -log sigmoid(0.5 + 0.5)
      [0.3133]
    """
    rewards, log_q = _inputs(logps, reference_logps, scores, where, beta, temperature)
    return softmax_cross_entropy(jnp.exp(log_q), rewards, where)


def nca_list(
    logps: Lists,
    reference_logps: Lists,
    scores: Lists,
    where: Exists,
    *,
    beta: float = 0.01,
    temperature: float = 1e-4,
) -> Batch:
    """Noise contrastive alignment of a list: sum_k q_k l(r_k) + mean_k l(-r_k), l = -log sigmoid; nats.

    Chen et al. 2024, arXiv:2402.05369, q = softmax(scores / temperature). Absolute rewards: the minimum has
    sigmoid(r_k) = q_k / (q_k + 1/k). Two responses and a temperature towards 0 give `nca`; a list of one
    gives l(r) + l(-r).

    Differs from the released code, which adds 0.01 to the score of response 0.

    Args:
      beta: above 0 (released: 0.01). temperature: the paper's alpha, above 0 (released: 1e-4).

    Returns:
      [b], nats, 0 or more; 2 log 2 where policy and reference agree.

    Raises:
      ValueError: beta or temperature is not above 0, or shapes differ.

    Example:
      >>> logps, reference = jnp.array([[-1.0, -3.0]]), jnp.full((1, 2), -2.0)  # u = 1, -1
      >>> scores, where = jnp.array([[1.0, 0.0]]), jnp.array([[True, True]])
      >>> print(losses.nca_list(logps, reference, scores, where, beta=0.5))  # 0.4741 + (0.9741 + 0.4741) / 2
      [1.1982]
    """
    rewards, log_q = _inputs(logps, reference_logps, scores, where, beta, temperature)
    up = jnp.where(where, jnp.exp(log_q) * logistic(rewards), 0).sum(-1)
    return up + mean_over_items(logistic(-rewards), where)


def exo_list(
    logps: Lists,
    reference_logps: Lists,
    scores: Lists,
    where: Exists,
    *,
    beta: float = 0.5,
    temperature: float = 0.5,
) -> Batch:
    """Efficient exact optimisation of a list: KL(softmax(r) || softmax(scores / temperature)), nats.

    Ji et al. 2024, arXiv:2402.00856, with rewards: the reverse KL, where `info_nca` is the forward one (up to
    a constant). Two responses whose q is (1 - e, e) give `exo`.

    Args:
      beta: above 0, of the policy. temperature: beta of the rewards, above 0 (released: 0.5 for both on HH
        and TL;DR, 0.1 on IMDB).

    Returns:
      [b], nats, 0 or more; 0 where r = scores / temperature + a constant.

    Raises:
      ValueError: beta or temperature is not above 0, or shapes differ.

    Example:
      >>> logps, reference = jnp.array([[-1.0, -3.0]]), jnp.full((1, 2), -2.0)  # u = 1, -1
      >>> scores, where = jnp.array([[1.0, 0.0]]), jnp.array([[True, True]])
      >>> print(losses.exo_list(logps, reference, scores / 2, where))  # r = 0.5, -0.5; q = softmax(1, 0)
      [0.0000]
    """
    rewards, log_q = _inputs(logps, reference_logps, scores, where, beta, temperature)
    log_p = log_softmax(rewards, where)
    return jnp.where(where, jnp.exp(log_p) * (log_p - log_q), 0).sum(-1)
