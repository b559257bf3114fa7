"""Losses of scalar rewards."""

from jaxtyping import Array, Float

from jaxpref.losses.checks import as_floats
from jaxpref.losses.links import logistic

__all__ = ["bradley_terry"]


def bradley_terry(
    chosen_rewards: Float[Array, " b"], rejected_rewards: Float[Array, " b"], *, margin: float = 0.0
) -> Float[Array, " b"]:
    """-log sigmoid(r_w - r_l - margin), nats: the reward model's likelihood.

    Bradley & Terry 1952; as a language reward model Ouyang et al. 2022, arXiv:2203.02155, Eq. 1, and with a
    margin Touvron et al. 2023, arXiv:2307.09288, Eq. 2. Invariant to a constant added to both rewards.
    """
    chosen_rewards, rejected_rewards = as_floats(
        chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards
    )
    return logistic(chosen_rewards - rejected_rewards - margin)
