"""Pairwise losses of the two rewards by themselves, not of their difference: r = beta * log-ratio."""

import jax
from jaxtyping import Array, Float

from jaxpref.losses.checks import positive
from jaxpref.losses.links import logistic, squared
from jaxpref.losses.scores import log_ratios

__all__ = ["apo_down", "apo_zero", "bco_pair", "nca", "sppo_hard"]

Batch = Float[Array, " b"]


def nca(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.01,
) -> Batch:
    """Noise contrastive alignment of a pair: l(r_w) + l(-r_w) / 2 + l(-r_l) / 2, l = -log sigmoid; nats.

    Chen et al. 2024, arXiv:2402.05369. The chosen reward has a fixed point at log 2, so it stays bounded and
    likelihood does not have to fall on both sides as it may in `dpo`.

    Args:
      beta: above 0 (released code: 0.01).
    """
    positive(beta=beta)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return logistic(beta * first) + (logistic(-beta * first) + logistic(-beta * second)) / 2


def bco_pair(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.1,
    shift: float = 0.0,
) -> Batch:
    """Binary classifier optimisation on a pair: l(r_w - shift) + l(shift - r_l), l = -log sigmoid; nats.

    Jung et al. 2024, arXiv:2404.04656, with a constant shift. `exp(bco_pair) = exp(dpo) +
    exp(shift - r_w) + exp(r_l - shift)`, so it bounds `dpo` from above.

    Differs from TRL < 0.29, whose shift is the running mean of all rewards (with 0.29 it became 0, as here).

    Args:
      beta: above 0 (TRL: 0.1).
    """
    positive(beta=beta)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return logistic(beta * first - shift) + logistic(shift - beta * second)


def apo_zero(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.1,
) -> Batch:
    """Anchored preference optimisation where the model is worse than what was chosen: one up, one down.

    sigmoid(-r_w) + sigmoid(r_l), D'Oosterlinck et al. 2024, arXiv:2408.06266. In [0, 2]: probabilities, not
    their logarithms.

    Args:
      beta: above 0 (0.1).
    """
    positive(beta=beta)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return jax.nn.sigmoid(-beta * first) + jax.nn.sigmoid(beta * second)


def apo_down(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.1,
) -> Batch:
    """Anchored preference optimisation where the model is better than what was chosen: both down.

    sigmoid(r_w) + sigmoid(r_l - r_w), D'Oosterlinck et al. 2024, arXiv:2408.06266. In [0, 2]: probabilities,
    not their logarithms. At the reference the chosen response has exactly no gradient.

    Args:
      beta: above 0 (0.1).
    """
    positive(beta=beta)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return jax.nn.sigmoid(beta * first) + jax.nn.sigmoid(beta * (second - first))


def sppo_hard(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.001,
) -> Batch:
    """Self-play preference optimisation with certain wins: ((u_w - 1/(2 beta))^2 + (u_l + 1/(2 beta))^2) / 2.

    Wu et al. 2024, arXiv:2405.00675, the loss of its released code where one response always wins. Units:
    nats squared. Where u_w = -u_l it is `ipo` with tau = beta / 2, divided by 4.

    Differs from TRL, whose `sppo_hard` has no factor one half.

    Args:
      beta: 1 / eta of the paper, above 0 (0.001).
    """
    positive(beta=beta)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    target = 1 / (2 * beta)
    return (squared(first, target) + squared(second, -target)) / 2
