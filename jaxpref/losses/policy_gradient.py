"""Policy gradients on responses that the policy drew: one loss for each response, [b, k].

The gradient of the mean loss is an estimate of the gradient of an objective; its value means little. Scores,
win rates and the log-probs of the behaviour policy (the one that drew) and of the reference are data, with
exactly zero gradient. Log-probs are at temperature 1, in nats; positions outside `mask` may hold anything,
and a response of no scored token is absent: its loss is 0, and it is no part of its group. sg(.) stops
gradients.

Three properties of `grpo` are easily mistaken. Dividing by the standard deviation weighs prompts by how
little their scores vary, so the mean gradient is not that of the mean score (with `scale=False` it is, times
(k - 1) / k, for responses of one length). The mean over a response's own tokens favours short good and long
bad ones. And k3 in the loss has, on fresh samples, the gradient of the forward KL(pi_ref || pi) of each
token, not of the KL(pi || pi_ref) that it estimates (`losses/kl.py`).

Sources: arXiv:1707.06347 (PPO), 2312.00886 (Nash-MD), 2402.03300 (GRPO), 2402.14740 (RLOO).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpref.losses.checks import check_axes, floats, not_negative, positive
from jaxpref.losses.kl import k1, k3, kl_to_go, token_ratios
from jaxpref.losses.scores import bounded_exp, log_ratio, per_token
from jaxpref.losses.tokenwise import token_sum

__all__ = ["clipped_surrogate", "grpo", "group_advantages", "leave_one_out", "nash_md", "reinforce", "rloo"]

Responses = Float[Array, "b k"]
Exists = Bool[Array, "b k"]
Tokens = Float[Array, "b k r"]
Mask = Bool[Array, "b k r"]


def _with_kl_to_go(
    token_logps: Tokens, reference_token_logps: Tokens, gains: Responses, mask: Mask, price: float
) -> Responses:
    """-sum_n log pi(y_n) * stop_gradient(gain - price * KL-to-go_n)."""
    to_go = kl_to_go(token_logps, reference_token_logps, mask)
    advantages = jax.lax.stop_gradient(gains)[..., None] - price * to_go
    return -token_sum(jnp.where(mask, token_logps, 0) * advantages, mask)


def nash_md(
    token_logps: Tokens,
    reference_token_logps: Tokens,
    win_rates: Responses,
    mask: Mask,
    *,
    tau: float = 0.008,
) -> Responses:
    """Nash-MD-PG: -sum_n log pi(y_n) * sg((p - 1/2) - tau * sum over m >= n of log-ratio_m).

    Munos et al. 2023, arXiv:2312.00886, section 7. `win_rates` is p, the preference of the response over its
    opponent's. The mean gradient is that of -(P(pi beats opponent) - tau * KL(pi || pi_ref)), exactly. The
    sampler decides who the opponent is (the policy itself, its mixture with the reference, the reference, an
    average); the opponent's responses are not among these, and have no gradient.

    Differs from TRL, which gives each token its own log-ratio only: not the gradient of the KL of responses.

    Args:
      tau: price of a nat of KL, 0 or more (0.008: the paper's, App. G, by secondary sources).

    Returns:
      [b, k] nats, of either sign; 0 for an absent response.

    Raises:
      ValueError: shapes differ, or tau is below 0.

    Example:
      >>> logps, reference = jnp.array([[[-1.0, -2.0]]]), jnp.array([[[-1.0, -3.0]]])  # log-ratios 0 and 1
      >>> loss = partial(losses.nash_md, logps, reference, jnp.array([[0.75]]), jnp.ones((1, 1, 2), bool))
      >>> print(loss(tau=0.1))  # both tokens answer for the second: 3 nats * (0.25 - 0.1 * 1)
      [[0.4500]]
    """
    not_negative(tau=tau)
    check_axes(
        token_logps=(token_logps, "b k r"),
        reference_token_logps=(reference_token_logps, "b k r"),
        win_rates=(win_rates, "b k"),
        mask=(mask, "b k r"),
    )
    token_logps, reference_token_logps, p = floats(token_logps, reference_token_logps, win_rates)
    return _with_kl_to_go(token_logps, reference_token_logps, p - 0.5, mask, tau)


def reinforce(
    token_logps: Tokens,
    reference_token_logps: Tokens,
    scores: Responses,
    mask: Mask,
    *,
    beta: float = 0.05,
    baseline: float = 0.0,
) -> Responses:
    """REINFORCE with a KL price: -sum_n log pi(y_n) * sg((score - baseline) - beta * KL-to-go_n).

    Williams 1992, as the regularised baseline of Munos et al. 2023, arXiv:2312.00886. KL-to-go_n is the sum
    of the log-ratios of token n and those after it. The mean gradient is that of -(E[score] -
    beta * KL(pi || pi_ref)), whatever the baseline: a constant changes the variance alone.

    Args:
      beta: price of a nat of KL, 0 or more (0.05: that paper's RLHF baseline, App. G, by two
        notes on it).
      baseline: a constant in units of the scores.

    Returns:
      [b, k] nats times the unit of the scores, of either sign; 0 for an absent response.

    Raises:
      ValueError: shapes differ, or beta is below 0.

    Example:
      >>> logps, reference = jnp.array([[[-1.0, -2.0]]]), jnp.array([[[-1.0, -3.0]]])  # log-ratios 0 and 1
      >>> loss = partial(losses.reinforce, logps, reference, jnp.array([[2.0]]), jnp.ones((1, 1, 2), bool))
      >>> print(loss(beta=0.1, baseline=1.5))  # 3 nats * (2 - 1.5 - 0.1 * 1)
      [[1.2000]]
    """
    not_negative(beta=beta)
    check_axes(
        token_logps=(token_logps, "b k r"),
        reference_token_logps=(reference_token_logps, "b k r"),
        scores=(scores, "b k"),
        mask=(mask, "b k r"),
    )
    token_logps, reference_token_logps, scores = floats(token_logps, reference_token_logps, scores)
    return _with_kl_to_go(token_logps, reference_token_logps, scores - baseline, mask, beta)


def _check_group(name: str, scores: Responses) -> None:
    if scores.shape[-1] < 2:
        raise ValueError(
            f"{name}: expected k of 2 or more responses to a prompt, got k = {scores.shape[-1]}: a group of "
            "one has nothing to compare with; draw more, or use reinforce with a constant baseline"
        )


def _group_sums(values: Responses, where: Exists) -> tuple[Float[Array, "b 1"], Float[Array, "b 1"]]:
    """Sum over the responses of a prompt that exist, and how many there are."""
    count = where.sum(-1, keepdims=True).astype(values.dtype)
    return jnp.where(where, values, 0).sum(-1, keepdims=True), count


def leave_one_out(rewards: Responses, where: Exists) -> Responses:
    """Reward minus the mean of the others of its group.

    Args:
      where: which responses exist.

    Returns:
      [b, k] in the unit of the rewards, of sum 0 in each group; 0 where there are no others.

    Example:
      >>> print(leave_one_out(jnp.array([[1.0, 2.0, 6.0]]), jnp.ones((1, 3), bool)))  # last: 6 - 1.5
      [[-3.0000 -1.5000 4.5000]]
    """
    total, count = _group_sums(rewards, where)
    others = (total - rewards) / jnp.maximum(count - 1, 1)
    return jnp.where(where & (count > 1), rewards - others, 0)


def group_advantages(scores: Responses, where: Exists, *, scale: bool, epsilon: float) -> Responses:
    """Score minus the mean of its group, divided by (standard deviation + epsilon) if `scale`.

    The deviation is the sample's (n - 1), as `torch.std`.

    Args:
      where: which responses exist. epsilon: in units of the scores, above 0; equal scores then give 0.

    Returns:
      [b, k], without unit if `scale`; 0 for a response that does not exist.

    Example:
      >>> scores = jnp.array([[1.0, 3.0, 5.0]])  # mean 3, deviation 2: 2 / 2.5
      >>> print(group_advantages(scores, jnp.ones((1, 3), bool), scale=True, epsilon=0.5))
      [[-0.8000 0.0000 0.8000]]
    """
    total, count = _group_sums(scores, where)
    centred = jnp.where(where, scores - total / jnp.maximum(count, 1), 0)
    if not scale:
        return centred
    variance = (centred**2).sum(-1, keepdims=True) / jnp.maximum(count - 1, 1)
    return centred / (jnp.sqrt(variance) + epsilon)


def clipped_surrogate(
    ratios: Float[Array, "*n"], advantages: Float[Array, "*n"], clip: float
) -> Float[Array, "*n"]:
    """PPO's -min(w A, clip(w, 1 - clip, 1 + clip) A), w = exp(log-ratio to the behaviour policy).

    Schulman et al. 2017, arXiv:1707.06347, Eq. 7.

    Args:
      ratios: log-ratios, nats. advantages: A. clip: above 0.

    Returns:
      [*n] in the unit of A; -A, with slope -A, where the two policies agree.

    Example:
      >>> ratios, advantages = jnp.log(jnp.array([3.0, 3.0, 1 / 3])), jnp.array([2.0, -2.0, -2.0])
      >>> print(clipped_surrogate(ratios, advantages, 0.2))  # 1.2 and 0.8 hold where the gain has been taken
      [-2.4000 6.0000 1.6000]
    """
    weights = bounded_exp(ratios)
    return jnp.maximum(-weights * advantages, -jnp.clip(weights, 1 - clip, 1 + clip) * advantages)


def rloo(
    logps: Responses,
    reference_logps: Responses,
    behaviour_logps: Responses,
    scores: Responses,
    where: Exists,
    *,
    beta: float = 0.05,
    clip: float = 0.2,
) -> Responses:
    """REINFORCE leave-one-out: a group's other responses are the baseline of each; sequence level.

    -min(w A, clip(w) A), A = R - mean of the others' R, R = score - beta * (behaviour - reference log-prob)
    and w = pi / behaviour of the whole response; Ahmadian et al. 2024, arXiv:2402.14740, with TRL's clipping.
    On fresh samples (w = 1) nothing is clipped, and the mean gradient is that of -(E[score] - beta *
    KL(pi || pi_ref)).

    Args:
      beta: price of a nat of KL, 0 or more (TRL: 0.05; the paper's is 0.03 by TRL's documentation).
      clip: above 0 (TRL: 0.2); inf clips nothing.

    Returns:
      [b, k] in the unit of the scores, of either sign; 0 for an absent response or one without others.

    Raises:
      ValueError: shapes differ, a group has one response, beta is below 0 or clip is not above 0.

    Example:
      >>> logps, reference = jnp.array([[-1.0, -2.0]]), jnp.array([[-3.0, -2.0]])  # fresh samples
      >>> scores, where = jnp.array([[1.0, 0.0]]), jnp.ones((1, 2), bool)  # R = 1 - 0.25 * 2 and 0
      >>> print(losses.rloo(logps, reference, logps, scores, where, beta=0.25))
      [[-0.5000 0.5000]]
    """
    not_negative(beta=beta)
    positive(clip=clip)
    given = {
        "logps": logps,
        "reference_logps": reference_logps,
        "behaviour_logps": behaviour_logps,
        "scores": scores,
    }
    check_axes(**{name: (x, "b k") for name, x in given.items()}, where=(where, "b k"))
    _check_group("rloo", scores)
    # Masked before anything else: the gradient of 0 * NaN would be NaN.
    logps, reference_logps, behaviour_logps, scores = (
        jnp.where(where, x, 0) for x in floats(*given.values())
    )
    rewards = scores - beta * k1(behaviour_logps - reference_logps)
    advantages = jax.lax.stop_gradient(leave_one_out(rewards, where))
    return clipped_surrogate(log_ratio(logps, behaviour_logps), advantages, clip)


def grpo(
    token_logps: Tokens,
    reference_token_logps: Tokens,
    behaviour_token_logps: Tokens,
    scores: Responses,
    mask: Mask,
    *,
    beta: float = 0.04,
    clip: float = 0.2,
    epsilon: float = 1e-4,
    scale: bool = True,
    token_mean: bool = False,
) -> Responses:
    """Group relative policy optimisation: scores standardised in their group, clipped ratios of tokens.

    Mean over the tokens of a response of -min(w_n A, clip(w_n) A) + beta * k3_n, A = (score - mean of the
    group) / (its standard deviation + epsilon), w_n = pi / behaviour of token n; Shao et al. 2024,
    arXiv:2402.03300. A group of equal scores has no gradient but the KL's. See the head of this module.

    Args:
      beta: price of the KL, 0 or more (paper, section 4.2: 0.04). clip: above 0 (TRL: 0.2).
      epsilon: above 0 (TRL: 1e-4). scale: divide by the standard deviation.
      token_mean: every token of the group weighs the same, instead of every response.

    Returns:
      [b, k] without unit (nats in the KL's part), of either sign; 0 for an absent response.

    Raises:
      ValueError: shapes differ, a group has one response, or a hyper-parameter is outside its range.

    Example:
      >>> logps, mask = jnp.full((1, 2, 3), -1.0), jnp.ones((1, 2, 3), bool)  # fresh samples
      >>> loss = partial(losses.grpo, logps, logps - jnp.log(2.0), logps, jnp.array([[1.0, 0.0]]), mask)
      >>> print(loss(beta=0.5))  # A = 0.5 / (sqrt(0.5) + 1e-4); k3 = log 2 - 1/2
      [[-0.6104 0.8036]]
    """
    not_negative(beta=beta)
    positive(clip=clip, epsilon=epsilon)
    check_axes(
        token_logps=(token_logps, "b k r"),
        reference_token_logps=(reference_token_logps, "b k r"),
        behaviour_token_logps=(behaviour_token_logps, "b k r"),
        scores=(scores, "b k"),
        mask=(mask, "b k r"),
    )
    _check_group("grpo", scores)
    token_logps, reference, behaviour, scores = floats(
        token_logps, reference_token_logps, behaviour_token_logps, scores
    )
    where = mask.any(-1)
    scores = jax.lax.stop_gradient(jnp.where(where, scores, 0))
    advantages = group_advantages(scores, where, scale=scale, epsilon=epsilon)[..., None]
    surrogate = clipped_surrogate(token_ratios(token_logps, behaviour, mask), advantages, clip)
    total = token_sum(surrogate + beta * k3(token_ratios(token_logps, reference, mask)), mask)
    if not token_mean:
        return per_token(total, mask.sum(-1))
    tokens, responses = mask.sum((-1, -2)), where.sum(-1)
    # The mean of these over the responses of a group is the mean over its tokens.
    return total * (responses / jnp.maximum(tokens, 1))[:, None]
