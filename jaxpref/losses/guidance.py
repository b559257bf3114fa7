"""Token-level and step-level guidance: rewards of tokens made into scores, weights of tokens, and segments.

Preference-grounded guidance (arXiv:2306.00398) learns a reward for every token from whole responses that are
only ranked (`token_reward_list_mle`), and then trains on given responses with those rewards as weights
(`token_guided_sft`). Its reinforcement-learning variant samples, so it is no loss of recorded data.

Steps: `step_dpo` compares two continuations of one prefix. The value loss that SVPO adds to it is left out:
we have not verified its form.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpref.losses.checks import check_axes, check_same_shape, floats, positive
from jaxpref.losses.links import logistic
from jaxpref.losses.scores import log_ratio
from jaxpref.losses.tokenwise import token_sum
from jaxpref.types import PRNGKey

__all__ = [
    "aggregate",
    "mean_length",
    "soft_max",
    "soft_min",
    "step_dpo",
    "step_pool",
    "token_guided_sft",
    "token_mean",
    "token_reward_list_mle",
]

Aggregation = Literal["mean", "max", "min", "sum"]
Batch = Float[Array, " b"]
Tokens = Float[Array, "b r"]
Mask = Bool[Array, "b r"]


def token_mean(rewards: Float[Array, "*b r"], mask: Bool[Array, "*b r"]) -> Float[Array, "*b"]:
    """Mean over scored tokens (arXiv:2306.00398).

    Returns:
      [..], units of the rewards; 0 for no scored token.

    Example:
      >>> print(losses.guidance.token_mean(jnp.array([1.0, 3.0, 99.0]), jnp.array([True, True, False])))
      2.000
    """
    return token_sum(rewards, mask) / jnp.maximum(mask.sum(-1), 1)


def soft_max(
    rewards: Float[Array, "*b r"], mask: Bool[Array, "*b r"], temperature: float
) -> Float[Array, "*b"]:
    """temperature * logsumexp(rewards / temperature) over scored tokens (arXiv:2306.00398).

    Args:
      temperature: above 0, in units of the rewards.

    Returns:
      [..], units of the rewards; their largest or more, 0 for no scored token.

    Example:
      >>> print(losses.guidance.soft_max(jnp.array([1.0, 1.0]), jnp.array([True, True]), 1.0))  # 1 + log 2
      1.6931
    """
    some = mask.any(-1)
    kept = mask | ~some[..., None]  # an empty sum would have a NaN gradient
    total = jax.nn.logsumexp(jnp.where(mask, rewards, 0) / temperature, axis=-1, where=kept)
    return jnp.where(some, temperature * total, 0)


def soft_min(
    rewards: Float[Array, "*b r"], mask: Bool[Array, "*b r"], temperature: float
) -> Float[Array, "*b"]:
    """-temperature * logsumexp(-rewards / temperature) over scored tokens (arXiv:2306.00398).

    Args:
      temperature: above 0, in units of the rewards.

    Returns:
      [..], units of the rewards; their smallest or less, 0 for no scored token.

    Example:
      >>> print(losses.guidance.soft_min(jnp.array([1.0, 1.0]), jnp.array([True, True]), 1.0))  # 1 - log 2
      0.3069
    """
    return -soft_max(-rewards, mask, temperature)


def mean_length(mask: Bool[Array, "b k r"], where: Bool[Array, "b k"]) -> Float[Array, "b 1"]:
    """Mean number of scored tokens of the responses to a prompt that exist; C of `aggregate`.

    Returns:
      [b, 1], tokens; 0 where no response exists.

    Example:
      >>> mask = jnp.array([[[True, True, True], [True, False, False]]])
      >>> print(losses.guidance.mean_length(mask, jnp.array([[True, True]])))
      [[2.000]]
    """
    lengths = jnp.where(where, mask.sum(-1), 0)
    return lengths.sum(-1, keepdims=True) / jnp.maximum(where.sum(-1, keepdims=True), 1)


def aggregate(
    token_rewards: Float[Array, "b k r"],
    mask: Bool[Array, "b k r"],
    where: Bool[Array, "b k"],
    *,
    mode: Aggregation = "mean",
    temperature: float = 2.0,
) -> Float[Array, "b k"]:
    """Score of a response from rewards of its tokens: C * mean, C * soft max, C * soft min, or sum.

    Yang et al. 2023, arXiv:2306.00398. C is the mean length of the responses to that prompt (`mean_length`):
    with it means have the scale of sums, and the longer response is not favoured.

    Args:
      mode: "mean", "max", "min" or "sum". temperature: of "max" and "min", above 0 (released code: 2).

    Returns:
      [b, k], units of the rewards.

    Raises:
      ValueError: mode is none of the four.

    Example:
      >>> rewards, where = jnp.ones((1, 2, 3)), jnp.array([[True, True]])
      >>> mask = jnp.array([[[True, True, True], [True, False, False]]])
      >>> print(losses.guidance.aggregate(rewards, mask, where))
      [[2.000 2.000]]
      >>> print(losses.guidance.aggregate(rewards, mask, where, mode="sum"))
      [[3.000 1.000]]
    """
    if mode == "sum":
        return token_sum(token_rewards, mask)
    if mode == "mean":
        scores = token_mean(token_rewards, mask)
    elif mode in ("max", "min"):
        scores = (soft_max if mode == "max" else soft_min)(token_rewards, mask, temperature)
    else:
        raise ValueError(f"mode: expected 'mean', 'max', 'min' or 'sum', got {mode!r}")
    return mean_length(mask, where) * scores


def token_reward_list_mle(
    token_rewards: Float[Array, "b k r"],
    mask: Bool[Array, "b k r"],
    scores: Float[Array, "b k"],
    where: Bool[Array, "b k"],
    key: PRNGKey,
    *,
    mode: Aggregation = "mean",
    temperature: float = 2.0,
) -> Batch:
    """Learns rewards of tokens from ranked responses: -log P(ranking) under Plackett-Luce; nats.

    Yang et al. 2023, arXiv:2306.00398: listMLE on the `aggregate` of a model's token rewards, responses
    ranked by `scores`, highest first. Equal scores are ordered at random, as in the released code. Two
    responses give Bradley-Terry on their aggregates; one response, or none, gives 0.

    Differs from the released code, which draws one tie-breaking permutation for the whole batch and adds
    1e-10 inside the logarithm.

    Args:
      mode: "mean" (times the mean length), "max", "min" or "sum".
      temperature: of "max" and "min", above 0 (released code: 2).

    Returns:
      [b], nats, 0 or more; log k! where all k aggregates are equal.

    Raises:
      ValueError: temperature is not above 0, mode is unknown, or shapes differ.

    Example:
      >>> rewards, mask = jnp.array([[[1.0, 1.0], [0.5, 0.5]]]), jnp.ones((1, 2, 2), bool)  # sums 2 and 1
      >>> inputs = rewards, mask, jnp.array([[1.0, 0.0]]), jnp.array([[True, True]]), jax.random.key(0)
      >>> print(losses.token_reward_list_mle(*inputs, mode="sum"))  # -log sigmoid(1)
      [0.3133]
    """
    positive(temperature=temperature)
    check_axes(
        token_rewards=(token_rewards, "b k r"),
        mask=(mask, "b k r"),
        scores=(scores, "b k"),
        where=(where, "b k"),
    )
    rewards, scores = floats(token_rewards, scores)
    exists = where & mask.any(-1)
    totals = aggregate(rewards, mask & exists[..., None], exists, mode=mode, temperature=temperature)
    # Best first, what does not exist last, ties by a draw.
    descending = jnp.where(exists, -jax.lax.stop_gradient(scores), jnp.inf)
    order = jnp.lexsort((jax.random.uniform(key, scores.shape), descending), axis=-1)
    totals, exists = (jnp.take_along_axis(x, order, -1) for x in (totals, exists))
    k = scores.shape[-1]
    ahead, itself = jnp.triu(jnp.ones((1, k, k), bool)), jnp.eye(k, dtype=bool)[None]
    left = ahead & exists[:, None, :] | itself
    normaliser = jax.nn.logsumexp(jnp.broadcast_to(totals[:, None, :], left.shape), axis=-1, where=left)
    return jnp.where(exists, normaliser - totals, 0).sum(-1)


def token_guided_sft(
    token_logps: Float[Array, "*n r"], token_rewards: Float[Array, "*n r"], mask: Bool[Array, "*n r"]
) -> Float[Array, "*n"]:
    """Likelihood with learned weights: -sum_t w_t log pi(y_t), w_t = r_t / sum of r over scored tokens; nats.

    Yang et al. 2023, arXiv:2306.00398. Rewards are data here, and positive (softplus or sigmoid outputs of
    the reward model). Equal rewards give the mean NLL per token. A response whose rewards add up to 0 or less
    has loss 0.

    Returns:
      [..], nats a token, 0 or more; the mean NLL of a token, weighted by rewards.

    Raises:
      ValueError: shapes differ.

    Example:
      >>> logps, rewards = jnp.array([[-1.0, -3.0]]), jnp.array([[3.0, 1.0]])
      >>> print(losses.token_guided_sft(logps, rewards, jnp.ones((1, 2), bool)))  # 3/4 * 1 + 1/4 * 3
      [1.500]
    """
    check_same_shape({"token_logps": token_logps, "token_rewards": token_rewards, "mask": mask})
    logps, rewards = floats(token_logps, token_rewards)
    rewards = jnp.where(mask, jax.lax.stop_gradient(rewards), 0)
    total = rewards.sum(-1, keepdims=True)
    weights = jnp.where(total > 0, rewards / jnp.where(total > 0, total, 1), 0)
    return -token_sum(weights * jnp.where(mask, logps, 0), mask)


def step_pool(
    values: Tokens, step_ids: Int[Array, "b r"], mask: Mask, *, num_steps: int, mean: bool = False
) -> Float[Array, "b s"]:
    """Sum (or mean) of token values over the scored tokens of each step.

    Args:
      step_ids: the step of every token, 0 to num_steps - 1; tokens with other ids are dropped.
      num_steps: s, 1 or more. mean: divide by the number of tokens of the step.

    Returns:
      [b, s], units of the values; 0 for a step without tokens.

    Raises:
      ValueError: shapes differ.

    Example:
      >>> values, steps = jnp.array([[1.0, 2.0, 4.0]]), jnp.array([[0, 0, 1]])
      >>> print(losses.guidance.step_pool(values, steps, jnp.ones((1, 3), bool), num_steps=2))
      [[3.000 4.000]]
    """
    check_axes(values=(values, "b r"), step_ids=(step_ids, "b r"), mask=(mask, "b r"))
    belongs = (step_ids[:, None, :] == jnp.arange(num_steps)[None, :, None]) & mask[:, None, :]
    pooled = jnp.where(belongs, values[:, None, :], 0).sum(-1)
    return pooled / jnp.maximum(belongs.sum(-1), 1) if mean else pooled


def step_dpo(
    chosen_token_logps: Tokens,
    rejected_token_logps: Tokens,
    reference_chosen_token_logps: Tokens,
    reference_rejected_token_logps: Tokens,
    chosen_segment_mask: Mask,
    rejected_segment_mask: Mask,
    *,
    beta: float = 0.1,
) -> Batch:
    """DPO of two continuations of a shared prefix: only log-ratios of the tokens of the segments count; nats.

    The step-level preference term of Chen et al. 2024, "SVPO", arXiv:2406.10858, whose pairs are siblings in
    a search tree. Log-probs are conditional on the prefix already, so masking the prefix out is enough; where
    the segment is the whole response this is `dpo`. The value loss of that paper is not part of it.

    Args:
      beta: above 0 (DPO's; the paper's has not been verified).

    Returns:
      [b], nats, 0 or more; log 2 where policy and reference agree on the segments.

    Raises:
      ValueError: beta is not above 0, or shapes differ.

    Example:
      >>> tokens = [jnp.array([[-5.0, x]]) for x in (-1.0, -3.0, -2.0, -2.0)]  # u_w = 1, u_l = -1
      >>> segment = jnp.array([[False, True]])
      >>> print(losses.step_dpo(*tokens, segment, segment, beta=0.5))
      [0.3133]
    """
    positive(beta=beta)
    given = {
        "chosen_token_logps": chosen_token_logps,
        "rejected_token_logps": rejected_token_logps,
        "reference_chosen_token_logps": reference_chosen_token_logps,
        "reference_rejected_token_logps": reference_rejected_token_logps,
    }
    check_axes(
        chosen_segment_mask=(chosen_segment_mask, "b r"),
        rejected_segment_mask=(rejected_segment_mask, "b r"),
        **{name: (x, "b r") for name, x in given.items()},
    )
    chosen, rejected, reference_chosen, reference_rejected = floats(*given.values())
    first = token_sum(log_ratio(chosen, reference_chosen), chosen_segment_mask)
    second = token_sum(log_ratio(rejected, reference_rejected), rejected_segment_mask)
    return logistic(beta * (first - second))
