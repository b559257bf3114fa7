"""Losses of inverse reinforcement learning: an expert's behaviour against a planner's or a learner's.

Likelihood needs none of these: MaxEnt IRL is `sft` of a planned policy. "expert" and "learner" in names are
responses 0 and 1 of a row.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpref.losses.checks import as_floats, check_axes, positive, within
from jaxpref.losses.conjugates import chi_square, reverse_kl_weights
from jaxpref.losses.links import logistic

__all__ = ["airl", "airl_rewards", "f_irl", "gail", "gail_rewards", "iq_learn", "max_margin_planning"]

Batch = Float[Array, " b"]
Lists = Float[Array, "b k"]
Steps = Float[Array, "b k r"]


def max_margin_planning(returns: Lists, best_returns: Lists, *, power: int = 1) -> Lists:
    """(best - own)^power: by how much the planner's augmented return beats the demonstration's.

    Ratliff et al. 2006; in units of reward, not a log-probability. `best_returns` is the optimum of rewards +
    l, where l >= 0 pays for what the demonstration did not do (`policies.margins`), so it is `returns` at
    least. With power 1 the subgradient is the features of the best response less those of the demonstration,
    and l = 0 is the structured perceptron. The paper's lambda / 2 |w|^2 is a `gaussian_log_prior`.

    Args:
      power: the paper's q, 1 or 2.

    Returns:
      [b, k], units of reward (to the power), 0 or more; 0 where the demonstration is the augmented optimum.

    Raises:
      ValueError: power is neither 1 nor 2, or shapes differ.

    Example:
      >>> own, best = jnp.array([[1.0, 3.0]]), jnp.array([[3.0, 3.0]])
      >>> print(losses.max_margin_planning(own, best), losses.max_margin_planning(own, best, power=2))
      [[2.000 0.000]] [[4.000 0.000]]
    """
    if power not in (1, 2):
        raise ValueError(f"power: expected 1 or 2, got {power}")
    own, best = as_floats(returns=returns, best_returns=best_returns)
    return (best - own) ** power


def iq_learn(
    action_values: Steps,
    state_values: Steps,
    next_values: Steps,
    mask: Bool[Array, "b k r"],
    *,
    discount: float = 0.99,
    alpha: float = 0.5,
    conjugate: Callable[[Array], Array] = chi_square,
) -> Lists:
    """-phi(Q - discount V') + V - discount V', the mean over steps: inverse soft Q-learning, offline form.

    Garg et al. 2021, arXiv:2106.12142: V = log sum_a exp Q at the step, V' the same after it (its mean where
    outcomes are uncertain, 0 after the end), in nats of the policy exp(Q - V). phi(x) = alpha f(x / alpha), f
    the `conjugate`: the divergence between the two occupancies, times alpha. Q - discount V' is the reward.

    With alpha infinite, phi(x) = x and the loss is -log policy: imitation. With a finite alpha the learner
    has more causal entropy than the expert, since the objective trades it against the divergence.

    Differs from the online form, which has (1 - discount) V(s_0) in place of the last two terms; on all of
    the expert's occupancy the two are equal.

    Args:
      discount: in (0, 1]. alpha: above 0 (0.5 is ours); `math.inf` is allowed.
      conjugate: of `losses.conjugates`: chi_square, or one of those that are finite on part of the line only.

    Returns:
      [b, k], nats, the mean over the steps of a response; 0 for no step.

    Raises:
      ValueError: discount or alpha is out of range, or shapes differ.

    Example:
      >>> q, mask = jnp.ones((1, 1, 1)), jnp.ones((1, 1, 1), bool)  # the other action has Q = 0
      >>> values = jnp.log(jnp.e + 1) * q, jnp.zeros((1, 1, 1))
      >>> print(losses.iq_learn(q, *values, mask, alpha=jnp.inf))  # -log sigmoid(1)
      [[0.3133]]
    """
    within("discount", discount, 0, 1 + 1e-12, low_open=True)
    positive(alpha=alpha)
    check_axes(mask=(mask, "b k r"))
    q, v, after = as_floats(action_values=action_values, state_values=state_values, next_values=next_values)
    check_axes(action_values=(q, "b k r"), mask=(mask, "b k r"))
    reward = q - discount * after
    gained = reward if alpha == float("inf") else alpha * conjugate(reward / alpha)
    losses = jnp.where(mask, -gained + v - discount * after, 0)
    return losses.sum(-1) / jnp.maximum(mask.sum(-1), 1)


def gail(expert_rewards: Batch, learner_rewards: Batch) -> Batch:
    """-log D(expert) - log(1 - D(learner)), D = sigmoid of the head's output: GAIL's discriminator, nats.

    Ho & Ermon 2016, arXiv:1606.03476, with the expert as the positive class; its optimum on two densities is
    their log-ratio, expert over learner. The learner earns `gail_rewards`. The paper has the opposite sign:
    its D is high on the learner.

    Returns:
      [b], nats, 0 or more; 2 log 2 where the discriminator is undecided.

    Raises:
      ValueError: shapes differ.

    Example:
      >>> print(losses.gail(jnp.array([0.0, 1.0]), jnp.array([0.0, -1.0])))  # 2 log 2 and 2 * 0.3133
      [1.3863 0.6265]
    """
    expert, learner = as_floats(expert_rewards=expert_rewards, learner_rewards=learner_rewards)
    return logistic(expert) + logistic(-learner)


def gail_rewards(rewards: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """-log(1 - D) = softplus(D's logit): what `gail`'s learner earns (arXiv:1606.03476).

    The package `imitation` has the same rewards.

    Returns:
      [..], nats, 0 or more; log 2 where D = 1/2.

    Example:
      >>> print(losses.imitation.gail_rewards(jnp.array([0.0, 1.0])))
      [0.6931 1.3133]
    """
    return jax.nn.softplus(rewards)


def airl(
    expert_rewards: Batch,
    learner_rewards: Batch,
    expert_generator_logps: Batch,
    learner_generator_logps: Batch,
) -> Batch:
    """GAIL's loss with the logit r - log policy: adversarial inverse RL, nats.

    Fu, Luo & Levine 2018, arXiv:1710.11248: D = exp r / (exp r + policy). `generator_logps` are log-probs of
    the actions under the learner's policy, constants here. For a reward free of shaping, r is g(s, a) +
    discount h(s') - h(s) of the step.

    Returns:
      [b], nats, 0 or more; 2 log 2 where the rewards are the policy's log-probs.

    Raises:
      ValueError: shapes differ.

    Example:
      >>> logps = jnp.array([-2.0])
      >>> print(losses.airl(logps, logps, logps, logps), losses.airl(logps + 1, logps - 1, logps, logps))
      [1.3863] [0.6265]
    """
    expert, learner, expert_logps, learner_logps = as_floats(
        expert_rewards=expert_rewards,
        learner_rewards=learner_rewards,
        expert_generator_logps=expert_generator_logps,
        learner_generator_logps=learner_generator_logps,
    )
    expert = expert - jax.lax.stop_gradient(expert_logps)
    return logistic(expert) + logistic(jax.lax.stop_gradient(learner_logps) - learner)


def airl_rewards(rewards: Float[Array, "*n"], logps: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """log D - log(1 - D) = r - log policy: what `airl`'s learner earns (arXiv:1710.11248).

    Returns:
      [..], nats; its mean over the learner's actions is that of r plus the entropy.

    Example:
      >>> print(losses.imitation.airl_rewards(jnp.array([1.0]), jnp.array([-2.0])))
      [3.000]
    """
    return rewards - logps


def f_irl(
    returns: Lists,
    log_density_ratios: Steps,
    mask: Bool[Array, "b k r"],
    *,
    weights: Callable[[Array], Array] = reverse_kl_weights,
    temperature: float = 1.0,
) -> Lists:
    """(H_i - mean H) return_i / temperature, a surrogate whose mean has the gradient of a divergence.

    Ni et al. 2020, arXiv:2011.04709: d D_f(expert || learner) = Cov(sum_t h(u_t), sum_t d r_t) / (temperature
    T) over the learner's own trajectories of T steps each, u the expert's density over the learner's at each
    state and H_i the mean of h(u_t) over the steps. No gradient flows through the log-ratios.

    h is `weights`: `reverse_kl_weights`, `forward_kl_weights` or `jensen_shannon_weights` of
    `losses.conjugates`, derived there and tested by finite differences of the divergences. The released code
    has the same three up to a constant, which the covariance does not see.

    Trajectories must be drawn from (or all those of) the soft-optimal distribution p(trajectory) ~
    exp(return / temperature), undiscounted. The mean couples the batch: with microbatches each part takes its
    own, which changes the value.

    Args:
      weights: h (the default is ours). temperature: of the learner, above 0.

    Returns:
      [b, k], 0 for absent trajectories; only its gradient means something, not the value.

    Raises:
      ValueError: temperature is not above 0, or shapes differ.

    Example:
      >>> log_ratios = jnp.array([[[1.0], [-1.0]]])  # 1 - log u is 0 and 2, its mean 1
      >>> print(losses.f_irl(jnp.array([[5.0, 3.0]]), log_ratios, jnp.ones((1, 2, 1), bool)))
      [[-5.000 3.000]]
    """
    positive(temperature=temperature)
    check_axes(
        returns=(returns, "b k"), log_density_ratios=(log_density_ratios, "b k r"), mask=(mask, "b k r")
    )
    (total,) = as_floats(returns=returns)
    real, steps = mask.any(-1), jnp.maximum(mask.sum(-1), 1)
    ratios = jnp.where(mask, jax.lax.stop_gradient(log_density_ratios), 0)
    means = jnp.where(mask, weights(ratios), 0).sum(-1) / steps
    centred = jnp.where(real, means - means.sum() / jnp.maximum(real.sum(), 1), 0)
    return centred * jnp.where(real, total, 0) / temperature
