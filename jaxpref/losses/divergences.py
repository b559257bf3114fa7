"""DPO under other divergences than the reverse KL: the log-ratio u passes through phi(u) = f'(exp(u)).

Wang et al. 2023, arXiv:2309.16240: with f' in place of the logarithm the closed form still cancels the
normaliser, so the loss is `-log sigmoid(beta * (phi(u_w) - phi(u_l)))`. The reverse KL is `losses.dpo`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpref.losses.checks import positive, within
from jaxpref.losses.links import logistic
from jaxpref.losses.scores import bounded_exp, log_ratios

__all__ = ["alpha_dpo", "chi_po", "forward_kl_dpo", "js_dpo"]

Batch = Float[Array, " b"]


def forward_kl_dpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.1,
) -> Batch:
    """DPO regularised by the forward KL: phi(u) = -exp(-u).

    Wang et al. 2023, arXiv:2309.16240. The slope of phi at u = 0 is 1, so near the reference it is `dpo`;
    nats. The exponential is held constant beyond 40 nats.

    Args:
      beta: above 0 (released code: 0.1).

    Returns:
      [b], nats, 0 or more; log 2 where policy and reference agree.

    Raises:
      ValueError: beta is not above 0, or shapes differ.

    Example:
      >>> half, quarter = jnp.log(jnp.array([0.5])), jnp.log(jnp.array([0.25]))  # u_w = log 2, u_l = 0
      >>> print(losses.forward_kl_dpo(half, quarter, quarter, quarter, beta=2.0))  # h = 2 * (1 - 1/2)
      [0.3133]
    """
    positive(beta=beta)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return logistic(beta * (bounded_exp(-second) - bounded_exp(-first)))


def js_dpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.1,
) -> Batch:
    """DPO regularised by the Jensen-Shannon divergence: phi(u) = log sigmoid(u) + log 2.

    Wang et al. 2023, arXiv:2309.16240; nats. The slope of phi at u = 0 is one half, so near the
    reference it is `dpo` with beta / 2. (The constant log 2 cancels.)

    Args:
      beta: above 0 (released code: 0.1).

    Returns:
      [b], nats, 0 or more; log 2 where policy and reference agree.

    Raises:
      ValueError: beta is not above 0, or shapes differ.

    Example:
      >>> half, quarter = jnp.log(jnp.array([0.5])), jnp.log(jnp.array([0.25]))  # u_w = log 2, u_l = 0
      >>> # h = 2 * log(4/3): sigmoid(log 2) = 2/3 against 1/2
      >>> print(losses.js_dpo(half, quarter, quarter, quarter, beta=2.0), jnp.log(1 + (3 / 4) ** 2))
      [0.4463] 0.4463
    """
    positive(beta=beta)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return logistic(beta * (jax.nn.log_sigmoid(first) - jax.nn.log_sigmoid(second)))


def alpha_dpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.1,
    alpha: float = 0.5,
) -> Batch:
    """DPO regularised by an alpha-divergence: phi(u) = (1 - exp(-alpha u)) / alpha.

    Wang et al. 2023, arXiv:2309.16240; nats. alpha -> 0 is `dpo`, alpha -> 1 `forward_kl_dpo`. The
    exponential is held constant beyond 40 nats.

    Differs from TRL >= 0.29, whose coefficient is 1 - alpha.

    Args:
      beta: above 0 (DPO's). alpha: in (0, 1) (the default is ours).

    Returns:
      [b], nats, 0 or more; log 2 where policy and reference agree.

    Raises:
      ValueError: beta is not above 0, alpha is not in (0, 1), or shapes differ.

    Example:
      >>> chosen, reference = jnp.log(jnp.array([0.8])), jnp.log(jnp.array([0.2]))  # u_w = log 4, u_l = 0
      >>> print(losses.alpha_dpo(chosen, reference, reference, reference, beta=1.0))  # h = 2 * (1 - 1/2)
      [0.3133]
    """
    positive(beta=beta)
    within("alpha", alpha, 0, 1, low_open=True)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return logistic(beta / alpha * (bounded_exp(-alpha * second) - bounded_exp(-alpha * first)))


def chi_po(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.1,
    clip: float | None = None,
) -> Batch:
    """chi-squared preference optimisation: phi(u) = exp(u) + u, which makes the policy pessimistic.

    Huang et al. 2024, arXiv:2407.13399; nats. The slope of phi at u = 0 is 2, so near the reference it is
    `dpo` with 2 beta. The exponential is held constant beyond 40 nats.

    Args:
      beta: above 0 (0.1 is ours; by public notes on the paper its experiments have 0.05 and 0.005).
      clip: the margin h is held in [-clip, clip], above 0; None does not clip. By the same
        notes the paper's Alg. 1 clips at twice the largest reward.

    Returns:
      [b], nats, 0 or more; log 2 where policy and reference agree.

    Raises:
      ValueError: beta or clip is not above 0, or shapes differ.

    Example:
      >>> half, quarter = jnp.log(jnp.array([0.5])), jnp.log(jnp.array([0.25]))  # u_w = log 2, u_l = 0
      >>> print(losses.chi_po(half, quarter, quarter, quarter, beta=1.0))  # h = (2 - 1) + log 2
      [0.1688]
      >>> print(losses.chi_po(half, quarter, quarter, quarter, beta=1.0, clip=1.0))
      [0.3133]
    """
    positive(beta=beta)
    if clip is not None:
        positive(clip=clip)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    margins = beta * (bounded_exp(first) - bounded_exp(second) + first - second)
    return logistic(margins if clip is None else jnp.clip(margins, -clip, clip))
