"""Proximal policy optimisation: token rewards, generalised advantages, clipped policy and value losses."""

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
    """-kl_coef * (behaviour - reference log-prob) at each scored token, plus the score at the last one."""
    after = jax.lax.cumsum(mask.astype(jnp.int32), axis=mask.ndim - 1, reverse=True)
    last = mask & (after == 1)
    price = kl_coef * token_ratios(behaviour_token_logps, reference_token_logps, mask)
    return jnp.where(last, scores[..., None], 0) - price


def generalised_advantages(
    rewards: Tokens, values: Tokens, mask: Mask, *, gamma: float, gae_lambda: float
) -> Tokens:
    """A_n = delta_n + gamma * lambda * A_next, delta_n = reward_n + gamma * value_next - value_n.

    Schulman et al. 2015, arXiv:1506.02438, over the scored tokens: "next" is the next scored one, after the
    last all is 0. gae_lambda = 1 gives the return minus the value, 0 the temporal difference. 0 where masked.
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
    """Mean 0 and variance 1 over all scored tokens of the batch; 0 where masked."""
    count = jnp.maximum(mask.sum(), 1)
    centred = jnp.where(mask, values - jnp.where(mask, values, 0).sum() / count, 0)
    return centred * jax.lax.rsqrt((centred**2).sum() / count + 1e-8)


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

    A token's loss is `-min(w A, clip(w) A) + vf_coef / 2 * max((v - G)^2, (v_clipped - G)^2)`, w = pi /
    behaviour, A the `generalised_advantages` of `token_rewards` under the behaviour's values and whitened, G
    the advantages before that plus those values; log-probs in nats. Schulman et al. 2017, arXiv:1707.06347;
    defaults and rewards as the code of Ivison et al. 2024, arXiv:2406.09279. What a response without end of
    sequence pays (there: a score of -10) is the scorer's business.

    The mean over the responses is the mean over all scored tokens of the batch, and advantages are whitened
    over them: with microbatches each has its own, which changes the value.

    Args:
      kl_coef: price of a nat of KL in the rewards, 0 or more (0.05).
      gamma, gae_lambda: discount and decay, in [0, 1] (1, 0.95).
      clip, value_clip: above 0 (0.2 each). vf_coef: 0 or more (0.1).
    """
    not_negative(kl_coef=kl_coef, vf_coef=vf_coef)
    positive(clip=clip, value_clip=value_clip)
    for name, decay in (("gamma", gamma), ("gae_lambda", gae_lambda)):
        if not 0 <= decay <= 1:
            raise ValueError(f"{name}: expected a number in [0, 1], got {decay}")
    given = {
        "token_logps": token_logps,
        "values": values,
        "behaviour_token_logps": behaviour_token_logps,
        "behaviour_values": behaviour_values,
        "reference_token_logps": reference_token_logps,
    }
    check_axes(
        **{name: (x, "b k r") for name, x in given.items()}, scores=(scores, "b k"), mask=(mask, "b k r")
    )
    # Masked before anything else: the gradient of 0 * NaN would be NaN.
    token_logps, values, behaviour, old, reference = (jnp.where(mask, x, 0) for x in floats(*given.values()))
    (scores,) = floats(scores)
    rewards = token_rewards(behaviour, reference, scores, mask, kl_coef=kl_coef)
    rewards, old = jax.lax.stop_gradient((rewards, old))
    advantages = generalised_advantages(rewards, old, mask, gamma=gamma, gae_lambda=gae_lambda)
    returns = advantages + old
    policy = clipped_surrogate(token_ratios(token_logps, behaviour, mask), whitened(advantages, mask), clip)
    held = jnp.clip(values, old - value_clip, old + value_clip)
    value = jnp.maximum((values - returns) ** 2, (held - returns) ** 2) / 2
    responses, tokens = mask.any(-1).sum(), jnp.maximum(mask.sum(), 1)
    return token_sum(policy + vf_coef * value, mask) * (responses / tokens)
