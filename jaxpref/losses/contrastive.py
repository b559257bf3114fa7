"""Contrastive preference learning (arXiv:2310.13639): losses of two segments, and of all of a batch.

`token_logps` are log-probs of actions, one a step (nats), masks are True on real steps; values at other steps
are ignored, NaN too. Under the regret model a segment is preferred for its discounted sum of
optimal advantages. In maximum-entropy control an advantage is alpha * log pi, so no reward has to be learnt:

    a = alpha * sum_t discount^t * log pi(a_t | s_t)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpref.losses.checks import check_axes, floats, not_negative, positive
from jaxpref.losses.links import logistic
from jaxpref.losses.rows import only
from jaxpref.losses.scores import per_token
from jaxpref.losses.tokenwise import pair_of_ratios, token_sum

__all__ = ["cpl", "cpl_bc", "cpl_kl", "cpl_rank", "discounted_sum"]

Batch = Float[Array, " b"]
Tokens = Float[Array, "b r"]
Mask = Bool[Array, "b r"]


def discounted_sum(
    values: Float[Array, "*b r"], mask: Bool[Array, "*b r"], discount: float
) -> Float[Array, "*b"]:
    """sum_t discount^t * values_t over real steps, t from 0 (arXiv:2310.13639).

    Args:
      discount: of a step, in (0, 1].

    Returns:
      [..], units of the values; 0 for no real step.

    Example:
      >>> values, mask = jnp.array([1.0, 1.0, jnp.nan]), jnp.array([True, True, False])
      >>> print(losses.contrastive.discounted_sum(values, mask, 0.5))
      1.500
    """
    weights = jnp.asarray(discount, values.dtype) ** jnp.arange(values.shape[-1])
    return token_sum(values * jnp.broadcast_to(weights, values.shape), mask)


def _checked(alpha: float, bias: float, discount: float) -> None:
    positive(alpha=alpha)
    for name, value in (("bias", bias), ("discount", discount)):
        if not 0 < value <= 1:
            raise ValueError(f"{name}: expected a number in (0, 1], got {value}")


def _sums(
    first: Tokens, second: Tokens, first_mask: Mask, second_mask: Mask, preferences: Batch, discount: float
) -> tuple[Batch, Batch, Batch]:
    """Discounted sums of both segments, and the labels as constants; float32 or better."""
    check_axes(
        chosen_token_logps=(first, "b r"),
        rejected_token_logps=(second, "b r"),
        chosen_mask=(first_mask, "b r"),
        rejected_mask=(second_mask, "b r"),
        pair_preferences=(preferences, "b"),
    )
    first, second, preferences = floats(first, second, preferences)
    return (
        discounted_sum(first, first_mask, discount),
        discounted_sum(second, second_mask, discount),
        jax.lax.stop_gradient(preferences),
    )


def _soft(first: Batch, second: Batch, p: Batch, alpha: float, bias: float) -> Batch:
    """Cross entropy of "the first is preferred" with label p. Differences first: alpha scales one number, as
    beta does in `dpo`."""
    return p * logistic(alpha * (first - bias * second)) + (1 - p) * logistic(alpha * (second - bias * first))


def cpl(
    chosen_token_logps: Tokens,
    rejected_token_logps: Tokens,
    chosen_mask: Mask,
    rejected_mask: Mask,
    pair_preferences: Batch,
    *,
    alpha: float = 0.1,
    bias: float = 0.5,
    discount: float = 1.0,
) -> Batch:
    """Contrastive preference learning: p l(a_0 - bias a_1) + (1 - p) l(a_1 - bias a_0).

    l(h) = -log sigmoid(h) and p = P(segment 0 beats segment 1), one half for a tie; Hejna et al. 2023,
    arXiv:2310.13639; nats. With bias = 1 and exact regret probabilities the minimum is the policy that is
    optimal with entropy at temperature alpha. A bias below 1 gives the log-likelihood of the losing segment
    less weight: this holds the policy to the data, and the minimum is no longer that policy. With bias = 1
    and no likelihood term, watch `logps/chosen`: nothing else stops both log-likelihoods from falling.

    Differs from the released code, where label 1 means that the second segment is preferred, and whose loss
    has no discount at all (the default here, 1, is therefore what was run).

    Args:
      alpha: temperature, above 0 (released: 0.1).
      bias: lambda of the paper, in (0, 1] (released: 0.5).
      discount: gamma of the sum over steps, in (0, 1].

    Returns:
      [b], nats, 0 or more; log 2 where a_0 = a_1 and bias = 1.

    Raises:
      ValueError: alpha is not above 0, bias or discount is not in (0, 1], or shapes differ.

    Example:
      >>> first, second, mask = jnp.full((1, 2), -1.0), jnp.full((1, 2), -2.0), jnp.ones((1, 2), bool)
      >>> for p in (1.0, 0.5):  # alpha * (-2 - -4) = 1; a tie: (0.3133 + 1.3133) / 2
      ...     print(losses.cpl(first, second, mask, mask, jnp.array([p]), alpha=0.5, bias=1.0))
      [0.3133]
      [0.8133]
    """
    _checked(alpha, bias, discount)
    first, second, p = _sums(
        chosen_token_logps, rejected_token_logps, chosen_mask, rejected_mask, pair_preferences, discount
    )
    return _soft(first, second, p, alpha, bias)


def cpl_bc(
    chosen_token_logps: Tokens,
    rejected_token_logps: Tokens,
    chosen_mask: Mask,
    rejected_mask: Mask,
    pair_preferences: Batch,
    *,
    alpha: float = 0.1,
    bias: float = 1.0,
    discount: float = 1.0,
    bc_weight: float = 1.0,
    preferred_only: bool = False,
) -> Batch:
    """CPL with behaviour cloning: `cpl` + bc_weight * mean over steps of -log pi.

    Hejna et al. 2023, arXiv:2310.13639; nats. The mean is over the steps of both segments, or with
    `preferred_only` p * (mean over the steps of segment 0) + (1 - p) * (mean over those of segment 1): the
    preferred segment, and both of a tie.

    Differs from the released code where segments are of unequal length: its mean is over all steps of a
    batch, here over those of a row.

    Args:
      alpha, bias, discount: of `cpl` (released: 0.1, and a bias of 1).
      bc_weight: 0 or more (released: 1). preferred_only: imitate what is preferred (released: False).

    Returns:
      [b], nats, 0 or more for log-probs of discrete actions.

    Raises:
      ValueError: a hyper-parameter is out of range, or shapes differ.

    Example:
      >>> first, second, mask = jnp.full((1, 2), -1.0), jnp.full((1, 2), -2.0), jnp.ones((1, 2), bool)
      >>> # 0.3133 + (1 + 1 + 2 + 2) / 4
      >>> print(losses.cpl_bc(first, second, mask, mask, jnp.ones(1), alpha=0.5))
      [1.8133]
    """
    not_negative(bc_weight=bc_weight)
    losses = cpl(
        chosen_token_logps,
        rejected_token_logps,
        chosen_mask,
        rejected_mask,
        pair_preferences,
        alpha=alpha,
        bias=bias,
        discount=discount,
    )
    first, second, p = _sums(
        chosen_token_logps, rejected_token_logps, chosen_mask, rejected_mask, pair_preferences, 1.0
    )
    steps, others = chosen_mask.sum(-1), rejected_mask.sum(-1)
    if preferred_only:
        imitated = p * per_token(first, steps) + (1 - p) * per_token(second, others)
    else:
        imitated = per_token(first + second, steps + others)
    return losses - bc_weight * imitated


def cpl_kl(
    chosen_token_logps: Tokens,
    rejected_token_logps: Tokens,
    reference_chosen_token_logps: Tokens,
    reference_rejected_token_logps: Tokens,
    chosen_mask: Mask,
    rejected_mask: Mask,
    pair_preferences: Batch,
    *,
    alpha: float = 0.2,
    bias: float = 0.75,
    discount: float = 1.0,
) -> Batch:
    """CPL held to a reference: `cpl` with log-ratios, a = alpha * sum_t discount^t * log(pi / pi_ref).

    Hejna et al. 2023, arXiv:2310.13639; nats. The reference is the policy after imitation, frozen. With
    bias = 1, discount = 1 and p = 1 this is `dpo` of the summed log-probs with beta = alpha.

    Args:
      alpha: above 0 (released: 0.2). bias: in (0, 1] (released: 0.75). discount: in (0, 1].

    Returns:
      [b], nats, 0 or more; log 2 where policy and reference agree.

    Raises:
      ValueError: alpha is not above 0, bias or discount is not in (0, 1], or shapes differ.

    Example:
      >>> first, second, mask = jnp.full((1, 2), -1.0), jnp.full((1, 2), -2.0), jnp.ones((1, 2), bool)
      >>> ratios = first, second, jnp.full((1, 2), -1.5), jnp.full((1, 2), -1.5)  # sums: 1 and -1
      >>> print(losses.cpl_kl(*ratios, mask, mask, jnp.ones(1), alpha=0.5, bias=1.0))
      [0.3133]
    """
    _checked(alpha, bias, discount)
    ratios = pair_of_ratios(
        chosen_token_logps,
        rejected_token_logps,
        reference_chosen_token_logps,
        reference_rejected_token_logps,
        chosen_mask,
        rejected_mask,
    )
    first, second, p = _sums(*ratios, chosen_mask, rejected_mask, pair_preferences, discount)
    return _soft(first, second, p, alpha, bias)


def cpl_rank(
    token_logps: Float[Array, "b k r"],
    mask: Bool[Array, "b k r"],
    scores: Float[Array, "b k"],
    *,
    alpha: float = 0.1,
    bias: float = 0.5,
    discount: float = 1.0,
) -> Batch:
    """CPL over all pairs of a batch's segments: l(a_i - bias a_j) wherever score_i > score_j.

    Hejna et al. 2023, arXiv:2310.13639 (its dense data); nats. A row holds half of every pair in which one of
    its segments takes part, scaled so that the mean over rows is the mean over pairs. Equal scores are not
    compared, and a segment without a step is absent. `k` may be 1: one segment a row, with its score.

    The batch is the global one, and memory is (b k)^2 numbers; in microbatches segments meet only those
    of their part, which changes the value.

    Differs from the released code, which compares equal scores in the order of its sort, and divides by the
    number of pairs whose loss is not exactly 0, so that a pair learnt to the last bit drops out of the mean.

    Args:
      alpha, bias, discount: of `cpl` (released: 0.1, 0.5, none).

    Returns:
      [b], nats, 0 or more; 0 where no pair can be compared.

    Raises:
      ValueError: alpha is not above 0, bias or discount is not in (0, 1], or shapes differ.

    Example:
      >>> logps, mask = jnp.array([[[-1.0, -1.0]], [[-2.0, -2.0]]]), jnp.ones((2, 1, 2), bool)
      >>> scores = jnp.array([[5.0], [3.0]])  # one pair: 2 rows / 1 pair * half of 0.3133 each
      >>> print(losses.cpl_rank(logps, mask, scores, alpha=0.5, bias=1.0))
      [0.3133 0.3133]
    """
    _checked(alpha, bias, discount)
    check_axes(token_logps=(token_logps, "b k r"), mask=(mask, "b k r"), scores=(scores, "b k"))
    (token_logps,) = floats(token_logps)
    real = mask.any(-1)
    a = alpha * discounted_sum(token_logps, mask, discount).reshape(-1)
    s = only(real.reshape(-1), jax.lax.stop_gradient(scores).reshape(-1))
    better = (s[:, None] > s[None]) & real.reshape(-1)[:, None] & real.reshape(-1)[None]
    losses = jnp.where(better, logistic(a[:, None] - bias * a[None]), 0)
    of_segments = (losses.sum(0) + losses.sum(1)) / 2
    rows = jnp.maximum(real.all(-1).sum(), 1) / jnp.maximum(better.sum(), 1)
    return rows * of_segments.reshape(real.shape).sum(-1)
