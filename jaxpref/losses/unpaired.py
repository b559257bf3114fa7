"""Losses of single responses that somebody found good (label 1) or bad (label 0): no pairs are needed.

u is the log-ratio to the reference and `r = beta * u`; log-probs are summed over the scored tokens (nats).
Everything is elementwise over any shape, such as [b] or [b, k]. A label that is neither 0 nor 1 takes its
response out: loss 0, no gradient, no part in any mean (a traced label cannot be refused). What stands where
`where` is False, NaN included, has no influence, and the loss there is 0. l(h) = -log sigmoid(h). Sources:
arXiv:2402.01306, 2404.04656, 2408.06266 and 2410.04166.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpref.losses.checks import as_floats, check_same_shape, floats, not_negative, positive, within
from jaxpref.losses.links import logistic
from jaxpref.losses.scores import log_ratio

__all__ = ["BcoState", "apo_zero_unpaired", "bco", "bco_state", "bco_weighted", "kto", "pmpo"]

Values = Float[Array, "*n"]
Labels = Int[Array, "*n"]
Flags = Bool[Array, "*n"]


class BcoState(NamedTuple):
    """Decayed sums over past batches, by label: index 0 undesirable, 1 desirable."""

    sums: Float[Array, "2"]  # of the mean reward of each batch
    weights: Float[Array, "2"]  # of those means; 0 until the label was seen


def _known(labels: Labels) -> Flags:
    return (labels == 0) | (labels == 1)


def _log_ratios(logps: Values, reference_logps: Values, rows: Flags) -> Values:
    """Log-ratios, 0 (and without gradient) outside `rows`."""
    return log_ratio(jnp.where(rows, logps, 0), jnp.where(rows, reference_logps, 0))


def _mean(values: Values, rows: Flags) -> Float[Array, ""]:
    return jnp.where(rows, values, 0).sum() / jnp.maximum(rows.sum(), 1)


def kto(
    logps: Values,
    reference_logps: Values,
    labels: Labels,
    mismatched_logps: Values,
    reference_mismatched_logps: Values,
    where: Flags,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Values:
    """Kahneman-Tversky optimisation: sigmoid(beta (z - u)) for desirable, sigmoid(beta (u - z)) for others.

    Ethayarajh et al. 2024, arXiv:2402.01306. u is the log-ratio (nats) and z = max(0, mean log-ratio of
    mismatched responses), an estimate of the KL to the reference: one number for the whole batch, without
    gradient. z couples the batch: with microbatches each has a z of its own, which changes the value.

    Differs from HALOs, which leaves mismatched log-ratios that are exactly 0 out of the mean.

    Args:
      mismatched_logps, reference_mismatched_logps: of a response that belongs to another prompt; constants.
      beta: above 0 (TRL: 0.1).
      desirable_weight, undesirable_weight: 0 or more (1). The advised ratio of their totals over the data,
        desirable to undesirable, is [1, 3/2] in the paper's latest version, [1, 4/3] before and in TRL.

    Returns:
      [*n] a probability times its weight; half the weight, with slope -+ beta / 4 of it, at u = z.

    Raises:
      ValueError: shapes differ, beta is not above 0, or a weight is below 0.

    Example:
      >>> ref, labels = jnp.array([-4.0, -4.0]), jnp.array([1, 0])  # u = log 9, z = log 3
      >>> loss = partial(losses.kto, ref + jnp.log(9.0), ref, labels, ref + jnp.log(3.0), ref, labels >= 0)
      >>> print(loss(beta=1.0))
      [0.2500 0.7500]
    """
    positive(beta=beta)
    not_negative(desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)
    given = {"logps": logps, "reference_logps": reference_logps}
    given |= {
        "mismatched_logps": mismatched_logps,
        "reference_mismatched_logps": reference_mismatched_logps,
    }
    check_same_shape(given | {"labels": labels, "where": where})
    logps, reference_logps, mismatched, reference_mismatched = as_floats(**given)
    baseline = jax.nn.relu(_mean(_log_ratios(mismatched, reference_mismatched, where), where))
    rows = where & _known(labels)
    margins = beta * (_log_ratios(logps, reference_logps, rows) - jax.lax.stop_gradient(baseline))
    desirable = desirable_weight * jax.nn.sigmoid(-margins)
    undesirable = undesirable_weight * jax.nn.sigmoid(margins)
    return jnp.where(rows, jnp.where(labels == 1, desirable, undesirable), 0)


def bco_state() -> BcoState:
    """Before the first batch: nothing seen, so that the first shift is the first batch's.

    Returns:
      A `BcoState` of zeros.

    Example:
      >>> print(*losses.bco_state())
      [0.0000 0.0000] [0.0000 0.0000]
    """
    return BcoState(jnp.zeros(2), jnp.zeros(2))


def _shift(
    rewards: Values, labels: Labels, rows: Flags, state: BcoState, decay: float
) -> tuple[Float[Array, ""], BcoState]:
    """Mean of the two labels' mean rewards (of those seen so far), this batch included; and the new state."""
    rewards = jax.lax.stop_gradient(rewards)
    members = [rows & (labels == label) for label in (0, 1)]
    means = jnp.stack([_mean(rewards, m) for m in members])
    keep = jnp.where(jnp.stack([m.any() for m in members]), decay, 1.0)  # a label not in the batch stays
    sums, weights = keep * state.sums + (1 - keep) * means, keep * state.weights + (1 - keep)
    seen = weights > 0
    shift = jnp.where(seen, sums / jnp.where(seen, weights, 1), 0).sum() / jnp.maximum(seen.sum(), 1)
    state = BcoState(sums.astype(state.sums.dtype), weights.astype(state.weights.dtype))
    return shift, jax.tree.map(jax.lax.stop_gradient, state)


def bco(
    logps: Values,
    reference_logps: Values,
    labels: Labels,
    where: Flags,
    state: BcoState,
    *,
    beta: float = 0.1,
    decay: float = 0.9,
) -> tuple[Values, BcoState]:
    """Binary classifier optimisation: l(r - shift) for desirable, l(shift - r) for the others.

    Jung et al. 2024, arXiv:2404.04656. The shift, without gradient, is the mean of the average rewards of
    desirable and of undesirable responses. Each average is a moving one over batches, updated before it is
    used and without bias at its start: after the first batch it is that batch's. A label that is not in a
    batch keeps its average; before a label was seen at all, the other one's average is the shift. The shift
    couples the batch: with microbatches it is updated once for each, which changes the value.

    Differs from TRL, whose shift is the mean of all rewards ever seen, not balanced over the labels.

    Args:
      beta: above 0 (TRL: 0.1; the paper's is 0.01 by TRL's documentation).
      decay: of the moving average, in [0, 1); 0 is the batch alone (0.9 is ours, the paper gives no rate).
      state: from `bco_state`.

    Returns:
      [*n] nats, 0 or more, and the new state; log 2 where r is the shift.

    Raises:
      ValueError: shapes differ, beta is not above 0, or decay is outside [0, 1).

    Example:
      >>> logps, ref = jnp.array([-1.0, -3.0]), jnp.array([-9.0, -9.0])  # rewards 8 and 6: the shift is 7
      >>> labels = jnp.array([1, 0])
      >>> print(losses.bco(logps, ref, labels, labels >= 0, losses.bco_state(), beta=1.0)[0])
      [0.3133 0.3133]
    """
    positive(beta=beta)
    within("decay", decay, 0, 1)
    check_same_shape({"logps": logps, "reference_logps": reference_logps, "labels": labels, "where": where})
    logps, reference_logps = as_floats(logps=logps, reference_logps=reference_logps)
    rows = where & _known(labels)
    rewards = beta * _log_ratios(logps, reference_logps, rows)
    shift, state = _shift(rewards, labels, rows, state, decay)
    margins = jnp.where(labels == 1, rewards - shift, shift - rewards)
    return jnp.where(rows, logistic(margins), 0), state


def bco_weighted(
    logps: Values,
    reference_logps: Values,
    labels: Labels,
    densities: Values,
    where: Flags,
    state: BcoState,
    *,
    beta: float = 0.1,
    decay: float = 0.9,
    lowest_weight: float = 0.5,
    highest_weight: float = 10.0,
) -> tuple[Values, BcoState]:
    """`bco` whose undesirable losses are weighted to the prompts of the desirable ones.

    Underlying distribution matching of Jung et al. 2024, arXiv:2404.04656 (first version): the weight is the
    ratio p(desirable | prompt) / p(undesirable | prompt), clamped. The shift is that of `bco`, unweighted. It
    couples the batch: see `bco` about microbatches.

    Args:
      densities: the ratio, 0 or more, from a classifier of prompt embeddings; data. Desirable rows ignore it.
      beta, decay, state: see `bco`.
      lowest_weight, highest_weight: of the clamp, 0 < lowest <= highest (TRL: 0.5 and 10).

    Returns:
      [*n] nats, 0 or more, and the new state; densities of 1 are `bco`.

    Raises:
      ValueError: shapes differ, or a hyper-parameter is outside its range.

    Example:
      >>> logps, ref = jnp.array([-1.0, -3.0, -3.0]), jnp.full(3, -9.0)  # losses of `bco`: 0.3133 each
      >>> labels, densities = jnp.array([1, 0, 0]), jnp.array([4.0, 4.0, 0.0])  # weights 1, 4 and 0.5
      >>> loss = partial(losses.bco_weighted, beta=1.0, state=losses.bco_state())
      >>> print(loss(logps, ref, labels, densities, labels >= 0)[0])
      [0.3133 1.2530 0.1566]
    """
    positive(lowest_weight=lowest_weight)
    if not highest_weight >= lowest_weight:
        raise ValueError(f"highest_weight: expected {lowest_weight} or more, got {highest_weight}")
    check_same_shape({"logps": logps, "densities": densities})
    (densities,) = as_floats(densities=densities)
    values, state = bco(logps, reference_logps, labels, where, state, beta=beta, decay=decay)
    weighted = (labels == 0) & where
    weights = jnp.clip(jnp.where(weighted, densities, 1), lowest_weight, highest_weight)
    return jnp.where(weighted, jax.lax.stop_gradient(weights), 1) * values, state


def apo_zero_unpaired(logps: Values, reference_logps: Values, labels: Labels, *, beta: float = 0.1) -> Values:
    """Anchored preference optimisation, one side of `apo_zero`: sigmoid(-r) for desirable, else sigmoid(r).

    D'Oosterlinck et al. 2024, arXiv:2408.06266, as in TRL's KTO trainer: a probability, not its logarithm
    (log-probs are in nats). It is `kto` with z = 0.

    Args:
      beta: above 0 (0.1: the paper's, by TRL's documentation).

    Returns:
      [*n] in [0, 1], no unit; 1/2 where policy and reference agree.

    Raises:
      ValueError: shapes differ, or beta is not above 0.

    Example:
      >>> ref = jnp.array([-4.0, -4.0])
      >>> print(losses.apo_zero_unpaired(ref + jnp.log(3.0), ref, jnp.array([1, 0]), beta=1.0))
      [0.2500 0.7500]
    """
    positive(beta=beta)
    check_same_shape({"logps": logps, "reference_logps": reference_logps, "labels": labels})
    logps, reference_logps = as_floats(logps=logps, reference_logps=reference_logps)
    rows = _known(labels)
    rewards = beta * _log_ratios(logps, reference_logps, rows)
    return jnp.where(rows, jax.nn.sigmoid(jnp.where(labels == 1, -rewards, rewards)), 0)


def pmpo(
    logps: Values,
    labels: Labels,
    forward_kl: Float[Array, "*n r"],
    mask: Bool[Array, "*n r"],
    *,
    alpha: float = 0.5,
    beta: float = 0.3,
) -> Values:
    """Preference optimisation as probabilistic inference: alpha (-logp) or (1 - alpha) logp, + beta KL.

    Abdolmaleki et al. 2024, arXiv:2410.04166, Eq. 10 by secondary sources (not checked against the paper):
    -logp of desirable responses weighs alpha, +logp of the others 1 - alpha. The KL is KL(reference ||
    policy), summed over the scored positions of the response. alpha = 1, beta = 0 is the likelihood of the
    desirable ones. Log-probs of the others have no lower bound: beta is what holds them. The expectations are
    over each label by itself; the mean of these losses weighs the labels by frequency. With as many of one as
    of the other it is the KL part plus half the likelihood part.

    Args:
      forward_kl: KL(reference || policy) at each position, nats, 0 or more.
      alpha: in [0, 1]. beta: 0 or more, above 0 where alpha is 0. (0.5 and 0.3 are a port's. The paper's have
        not been verified; by a secondary source, alpha 0.5 needs a beta above about 0.5 on its control tasks,
        and alpha 0 one above 1.)

    Returns:
      [*n] nats, of either sign.

    Raises:
      ValueError: shapes differ, a hyper-parameter is outside its range, or alpha and beta are both 0.

    Example:
      >>> logps, labels, mask = jnp.array([-1.0, -2.0]), jnp.array([1, 0]), jnp.ones((2, 1), bool)
      >>> kl = jnp.array([[1.0], [0.0]])  # 0.5 * 1 + 0.3 * 1; 0.5 * -2
      >>> print(losses.pmpo(logps, labels, kl, mask))
      [0.8000 -1.0000]
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: expected a number in [0, 1], got {alpha}")
    not_negative(beta=beta)
    if alpha == 0 and beta == 0:
        raise ValueError("beta: expected a number above 0 where alpha is 0 (nothing bounds the loss), got 0")
    check_same_shape({"logps": logps, "labels": labels})
    check_same_shape({"forward_kl": forward_kl, "mask": mask})
    if jnp.shape(mask)[:-1] != jnp.shape(logps):
        raise ValueError(
            f"expected one shape, and one more axis for positions, got logps {jnp.shape(logps)} and "
            f"forward_kl {jnp.shape(forward_kl)}"
        )
    logps, forward_kl = floats(logps, forward_kl)
    rows = _known(labels)
    divergence = jnp.where(mask & rows[..., None], forward_kl, 0).sum(-1)
    weights = jnp.where(labels == 1, -alpha, 1 - alpha)
    return jnp.where(rows, weights * jnp.where(rows, logps, 0) + beta * divergence, 0)
