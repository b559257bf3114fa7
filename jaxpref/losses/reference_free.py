"""Pairwise losses without a reference, each with a likelihood term on the chosen response."""

import jax
from jaxtyping import Array, Float, Int

from jaxpref.losses.checks import as_floats, not_negative, positive
from jaxpref.losses.links import hinge, logistic
from jaxpref.losses.scores import log_odds, per_token

__all__ = ["cpo", "orpo", "slic_hf"]

Batch = Float[Array, " b"]
Lengths = Int[Array, " b"]


def slic_hf(
    chosen_logps: Batch, rejected_logps: Batch, *, delta: float = 1.0, sft_weight: float = 0.1
) -> Batch:
    """Sequence likelihood calibration: max(0, delta - logp_w + logp_l) + sft_weight * (-logp_w).

    Zhao et al. 2023, arXiv:2305.10425. The target of the likelihood term is the chosen response, as in HALOs;
    the paper's is its supervised reference or the best-ranked candidate. `rso_hinge` is the form with a
    reference and without that term.

    Args:
      delta: margin in nats, above 0 (paper, by secondary sources, and HALOs: 1).
      sft_weight: 0 or more (HALOs: 0.1).

    Returns:
      [b] nats, 0 or more.

    Raises:
      ValueError: shapes differ, delta is not above 0, or sft_weight is below 0.

    Example:
      >>> w, x = jnp.array([-2.0]), jnp.array([-2.5])  # half a nat is missing; 0.1 for each of two nats
      >>> print(losses.slic_hf(w, x))
      [0.7000]
    """
    positive(delta=delta)
    not_negative(sft_weight=sft_weight)
    chosen, rejected = as_floats(chosen_logps=chosen_logps, rejected_logps=rejected_logps)
    return hinge(chosen - rejected, delta) - sft_weight * chosen


def cpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    chosen_lengths: Lengths,
    *,
    beta: float = 0.1,
    sft_weight: float = 1.0,
) -> Batch:
    """Contrastive preference optimisation, without a reference, beside a likelihood.

    -log sigmoid(beta * (logp_w - logp_l)) - sft_weight * logp_w / |y_w|, Xu et al. 2024, arXiv:2401.08417.
    Log-probs are sums in the preference term; the likelihood term is per token
    of the chosen response.

    Differs from the released code, which averages the likelihood over the tokens of the whole batch: there a
    long response weighs more. (Its current HEAD is another method, ARPO.)

    Args:
      beta: above 0 (released code: 0.1).
      sft_weight: 0 or more (released code: 1).

    Returns:
      [b] nats, 0 or more; at equal log-probs log 2 above the likelihood term.

    Raises:
      ValueError: shapes differ, beta is not above 0, or sft_weight is below 0.

    Example:
      >>> w, x = jnp.array([-2.0]), jnp.array([-4.0])  # -log sigmoid(1) = 0.3133, and half a nat a token
      >>> print(losses.cpo(w, x, jnp.array([4]), beta=0.5))
      [0.8133]
    """
    positive(beta=beta)
    not_negative(sft_weight=sft_weight)
    chosen, rejected, chosen_lengths = as_floats(
        chosen_logps=chosen_logps, rejected_logps=rejected_logps, chosen_lengths=chosen_lengths
    )
    return logistic(beta * (chosen - rejected)) - sft_weight * per_token(chosen, chosen_lengths)


def orpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
    *,
    odds_weight: float = 0.1,
) -> Batch:
    """Odds-ratio preference optimisation: -logp_w / |y_w| - odds_weight * log sigmoid(log(odds_w / odds_l)).

    Hong et al. 2024, arXiv:2403.07691. odds = p / (1 - p) of p = exp(logp / |y|), held at p = 1 - 1e-6.

    Differs from TRL and the released code, which also count prompt tokens in the likelihood by default.

    Args:
      odds_weight: the paper's lambda, 0 or more (0.1 in the released model; TRL calls it beta).

    Returns:
      [b] nats, 0 or more.

    Raises:
      ValueError: shapes differ, or odds_weight is below 0.

    Example:
      >>> w, x, n = 2 * jnp.log(jnp.array([0.75])), 2 * jnp.log(jnp.array([0.25])), jnp.array([2])
      >>> print(losses.orpo(w, x, n, n, odds_weight=1.0))  # log(4/3), and an odds ratio of 9: log(10/9)
      [0.3930]
    """
    not_negative(odds_weight=odds_weight)
    chosen, rejected, chosen_lengths, rejected_lengths = as_floats(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    chosen, rejected = per_token(chosen, chosen_lengths), per_token(rejected, rejected_lengths)
    return -chosen + odds_weight * jax.nn.softplus(log_odds(rejected) - log_odds(chosen))
