"""How near learnt rewards of a finite world come to the hidden ones, exactly."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array
from numpy.typing import ArrayLike

from jaxpref.evals.base import Context, Estimate, Evaluation
from jaxpref.planning import TabularMDP, occupancy, policy_values, values
from jaxpref.policies.planned import log_policy, paid
from jaxpref.policies.reward_functions import RewardFunction

__all__ = ["reward_recovery"]


def reward_recovery(
    context: Context,
    *,
    world: Callable[[], TabularMDP],
    rewards: Callable[[], RewardFunction],
    start: Callable[[], ArrayLike],
    temperature: float = 1.0,
    name: str = "recovery",
    num_prompts: int | None = None,
) -> Evaluation:
    """Policies and returns of the params' rewards against those of the world's, without a horizon.

    Nothing is sampled, and the intervals have no width:

      policy KL            KL(soft expert || soft learner), mean over states as the expert visits them, nats
      reward correlation   Pearson's, over states (and actions) that are no end; shaping lowers it, and says
                           nothing about behaviour
      value difference     start . (V* - V of the policy that is optimal for the learnt rewards), in hidden
                           rewards: the expected value difference of Levine et al. 2011
      value share          the same, of the distance between V* and the uniform policy: 1 is optimal

    Args:
      world: the true one, its rewards included.
      start: builds the probabilities of the first state.
      num_prompts: not used; evaluators have it.
    """
    del num_prompts
    mdp, reward = world(), rewards()
    first = jnp.asarray(start(), jnp.float32)

    def measure(params: object) -> dict[str, Array]:
        mine = reward.rewards(params)
        true = paid(mdp, jnp.asarray(mdp.rewards, mine.dtype))
        learnt = paid(mdp, mine)
        expert, learner = log_policy(true, temperature), log_policy(learnt, temperature)
        best, _, _ = values(true)
        followed = policy_values(true, values(learnt)[2])
        low = policy_values(true, jnp.full_like(expert, 1 / expert.shape[-1]))
        visits = occupancy(true, jnp.exp(expert), first).sum(-1)
        divergence = (jnp.exp(expert) * (expert - learner)).sum(-1)
        here = ~jnp.broadcast_to(mdp.terminal[:, None], learnt.rewards.shape)
        return {
            "policy KL": (visits * divergence).sum() / visits.sum(),
            "reward correlation": _correlation(true.rewards, learnt.rewards, here),
            "value difference": first @ (best - followed),
            "value share": first @ (followed - low) / (first @ (best - low)),
        }

    measured = context.compiled(measure)(context.params)
    found = {key: float(context.fetch(value)) for key, value in measured.items()}
    better = {"policy KL": "lower", "value difference": "lower"}
    return Evaluation(
        name, {key: Estimate(v, v, v, 1, better.get(key, "higher")) for key, v in found.items()}
    )


def _correlation(x: Array, y: Array, where: Array) -> Array:
    """0 where either is constant."""
    weights = where / where.sum()
    x, y = ((z - (weights * z).sum()) * where for z in (x, y))
    spread = jnp.sqrt((x * x).sum() * (y * y).sum())
    return jnp.where(spread > 0, (x * y).sum() / jnp.where(spread > 0, spread, 1), 0)
