"""Losses of scalar rewards, one for each response of a pair (Bradley-Terry and its relatives)."""

import jax
from jaxtyping import Array, Float, Int

from jaxpref.losses.checks import as_floats, not_negative, positive, within
from jaxpref.losses.links import logistic, smoothed_logistic
from jaxpref.losses.scores import per_token

__all__ = [
    "agreement_margins",
    "bradley_terry",
    "bradley_terry_margin",
    "bradley_terry_regression",
    "bradley_terry_sft",
    "bradley_terry_soft",
]

Batch = Float[Array, " b"]


def bradley_terry(
    chosen_rewards: Batch,
    rejected_rewards: Batch,
    *,
    margin: float = 0.0,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    centering: float = 0.0,
) -> Batch:
    """-log sigmoid((r_w - r_l - margin) / temperature): minus the log-likelihood of a label.

    Bradley & Terry 1952; as a language reward model Ouyang et al. 2022, arXiv:2203.02155, Eq. 1, and with a
    margin Touvron et al. 2023, arXiv:2307.09288, Eq. 2. A constant added to both rewards changes nothing,
    unless `centering`, TRL's penalty `centering * (r_w + r_l)^2`, holds them near 0.

    Differs from MOSS-RLHF, whose -log(sigmoid + 1e-5) ends at 11.5 nats and has no gradient there.

    Args:
      margin: any number. temperature: above 0 (GPM's baseline code: 0.1).
      label_smoothing: e, in [0, 0.5); the minimum is at r_w - r_l = margin + temperature * log((1 - e) / e).
      centering: 0 or more (TRL: off, 0.01 recommended).

    Returns:
      [b] nats, 0 or more; log 2 where r_w - r_l = margin (without centering).

    Raises:
      ValueError: shapes differ, or a hyper-parameter is outside its range.

    Example:
      >>> loss = partial(losses.bradley_terry, jnp.array([2.0]), jnp.array([1.0]))  # h = 1
      >>> print(loss(), loss(margin=0.5, temperature=0.5, centering=0.1))  # (1 - 0.5) / 0.5 = 1; 0.1 * 3^2
      [0.3133] [1.2133]
    """
    positive(temperature=temperature)
    within("label_smoothing", label_smoothing, 0, 0.5)
    not_negative(centering=centering)
    chosen, rejected = as_floats(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    ranking = smoothed_logistic((chosen - rejected - margin) / temperature, label_smoothing)
    return ranking + centering * (chosen + rejected) ** 2


def bradley_terry_margin(
    chosen_rewards: Batch,
    rejected_rewards: Batch,
    margins: Batch,
    *,
    temperature: float = 1.0,
    centering: float = 0.0,
) -> Batch:
    """Bradley-Terry with a margin m for each pair: -log sigmoid((r_w - r_l - m) / temperature).

    Touvron et al. 2023, arXiv:2307.09288, Eq. 2: m grows with the annotator's rating of the gap. Zero margins
    are `bradley_terry`.

    Args:
      temperature: above 0. centering: weight of (r_w + r_l)^2, 0 or more (TRL: off, 0.01 recommended).

    Returns:
      [b] nats, 0 or more; log 2 where r_w - r_l = m (without centering).

    Raises:
      ValueError: shapes differ, temperature is not above 0, or centering is below 0.

    Example:
      >>> w, x, m = jnp.array([2.0, 2.0]), jnp.array([1.0, 1.0]), jnp.array([1.0, 0.5])
      >>> print(losses.bradley_terry_margin(w, x, m, temperature=0.5))  # log 2; log(1 + exp(-1))
      [0.6931 0.3133]
      >>> print(losses.bradley_terry_margin(w, x, m, temperature=0.5, centering=0.1))  # 0.1 * 3^2 more
      [1.5931 1.2133]
    """
    positive(temperature=temperature)
    not_negative(centering=centering)
    chosen, rejected, margins = as_floats(
        chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards, margins=margins
    )
    return logistic((chosen - rejected - margins) / temperature) + centering * (chosen + rejected) ** 2


def bradley_terry_soft(
    chosen_rewards: Batch, rejected_rewards: Batch, pair_preferences: Batch, *, temperature: float = 1.0
) -> Batch:
    """Cross entropy against p = P(chosen beats rejected): -(p log sigmoid(h) + (1 - p) log sigmoid(-h)).

    Bradley & Terry 1952, with a share of votes, or another model's probability, as its label;
    h = (r_w - r_l) / temperature. The minimum is at h = log(p / (1 - p)), and p = 1 is `bradley_terry`.

    Args:
      temperature: above 0.

    Returns:
      [b] nats, the entropy of (p, 1 - p) or more; log 2 at equal rewards.

    Raises:
      ValueError: shapes differ, or temperature is not above 0.

    Example:
      >>> w, x = jnp.log(jnp.array([18.0, 18.0])), jnp.log(jnp.array([2.0, 2.0]))  # h = log 3
      >>> print(losses.bradley_terry_soft(w, x, jnp.array([0.75, 1.0]), temperature=2.0))
      [0.5623 0.2877]
    """
    positive(temperature=temperature)
    chosen, rejected, p = as_floats(
        chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards, pair_preferences=pair_preferences
    )
    margins = (chosen - rejected) / temperature
    return logistic(margins) + (1 - p) * margins


def bradley_terry_sft(
    chosen_rewards: Batch,
    rejected_rewards: Batch,
    chosen_logps: Batch,
    chosen_lengths: Int[Array, " b"],
    *,
    sft_weight: float = 0.01,
) -> Batch:
    """Bradley-Terry beside a language model's likelihood: -log sigmoid(r_w - r_l) - w * logp_w / |y_w|.

    The form of MOSS-RLHF, Zheng et al. 2023, arXiv:2307.04964: ranking + factor * language modelling, here
    per token of the chosen response. The second term keeps the trunk under the head a language model.

    Differs from GPM's code (Zhang et al. 2024, arXiv:2410.02197), which weighs the parts with (1 - c) and c
    and whose second part is -log sigmoid(beta * logp_w).

    Args:
      sft_weight: w, 0 or more (the default is ours; GPM's c is 0.01 to 0.1).

    Returns:
      [b] nats, 0 or more; w = 0 is `bradley_terry`.

    Raises:
      ValueError: shapes differ, or sft_weight is below 0.

    Example:
      >>> w, x, n = jnp.log(jnp.array([6.0])), jnp.log(jnp.array([2.0])), jnp.array([2])
      >>> print(losses.bradley_terry_sft(w, x, jnp.array([-4.0]), n, sft_weight=0.1))  # log(4/3) + 0.1 * 2
      [0.4877]
    """
    not_negative(sft_weight=sft_weight)
    chosen, rejected, logps, lengths = as_floats(
        chosen_rewards=chosen_rewards,
        rejected_rewards=rejected_rewards,
        chosen_logps=chosen_logps,
        chosen_lengths=chosen_lengths,
    )
    return logistic(chosen - rejected) - sft_weight * per_token(logps, lengths)


def bradley_terry_regression(
    chosen_rewards: Batch, rejected_rewards: Batch, *, target: float = 10.0, temperature: float = 0.1
) -> Batch:
    """Regression of the margin: ((r_w - r_l) / temperature - target)^2 / 2.

    A baseline in the code of GPM, Zhang et al. 2024, arXiv:2410.02197. Unlike the logistic loss it has a
    finite optimum, r_w - r_l = temperature * target. (With a column of margins m the released target is
    5 sigmoid(m), which is not offered here.)

    Args:
      target: any number (released code: 10). temperature: above 0 (0.1, as its logistic baseline).

    Returns:
      [b] nats squared, 0 or more; target^2 / 2 at equal rewards.

    Raises:
      ValueError: shapes differ, or temperature is not above 0.

    Example:
      >>> print(losses.bradley_terry_regression(jnp.array([2.0, 1.0]), jnp.array([1.0, 1.0])))
      [0.0000 50.0000]
    """
    positive(temperature=temperature)
    chosen, rejected = as_floats(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    return ((chosen - rejected) / temperature - target) ** 2 / 2


def agreement_margins(agreement: Float[Array, "*b"], *, scale: float = 1.0) -> Float[Array, "*b"]:
    """Margins for `bradley_terry_margin` from votes: scale * (2 a - 1), a the share of judges that agree.

    After Padmakumar et al. 2024, arXiv:2412.03822; this form and its scale are ours, theirs has not been
    verified. Votes are data: no gradient.

    Args:
      agreement: a, the share of judges that agree with the label, in [0, 1].
      scale: margin of a unanimous label, any number (the default is ours).

    Returns:
      [*b] in units of the rewards, in [-scale, scale]; 0 for a split vote.

    Example:
      >>> print(agreement_margins(jnp.array([1.0, 0.5, 0.25])))
      [1.0000 0.0000 -0.5000]
    """
    return scale * (2 * jax.lax.stop_gradient(agreement) - 1)
