"""RE-PO: expectation maximisation over labels of unknown reliability, around any pairwise loss.

A loss L induces the logit h = L(y_l > y_w) - L(y_w > y_l). With p = sigmoid(h) and the reliability eta of the
annotator, the label is right with probability w = p eta / (p eta + (1 - p)(1 - eta)), and the loss is
-w log p - (1 - w) log(1 - p) with w held fixed. arXiv:2509.24159.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpref.losses.checks import as_floats, check_same_shape, not_negative, positive, within
from jaxpref.losses.links import logistic
from jaxpref.losses.rows import entry_of, only, slots, valid_log_ratios
from jaxpref.losses.scores import per_token

__all__ = ["re_cpo", "re_ipo", "re_po", "re_po_state", "re_simpo"]

Batch = Float[Array, " b"]
Rows = Bool[Array, " b"]
Ids = Int[Array, " b"]
Reliability = Float[Array, " annotators"]


def re_po_state(num_annotators: int = 1, reliability: float = 0.9) -> Reliability:
    """The state before the first step: one reliability eta for each annotator.

    Args:
      num_annotators: 1 or more; one where there are no ids.
      reliability: eta, in (0, 1] (paper: 0.9). At 1 it stays 1 and RE-PO is -log sigmoid(h).

    Returns:
      [annotators] probabilities that a label of each is right.

    Raises:
      ValueError: an argument is outside its range.

    Example:
      >>> print(losses.re_po_state(2))
      [0.9000 0.9000]
    """
    if num_annotators < 1:
        raise ValueError(f"num_annotators: expected 1 or more, got {num_annotators}")
    if not 0 < reliability <= 1:
        raise ValueError(f"reliability: expected a number in (0, 1], got {reliability}")
    return jnp.full(num_annotators, reliability)


def _expected(
    logits: Batch, annotators: Ids, valid: Rows, state: Reliability, rate: float
) -> tuple[Batch, Reliability]:
    """Both halves of a step: the loss under the present reliabilities, then their update."""
    within("rate", rate, 0, 1)
    check_same_shape({"chosen_logps": logits, "annotators": annotators, "valid": valid})
    logits = only(valid, logits)
    eta = entry_of(state, annotators, valid)
    right = jax.lax.stop_gradient(logits) + jnp.log(eta) - jnp.log1p(-eta)
    # Two sigmoids, as 1 - w would lose its digits.
    w, flipped = jax.nn.sigmoid(right), jax.nn.sigmoid(-right)
    losses = w * logistic(logits) + flipped * logistic(-logits)
    where = slots(state, annotators, valid)
    counts = jnp.zeros_like(state).at[where].add(1, mode="drop")
    totals = jnp.zeros_like(state).at[where].add(w.astype(state.dtype), mode="drop")
    mean = totals / jnp.maximum(counts, 1)
    return only(valid, losses), jnp.where(counts > 0, (1 - rate) * state + rate * mean, state)


def re_po(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    annotators: Ids,
    valid: Rows,
    state: Reliability,
    *,
    beta: float = 0.1,
    rate: float = 0.1,
) -> tuple[Batch, Reliability]:
    """RE-PO around DPO: labels weighted by how likely they are right; h = beta * (u_w - u_l).

    arXiv:2509.24159 (first called LCPO, then RPO). Its gradient is sigmoid(h) - w, that of
    -log(eta p + (1 - eta)(1 - p)). After the step eta of each annotator in the batch moves by `rate` to the
    mean w of its rows. The state is updated from the global batch; microbatches would update it once for each
    part.

    Args:
      beta: above 0 (ours). rate: of the moving average, in [0, 1) (paper: 0.1).

    Returns:
      [b] nats, 0 or more (0 in rows that are not valid, NaN for an annotator that the state does not have),
      and the new state.

    Raises:
      ValueError: shapes differ, beta is not above 0, or rate is outside [0, 1).

    Example:
      >>> ref, one, state = jnp.array([-4.0]), jnp.array([0]), losses.re_po_state(1, 0.5)
      >>> w, x = ref + jnp.log(6.0), ref + jnp.log(2.0)  # h = log 3, so that w = 3/4
      >>> print(*losses.re_po(w, x, ref, ref, one, one == 0, state, beta=1.0))  # entropy; 0.9 * 0.5 + 0.1 * w
      [0.5623] [0.5250]
    """
    positive(beta=beta)
    first, second = valid_log_ratios(
        chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps, valid
    )
    return _expected(beta * (first - second), annotators, valid, state, rate)


def re_ipo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    annotators: Ids,
    valid: Rows,
    state: Reliability,
    *,
    tau: float = 0.1,
    rate: float = 0.1,
) -> tuple[Batch, Reliability]:
    """RE-PO around IPO: `re_po` with h = 2 (u_w - u_l) / tau. A logistic surrogate, not a weighted square.

    arXiv:2509.24159. The state is updated from the global batch; microbatches would change it.

    Args:
      tau: above 0 (0.1, as `ipo`). rate: as `re_po`.

    Returns:
      [b] nats, 0 or more (0 in rows that are not valid), and the new state.

    Raises:
      ValueError: shapes differ, tau is not above 0, or rate is outside [0, 1).

    Example:
      >>> ref, one, state = jnp.array([-4.0]), jnp.array([0]), losses.re_po_state(1, 0.5)
      >>> w, x = ref + jnp.log(18.0), ref + jnp.log(2.0)  # h = 2 log 9 / 4 = log 3, as for re_po
      >>> print(*losses.re_ipo(w, x, ref, ref, one, one == 0, state, tau=4.0))
      [0.5623] [0.5250]
    """
    positive(tau=tau)
    first, second = valid_log_ratios(
        chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps, valid
    )
    return _expected(2 * (first - second) / tau, annotators, valid, state, rate)


def re_simpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    chosen_lengths: Int[Array, " b"],
    rejected_lengths: Int[Array, " b"],
    annotators: Ids,
    valid: Rows,
    state: Reliability,
    *,
    beta: float = 2.0,
    gamma_beta_ratio: float = 0.25,
    rate: float = 0.1,
) -> tuple[Batch, Reliability]:
    """RE-PO around SimPO: `re_po` with h = log sigmoid(s - gamma) - log sigmoid(-s - gamma).

    s = beta * (logp_w / |y_w| - logp_l / |y_l|), gamma = beta * gamma_beta_ratio, arXiv:2509.24159. gamma = 0
    gives h = s. The state is updated from the global batch; microbatches would change it.

    Args:
      beta, gamma_beta_ratio: as `simpo`. rate: as `re_po`.

    Returns:
      [b] nats, 0 or more (0 in rows that are not valid), and the new state.

    Raises:
      ValueError: shapes differ, or a hyper-parameter is outside its range.

    Example:
      >>> x, n, one, state = jnp.array([-4.0]), jnp.array([2]), jnp.array([0]), losses.re_po_state(1, 0.5)
      >>> loss = partial(losses.re_simpo, beta=1.0, gamma_beta_ratio=np.log(3.0))  # h = log(1/2) - log(1/10)
      >>> print(*loss(x + 2 * jnp.log(3.0), x, n, n, one, one == 0, state))  # the entropy of (5/6, 1/6)
      [0.4506] [0.5333]
    """
    positive(beta=beta)
    not_negative(gamma_beta_ratio=gamma_beta_ratio)
    chosen, rejected, chosen_lengths, rejected_lengths = as_floats(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    s = beta * (per_token(chosen, chosen_lengths) - per_token(rejected, rejected_lengths))
    check_same_shape({"chosen_logps": s, "valid": valid})
    s, gamma = only(valid, s), beta * gamma_beta_ratio
    return _expected(logistic(-s - gamma) - logistic(s - gamma), annotators, valid, state, rate)


def re_cpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    annotators: Ids,
    valid: Rows,
    state: Reliability,
    *,
    beta: float = 0.1,
    sft_weight: float = 1.0,
    rate: float = 0.1,
) -> tuple[Batch, Reliability]:
    """RE-PO around CPO with a summed NLL: `re_po` with h = (beta + sft_weight) * (logp_w - logp_l).

    arXiv:2509.24159. A logistic surrogate, not a weighted sum of CPO losses. The state is updated from
    the global batch; microbatches would change it.

    Args:
      beta: above 0 (0.1, as `cpo`). sft_weight: 0 or more (paper: 1). rate: as `re_po`.

    Returns:
      [b] nats, 0 or more (0 in rows that are not valid), and the new state.

    Raises:
      ValueError: shapes differ, or a hyper-parameter is outside its range.

    Example:
      >>> x, one, state = jnp.array([-4.0]), jnp.array([0]), losses.re_po_state(1, 0.5)
      >>> loss = partial(losses.re_cpo, beta=0.25, sft_weight=0.75)  # h = log 3, as for re_po
      >>> print(*loss(x + jnp.log(3.0), x, one, one == 0, state))
      [0.5623] [0.5250]
    """
    positive(beta=beta)
    not_negative(sft_weight=sft_weight)
    chosen, rejected = as_floats(chosen_logps=chosen_logps, rejected_logps=rejected_logps)
    return _expected((beta + sft_weight) * (chosen - rejected), annotators, valid, state, rate)
