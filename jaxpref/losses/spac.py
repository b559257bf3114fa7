"""Self-play with an adversarial critic: pairs against the iterate before, and a pessimist about own samples.

The leader is the policy, the follower a critic f that explains the pairs and otherwise gives the policy's own
samples as little as it can (pessimism on average). The two-timescale form has the critic as an object of its
own (`spac_critic`, `policy_step`); the single-timescale form puts f = log(pi / pi_t) / eta, pi_t the iterate
before, which is the reference and drew the samples. A round is a stage: new reference, new samples.
arXiv:2406.04274.
"""

import jax
from jaxtyping import Array, Float

from jaxpref.losses.checks import as_floats, check_axes, floats, positive
from jaxpref.losses.links import logistic
from jaxpref.losses.scores import log_ratio, log_ratios

__all__ = ["critic_objective", "policy_step", "spac", "spac_critic", "spac_linear"]

Batch = Float[Array, " b"]
Samples = Float[Array, "b s"]


def _ratios(
    chosen: Batch,
    rejected: Batch,
    reference_chosen: Batch,
    reference_rejected: Batch,
    sampled: Samples,
    reference_sampled: Samples,
) -> tuple[Batch, Batch, Samples]:
    """Log-ratios to the iterate before: chosen, rejected, own samples."""
    first, second = log_ratios(chosen, rejected, reference_chosen, reference_rejected)
    check_axes(
        chosen_logps=(first, "b"),
        sampled_logps=(sampled, "b s"),
        reference_sampled_logps=(reference_sampled, "b s"),
    )
    return first, second, log_ratio(*floats(sampled, reference_sampled))


def spac(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    sampled_logps: Samples,
    reference_sampled_logps: Samples,
    *,
    weight: float = 10.0,
    eta: float = 1.0,
) -> Batch:
    """SPAC, single time-scale, smoothed: pairs, and a log-sigmoid that keeps own samples from rising.

    weight * l((u_w - u_l) / eta) + mean_s (l((u_w - u_s) / eta) + l((u_l - u_s) / eta)) / 2, where l is -log
    sigmoid, u log-ratios to the iterate before (nats) and s its samples; after Ji et al. 2024,
    arXiv:2406.04274. Our reading, not the paper's formula: the abstract's critic with f = log-ratio / eta,
    either response of the pair as what a sample is held against, and log-sigmoids against `spac_linear`'s
    descent. (A note on its Alg. 2 tells of the same three parts; the formula itself is not verified.) All
    terms are `dpo`: of the pair, and of each of its responses with a self-sample as rejected (SPIN).

    Args:
      weight: lambda, of the pairs against the pessimism, above 0 (ours).
      eta: step of a round, above 0 (ours).

    Returns:
      [b] nats, 0 or more; (weight + 1) * log 2 where policy and iterate agree, at the start of every round.

    Raises:
      ValueError: shapes differ, or weight or eta is not above 0.

    Example:
      >>> ref, own = jnp.array([-4.0]), jnp.array([[-5.0, -3.0]])
      >>> x, now = ref - jnp.log(9.0), own - jnp.log(9.0)  # u_w = 0, the others -log 9
      >>> print(losses.spac(ref, x, ref, ref, now, own, weight=2.0, eta=2.0))  # 2.5 log(4/3) + log(2) / 2
      [1.0658]
    """
    positive(weight=weight, eta=eta)
    first, second, own = _ratios(
        chosen_logps,
        rejected_logps,
        reference_chosen_logps,
        reference_rejected_logps,
        sampled_logps,
        reference_sampled_logps,
    )
    terms = (logistic((side[:, None] - own) / eta).mean(-1) for side in (first, second))
    return weight * logistic((first - second) / eta) + sum(terms) / 2


def spac_linear(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    sampled_logps: Samples,
    reference_sampled_logps: Samples,
    *,
    weight: float = 10.0,
    eta: float = 1.0,
) -> Batch:
    """SPAC, single time-scale, linear: weight * l((u_w - u_l) / eta) + mean_s u_s. Has no minimum.

    l(h) = -log sigmoid(h), u log-ratios to the iterate before (nats), s its own samples; Ji et al. 2024,
    arXiv:2406.04274, by secondary accounts. On samples of the iterate the mean of u_s is -KL(pi_t || pi), so
    the loss falls without bound as the policy leaves them, whatever the weight: for comparison with `spac`.

    Args:
      weight: lambda, above 0 (ours). eta: above 0 (ours).

    Returns:
      [b] nats, of either sign; weight * log 2 where policy and iterate agree.

    Raises:
      ValueError: shapes differ, or weight or eta is not above 0.

    Example:
      >>> ref, own = jnp.array([-4.0]), jnp.array([[-5.0, -3.0]])
      >>> x, now = ref - jnp.log(9.0), own - jnp.log(9.0)  # u_w = 0, the others -log 9
      >>> print(losses.spac_linear(ref, x, ref, ref, now, own, weight=2.0, eta=2.0))  # 2 log(4/3) - log 9
      [-1.6219]
    """
    positive(weight=weight, eta=eta)
    first, second, own = _ratios(
        chosen_logps,
        rejected_logps,
        reference_chosen_logps,
        reference_rejected_logps,
        sampled_logps,
        reference_sampled_logps,
    )
    return weight * logistic((first - second) / eta) + own.mean(-1)


def critic_objective(
    chosen: Batch, rejected: Batch, sampled: Samples, *, weight: float, scale: float = 1.0
) -> Batch:
    """What the follower minimises: mean_s f_s - (f_w + f_l) / 2 + weight * l(scale * (f_w - f_l)).

    Convex in f, and unbounded below unless f is. The mean of the pair makes it indifferent to a constant in
    f, which pairs cannot tell; that the paper has it is not verified.

    Args:
      chosen, rejected, sampled: the critic f of the pair and of the policy's samples.
      weight: lambda, above 0. scale: log-odds of a preference in units of f, above 0.

    Returns:
      [b], of either sign; weight * log 2 where f is constant.

    Example:
      >>> f_w, f_l, f_s = jnp.array([1.0]), jnp.array([0.5]), jnp.array([[0.0, 0.5]])
      >>> print(critic_objective(f_w, f_l, f_s, weight=2.0, scale=2.0))  # 0.25 - 0.75 + 2 log(1 + exp(-1))
      [0.1265]
    """
    return sampled.mean(-1) - (chosen + rejected) / 2 + weight * logistic(scale * (chosen - rejected))


def spac_critic(
    chosen_rewards: Batch,
    rejected_rewards: Batch,
    sampled_rewards: Samples,
    *,
    weight: float = 10.0,
    bound: float = 1.0,
    scale: float = 1.0,
) -> Batch:
    """The critic of two-timescale SPAC: explain the pairs, and be pessimistic about the policy's samples.

    mean_s f_s - (f_w + f_l) / 2 + weight * -log sigmoid(scale * (f_w - f_l)), f = bound * sigmoid(reward):
    without a box it has no minimum. After Ji et al. 2024, arXiv:2406.04274 (the sigmoid is ours, and so are
    the defaults). `policy_step` is the other half.

    Args:
      weight: lambda, above 0. bound: the range R of the critic, above 0.
      scale: log-odds of a preference in units of f, above 0. (All three defaults are ours.)

    Returns:
      [b] nats (f has no unit), -bound or more; weight * log 2 where all rewards are equal.

    Raises:
      ValueError: shapes differ, or a hyper-parameter is not above 0.

    Example:
      >>> w, own = jnp.log(jnp.array([3.0])), jnp.zeros((1, 2))  # f = 3/4, 1/4 and 1/2: log(1 + exp(-0.5))
      >>> print(losses.spac_critic(w, -w, own, weight=1.0))
      [0.4741]
    """
    positive(weight=weight, bound=bound, scale=scale)
    chosen, rejected = as_floats(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    check_axes(chosen_rewards=(chosen, "b"), sampled_rewards=(sampled_rewards, "b s"))
    (sampled,) = floats(sampled_rewards)
    inside = (bound * jax.nn.sigmoid(x) for x in (chosen, rejected, sampled))
    return critic_objective(*inside, weight=weight, scale=scale)


def policy_step(
    logps: Float[Array, "*b n"], critic: Float[Array, "*b n"], eta: float
) -> Float[Array, "*b n"]:
    """The exact step of a policy against a critic f: pi_(t+1) proportional to pi_t * exp(eta * f).

    Args:
      logps: log pi_t of all `n` responses, nats. critic: f. eta: step, 0 or more.

    Returns:
      [*b, n] log-probs, nats; a constant in f changes nothing.

    Example:
      >>> print(jnp.exp(policy_step(jnp.zeros(2), jnp.log(jnp.array([3.0, 1.0])), 1.0)))
      [0.7500 0.2500]
    """
    return jax.nn.log_softmax(logps + eta * critic, axis=-1)
