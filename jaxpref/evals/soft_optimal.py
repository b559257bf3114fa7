"""How far a table of action probabilities is from the policy that is optimal with entropy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxpref.evals.base import Context, Evaluation
from jaxpref.evals.intervals import exact
from jaxpref.evals.sweeps import pictured_sweeps
from jaxpref.planning import TabularMDP, policy_values, values
from jaxpref.types import Segments

__all__ = ["soft_optimal_error"]


def soft_optimal_error(
    context: Context,
    *,
    mdp: Callable[[], TabularMDP],
    temperature: float,
    sweeps: int = 60,
    num_prompts: int | None = None,
    name: str = "soft optimum",
) -> Evaluation:
    """Largest |pi - pi*| and mean KL(pi* || pi) (nats) over states that are not terminal, and the soft value
    that pi loses there on average.

    pi* maximises return plus `temperature` times entropy. Exact: nothing is sampled, and the intervals have
    no width. A picture shows how value iteration converges: the largest change in each sweep, soft and hard.

    Args:
      sweeps: number of sweeps in the picture.
      num_prompts: has no effect: there is nothing to draw.
    """
    del num_prompts
    world = mdp()
    states, actions = world.rewards.shape
    observations, taken = jnp.indices((states, actions), dtype=jnp.int32)
    every = Segments(observations[..., None], taken[..., None], jnp.ones((states, actions, 1), bool))
    logps = context.compiled(context.policy.token_logps)(context.params, every)
    logps = jnp.asarray(context.fetch(logps))[..., 0]
    best_v, best_q, best = values(world, temperature)
    live = ~np.asarray(world.terminal)

    policy = jnp.exp(logps)
    entropy = -(policy * logps).sum(-1)
    lost = best_v - policy_values(world, policy, bonus=temperature * entropy)
    log_best = jax.nn.log_softmax(best_q / temperature, -1)
    kl = (best * (log_best - logps)).sum(-1)
    measured = {
        "max |pi - pi*|": np.abs(np.asarray(policy - best))[live].max(),
        "KL(pi* || pi)": np.asarray(kl)[live].mean(),
        "lost value": np.asarray(lost)[live].mean(),
    }
    worlds = {f"soft, temperature {temperature:g}": (world, temperature), "hard": (world, 0.0)}
    return Evaluation(
        name,
        {n: exact(float(x), int(live.sum()), "lower") for n, x in measured.items()},
        pictures=(pictured_sweeps("value iteration", worlds, sweeps=sweeps),),
    )
