"""Inputs of losses that plan against demonstrations or read soft values: features of `offline`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpref.planning import TabularMDP, horizon_values, values
from jaxpref.policies.planned import paid
from jaxpref.policies.reward_functions import RewardFunction
from jaxpref.types import Params, PRNGKey, Segments

__all__ = ["margin_returns", "soft_q_values"]


def margin_returns(
    params: Params,
    batch: Segments,
    key: PRNGKey | None = None,
    *,
    world: Callable[[], TabularMDP],
    rewards: Callable[[], RewardFunction],
    margin: float = 1.0,
    horizon: int | None = None,
    tolerance: float = 1e-6,
) -> dict[str, Float[Array, "b k"]]:
    """`returns` of demonstrations and `best_returns` of the loss-augmented plans, for `max_margin_planning`.

    Ratliff et al. 2006: the plan from the demonstration's first state is paid the rewards and
    `margin` for each step in a state and action that the demonstration never takes; one plan for each
    demonstration. Returns are discounted as the world says. Demonstrations end in a terminal state, or last
    `horizon` steps: what a cut-off one would have earned later is missing from its return.

    Args:
      rewards: as in `policies.planned`, whose params these are.
      margin: 0 or more; 0 is the structured perceptron.
    """
    if not margin >= 0:
        raise ValueError(f"margin_returns.margin: expected 0 or more, got {margin}")
    mdp = paid(world(), rewards().rewards(params))
    steps = mdp.discount ** jnp.arange(batch.actions.shape[-1])
    earned = mdp.rewards[batch.observations, batch.actions]
    own = jnp.where(batch.mask, earned, 0) @ steps.astype(earned.dtype)

    def best(states: Array, actions: Array, mask: Array) -> Array:
        visited = jnp.zeros(mdp.rewards.shape, bool).at[states, actions].max(mask)
        augmented = mdp._replace(rewards=mdp.rewards + margin * ~visited)
        if horizon is None:
            return values(augmented, tolerance=tolerance)[0][states[0]]
        return horizon_values(augmented, horizon)[0][0, states[0]]

    plan = jax.vmap(jax.vmap(best))
    return {"returns": own, "best_returns": plan(batch.observations, batch.actions, batch.mask)}


def soft_q_values(
    params: Params, batch: Segments, key: PRNGKey | None = None, *, world: Callable[[], TabularMDP]
) -> dict[str, Float[Array, "b k t"]]:
    """`action_values`, `state_values`, `next_values` of a `state_table` whose logits are Q, for `iq_learn`.

    V = log sum_a exp Q (nats: the policy of the table is exp(Q - V)), 0 in terminal states; the next value is
    its mean over the world's outcomes, so that uncertain ones bias nothing.
    """
    mdp, q = world(), params["logits"]
    v = jnp.where(mdp.terminal, 0, jax.nn.logsumexp(q, -1))
    after = mdp.transitions.astype(q.dtype) @ v
    where = batch.observations, batch.actions
    return {
        "action_values": q[where],
        "state_values": v[batch.observations],
        "next_values": after[where],
    }
