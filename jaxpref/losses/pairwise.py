"""Losses of a chosen and a rejected response: a link of the difference of their log-ratios.

All take log-probs summed over the scored tokens of a response (nats). u_w and u_l are the log-ratios of the
chosen and the rejected response, log pi(y|x) - log pi_ref(y|x); the margin h = beta * (u_w - u_l) enters the
link, and l(h) = -log sigmoid(h).
"""

from jaxtyping import Array, Float

from jaxpref.losses.checks import positive, within
from jaxpref.losses.links import (
    bernoulli_kl,
    hinge,
    log_ratio_modulated,
    logistic,
    smoothed_logistic,
    squared,
)
from jaxpref.losses.scores import log_ratios

__all__ = ["cdpo", "discopop", "dpo", "exo", "ipo", "robust_dpo", "rso_hinge"]

Batch = Float[Array, " b"]


def _margins(chosen: Batch, rejected: Batch, reference_chosen: Batch, reference_rejected: Batch) -> Batch:
    first, second = log_ratios(chosen, rejected, reference_chosen, reference_rejected)
    return first - second


def dpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.1,
) -> Batch:
    """Direct preference optimisation: -log sigmoid(beta * (u_w - u_l)).

    Rafailov et al. 2023, arXiv:2305.18290, Eq. 7.

    Args:
      beta: strength of the KL constraint to the reference, above 0 (paper: 0.1; 0.5 for TL;DR).

    Returns:
      [b] nats, 0 or more; log 2 where policy and reference agree.

    Raises:
      ValueError: shapes differ, or beta is not above 0.

    Example:
      >>> w, x, ref = jnp.array([-1.0]), jnp.array([-3.0]), jnp.array([-2.0])
      >>> print(losses.dpo(w, x, ref, ref, beta=0.5))  # log(1 + exp(-1))
      [0.3133]
    """
    positive(beta=beta)
    margins = _margins(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
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

    (1 - e) l(h) + e l(-h) = l(h) + e h. Mitchell 2023, a note on DPO with noisy preferences
    (ericmitchell.ai/cdpo.pdf), Eq. 1; the same as `label_smoothing` of the DPO reference code. Its minimum is
    at h = log((1 - e) / e), and e = 0 is `dpo`.

    Differs from TRL >= 0.29, whose `sigmoid` loss ignores `label_smoothing`.

    Args:
      beta: above 0 (0.1, as `dpo`).
      label_smoothing: e, in [0, 0.5) (0.1 is ours).

    Returns:
      [b] nats, the entropy of (e, 1 - e) or more; log 2 where policy and reference agree.

    Raises:
      ValueError: shapes differ, beta is not above 0, or label_smoothing is outside [0, 0.5).

    Example:
      >>> ref = jnp.array([-4.0])  # at the minimum for e = 1/4, h = log 3: the entropy of (1/4, 3/4)
      >>> print(losses.cdpo(ref + jnp.log(3.0), ref, ref, ref, beta=1.0, label_smoothing=0.25))
      [0.5623]
    """
    positive(beta=beta)
    within("label_smoothing", label_smoothing, 0, 0.5)
    margins = _margins(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return smoothed_logistic(beta * margins, label_smoothing)


def robust_dpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.1,
) -> Batch:
    """Provably robust DPO: an unbiased estimate of the clean loss when labels are flipped at a known rate.

    ((1 - e) l(h) - e l(-h)) / (1 - 2 e) = l(h) - e h / (1 - 2 e), Chowdhury et al. 2024, arXiv:2403.00409.
    The mean over flips equals `dpo`. The loss is not bounded below: it falls linearly as h grows, so a run
    needs early stopping. It differs from `cdpo` in the sign of the term in e.

    Args:
      beta: above 0 (TRL: 0.1).
      label_smoothing: e, the rate of flipped labels, in [0, 0.5) (TRL: 0.1); 1 / (1 - 2 e) has a pole at 1/2.

    Returns:
      [b] nats, of either sign; log 2 where policy and reference agree.

    Raises:
      ValueError: shapes differ, beta is not above 0, or label_smoothing is outside [0, 0.5).

    Example:
      >>> loss, ref = partial(losses.robust_dpo, beta=1.0, label_smoothing=0.25), jnp.array([-4.0])
      >>> w = ref + jnp.log(3.0)  # one label in four is flipped: the mean is that of `dpo`, log(4/3)
      >>> print(0.75 * loss(w, ref, ref, ref) + 0.25 * loss(ref, w, ref, ref))
      [0.2877]
    """
    positive(beta=beta)
    within("label_smoothing", label_smoothing, 0, 0.5)
    margins = _margins(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return smoothed_logistic(beta * margins, -label_smoothing / (1 - 2 * label_smoothing))


def ipo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    tau: float = 0.1,
) -> Batch:
    """Identity preference optimisation on summed log-probs: (u_w - u_l - 1 / (2 tau))^2.

    Azar et al. 2023, arXiv:2310.12036, Eq. 17 (the paper writes sequence probabilities, hence sums).
    `ipo_mean` is the length-normalised form.

    Args:
      tau: regularisation, above 0 (paper and TRL: 0.1); the target margin is 1 / (2 tau) nats.

    Returns:
      [b] nats squared, 0 or more; 1 / (4 tau^2) where policy and reference agree.

    Raises:
      ValueError: shapes differ, or tau is not above 0.

    Example:
      >>> w, x, ref = jnp.array([-1.0]), jnp.array([-3.0]), jnp.array([-2.0])  # a margin of 2 nats
      >>> print(losses.ipo(w, x, ref, ref, tau=0.25), losses.ipo(w, x, ref, ref, tau=0.1))  # targets 2 and 5
      [0.0000] [9.0000]
    """
    positive(tau=tau)
    margins = _margins(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return squared(margins, 1 / (2 * tau))


def rso_hinge(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.05,
) -> Batch:
    """Hinge on the log-ratio margin: max(0, 1 - h). RSO's "SLiC-norm"; TRL's `hinge`.

    Liu et al. 2023, arXiv:2309.06657. 0, with no gradient, beyond a margin of 1 / beta nats. `slic_hf` is the
    form without a reference.

    Args:
      beta: above 0 (the paper's gamma: 0.05).

    Returns:
      [b] in units of h, 0 or more; 1 where policy and reference agree.

    Raises:
      ValueError: shapes differ, or beta is not above 0.

    Example:
      >>> w, x, ref = jnp.array([-1.0]), jnp.array([-3.0]), jnp.array([-2.0])
      >>> print(losses.rso_hinge(w, x, ref, ref, beta=0.25), losses.rso_hinge(w, x, ref, ref, beta=1.0))
      [0.5000] [0.0000]
    """
    positive(beta=beta)
    margins = _margins(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return hinge(beta * margins, 1.0)


def exo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.5,
    label_smoothing: float = 1e-3,
) -> Batch:
    """Efficient exact optimisation from pairs: KL(Bernoulli(sigmoid(h)) || Bernoulli(1 - e)).

    Ji et al. 2024, arXiv:2402.00856, the two-response case: the reverse KL, where DPO is the forward one. The
    slope is sigmoid(h) sigmoid(-h) (h - log((1 - e) / e)): 0 at the target h = log((1 - e) / e), and
    vanishing as h falls, so a pair that is ranked badly enough gives no signal (in DPO it gives the most).

    Differs from the released code, whose targets (0, -10) are not normalised.

    Args:
      beta: above 0 (released: 0.5 on HH and TL;DR, 0.1 on IMDB).
      label_smoothing: e, in (0, 0.5) (TRL: 0.001); its logarithm enters, so 0 is refused.

    Returns:
      [b] nats, 0 or more; 0 at the target.

    Raises:
      ValueError: shapes differ, beta is not above 0, or label_smoothing is outside (0, 0.5).

    Example:
      >>> ref = jnp.array([-4.0, -4.0])
      >>> w = ref + jnp.log(jnp.array([3.0, 1.0]))  # at the target for e = 1/4; and KL(1/2 || 3/4)
      >>> print(losses.exo(w, ref, ref, ref, beta=1.0, label_smoothing=0.25))
      [0.0000 0.1438]
    """
    positive(beta=beta)
    within("label_smoothing", label_smoothing, 0, 0.5, low_open=True)
    margins = _margins(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return bernoulli_kl(beta * margins, label_smoothing)


def discopop(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.05,
    temperature: float = 0.05,
) -> Batch:
    """DiscoPOP, the log-ratio modulated loss that a language model found.

    (1 - m) l(h) + m exp(-h) with m = sigmoid(h / temperature), Lu et al. 2024, arXiv:2406.08414. The loss is
    not convex: at h = 0 its slope is +0.78 (temperature 0.05), so the margin first moves the wrong way; it
    has a local minimum at h = -0.1186 and a local maximum at h = 0.0720.

    Args:
      beta: above 0 (released code: 0.05).
      temperature: in (0, 1) (released code: 0.05).

    Returns:
      [b] above 0, a mixture of nats and exp(-h); (1 + log 2) / 2 where policy and reference agree.

    Raises:
      ValueError: shapes differ, beta is not above 0, or temperature is outside (0, 1).

    Example:
      >>> ref = jnp.array([-4.0])
      >>> print(losses.discopop(ref, ref, ref, ref))  # half of log 2, half of exp(0)
      [0.8466]
    """
    positive(beta=beta)
    within("temperature", temperature, 0, 1, low_open=True)
    margins = _margins(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return log_ratio_modulated(beta * margins, temperature)
