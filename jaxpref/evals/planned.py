"""The worth of learned rewards: the return, in the true world, of the policy that follows from them."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from jaxpref.evals.base import Context, Evaluation, Picture
from jaxpref.evals.grids import pictured_grid
from jaxpref.evals.intervals import exact
from jaxpref.planning import TabularMDP, World, optimal_policy, policy_values, scaled_return
from jaxpref.types import Segments

__all__ = [
    "budget_shares",
    "grid_picture",
    "learned_rewards",
    "learned_weights",
    "planned_return",
    "step_scores",
]


def step_scores(context: Context, world: World) -> NDArray[np.float64]:
    """Scores `[s, a]` of segments of one step, one for each action of each state."""
    states, actions = world.mdp.rewards.shape
    rows = context.rows(states)
    state, action = np.indices((rows, actions), np.int32)
    batch = Segments(
        jnp.asarray(np.minimum(state, states - 1)[..., None]),
        jnp.asarray(action[..., None]),
        jnp.ones((rows, actions, 1), bool),
    )
    return np.asarray(context.fetch(context.rewards(context.put(batch))), np.float64)[:states]


def learned_rewards(context: Context, world: World) -> NDArray[np.float64]:
    """Rewards `[s, a]` of the learned weights of `policies.linear_scores`."""
    weights = np.asarray(context.fetch(context.params["weights"]), np.float64)
    return np.asarray(world.features, np.float64) @ weights


def planned_return(
    context: Context,
    *,
    world: Callable[[], World],
    table: Callable[[Context, World], NDArray[np.float64]] = step_scores,
    read: Callable[[TabularMDP], Float[Array, "s a"]] = optimal_policy,
    num_prompts: int | None = None,
    name: str = "planned",
) -> Evaluation:
    """Scaled return of the policy that `read` makes of the `table` that was learned; exact.

    1 is optimal under the true rewards, 0 is uniform (`planning.scaled_return`; above 0.9 is called near
    optimal in arXiv:2206.02231). "largest entry" is the mean over states of the best action's; 0 for
    advantages. On a grid the policy is drawn.

    Args:
      table: [s, a]; `step_scores`, which are rewards for models of partial return and advantages for those of
        regret, or `learned_rewards`.
      read: `planning.optimal_policy` plans with the table as a reward, `planning.greedy_policy` takes the
        largest entry.
      num_prompts: has no effect: there is nothing to draw.
    """
    del num_prompts
    known = world()
    entries = table(context, known)
    policy = read(known.mdp._replace(rewards=jnp.asarray(entries, known.mdp.rewards.dtype)))
    best = entries.max(-1)[~np.asarray(known.mdp.terminal)].mean()
    return Evaluation(
        name,
        {
            "scaled return": exact(float(scaled_return(known.mdp, policy, known.start))),
            "largest entry": exact(float(best), better=""),
        },
        pictures=(grid_picture(name, known, policy),) if len(known.shape) == 2 else (),
    )


def grid_picture(title: str, world: World, policy: Float[Array, "s a"]) -> Picture:
    """A policy on a grid with moves up, down, left and right, and its true values.

    Terminal cells are marked +, - or 0 by the reward of entering them, and cells never entered with x.
    """
    mdp = world.mdp
    terminal = np.asarray(mdp.terminal)
    enters = np.asarray(mdp.transitions) * ~terminal[:, None, None]
    earned = (enters * np.asarray(mdp.rewards)[..., None]).sum((0, 1))
    signs = np.where(enters.sum((0, 1)) > 0, np.array(["-", "0", "+"])[np.sign(earned).astype(int) + 1], "x")
    return pictured_grid(
        title,
        shape=world.shape,
        values=policy_values(mdp, policy),
        policy=policy,
        terminal=terminal,
        label="true value of the policy",
        marks=signs,
    )


def learned_weights(
    context: Context, *, features: Sequence[str], num_prompts: int | None = None, name: str = "weights"
) -> Evaluation:
    """Weights of `policies.linear_scores` over the size of the first one, since noise sets their scale; and
    "scale", that size: the logit of a preference for one unit of it."""
    del num_prompts
    weights = np.asarray(context.fetch(context.params["weights"]), np.float64)
    if weights.shape != (len(features),):
        raise ValueError(f"learned_weights: {len(features)} features and weights of shape {weights.shape}")
    unit = max(abs(float(weights[0])), 1e-12)
    relative = dict(zip(features, map(float, weights / unit), strict=True))
    return Evaluation(name, {key: exact(x, better="") for key, x in (relative | {"scale": unit}).items()})


def budget_shares(
    context: Context,
    *,
    budgets: Sequence[int],
    num_prompts: int | None = None,
    name: str = "budgets",
) -> Evaluation:
    """Learned probability of each budget of each agent (`policies.latent_budgets`), and its mean budget."""
    del num_prompts
    logits = np.asarray(context.fetch(context.params["budget_logits"]), np.float64)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    if shares.shape[-1] != len(budgets):
        raise ValueError(f"budget_shares: {len(budgets)} budgets, and the policy has {shares.shape[-1]}")
    metrics = {}
    for agent, row in enumerate(shares):
        metrics |= {
            f"agent {agent}, {b} steps": exact(float(p), better="") for b, p in zip(budgets, row, strict=True)
        }
        metrics[f"agent {agent}, mean steps"] = exact(float(row @ np.asarray(budgets)), better="")
    return Evaluation(name, metrics)
