"""Pairwise losses of the two rewards by themselves, not of their difference.

The reward of a response is r = beta * u, u its log-ratio to the reference (nats, summed over scored tokens);
w and l are the chosen and the rejected response, and l(h) = -log sigmoid(h).
"""

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
    """Noise contrastive alignment of a pair: l(r_w) + l(-r_w) / 2 + l(-r_l) / 2.

    Chen et al. 2024, arXiv:2402.05369. The chosen reward has a fixed point at log 2, so it stays bounded and
    likelihood does not have to fall on both sides as it may in `dpo`.

    Args:
      beta: above 0 (released code: 0.01).

    Returns:
      [b] nats, above 0; 2 log 2 where policy and reference agree.

    Raises:
      ValueError: shapes differ, or beta is not above 0.

    Example:
      >>> ref = jnp.array([-4.0])
      >>> loss = lambda w: losses.nca(w, ref - jnp.log(3.0), ref, ref, beta=1.0).sum()
      >>> print(loss(ref), jax.grad(loss)(ref + jnp.log(2.0)))  # (3 log 2 + log(4/3)) / 2; the fixed point
      1.1836 [0.0000]
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
    """Binary classifier optimisation on a pair: l(r_w - shift) + l(shift - r_l).

    Jung et al. 2024, arXiv:2404.04656, with a constant shift. `exp(bco_pair) = exp(dpo) +
    exp(shift - r_w) + exp(r_l - shift)`, so it bounds `dpo` from above.

    Differs from TRL < 0.29, whose shift is the running mean of all rewards (with 0.29 it became 0, as here).

    Args:
      beta: above 0 (TRL: 0.1; the paper's is 0.01 by TRL's documentation).
      shift: any number, in units of the rewards (TRL: 0).

    Returns:
      [b] nats, above 0; 2 log 2 where policy and reference agree and shift is 0.

    Raises:
      ValueError: shapes differ, or beta is not above 0.

    Example:
      >>> ref = jnp.array([-4.0])  # r_w = log 9, r_l = log 3: exp(loss) = 4/3 + 1/3 + 1
      >>> loss = partial(losses.bco_pair, beta=1.0, shift=np.log(3.0))
      >>> print(jnp.exp(loss(ref + jnp.log(9.0), ref + jnp.log(3.0), ref, ref)))
      [2.6667]
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

    sigmoid(-r_w) + sigmoid(r_l), D'Oosterlinck et al. 2024, arXiv:2408.06266: probabilities, not their
    logarithms (log-probs are in nats).

    Args:
      beta: above 0 (0.1: the paper's, by TRL's documentation).

    Returns:
      [b] in [0, 2], no unit; 1 where policy and reference agree.

    Raises:
      ValueError: shapes differ, or beta is not above 0.

    Example:
      >>> ref = jnp.array([-4.0])  # r_w = log 3 and r_l = -log 3: 1/4 + 1/4
      >>> print(losses.apo_zero(ref + jnp.log(3.0), ref - jnp.log(3.0), ref, ref, beta=1.0))
      [0.5000]
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

    sigmoid(r_w) + sigmoid(r_l - r_w), D'Oosterlinck et al. 2024, arXiv:2408.06266: probabilities, not their
    logarithms (log-probs are in nats). At the reference the chosen response has exactly no gradient.

    Args:
      beta: above 0 (0.1: the paper's, by TRL's documentation).

    Returns:
      [b] in [0, 2], no unit; 1 where policy and reference agree.

    Raises:
      ValueError: shapes differ, or beta is not above 0.

    Example:
      >>> ref = jnp.array([-4.0])  # r_w = log 3 and r_l = -log 3: 3/4 + 1/10
      >>> print(losses.apo_down(ref + jnp.log(3.0), ref - jnp.log(3.0), ref, ref, beta=1.0))
      [0.8500]
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

    Wu et al. 2024, arXiv:2405.00675, the loss of its released code where one response always wins. Where
    u_w = -u_l it is `ipo` with tau = beta / 2, divided by 4.

    Differs from TRL, whose `sppo_hard` has no factor one half.

    Args:
      beta: 1 / eta of the paper, above 0 (0.001).

    Returns:
      [b] nats squared, 0 or more; 1 / (4 beta^2) where policy and reference agree.

    Raises:
      ValueError: shapes differ, or beta is not above 0.

    Example:
      >>> w, x, ref = jnp.array([-1.0, -3.0]), jnp.array([-5.0, -3.0]), jnp.array([-3.0, -3.0])
      >>> print(losses.sppo_hard(w, x, ref, ref, beta=0.25))  # at the targets +2 and -2; at the reference
      [0.0000 4.0000]
    """
    positive(beta=beta)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    target = 1 / (2 * beta)
    return (squared(first, target) + squared(second, -target)) / 2
