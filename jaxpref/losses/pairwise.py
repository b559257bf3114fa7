"""Losses of a chosen and a rejected response: one number per pair, no reduction.

All take log-probs summed over the scored tokens of a response (nats) and, where a method normalises by
length, the number of those tokens. `h` is the margin that enters the link.
"""

from jaxtyping import Array, Float, Int

from jaxpref.losses.links import logistic, smoothed_logistic, squared
from jaxpref.losses.scores import log_ratio, per_token
from jaxpref.losses.shapes import as_floats

__all__ = ["cdpo", "dpo", "ipo", "ipo_mean", "simpo"]

Batch = Float[Array, " b"]
Lengths = Int[Array, " b"]


def _log_ratio_margins(chosen, rejected, reference_chosen, reference_rejected) -> Batch:
    chosen, rejected, reference_chosen, reference_rejected = as_floats(
        chosen_logps=chosen,
        rejected_logps=rejected,
        reference_chosen_logps=reference_chosen,
        reference_rejected_logps=reference_rejected,
    )
    return log_ratio(chosen, reference_chosen) - log_ratio(rejected, reference_rejected)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}: expected a number above 0, got {value}")


def dpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.1,
) -> Batch:
    """Direct preference optimisation: -log sigmoid(beta * difference of log-ratios).

    Rafailov et al. 2023, arXiv:2305.18290, Eq. 7. log 2 where policy and reference agree.

    Args:
      beta: strength of the KL constraint to the reference, above 0 (paper: 0.1; 0.5 for TL;DR).
    """
    _positive(beta=beta)
    margins = _log_ratio_margins(
        chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps
    )
    return logistic(beta * margins)


def cdpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.1,
) -> Batch:
    """Conservative DPO: DPO's cross entropy when a label is wrong with probability `label_smoothing`.

    Mitchell 2023, a note on DPO with noisy preferences (ericmitchell.ai/cdpo.pdf), Eq. 1; the same as
    `label_smoothing` of the DPO reference code. Its minimum is at h = log((1 - e) / e), and e = 0 is `dpo`.

    Differs from TRL >= 0.29, whose `sigmoid` loss ignores `label_smoothing`.

    Args:
      label_smoothing: e, in [0, 0.5).
    """
    _positive(beta=beta)
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing: expected a number in [0, 0.5), got {label_smoothing}")
    margins = _log_ratio_margins(
        chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps
    )
    return smoothed_logistic(beta * margins, label_smoothing)


def ipo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    tau: float = 0.1,
) -> Batch:
    """Identity preference optimisation on summed log-probs: (h - 1 / (2 tau))^2.

    Azar et al. 2023, arXiv:2310.12036, Eq. 17 (the paper writes sequence probabilities, hence sums).
    Units: nats squared. See `ipo_mean` for the length-normalised form.

    Args:
      tau: regularisation, above 0 (paper and TRL: 0.1); the target margin is 1 / (2 tau) nats.
    """
    _positive(tau=tau)
    margins = _log_ratio_margins(
        chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps
    )
    return squared(margins, 1 / (2 * tau))


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
    The same `tau` means a target per token here and per response in `ipo`.

    Differs from TRL, which counts tokens in the unshifted completion mask: lengths here are scored tokens.
    """
    _positive(tau=tau)
    chosen, rejected, reference_chosen, reference_rejected, chosen_lengths, rejected_lengths = as_floats(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        reference_chosen_logps=reference_chosen_logps,
        reference_rejected_logps=reference_rejected_logps,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    margins = per_token(log_ratio(chosen, reference_chosen), chosen_lengths) - per_token(
        log_ratio(rejected, reference_rejected), rejected_lengths
    )
    return squared(margins, 1 / (2 * tau))


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
    arXiv:2405.14734, Eq. 6. At equal averages the loss is softplus(gamma), above log 2.

    Differs from TRL's CPOTrainer, which takes gamma itself and adds an NLL term unless `cpo_alpha=0`.

    Args:
      beta: above 0 (released code 2.0; released models 2 to 10). It is on a per-token scale.
      gamma_beta_ratio: gamma / beta, 0 or more (released code 0.25).
    """
    _positive(beta=beta)
    if gamma_beta_ratio < 0:
        raise ValueError(f"gamma_beta_ratio: expected 0 or more, got {gamma_beta_ratio}")
    chosen, rejected, chosen_lengths, rejected_lengths = as_floats(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    margins = per_token(chosen, chosen_lengths) - per_token(rejected, rejected_lengths)
    return logistic(beta * (margins - gamma_beta_ratio))
