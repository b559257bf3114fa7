"""How near learnt rewards and policies of a finite world come to the hidden ones, exactly."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from jaxpref.evals.base import Context, Estimate, Evaluation, Picture
from jaxpref.evals.grids import pictured_grid
from jaxpref.evals.intervals import exact
from jaxpref.planning import TabularMDP, occupancy, policy_values, values
from jaxpref.policies.base import Policy
from jaxpref.policies.planned import log_policy, paid
from jaxpref.policies.reward_functions import RewardFunction
from jaxpref.types import Params, Segments

__all__ = ["policy_recovery", "reward_recovery"]

Shown = dict[str, tuple[Array, Array]]  # colours [s] and a policy [s, a] by side

_LOWER = ("policy KL", "value difference")


def reward_recovery(
    context: Context,
    *,
    world: Callable[[], TabularMDP],
    rewards: Callable[[], RewardFunction],
    start: Callable[[], ArrayLike],
    temperature: float = 1.0,
    width: int | None = None,
    beside: Mapping[str, Callable[[], ArrayLike]] | None = None,
    num_prompts: int | None = None,
    name: str = "recovery",
) -> Evaluation:
    """Learnt rewards against the world's: the policies planned with them, without a horizon, and their value.

    Nothing is sampled, and the intervals have no width:

      policy KL            KL(soft expert || soft learner), mean over states as the expert visits them, nats
      reward correlation   Pearson's, over actions of states that are not terminal; shaping lowers it, though
                           it changes no behaviour
      value difference     start . (V* - V of the policy that is optimal for the learnt rewards), in hidden
                           rewards: the expected value difference of Levine et al. 2011
      value share          where that policy's value lies from the uniform policy's (0) to V* (1)

    Args:
      world: the true one, its rewards included.
      start: builds the probabilities of the first state.
      temperature: of the soft policies.
      width: of a grid (`environments.gridworld`): hidden and learnt rewards are then drawn, with the policies
        that are optimal for them.
      beside: other policies `[s, a]` by name, whose value shares are given too, such as the demonstrator's.
      num_prompts: has no effect: there is nothing to draw.
    """
    del num_prompts
    measure = _of_rewards(world, rewards, start, temperature, tuple((beside or {}).items()))
    metrics, shown = context.compiled(measure)(context.params)
    pictures = () if width is None else _pictures(world(), width, context.fetch(shown), "reward of a state")
    return Evaluation(name, _exact(context, metrics), pictures=pictures)


@functools.lru_cache(maxsize=8)  # one function for all evaluations of a run, so that it is compiled once
def _of_rewards(
    world: Callable[[], TabularMDP],
    rewards: Callable[[], RewardFunction],
    start: Callable[[], ArrayLike],
    temperature: float,
    beside: tuple[tuple[str, Callable[[], ArrayLike]], ...],
) -> Callable[[Params], tuple[dict[str, Array], Shown]]:
    mdp, reward = world(), rewards()
    first = jnp.asarray(start(), jnp.float32)
    others = {who: jnp.asarray(policy(), jnp.float32) for who, policy in beside}

    def measure(params: Params) -> tuple[dict[str, Array], Shown]:
        mine = reward.rewards(params)
        true, learnt = paid(mdp, jnp.asarray(mdp.rewards, mine.dtype)), paid(mdp, mine)
        expert, learner = log_policy(true, temperature), log_policy(learnt, temperature)
        (best, _, hard), (*_, planned) = values(true), values(learnt)
        followed = policy_values(true, planned)
        low = policy_values(true, jnp.full_like(expert, 1 / expert.shape[-1]))
        here = ~jnp.broadcast_to(mdp.terminal[:, None], learnt.rewards.shape)

        def share(v: Float[Array, " s"]) -> Array:
            return first @ (v - low) / (first @ (best - low))

        metrics = {
            "policy KL": _divergence(true, expert, learner, first),
            "reward correlation": _correlation(true.rewards, learnt.rewards, here),
            "value difference": first @ (best - followed),
            "value share": share(followed),
        }
        metrics |= {f"value share, {who}": share(policy_values(true, p)) for who, p in others.items()}
        shown = {"hidden": (true.rewards.mean(-1), hard), "learnt": (learnt.rewards.mean(-1), planned)}
        return metrics, shown

    return measure


def policy_recovery(
    context: Context,
    *,
    world: Callable[[], TabularMDP],
    start: Callable[[], ArrayLike],
    temperature: float = 1.0,
    width: int | None = None,
    discriminator: Callable[[], RewardFunction] | None = None,
    part: str | None = None,
    num_prompts: int | None = None,
    name: str = "recovery",
) -> Evaluation:
    """A policy against the soft-optimal one of the world's rewards.

    Exact, as `reward_recovery`, with the same "policy KL". "value share" is where the value of the stochastic
    policy itself, without entropy, lies from the uniform policy's (0) to the expert's (1); it may exceed 1.

    Args:
      width: of a grid, on which the expert and the learner are then drawn, coloured by their true values, or
        by rewards where there is a discriminator: means over actions.
      discriminator: builds the reward function that `algorithms.adversarial` learns, for "reward
        correlation", as in `reward_recovery`.
      part: of the discriminator's params, where `discriminator` is a part of it: "reward" for the one inside
        a `shaped_reward`.
    """
    del num_prompts
    its = None if discriminator is None else context.member("discriminator")
    if its is not None and part is not None:
        its = its[part]
    measure = _of_policies(context.policy, world, start, temperature, discriminator)
    metrics, shown = context.compiled(measure)(context.params, its)
    label = "true value of the policy" if discriminator is None else "reward of a state"
    pictures = () if width is None else _pictures(world(), width, context.fetch(shown), label)
    return Evaluation(name, _exact(context, metrics), pictures=pictures)


@functools.lru_cache(maxsize=8)
def _of_policies(
    policy: Policy,
    world: Callable[[], TabularMDP],
    start: Callable[[], ArrayLike],
    temperature: float,
    discriminator: Callable[[], RewardFunction] | None,
) -> Callable[[Params, Params], tuple[dict[str, Array], Shown]]:
    mdp = world()
    first = jnp.asarray(start(), jnp.float32)
    states, actions = (jnp.asarray(x[..., None]) for x in np.indices(mdp.rewards.shape))
    every = Segments(states, actions, jnp.ones(states.shape, bool))

    def measure(params: Params, its: Params) -> tuple[dict[str, Array], Shown]:
        learner = policy.token_logps(params, every)[..., 0]
        true = paid(mdp, jnp.asarray(mdp.rewards, learner.dtype))
        expert = log_policy(true, temperature)
        high, mine = (policy_values(true, jnp.exp(logs)) for logs in (expert, learner))
        low = policy_values(true, jnp.full_like(expert, 1 / expert.shape[-1]))
        metrics = {
            "policy KL": _divergence(true, expert, learner, first),
            "value share": first @ (mine - low) / (first @ (high - low)),
        }
        if discriminator is not None:
            learnt = jnp.broadcast_to(discriminator().rewards(its), true.rewards.shape)
            here = ~jnp.broadcast_to(mdp.terminal[:, None], learnt.shape)
            metrics["reward correlation"] = _correlation(true.rewards, learnt, here)
            high, mine = true.rewards.mean(-1), learnt.mean(-1)
        return metrics, {"hidden": (high, jnp.exp(expert)), "learnt": (mine, jnp.exp(learner))}

    return measure


def _divergence(
    mdp: TabularMDP, expert: Float[Array, "s a"], learner: Float[Array, "s a"], start: Float[Array, " s"]
) -> Array:
    visits = occupancy(mdp, jnp.exp(expert), start).sum(-1)
    return visits @ (jnp.exp(expert) * (expert - learner)).sum(-1) / visits.sum()


def _correlation(x: Array, y: Array, where: Array) -> Array:
    """0 where either is constant."""
    weights = where / where.sum()
    x, y = ((z - (weights * z).sum()) * where for z in (x, y))
    spread = jnp.sqrt((x * x).sum() * (y * y).sum())
    return jnp.where(spread > 0, (x * y).sum() / jnp.where(spread > 0, spread, 1), 0)


def _pictures(mdp: TabularMDP, width: int, shown: Mapping[str, Any], label: str) -> tuple[Picture, ...]:
    """A picture of each name's colours `[s]` and policy `[s, a]`."""
    return tuple(
        pictured_grid(
            side,
            shape=(len(mdp.terminal) // width, width),
            values=colours,
            policy=policy,
            terminal=mdp.terminal,
            label=f"{label} ({side})",
        )
        for side, (colours, policy) in shown.items()
    )


def _exact(context: Context, metrics: dict[str, Array]) -> dict[str, Estimate]:
    numbers = {name: float(context.fetch(value)) for name, value in metrics.items()}
    return {name: exact(x, better="lower" if name in _LOWER else "higher") for name, x in numbers.items()}
