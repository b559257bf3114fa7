"""Pairwise losses in which the length of a response counts: averages per token, or a length in the margin."""

import jax
from jaxtyping import Array, Float, Int

from jaxpref.losses.checks import as_floats, not_negative, positive
from jaxpref.losses.links import logistic, squared
from jaxpref.losses.scores import bounded_exp, log_ratios, per_token

__all__ = ["alpha_po", "ipo_mean", "length_dpo", "ln_dpo", "mipo", "simpo"]

Batch = Float[Array, " b"]
Lengths = Int[Array, " b"]


def _averaged(
    chosen: Batch,
    rejected: Batch,
    reference_chosen: Batch,
    reference_rejected: Batch,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
) -> Batch:
    """Difference of log-ratios per token."""
    as_floats(chosen_logps=chosen, chosen_lengths=chosen_lengths, rejected_lengths=rejected_lengths)
    first, second = log_ratios(chosen, rejected, reference_chosen, reference_rejected)
    return per_token(first, chosen_lengths) - per_token(second, rejected_lengths)


def ipo_mean(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
    *,
    tau: float = 0.1,
) -> Batch:
    """IPO on log-ratios averaged over tokens; what TRL (DPOTrainer) and HALOs call IPO.

    Azar et al. 2023, arXiv:2310.12036, Eq. 17 with log-ratios per token. Units: (nats per token) squared.
    The same `tau` means a target per token here and per response in `ipo`. With tau 0.1, a
    target of 5 nats a token, and the behaviour policy as the reference, it is the released IPO of online BPO.

    Differs from TRL, which counts tokens in the unshifted completion mask: lengths here are scored tokens.

    Args:
      tau: above 0 (0.1, as in TRL and HALOs).

    Returns:
      [b], (nats per token) squared, 0 or more; 1 / (4 tau^2) where policy and reference agree.

    Raises:
      ValueError: tau is not above 0, or shapes differ.

    Example:
      >>> chosen, reference, lengths = jnp.array([-2.0, -4.0]), jnp.array([-4.0, -4.0]), jnp.array([2, 2])
      >>> inputs = chosen, reference, reference, reference, lengths, lengths  # u_w per token: 1 and 0
      >>> print(losses.ipo_mean(*inputs, tau=0.5))  # the target is 1
      [0.000 1.000]
    """
    positive(tau=tau)
    margins = _averaged(
        chosen_logps,
        rejected_logps,
        reference_chosen_logps,
        reference_rejected_logps,
        chosen_lengths,
        rejected_lengths,
    )
    return squared(margins, 1 / (2 * tau))


def ln_dpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
    *,
    beta: float = 5.0,
) -> Batch:
    """Length-normalised DPO: -log sigmoid(beta * difference of log-ratios per token).

    Ahrabian et al. 2024, "The Hitchhiker's Guide to Human Alignment with *PO", arXiv:2407.15229; TRL's
    `sigmoid_norm`. With equal lengths T it is `dpo` with beta / T, so beta is on a scale |y| times larger.
    Log-probs in nats.

    Args:
      beta: above 0, on a per-token scale (5: the released recipe of Tulu 3; the grid of the paper has
        not been verified).

    Returns:
      [b], nats, 0 or more; log 2 where policy and reference agree.

    Raises:
      ValueError: beta is not above 0, or shapes differ.

    Example:
      >>> logps = [jnp.array([x]) for x in (-1.0, -3.0, -2.0, -2.0)]  # u_w = 1, u_l = -1
      >>> print(losses.ln_dpo(*logps, jnp.array([10]), jnp.array([10])), losses.dpo(*logps, beta=0.5))
      [0.3133] [0.3133]
    """
    positive(beta=beta)
    margins = _averaged(
        chosen_logps,
        rejected_logps,
        reference_chosen_logps,
        reference_rejected_logps,
        chosen_lengths,
        rejected_lengths,
    )
    return logistic(beta * margins)


def simpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
    *,
    beta: float = 2.0,
    gamma_beta_ratio: float = 0.25,
) -> Batch:
    """SimPO: no reference, log-probs per token, a target margin.

    -log sigmoid(beta * (logp_w / |y_w| - logp_l / |y_l| - gamma / beta)), Meng et al. 2024,
    arXiv:2405.14734, Eq. 6; log-probs in nats.

    Differs from TRL's CPOTrainer, which takes gamma itself and adds an NLL term unless `cpo_alpha=0`.

    Args:
      beta: above 0 (released code 2.0; released models 2 to 10). It is on a per-token scale.
      gamma_beta_ratio: gamma / beta, 0 or more (released code 0.25).

    Returns:
      [b], nats, 0 or more; softplus(gamma), which is above log 2, at equal averages.

    Raises:
      ValueError: beta is not above 0, gamma_beta_ratio is below 0, or shapes differ.

    Example:
      >>> inputs = jnp.array([-2.0]), jnp.array([-4.0]), jnp.array([2]), jnp.array([4])
      >>> print(losses.simpo(*inputs, beta=2.0, gamma_beta_ratio=0.5))  # softplus(1)
      [1.3133]
    """
    positive(beta=beta)
    not_negative(gamma_beta_ratio=gamma_beta_ratio)
    chosen, rejected, chosen_lengths, rejected_lengths = as_floats(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    margins = per_token(chosen, chosen_lengths) - per_token(rejected, rejected_lengths)
    return logistic(beta * (margins - gamma_beta_ratio))


def alpha_po(
    chosen_logps: Batch,
    rejected_logps: Batch,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
    *,
    beta: float = 2.0,
    gamma_beta_ratio: float = 0.25,
    alpha: float = 0.25,
) -> Batch:
    """AlphaPO: `simpo` of phi(a) = (1 - exp(-alpha a)) / alpha, a the log-prob per token; nats.

    Gupta et al. 2025, arXiv:2501.03884, as TRL's CPOTrainer has it. alpha -> 0 is `simpo`; above 0 it
    separates unlikely responses more, below 0 less. The exponential is held constant beyond 40 nats.

    Args:
      beta: above 0. gamma_beta_ratio: 0 or more. (Both as in `simpo`; TRL quotes 2.5 and a gamma of 0.1.)
      alpha: any number but 0 (0.25, as TRL quotes the paper).

    Returns:
      [b], nats, 0 or more; softplus(gamma) at equal averages.

    Raises:
      ValueError: beta or gamma_beta_ratio is out of range, alpha is 0, or shapes differ.

    Example:
      >>> inputs = jnp.log(jnp.array([0.5])), jnp.log(jnp.array([0.25])), jnp.array([1]), jnp.array([1])
      >>> print(losses.alpha_po(*inputs, beta=0.5, gamma_beta_ratio=0.0, alpha=1.0))  # h = (-2 + 4) / 2
      [0.3133]
    """
    positive(beta=beta)
    not_negative(gamma_beta_ratio=gamma_beta_ratio)
    if not abs(alpha) > 0:
        raise ValueError(f"alpha: expected a number other than 0 (there it is simpo), got {alpha}")
    chosen, rejected, chosen_lengths, rejected_lengths = as_floats(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    first, second = per_token(chosen, chosen_lengths), per_token(rejected, rejected_lengths)
    margins = (bounded_exp(-alpha * second) - bounded_exp(-alpha * first)) / alpha
    return logistic(beta * (margins - gamma_beta_ratio))


def length_dpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
    *,
    beta: float = 0.1,
    alpha: float = 0.1,
) -> Batch:
    """Length-regularised DPO ("R-DPO"): h = beta * difference of log-ratios + alpha * (|y_w| - |y_l|).

    Park et al. 2024, arXiv:2403.19159. The length is inside the margin, so a longer chosen response
    *weakens* the gradient: length has explained part of the label already. Equal lengths give `dpo`; nats.

    Args:
      beta: above 0. alpha: nats a token, 0 or more (0.1 in a public port; the paper's value is not verified).

    Returns:
      [b], nats, 0 or more; log 2 where policy and reference agree and lengths are equal.

    Raises:
      ValueError: beta is not above 0, alpha is below 0, or shapes differ.

    Example:
      >>> same = [jnp.array([-2.0])] * 4
      >>> print(losses.length_dpo(*same, jnp.array([12]), jnp.array([2]), alpha=0.1))  # h = 0.1 * 10
      [0.3133]
    """
    positive(beta=beta)
    not_negative(alpha=alpha)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    _, chosen_lengths, rejected_lengths = as_floats(
        chosen_logps=chosen_logps, chosen_lengths=chosen_lengths, rejected_lengths=rejected_lengths
    )
    return logistic(beta * (first - second) + alpha * (chosen_lengths - rejected_lengths))


def mipo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
    *,
    beta: float = 20.0,
) -> Batch:
    """Modulated intervention: the reference counts as far as it agrees with the label.

    h = beta * (a_w - a_l - softplus(K)), with a the policy's log-probs per token and K the reference's
    difference of them, arXiv:2409.17545; nats. At one beta, K -> infinity is `ln_dpo` and K -> -infinity
    `simpo` at ratio 0.

    Differs from the author's trainer in that log(1 + exp(K)) cannot overflow.

    Args:
      beta: above 0, on a per-token scale (released configuration: 20; its README advises 5 to 25).

    Returns:
      [b], nats, 0 or more; log 2 where a_w - a_l = softplus(K).

    Raises:
      ValueError: beta is not above 0, or shapes differ.

    Example:
      >>> logps, lengths = [jnp.array([x]) for x in (-1.0, -2.0, -2.0, -2.0)], [jnp.array([1])] * 2  # K = 0
      >>> print(losses.mipo(*logps, *lengths, beta=1.0), jnp.log(1 + 2 * jnp.exp(-1.0)))  # h = 1 - log 2
      [0.5514] 0.5514
    """
    positive(beta=beta)
    chosen, rejected, reference_chosen, reference_rejected, chosen_lengths, rejected_lengths = as_floats(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        reference_chosen_logps=reference_chosen_logps,
        reference_rejected_logps=reference_rejected_logps,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    margins = per_token(chosen, chosen_lengths) - per_token(rejected, rejected_lengths)
    agreement = per_token(reference_chosen, chosen_lengths) - per_token(reference_rejected, rejected_lengths)
    return logistic(beta * (margins - jax.nn.softplus(jax.lax.stop_gradient(agreement))))
