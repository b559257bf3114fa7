"""DPO whose margin is moved, scaled by side, or joined by a term on the chosen response.

Log-probs are summed over scored tokens (nats); u_w and u_l are log-ratios to the reference.
"""

import jax
from jaxtyping import Array, Float, Int

from jaxpref.losses.checks import as_floats, not_negative, positive
from jaxpref.losses.links import logistic, squared
from jaxpref.losses.scores import log_ratios, per_token

__all__ = ["cal_dpo", "dpo_sft", "dpop", "flex_dpo", "iterative_rpo"]

Batch = Float[Array, " b"]
Lengths = Int[Array, " b"]


def dpop(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.3,
    penalty: float = 50.0,
) -> Batch:
    """DPO-positive: penalises a chosen response that became less likely than under the reference.

    -log sigmoid(beta * (u_w - u_l - penalty * max(0, -u_w))), Pal et al. 2024, arXiv:2402.13228. Where
    u_w >= 0 it is `dpo`. With summed log-probs and a penalty of 50 it is steep: expect gradient clipping.

    Args:
      beta: above 0. penalty: the paper's lambda, 0 or more. (0.3 and 50: the paper's, by secondary sources.)

    Returns:
      [b] nats, 0 or more; log 2 where policy and reference agree.

    Raises:
      ValueError: shapes differ, beta is not above 0, or penalty is below 0.

    Example:
      >>> w, x, ref = jnp.array([-2.5]), jnp.array([-4.5]), jnp.array([-2.0])  # both fell: 2 - 4 * 0.5
      >>> print(losses.dpop(w, x, ref, ref, beta=1.0, penalty=4.0))
      [0.6931]
    """
    positive(beta=beta)
    not_negative(penalty=penalty)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return logistic(beta * (first - second - penalty * jax.nn.relu(-first)))


def flex_dpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta_chosen: float = 0.1,
    beta_rejected: float = 0.1,
    sft_weight: float = 0.0,
) -> Batch:
    """Flex-DPO: -log sigmoid(beta_chosen * u_w - beta_rejected * u_l), with a strength for each side.

    Yan et al. 2024, "3D-Properties", arXiv:2406.07327. Equal strengths are `dpo`. Its other regulariser, a
    likelihood of the chosen response, is added as `sft_weight * -logp_w` (a sum over tokens; that the paper
    sums has not been verified).

    Args:
      beta_chosen, beta_rejected: above 0. The paper holds the first and sweeps the second (best near 0.08;
        its value of the first is not verified).
      sft_weight: 0 or more.

    Returns:
      [b] nats, 0 or more; log 2 where policy and reference agree and sft_weight is 0.

    Raises:
      ValueError: shapes differ, a strength is not above 0, or sft_weight is below 0.

    Example:
      >>> w, x, ref = jnp.array([-2.0]), jnp.array([-8.0]), jnp.array([-4.0])  # h = 0.5 * 2 + 0.25 * 4 = 2
      >>> loss = losses.flex_dpo(w, x, ref, ref, beta_chosen=0.5, beta_rejected=0.25, sft_weight=0.1)
      >>> print(loss)  # log(1 + exp(-2)) + 0.1 * 2 nats
      [0.3269]
    """
    positive(beta_chosen=beta_chosen, beta_rejected=beta_rejected)
    not_negative(sft_weight=sft_weight)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    preference = logistic(beta_chosen * first - beta_rejected * second)
    (chosen,) = as_floats(chosen_logps=chosen_logps)
    return preference - sft_weight * chosen


def cal_dpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.001,
) -> Batch:
    """Calibrated DPO: -log sigmoid(u_w - u_l) + ((u_w - 1/(2 beta))^2 + (u_l + 1/(2 beta))^2) / 2.

    Xiao et al. 2024, arXiv:2412.14516, as released: beta is in the targets only. The second term has its
    minimum at u_w = -u_l = 1/(2 beta).

    Differs from the released code in single rows: there the second term is the batch mean in every row. The
    mean over the batch is the same.

    Args:
      beta: above 0 (released script: 0.001, released configuration: 0.002; the paper's weight of the second
        term is not verified).

    Returns:
      [b] nats plus nats squared, 0 or more; log 2 + 1/(4 beta^2) where policy and reference agree.

    Raises:
      ValueError: shapes differ, or beta is not above 0.

    Example:
      >>> w, x, ref = jnp.array([-1.0, -3.0]), jnp.array([-5.0, -3.0]), jnp.array([-3.0, -3.0])
      >>> print(losses.cal_dpo(w, x, ref, ref, beta=0.25))  # at +2 and -2: -log sigmoid(4); log 2 + 4
      [0.0181 4.6931]
    """
    positive(beta=beta)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    target = 1 / (2 * beta)
    return logistic(first - second) + (squared(first, target) + squared(second, -target)) / 2


def dpo_sft(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    *,
    beta: float = 0.01,
    sft_weight: float = 0.005,
) -> Batch:
    """Regularised preference optimisation: DPO + sft_weight * beta * (-logp_w), the log-prob a sum.

    Liu et al. 2024, arXiv:2405.16436, as released.

    Differs from TRL's recipe (`["sigmoid", "sft"], [1, 0.005]`), which averages the NLL over tokens and does
    not multiply it by beta.

    Args:
      beta: above 0 (released: 0.01). sft_weight: the paper's eta, 0 or more (released: 0.005).

    Returns:
      [b] nats, 0 or more; sft_weight = 0 is `dpo`.

    Raises:
      ValueError: shapes differ, beta is not above 0, or sft_weight is below 0.

    Example:
      >>> w, x, ref = jnp.array([-2.0]), jnp.array([-4.0]), jnp.array([-3.0])  # 0.3133 + 0.1 * 0.5 * 2 nats
      >>> print(losses.dpo_sft(w, x, ref, ref, beta=0.5, sft_weight=0.1))
      [0.4133]
    """
    positive(beta=beta)
    not_negative(sft_weight=sft_weight)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    (chosen,) = as_floats(chosen_logps=chosen_logps)
    return logistic(beta * (first - second)) - sft_weight * beta * chosen


def iterative_rpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    chosen_lengths: Lengths,
    *,
    beta: float = 0.1,
    sft_weight: float = 1.0,
) -> Batch:
    """Iterative reasoning preference optimisation: DPO + sft_weight * (-logp_w / |y_w|).

    Pang et al. 2024, arXiv:2404.19733. The NLL is per token of the chosen response.

    Args:
      beta: above 0. sft_weight: the paper's alpha, 0 or more. (0.1 and 1: the paper's, by secondary sources;
        TRL has 1 too.)

    Returns:
      [b] nats, 0 or more; sft_weight = 0 is `dpo`.

    Raises:
      ValueError: shapes differ, beta is not above 0, or sft_weight is below 0.

    Example:
      >>> w, x, ref = jnp.array([-1.0]), jnp.array([-3.0]), jnp.array([-2.0])  # 0.3133, 1/2 nat a token
      >>> print(losses.iterative_rpo(w, x, ref, ref, jnp.array([2]), beta=0.5))
      [0.8133]
    """
    positive(beta=beta)
    not_negative(sft_weight=sft_weight)
    first, second = log_ratios(chosen_logps, rejected_logps, reference_chosen_logps, reference_rejected_logps)
    chosen, chosen_lengths = as_floats(chosen_logps=chosen_logps, chosen_lengths=chosen_lengths)
    return logistic(beta * (first - second)) - sft_weight * per_token(chosen, chosen_lengths)
