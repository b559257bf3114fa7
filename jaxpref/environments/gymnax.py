"""Worlds of gymnax, behind functions: the only place that imports the package."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxpref.environments.rollouts import JaxWorld

__all__ = ["gymnax_pendulum"]


def gymnax_pendulum() -> JaxWorld:
    """gymnax's Pendulum-v1 (swing up and balance) with an expert, actions scaled to [-1, 1].

    The expert pumps energy until the pendulum has enough to stand upright, and near that position it is a
    proportional-derivative controller. It is good, not optimal.

    Raises:
      ValueError: gymnax is not installed.
    """
    try:
        env, params = importlib.import_module("gymnax").make("Pendulum-v1")
    except ImportError as error:
        raise ValueError(f"gymnax cannot be imported ({error}); pip install gymnax six") from error
    unused = jax.random.key(0)  # the world is deterministic

    def step(state: Any, action: Array) -> tuple[Any, Array]:
        _, after, reward, _, _ = env.step_env(unused, state, params.max_torque * action[0], params)
        return after, reward

    def expert(state: Any) -> Array:
        angle = (state.theta + jnp.pi) % (2 * jnp.pi) - jnp.pi  # 0 is upright
        energy = state.theta_dot**2 / 2 + 1.5 * params.g / params.l * (jnp.cos(angle) - 1)
        pump = -energy * jnp.where(state.theta_dot == 0, 1.0, jnp.sign(state.theta_dot))
        balance = -(10 * angle + 2 * state.theta_dot)
        near = (jnp.abs(angle) < 0.4) & (jnp.abs(state.theta_dot) < 2)
        return jnp.clip(jnp.where(near, balance, pump) / params.max_torque, -1, 1)[None]

    return JaxWorld(
        reset=lambda key: env.reset_env(key, params)[1], observe=env.get_obs, step=step, expert=expert
    )
