"""Planners that stop early, and mixtures of them: people whose inference has a budget that is not seen.

Latent inference budgets, Jacob et al. 2024, arXiv:2312.04030 (known to us by its abstract and reviews).
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

    Q_b is what b sweeps of value iteration leave, from `heuristic` at the frontier, so all come out of one
    run of the longest. Budget 1 sees the rewards of its actions; a large one is the optimal policy, softened.
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
    """log sum_b p(b) pi_b(a_t | s_t): a budget is drawn anew for every decision."""
    mixed = jax.nn.logsumexp(log_prior[..., None, :] + step_logps, -1)
    return jnp.where(mask, mixed, 0)


def per_trajectory(log_prior: LogPrior, step_logps: Steps, mask: Mask) -> Float[Array, "*n t"]:
    """log p(a_t | steps before it): one budget for the whole trajectory, inferred as it goes.

    Its sum over steps is log sum_b p(b) prod_t pi_b(a_t | s_t).
    """
    kept = jnp.where(mask[..., None], step_logps, 0)
    after = jax.nn.logsumexp(log_prior[..., None, :] + kept.cumsum(-2), -1)
    before = jnp.concatenate([jax.nn.logsumexp(log_prior, -1)[..., None], after[..., :-1]], -1)
    return jnp.where(mask, after - before, 0)


def budget_posterior(log_prior: LogPrior, step_logps: Steps, mask: Mask) -> LogPrior:
    """log p(budget | trajectory), one budget for all of it. Its mean less the prior is the slope of the
    log-likelihood in the prior's logits."""
    return jax.nn.log_softmax(log_prior + jnp.where(mask[..., None], step_logps, 0).sum(-2), -1)
