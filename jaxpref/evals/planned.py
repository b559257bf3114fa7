"""What rewards that were learned are worth: the policy that follows from them, in the world as it is."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from jaxpref.evals.base import Context, Estimate, Evaluation
from jaxpref.planning import TabularMDP, World, optimal_policy, scaled_return
from jaxpref.types import Segments

__all__ = ["learned_weights", "planned_return", "step_scores"]


def planned_return(
    context: Context,
    *,
    world: Callable[[], World],
    read: Callable[[TabularMDP], jnp.ndarray] = optimal_policy,
    num_prompts: int | None = None,
    name: str = "planned",
) -> Evaluation:
    """Scaled return of the policy that `read` makes of the learned scores of single steps; exact.

    1 is optimal under the true rewards, 0 is uniform (`planning.scaled_return`; above 0.9 is called near
    optimal in arXiv:2206.02231). Under partial return the score of a step is its reward, and under regret
    its advantage: `planning.optimal_policy` plans with it as a reward, `planning.greedy_policy` takes the
    largest.

    "largest score": mean over states of the best action's score; 0 for advantages.

    Args:
      num_prompts: has no effect: there is nothing to draw.
    """
    del num_prompts
    known = world()
    table = step_scores(context, known)
    policy = read(known.mdp._replace(rewards=jnp.asarray(table, known.mdp.rewards.dtype)))
    best = table.max(-1)[~np.asarray(known.mdp.terminal)].mean()
    return Evaluation(
        name,
        {
            "scaled return": _exact(float(scaled_return(known.mdp, policy, known.start)), "higher"),
            "largest score": _exact(float(best), ""),
        },
    )


def learned_weights(
    context: Context, *, features: Sequence[str], num_prompts: int | None = None, name: str = "weights"
) -> Evaluation:
    """Weights of `policies.linear_rewards`, over the size of the first one: its scale is the noise's."""
    del num_prompts
    found = np.asarray(context.fetch(context.params["weights"]), np.float64)
    if found.shape != (len(features),):
        raise ValueError(f"learned_weights: {len(features)} features and weights of shape {found.shape}")
    unit = max(abs(float(found[0])), 1e-12)
    return Evaluation(
        name, {feature: _exact(float(w) / unit, "") for feature, w in zip(features, found, strict=True)}
    )


def step_scores(context: Context, world: World) -> np.ndarray:
    """Scores `[s, a]` of segments of one step, one for each action of each state."""
    states, actions = world.mdp.rewards.shape
    numbers = np.indices((states, actions), np.int32)
    batch = Segments(
        jnp.asarray(numbers[0][..., None]),
        jnp.asarray(numbers[1][..., None]),
        jnp.ones((states, actions, 1), bool),
    )
    return np.asarray(context.fetch(context.rewards(context.put(batch))), np.float64)


def _exact(value: float, better: str) -> Estimate:
    return Estimate(value, value, value, 1, better)
