"""Losses of two drawn responses and a judge's opinion of them.

`chosen` and `rejected` are response 0 and response 1 here, whichever is better: `pair_preferences` says how
likely the first beats the second. Draws and opinions carry no gradient. Log-probs are summed over scored
tokens (nats); u_1 and u_2 are the log-ratios of the two responses. Online DPO needs no loss of its own: with
hard labels it is `dpo`, with soft ones `osp`.
"""

import jax
from jaxtyping import Array, Float

from jaxpref.losses.annotated import osp
from jaxpref.losses.checks import as_floats, not_negative, positive
from jaxpref.losses.scores import log_ratios

__all__ = ["dno", "online_ipo", "xpo"]

Batch = Float[Array, " b"]


def online_ipo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    pair_preferences: Batch,
    *,
    tau: float = 1.0,
) -> Batch:
    """Online IPO with soft labels: (u_1 - u_2 - (p - 1/2) / tau)^2, p = P(response 1 beats response 2).

    Calandriello et al. 2024, arXiv:2403.08635. Up to a constant in p it is the two-sided form,
    p * ipo(h) + (1 - p) * ipo(-h). With both responses from the policy the mean gradient vanishes at the Nash
    equilibrium of the game regularised by tau; with both from its mixture with the reference (IPO-MD), at the
    fixed point of Nash-MD with that mixture. p = 1 is `ipo`.

    Differs from the released form, -(2 p - 1) h + tau * h^2 up to scale: the same minimum.

    Args:
      tau: temperature of the game, above 0 (1: that paper's choice, by a secondary source).

    Returns:
      [b] nats squared, 0 or more; 0 where policy and reference agree and p is one half.

    Raises:
      ValueError: shapes differ, or tau is not above 0.

    Example:
      >>> w, x, ref = jnp.full(2, -1.0), jnp.full(2, -3.0), jnp.full(2, -2.0)  # a margin of 2 nats
      >>> print(losses.online_ipo(w, x, ref, ref, jnp.array([1.0, 0.5]), tau=0.25))  # targets 2 and 0
      [0.0000 4.0000]
    """
    positive(tau=tau)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    _, p = as_floats(chosen_logps=chosen_logps, pair_preferences=pair_preferences)
    return (first - second - (jax.lax.stop_gradient(p) - 0.5) / tau) ** 2


def xpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    pair_preferences: Batch,
    *,
    beta: float = 0.1,
    alpha: float = 1e-5,
) -> Batch:
    """Exploratory preference optimisation: DPO on (policy's sample, reference's sample) + optimism.

    p l(h) + (1 - p) l(-h) + alpha * log pi(y_2), h = beta * (u_1 - u_2), l = -log sigmoid: the policy drew
    response 1, the reference response 2, and p (1 or 0 of a hard judge) says whether the first beats the
    second. Xie et al. 2024, arXiv:2405.21046. The order is that of the draw, not of the label: the second
    term lowers what the *reference* drew, whether it won or lost. alpha = 0 is `osp`. The log-prob is not
    divided by the length, so a good alpha depends on it.

    Args:
      beta: above 0 (TRL: 0.1). alpha: 0 or more (TRL: 1e-5).

    Returns:
      [b] nats, of either sign: alpha * log pi(y_2) is not bounded below.

    Raises:
      ValueError: shapes differ, beta is not above 0, or alpha is below 0.

    Example:
      >>> w, x, ref = jnp.array([-1.0]), jnp.array([-3.0]), jnp.array([-2.0])  # 0.3133 - 0.1 * 3 nats
      >>> print(losses.xpo(w, x, ref, ref, jnp.array([1.0]), beta=0.5, alpha=0.1))
      [0.0133]
    """
    not_negative(alpha=alpha)
    losses = osp(
        chosen_logps,
        rejected_logps,
        reference_chosen_logps,
        reference_rejected_logps,
        pair_preferences,
        beta=beta,
    )
    _, of_reference = as_floats(losses=losses, rejected_logps=rejected_logps)
    return losses + alpha * of_reference


def dno(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    chosen_scores: Batch,
    rejected_scores: Batch,
    *,
    beta: float = 0.1,
) -> Batch:
    """Direct Nash optimisation: cross entropy of sigmoid(beta * (u_1 - u_2)) against sigmoid(r_1 - r_2).

    Rosset et al. 2024, arXiv:2404.03715, Eq. 8. `chosen_scores` and `rejected_scores` are the mean win rates
    r of the two responses against samples of the iterate before (`win_rates`), which is the reference. Its
    minimum over all pairs is the iterate times exp(r / beta) (Eq. 9): `osp` with that label. The paper's
    practical form is `dpo` on pairs of large margin, each round against the iterate before.

    Args:
      beta: the paper's eta, above 0 (0.1: its practical form has 0.1 or 0.05).

    Returns:
      [b] nats, the entropy of the label or more; log 2 where policy and reference agree.

    Raises:
      ValueError: shapes differ, or beta is not above 0.

    Example:
      >>> w, x, ref = jnp.array([-1.0]), jnp.array([-3.0]), jnp.array([-2.0])
      >>> high, low = jnp.array([0.75]), jnp.array([0.25])  # r_1 - r_2 = 0.5 = 0.25 * 2: the minimum
      >>> print(losses.dno(w, x, ref, ref, high, low, beta=0.25))  # the entropy of sigmoid(0.5)
      [0.6628]
    """
    _, high, low = as_floats(
        chosen_logps=chosen_logps, chosen_scores=chosen_scores, rejected_scores=rejected_scores
    )
    return osp(
        chosen_logps,
        rejected_logps,
        reference_chosen_logps,
        reference_rejected_logps,
        jax.nn.sigmoid(high - low),
        beta=beta,
    )
