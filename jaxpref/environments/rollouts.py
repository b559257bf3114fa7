"""Worlds as pure functions of arrays: thousands of segments and their regret in one compiled program."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["JaxWorld", "Rollouts", "expert_return", "regret_segments"]

State = Any  # a pytree


class JaxWorld(NamedTuple):
    """A world without terminal states: episodes may have any length. Actions are vectors in [-1, 1]."""

    reset: Callable[[Array], State]  # of a random key
    observe: Callable[[State], Float[Array, " o"]]
    step: Callable[[State, Float[Array, " a"]], tuple[State, Float[Array, ""]]]  # and the reward
    expert: Callable[[State], Float[Array, " a"]]


class Rollouts(NamedTuple):
    """`n` segments of `t` steps."""

    observations: Float[Array, "n t o"]
    actions: Float[Array, "n t a"]
    scores: Float[Array, " n"]  # minus the regret, in units of reward
    returns: Float[Array, " n"]  # the segment's own reward


def expert_return(world: JaxWorld, state: State, steps: int) -> Float[Array, ""]:
    """Undiscounted return of the expert in `steps` steps from a state."""

    def act(state: State, _: None) -> tuple[State, Array]:
        return world.step(state, world.expert(state))

    return jax.lax.scan(act, state, None, length=steps)[1].sum()


@partial(jax.jit, static_argnames=("world", "num", "steps", "horizon", "burn_in"))
def regret_segments(
    world: JaxWorld,
    key: Array,
    *,
    num: int,
    steps: int = 32,
    horizon: int = 200,
    burn_in: int = 50,
    shares: tuple[float, float] = (0.0, 1.0),
    noise: float = 0.3,
) -> Rollouts:
    """Segments of noisy behaviour, each scored by minus its regret under the expert.

    score = (reward of the segment) + V_(horizon - steps)(its end) - V_horizon(its start), V_m being what the
    expert earns in m steps: minus what is lost in `horizon` steps if the expert takes over only after the
    segment. Undiscounted and exact; 0 or less where the expert is optimal.

    Args:
      burn_in: steps of the same behaviour before the segment.
      shares: range of the share of steps that are the expert's, with normal noise; one share for each
        segment. The other steps are uniform in [-1, 1].
    """
    if not 0 < steps < horizon or num < 1:
        raise ValueError(
            f"regret_segments: expected 0 < steps < horizon and segments, got {steps}, {horizon}"
        )
    low, high = shares

    def one(key: Array) -> Rollouts:
        first, drawn, rest = jax.random.split(key, 3)
        share = low + (high - low) * jax.random.uniform(drawn)

        def behave(state: State, key: Array) -> tuple[State, tuple[Array, Array, Array]]:
            which, wobble, anything = jax.random.split(key, 3)
            best = world.expert(state)
            near = jnp.clip(best + noise * jax.random.normal(wobble, best.shape), -1, 1)
            random = jax.random.uniform(anything, best.shape, minval=-1, maxval=1)
            action = jnp.where(jax.random.uniform(which) < share, near, random)
            after, reward = world.step(state, action)
            return after, (world.observe(state), action, reward)

        keys = jax.random.split(rest, burn_in + steps)
        start, _ = jax.lax.scan(behave, world.reset(first), keys[:burn_in])
        end, (observations, actions, rewards) = jax.lax.scan(behave, start, keys[burn_in:])
        score = (
            rewards.sum() + expert_return(world, end, horizon - steps) - expert_return(world, start, horizon)
        )
        return Rollouts(observations, actions, score, rewards.sum())

    return jax.vmap(one)(jax.random.split(key, num))
