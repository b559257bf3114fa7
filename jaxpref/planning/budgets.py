"""Planners that stop early, and mixtures of them: people whose inference has a hidden budget.

Latent inference budgets, Jacob et al. 2024, arXiv:2312.04030 (known to us by its abstract and reviews; which
of the two mixtures is the paper's has not been verified, and one review speaks of one budget a trajectory).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpref.planning.tabular import TabularMDP

__all__ = ["budget_logps", "budget_posterior", "per_decision", "per_trajectory"]

LogPrior = Float[Array, "*n g"]  # log p(budget), normalised
Steps = Float[Array, "*n t g"]  # log-probs of each action under each budget's policy
Mask = Bool[Array, "*n t"]


def budget_logps(
    mdp: TabularMDP,
    budgets: Sequence[int],
    *,
    temperature: float | Float[Array, ""] = 1.0,
    heuristic: Float[Array, " s"] | float = 0.0,
) -> Float[Array, "g s a"]:
    """Log-probs of policies that look `budgets` steps ahead: softmax(Q_b / temperature).

    Q_b is the result of b sweeps of value iteration that start from `heuristic`, so one run of the longest
    gives them all. Budget 1 sees the rewards of its actions; a large one is the optimal policy, softened.

    Args:
      budgets: sweeps, 1 or more each.
      temperature: above 0, in the unit of the rewards.
      heuristic: values beyond the frontier; 0 in terminal states whatever it says.

    Returns:
      `[g, s, a]`, nats, one table for each budget.

    Raises:
      ValueError: a budget is below 1.

    Example:
      >>> successors, ended = jnp.array([[0, 1], [1, 1]]), jnp.array([False, True])  # stay at -2, end at -1
      >>> mdp = planning.deterministic_mdp(successors, jnp.array([[-2.0, -1.0], [0.0, 0.0]]), ended)
      >>> logps = planning.budget_logps(mdp, [1, 2])  # Q_1 = (-2, -1), Q_2 = (-3, -1)
      >>> print(jnp.exp(logps[:, 0, 1]), jax.nn.sigmoid(jnp.array([1.0, 2.0])))
      [0.7311 0.8808] [0.7311 0.8808]
    """
    depth = max(budgets)
    if min(budgets) < 1:
        raise ValueError(f"budgets: expected 1 or more, got {min(budgets)}")
    first = jnp.broadcast_to(jnp.asarray(heuristic, mdp.rewards.dtype), mdp.rewards.shape[:1])

    def sweep(v: Float[Array, " s"], _: None) -> tuple[Float[Array, " s"], Float[Array, "s a"]]:
        v = jnp.where(mdp.terminal, 0, v)
        q = jnp.where(mdp.terminal[:, None], 0, mdp.rewards + mdp.discount * mdp.transitions @ v)
        return q.max(-1), q

    _, found = jax.lax.scan(sweep, first, None, depth)
    return jax.nn.log_softmax(found[jnp.asarray(budgets) - 1] / temperature, -1)


def per_decision(log_prior: LogPrior, step_logps: Steps, mask: Mask) -> Float[Array, "*n t"]:
    """log sum_b p(b) pi_b(a_t | s_t): a budget is drawn anew for every decision.

    Returns:
      `[*n, t]`, nats, 0 where masked.

    Example:
      >>> prior, steps = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([[0.2, 0.8], [0.2, 0.8]]))
      >>> print(jnp.exp(planning.per_decision(prior, steps, jnp.array([True, True]))))
      [0.5000 0.5000]
    """
    mixed = jax.nn.logsumexp(log_prior[..., None, :] + step_logps, -1)
    return jnp.where(mask, mixed, 0)


def per_trajectory(log_prior: LogPrior, step_logps: Steps, mask: Mask) -> Float[Array, "*n t"]:
    """log p(a_t | steps before it): one budget for the whole trajectory, inferred as it goes.

    Its sum over steps is log sum_b p(b) prod_t pi_b(a_t | s_t).

    Returns:
      `[*n, t]`, nats, 0 where masked.

    Example:
      >>> prior, steps = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([[0.2, 0.8], [0.2, 0.8]]))
      >>> print(jnp.exp(planning.per_trajectory(prior, steps, jnp.array([True, True]))))  # then 0.34 / 0.5
      [0.5000 0.6800]
    """
    kept = jnp.where(mask[..., None], step_logps, 0)
    after = jax.nn.logsumexp(log_prior[..., None, :] + kept.cumsum(-2), -1)
    before = jnp.concatenate([jax.nn.logsumexp(log_prior, -1)[..., None], after[..., :-1]], -1)
    return jnp.where(mask, after - before, 0)


def budget_posterior(log_prior: LogPrior, step_logps: Steps, mask: Mask) -> LogPrior:
    """log p(budget | trajectory), one budget for all of it.

    Its mean less the prior is the slope of the log-likelihood in the prior's logits.

    Returns:
      `[*n, g]`, nats, normalised.

    Example:
      >>> prior, steps = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([[0.2, 0.8], [0.2, 0.8]]))
      >>> print(jnp.exp(planning.budget_posterior(prior, steps, jnp.array([True, True]))))  # 1 : 16
      [0.0588 0.9412]
    """
    return jax.nn.log_softmax(log_prior + jnp.where(mask[..., None], step_logps, 0).sum(-2), -1)
