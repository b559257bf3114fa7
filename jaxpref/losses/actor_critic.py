"""Proximal policy optimisation: token rewards, generalised advantages, clipped policy and value losses.

Schulman et al. 2017, arXiv:1707.06347, with the advantages of Schulman et al. 2015, arXiv:1506.02438.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpref.losses.checks import check_axes, floats, not_negative, positive
from jaxpref.losses.kl import token_ratios
from jaxpref.losses.policy_gradient import clipped_surrogate
from jaxpref.losses.tokenwise import token_sum

__all__ = ["generalised_advantages", "ppo", "token_rewards", "whitened"]

Responses = Float[Array, "b k"]
Tokens = Float[Array, "b k r"]
Mask = Bool[Array, "b k r"]


def token_rewards(
    behaviour_token_logps: Tokens,
    reference_token_logps: Tokens,
    scores: Responses,
    mask: Mask,
    *,
    kl_coef: float,
) -> Tokens:
    """-kl_coef * (behaviour - reference log-prob) at each scored token, plus the score at the last one.

    Args:
      kl_coef: price of a nat of KL, in units of the score.

    Returns:
      [b, k, r], units of the score; 0 where masked.

    Example:
      >>> behaviour, reference = jnp.array([[[-1.0, -2.0, -1.0]]]), jnp.full((1, 1, 3), -2.0)
      >>> mask = jnp.array([[[True, True, False]]])
      >>> score = jnp.array([[1.0]])
      >>> print(losses.actor_critic.token_rewards(behaviour, reference, score, mask, kl_coef=0.1))
      [[[-0.100 1.000 0.000]]]
    """
    after = jax.lax.cumsum(mask.astype(jnp.int32), axis=mask.ndim - 1, reverse=True)
    last = mask & (after == 1)
    price = kl_coef * token_ratios(behaviour_token_logps, reference_token_logps, mask)
    return jnp.where(last, scores[..., None], 0) - price


def generalised_advantages(
    rewards: Tokens, values: Tokens, mask: Mask, *, gamma: float, gae_lambda: float
) -> Tokens:
    """A_n = delta_n + gamma * lambda * A_next, delta_n = reward_n + gamma * value_next - value_n.

    Schulman et al. 2015, arXiv:1506.02438, over the scored tokens: "next" is the next scored token, and value
    and advantage are 0 after the last one.

    Args:
      gamma, gae_lambda: discount and decay, in [0, 1].

    Returns:
      [b, k, r], units of the rewards, 0 where masked. With gae_lambda = 1 the (discounted) return minus the
      value; with 0 the temporal difference delta.

    Example:
      >>> rewards, values = jnp.array([[[0.0, 0.0, 1.0]]]), jnp.full((1, 1, 3), 0.25)
      >>> advantages = partial(losses.actor_critic.generalised_advantages, mask=jnp.ones((1, 1, 3), bool))
      >>> print(advantages(rewards, values, gamma=1.0, gae_lambda=1.0))
      [[[0.75 0.75 0.75]]]
      >>> print(advantages(rewards, values, gamma=1.0, gae_lambda=0.0))
      [[[0.00 0.00 0.75]]]
    """

    def step(carry: tuple[Array, Array], token: tuple[Array, Array, Array]):
        next_advantage, next_value = carry
        reward, value, scored = token
        delta = reward + gamma * next_value - value
        advantage = delta + gamma * gae_lambda * next_advantage
        carry = jnp.where(scored, advantage, next_advantage), jnp.where(scored, value, next_value)
        return carry, jnp.where(scored, advantage, 0)

    time_first = (jnp.moveaxis(rewards, -1, 0), jnp.moveaxis(values, -1, 0), jnp.moveaxis(mask, -1, 0))
    start = jnp.zeros_like(time_first[0][0])
    _, advantages = jax.lax.scan(step, (start, start), time_first, reverse=True)
    return jnp.moveaxis(advantages, 0, -1)


def whitened(values: Tokens, mask: Mask) -> Tokens:
    """(x - mean) / sqrt(variance + 1e-8), both over all scored tokens of the batch.

    Returns:
      [b, k, r], no unit, mean 0 and variance 1 over scored tokens; 0 where masked.

    Example:
      >>> values, mask = jnp.array([[[1.0, 3.0, 99.0]]]), jnp.array([[[True, True, False]]])
      >>> print(losses.actor_critic.whitened(values, mask))
      [[[-1.000 1.000 0.000]]]
    """
    count = jnp.maximum(mask.sum(), 1)
    centred = jnp.where(mask, values - jnp.where(mask, values, 0).sum() / count, 0)
    return centred * jax.lax.rsqrt((centred**2).sum() / count + 1e-8)


def _check_decays(**decays: float) -> None:
    for name, decay in decays.items():
        if not 0 <= decay <= 1:
            raise ValueError(f"{name}: expected a number in [0, 1], got {decay}")


def _masked(tokens: tuple[Tokens, ...], scores: Responses, mask: Mask) -> list[Tokens]:
    """The inputs of `ppo` that have tokens, in float32 or better and 0 where masked, after their checks.

    Masked before anything else: the gradient of 0 * NaN would be NaN.
    """
    names = ("token_logps", "values", "behaviour_token_logps", "behaviour_values", "reference_token_logps")
    check_axes(
        **{name: (x, "b k r") for name, x in zip(names, tokens, strict=True)},
        scores=(scores, "b k"),
        mask=(mask, "b k r"),
    )
    return [jnp.where(mask, x, 0) for x in floats(*tokens)]


def ppo(
    token_logps: Tokens,
    values: Tokens,
    behaviour_token_logps: Tokens,
    behaviour_values: Tokens,
    reference_token_logps: Tokens,
    scores: Responses,
    mask: Mask,
    *,
    kl_coef: float = 0.05,
    gamma: float = 1.0,
    gae_lambda: float = 0.95,
    clip: float = 0.2,
    value_clip: float = 0.2,
    vf_coef: float = 0.1,
) -> Responses:
    """PPO: clipped policy gradient on whitened advantages + vf_coef * clipped regression of the values.

    A token's loss is `-min(w A, clip(w) A) + vf_coef / 2 * max((v - G)^2, (v_clipped - G)^2)`: w = pi /
    behaviour; A are the whitened `generalised_advantages` of `token_rewards` under the behaviour's values; G
    are the advantages before whitening plus those values. Log-probs in nats. Schulman et al. 2017,
    arXiv:1707.06347; defaults and rewards as in the code of Ivison et al. 2024, arXiv:2406.09279. That code
    scores a response without end of sequence -10; here this is left to the scorer.

    Advantages are whitened over the batch, so a microbatch whitens its own, which changes the value.

    Args:
      kl_coef: price of a nat of KL in the rewards, 0 or more (0.05).
      gamma, gae_lambda: discount and decay, in [0, 1] (1, 0.95).
      clip, value_clip: above 0 (0.2 each). vf_coef: 0 or more (0.1).

    Returns:
      [b, k], nats; their mean over responses is the mean over all scored tokens of the batch.

    Raises:
      ValueError: a hyper-parameter is out of range, or shapes differ.

    Example:
      >>> # Fresh samples: the policy part is 0 in the mean, and 0.1 * (0 - 1)^2 / 2 is left.
      >>> logps, values, mask = jnp.full((1, 1, 2), -1.0), jnp.zeros((1, 1, 2)), jnp.ones((1, 1, 2), bool)
      >>> print(losses.ppo(logps, values, logps, values, logps, jnp.ones((1, 1)), mask, gae_lambda=1.0))
      [[0.0500]]
    """
    not_negative(kl_coef=kl_coef, vf_coef=vf_coef)
    positive(clip=clip, value_clip=value_clip)
    _check_decays(gamma=gamma, gae_lambda=gae_lambda)
    token_logps, values, behaviour, old, reference = _masked(
        (token_logps, values, behaviour_token_logps, behaviour_values, reference_token_logps), scores, mask
    )
    (scores,) = floats(scores)
    rewards = token_rewards(behaviour, reference, scores, mask, kl_coef=kl_coef)
    rewards, old = jax.lax.stop_gradient((rewards, old))
    advantages = generalised_advantages(rewards, old, mask, gamma=gamma, gae_lambda=gae_lambda)
    returns = advantages + old
    policy = clipped_surrogate(token_ratios(token_logps, behaviour, mask), whitened(advantages, mask), clip)
    clipped = jnp.clip(values, old - value_clip, old + value_clip)
    value = jnp.maximum((values - returns) ** 2, (clipped - returns) ** 2) / 2
    responses, tokens = mask.any(-1).sum(), jnp.maximum(mask.sum(), 1)
    return token_sum(policy + vf_coef * value, mask) * (responses / tokens)
