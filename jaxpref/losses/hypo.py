"""Hybrid preference optimisation (arXiv:2406.01462): recorded pairs, and samples of the policy for the KL."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpref.losses.checks import check_axes, floats, not_negative, positive
from jaxpref.losses.pairwise import dpo
from jaxpref.losses.scores import log_ratio

__all__ = ["hypo", "sampled_kl"]

Batch = Float[Array, " b"]
Samples = Float[Array, "b s"]


def sampled_kl(sampled_logps: Samples, reference_sampled_logps: Samples, clip: float | None = None) -> Batch:
    """Mean over samples of log pi(y) * sg(u(y) - mean u of the other samples), u the log-ratio
    (arXiv:2406.01462).

    On samples of the policy its mean gradient is that of KL(pi || pi_ref), exactly. A single sample has no
    baseline.

    Args:
      clip: bound of |u|, which biases the gradient where it acts, nats; None: no bound.

    Returns:
      [b], nats; the gradient means something, the value is no estimate of the KL.

    Example:
      >>> sampled, reference = jnp.array([[-1.0, -2.0]]), jnp.array([[-2.0, -2.0]])  # u = 1, 0
      >>> print(sampled_kl(sampled, reference))  # (-1 * (1 - 0) - 2 * (0 - 1)) / 2
      [0.500]
    """
    ratios = jax.lax.stop_gradient(log_ratio(sampled_logps, reference_sampled_logps))
    if clip is not None:
        ratios = jnp.clip(ratios, -clip, clip)
    others = ratios.shape[-1] - 1
    baseline = (ratios.sum(-1, keepdims=True) - ratios) / others if others else 0.0
    return (sampled_logps * (ratios - baseline)).mean(-1)


def hypo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    sampled_logps: Samples,
    reference_sampled_logps: Samples,
    *,
    beta: float = 0.05,
    kl_weight: float = 1e-4,
    clip: float | None = None,
) -> Batch:
    """Hybrid preference optimisation: DPO on the recorded pair + kl_weight * KL from samples of the policy.

    `dpo + kl_weight * mean_s log pi(y_s) * sg(u_s - mean of the others' u)`, u the log-ratio of the whole
    response; Song et al. 2024, arXiv:2406.01462; nats. The samples need no label and are drawn anew at every
    step. Where pairs cover only some responses DPO leaves the others free; here, at the optimum, the others
    share one log-ratio, the KL itself. kl_weight = 0 is `dpo`; a large one leads back to the reference.

    Two similar estimates are wrong: u itself as a loss has a mean gradient of zero, and dividing u by the
    number of tokens gives the gradient of something else.

    The form is that of the abstract; the paper's algorithm and the defaults have not been verified.

    Differs from the other HyPO, which clips the margin of the reference.

    Args:
      beta: DPO's, above 0. kl_weight: the paper's lambda, beside beta, 0 or more.
      clip: bound of |u| in the second term, above 0; None: no bound (what was released is not verified).

    Returns:
      [b], nats, any sign: the second term has the gradient of the KL, not its value.

    Raises:
      ValueError: a hyper-parameter is out of range, or shapes differ.

    Example:
      >>> logps = [jnp.array([x]) for x in (-1.0, -3.0, -2.0, -2.0)]  # u_w = 1, u_l = -1
      >>> samples = jnp.array([[-1.0, -2.0]]), jnp.array([[-2.0, -2.0]])
      >>> print(losses.hypo(*logps, *samples, beta=0.5, kl_weight=1.0))  # 0.3133 + 0.5
      [0.8133]
    """
    not_negative(kl_weight=kl_weight)
    if clip is not None:
        positive(clip=clip)
    losses = dpo(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=beta)
    check_axes(
        chosen_logps=(losses, "b"),
        sampled_logps=(sampled_logps, "b s"),
        reference_sampled_logps=(reference_sampled_logps, "b s"),
    )
    sampled, reference = floats(sampled_logps, reference_sampled_logps)
    return losses + kl_weight * sampled_kl(sampled, reference, clip)
