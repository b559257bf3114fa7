"""DPO with one more column of the data: scores, margins, strengths of preference, rationales, degrees."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpref.losses.checks import as_floats, check_axes, not_negative, positive
from jaxpref.losses.links import logistic
from jaxpref.losses.pairwise import dpo
from jaxpref.losses.scores import log_ratios

__all__ = [
    "dove",
    "odpo",
    "odpo_ratio",
    "osp",
    "rationale_dpo",
    "rationale_dpo_released",
    "spo_degree",
    "spo_sequential",
]

Batch = Float[Array, " b"]


def _with_offset(margins: Batch, offset: Batch, ordered: Batch) -> Batch:
    """-log sigmoid(margin - offset), and exactly 0 with no gradient where the scores contradict the label."""
    return jnp.where(ordered, logistic(jnp.where(ordered, margins - offset, 0)), 0)


def odpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    chosen_scores: Batch,
    rejected_scores: Batch,
    *,
    beta: float = 0.7,
    alpha: float = 0.5,
) -> Batch:
    """DPO with an offset: -log sigmoid(beta * (u_w - u_l) - alpha * log(s_w - s_l)); nats.

    Amini et al. 2024, arXiv:2402.10571. A gap of 1, or alpha = 0, gives `dpo`; a gap below 1 *lowers* the
    margin that is required. A row whose chosen response does not score higher has loss exactly 0 and no
    gradient.

    Differs from the released code, which takes the logarithm of any gap (NaN below 0).

    Args:
      beta: above 0. alpha: 0 or more. The released README has (0.7, 0.5) for IMDB, (0.05, 1) for toxicity.

    Returns:
      [b], nats, 0 or more; log 2 where beta * (u_w - u_l) is the offset.

    Raises:
      ValueError: beta is not above 0, alpha is below 0, or shapes differ.

    Example:
      >>> logps = [jnp.full(2, x) for x in (-1.0, -3.0, -2.0, -2.0)]  # u_w = 1, u_l = -1
      >>> print(losses.odpo(*logps, jnp.array([3.0, 2.0]), jnp.array([2.0, 3.0]), beta=0.5))  # gaps 1, -1
      [0.3133 0.0000]
    """
    positive(beta=beta)
    not_negative(alpha=alpha)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    _, high, low = as_floats(
        chosen_logps=chosen_logps, chosen_scores=chosen_scores, rejected_scores=rejected_scores
    )
    gap = jax.lax.stop_gradient(high - low)
    ordered = gap > 0
    offset = alpha * jnp.log(jnp.where(ordered, gap, 1))
    return _with_offset(beta * (first - second), offset, ordered)


def odpo_ratio(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    chosen_scores: Batch,
    rejected_scores: Batch,
    *,
    beta: float = 0.7,
    alpha: float = 0.5,
) -> Batch:
    """`odpo` with the logarithm of the ratio of scores as offset: alpha * log(s_w / s_l); nats.

    Amini et al. 2024, arXiv:2402.10571, the `ratio` mode of the released code, for positive scores. Equal
    scores give `dpo`. A row with a score that is not positive, or whose chosen response scores lower, has
    loss exactly 0 and no gradient.

    Args:
      beta: above 0. alpha: 0 or more (both defaults as in `odpo`; not verified for this mode).

    Returns:
      [b], nats, 0 or more; log 2 where beta * (u_w - u_l) is the offset.

    Raises:
      ValueError: beta is not above 0, alpha is below 0, or shapes differ.

    Example:
      >>> logps = [jnp.full(2, x) for x in (-1.0, -3.0, -2.0, -2.0)]  # u_w = 1, u_l = -1
      >>> print(losses.odpo_ratio(*logps, jnp.array([2.0, 4.0]), jnp.array([2.0, 1.0]), beta=0.5))
      [0.3133 0.5514]
      >>> print(jnp.log(1 + 2 * jnp.exp(-1.0)))  # the second: margin 1, offset 0.5 * log 4 = log 2
      0.5514
    """
    positive(beta=beta)
    not_negative(alpha=alpha)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    _, high, low = as_floats(
        chosen_logps=chosen_logps, chosen_scores=chosen_scores, rejected_scores=rejected_scores
    )
    high, low = jax.lax.stop_gradient((high, low))
    ordered = (low > 0) & (high >= low)
    offset = alpha * (jnp.log(jnp.where(ordered, high, 1)) - jnp.log(jnp.where(ordered, low, 1)))
    return _with_offset(beta * (first - second), offset, ordered)


def spo_sequential(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    margins: Batch,
    *,
    beta: float = 0.1,
    alpha: float = 1.0,
) -> Batch:
    """Sequential preference optimisation, one round: -log sigmoid(beta * (u_w - u_l) - alpha * margin); nats.

    Lou et al. 2024, arXiv:2405.12739. The reference is the policy of the round before, and `margins` is data:
    the reward margins R_i(y_w) - R_i(y_l) of the earlier rounds, R_i = beta_i * log-ratio of round i to its
    reference, summed over rounds. Our derivation from the paper's constrained problem: its own form of the
    loss has not been verified. alpha = 0 is `dpo` against the round before.

    Args:
      beta: above 0 (ours). alpha: multiplier of the earlier rounds' constraint, 0 or more (ours).

    Returns:
      [b], nats, 0 or more; log 2 where beta * (u_w - u_l) = alpha * margin.

    Raises:
      ValueError: beta is not above 0, alpha is below 0, or shapes differ.

    Example:
      >>> logps = [jnp.full(2, x) for x in (-1.0, -3.0, -2.0, -2.0)]  # u_w = 1, u_l = -1
      >>> print(losses.spo_sequential(*logps, jnp.array([0.0, 1.0]), beta=0.5))
      [0.3133 0.6931]
    """
    positive(beta=beta)
    not_negative(alpha=alpha)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    _, margins = as_floats(chosen_logps=chosen_logps, margins=margins)
    return logistic(beta * (first - second) - alpha * jax.lax.stop_gradient(margins))


def osp(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    pair_preferences: Batch,
    *,
    beta: float = 0.1,
) -> Batch:
    """DPO with a soft label: p l(h) + (1 - p) l(-h), l = -log sigmoid, p the preference of the pair; nats.

    Zhai et al. 2024, arXiv:2405.14103 (online self-preferring), whose judge gives p in [1/2, 1]; its scaling
    of h has not been verified. p = 1 is `dpo`, one p for all rows is `cdpo` with label smoothing 1 - p, and
    the minimum is at h = log(p / (1 - p)). The range of p, [0, 1], is not checked here.

    Args:
      beta: above 0 (ours).

    Returns:
      [b], nats, the entropy of p or more; log 2 where policy and reference agree.

    Raises:
      ValueError: beta is not above 0, or shapes differ.

    Example:
      >>> logps = [jnp.full(2, x) for x in (-1.0, -3.0, -2.0, -2.0)]  # u_w = 1, u_l = -1
      >>> print(losses.osp(*logps, jnp.array([1.0, 0.5]), beta=0.5))  # (0.3133 + 1.3133) / 2
      [0.3133 0.8133]
    """
    positive(beta=beta)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    _, p = as_floats(chosen_logps=chosen_logps, pair_preferences=pair_preferences)
    p, h = jax.lax.stop_gradient(p), beta * (first - second)
    return p * logistic(h) + (1 - p) * logistic(-h)


def _rationale(logps: Batch, rationale_logps: Batch) -> Batch:
    return as_floats(chosen_logps=logps, rationale_logps=rationale_logps)[1]


def rationale_dpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    rationale_logps: Batch,
    *,
    beta: float = 0.1,
    gamma: float = 0.1,
) -> Batch:
    """DPO + gamma * NLL of a rationale, a third sequence that explains the pair; nats.

    Just et al. 2024, arXiv:2407.14477. `rationale_logps` is summed over the rationale's tokens, given the
    prompt and both responses.

    Differs from the released code: see `rationale_dpo_released`.

    Args:
      beta: above 0 (ours). gamma: 0 or more (released: 0.1).

    Returns:
      [b], nats, 0 or more; log 2 + gamma * NLL where policy and reference agree.

    Raises:
      ValueError: beta is not above 0, gamma is below 0, or shapes differ.

    Example:
      >>> logps = [jnp.array([x]) for x in (-1.0, -3.0, -2.0, -2.0)]  # u_w = 1, u_l = -1
      >>> print(losses.rationale_dpo(*logps, jnp.array([-10.0]), beta=0.5))  # 0.3133 + 0.1 * 10
      [1.3133]
    """
    not_negative(gamma=gamma)
    losses = dpo(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=beta)
    return losses - gamma * _rationale(chosen_logps, rationale_logps)


def rationale_dpo_released(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    rationale_logps: Batch,
    *,
    beta: float = 0.1,
    gamma: float = 0.1,
) -> Batch:
    """DPO + (-log sigmoid(gamma * logp of the rationale)): `rationale_dpo` as its released code has it; nats.

    Just et al. 2024, arXiv:2407.14477. For a log-prob far below 0 it is gamma * NLL; near 0 its slope falls
    to gamma / 2, and the term is log 2 at least.

    Args:
      beta: above 0 (ours). gamma: above 0 (released: 0.1).

    Returns:
      [b], nats, log 2 or more.

    Raises:
      ValueError: beta or gamma is not above 0, or shapes differ.

    Example:
      >>> logps = [jnp.array([x]) for x in (-1.0, -3.0, -2.0, -2.0)]  # u_w = 1, u_l = -1
      >>> print(losses.rationale_dpo_released(*logps, jnp.array([-10.0]), beta=0.5))  # 0.3133 + 1.3133
      [1.6265]
    """
    positive(gamma=gamma)
    losses = dpo(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=beta)
    return losses + logistic(gamma * _rationale(chosen_logps, rationale_logps))


def dove(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.1,
) -> Batch:
    """DPO on joint preferences: the log-probs are of prompt *and* response, and the two prompts may differ.

    Bansal et al. 2024, arXiv:2404.00530; nats. The formula is that of `dpo`: what changes is that prompt
    tokens are scored, log p(x, y), under both models. Equal prompts cancel exactly, which gives `dpo`.

    Differs from the released code, which takes the rejected side's length for truncation from the chosen one.

    Args:
      beta: above 0 (0.1: DPO's).

    Returns:
      [b], nats, 0 or more; log 2 where policy and reference agree.

    Raises:
      ValueError: beta is not above 0, or shapes differ.

    Example:
      >>> # One prompt for both, -5 nats under the policy, -4 under the reference: as without it.
      >>> print(losses.dove(*(jnp.array([x]) for x in (-6.0, -8.0, -6.0, -6.0)), beta=0.5))
      [0.3133]
      >>> logps = [jnp.array([x]) for x in (-1.0, -3.0, -2.0, -2.0)]  # u_w = 1, u_l = -1
      >>> print(losses.dpo(*logps, beta=0.5))
      [0.3133]
    """
    return dpo(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=beta)


def spo_degree(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    chosen_embeddings: Float[Array, "b m"],
    degrees: Int[Array, " b"],
    *,
    beta: float = 0.1,
    gamma: float = 1.0,
) -> Batch:
    """Self-supervised preference optimisation: DPO + gamma * cross entropy of the degree of removal; nats.

    Li et al. 2024, arXiv:2409.17791. Keywords are removed from a response to some degree, and a head with the
    logits `chosen_embeddings` predicts that degree: `degrees` in 0..m-1. A degree outside that range adds
    exactly nothing. No code is released; gamma and the number of degrees have not been verified.

    Args:
      beta: above 0. gamma: 0 or more. Both are ours.

    Returns:
      [b], nats, 0 or more.

    Raises:
      ValueError: beta is not above 0, gamma is below 0, or shapes differ.

    Example:
      >>> logps = [jnp.array([x]) for x in (-1.0, -3.0, -2.0, -2.0)]  # u_w = 1, u_l = -1
      >>> print(losses.spo_degree(*logps, jnp.zeros((1, 4)), jnp.array([2]), beta=0.5))  # 0.3133 + log 4
      [1.6996]
    """
    not_negative(gamma=gamma)
    losses = dpo(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=beta)
    check_axes(
        chosen_logps=(chosen_logps, "b"), chosen_embeddings=(chosen_embeddings, "b m"), degrees=(degrees, "b")
    )
    (logits,) = as_floats(chosen_embeddings=chosen_embeddings)
    picked = jax.nn.one_hot(degrees, logits.shape[-1], dtype=logits.dtype)
    entropy = -(picked * jax.nn.log_softmax(logits)).sum(-1)
    return losses + gamma * entropy
