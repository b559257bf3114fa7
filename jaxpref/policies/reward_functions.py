"""Rewards of a finite world as functions of params: what inverse reinforcement learning learns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from jaxpref.planning import TabularMDP
from jaxpref.policies.perceptron import perceptron, perceptron_axes, perceptron_init
from jaxpref.types import Params, PRNGKey

__all__ = [
    "RewardFunction",
    "check_fit",
    "linear_reward",
    "mlp_reward",
    "shaped_reward",
    "tabular_reward",
]


class RewardFunction(NamedTuple):
    """`rewards(params)` is `[s, a]`, or `[s, 1]` where the reward is the state's."""

    init: Callable[[PRNGKey], Params]
    rewards: Callable[[Params], Float[Array, "s #a"]]
    axes: Callable[[], Any]  # logical axis names, as `Policy.axes`


def check_fit(name: str, reward: RewardFunction, mdp: TabularMDP) -> None:
    """Raises ValueError where the reward function is not one of this world; `name`: who says so."""
    states, actions = mdp.rewards.shape
    shape = jax.eval_shape(lambda: reward.rewards(reward.init(jax.random.key(0)))).shape
    if shape not in ((states, 1), (states, actions)):
        raise ValueError(
            f"{name}.rewards: expected [{states}, {actions}] or [{states}, 1] for this world, got "
            f"{list(shape)}"
        )


def linear_reward(
    *, features: Callable[[], ArrayLike], initial: Any = None, param_dtype: str = "float32"
) -> RewardFunction:
    """features @ weights: the reward of MaxEnt IRL and max-margin planning. Params `{"weights": [features]}`.

    Args:
      features: builds `[states, features]` (rewards of states) or `[states, actions, features]`.
      initial: weights that `init` returns; None: zeros.
    """
    known = _features("linear_reward", features)
    start = np.zeros(known.shape[-1]) if initial is None else np.asarray(initial, np.float64)
    if start.shape != known.shape[-1:]:
        raise ValueError(f"linear_reward.initial: expected {known.shape[-1]} weights, got {start.shape}")

    def rewards(params: Params) -> Float[Array, "s #a"]:
        weights = params["weights"]
        return jnp.asarray(known, weights.dtype) @ weights

    return RewardFunction(
        lambda key: {"weights": jnp.asarray(start, param_dtype)}, rewards, lambda: {"weights": (None,)}
    )


def tabular_reward(
    *, states: int, actions: int = 1, initial: Any = None, param_dtype: str = "float32"
) -> RewardFunction:
    """A free reward for each state, or for each state and action. Params `{"rewards": [states, actions]}`.

    Args:
      actions: 1: the reward is the state's.
      initial: rewards that `init` returns; None: zeros.
    """
    shape = (states, actions)
    start = np.zeros(shape) if initial is None else np.asarray(initial, np.float64)
    if start.shape != shape or 0 in shape:
        raise ValueError(f"tabular_reward: expected rewards of shape {shape}, got {start.shape}")
    return RewardFunction(
        lambda key: {"rewards": jnp.asarray(start, param_dtype)},
        lambda params: params["rewards"],
        lambda: {"rewards": (None, None)},
    )


def mlp_reward(
    *, features: Callable[[], ArrayLike], hidden: tuple[int, ...] = (32, 32), param_dtype: str = "float32"
) -> RewardFunction:
    """A small tanh network of the features: deep MaxEnt IRL, after Wulfmeier et al. 2015, arXiv:1507.04888.

    Their network is convolutional over a map; this one reads the features of one state (and action) at a
    time. Params `{"layer_0": {"kernel", "bias"}, ...}`; the last layer starts at zero, so the first policy
    is that of rewards 0.

    Args:
      features: builds `[states, features]` or `[states, actions, features]`.
      hidden: widths of the layers before the last one.
    """
    known = _features("mlp_reward", features)
    if not hidden or min(hidden) < 1:
        raise ValueError(f"mlp_reward.hidden: expected one width or more, 1 or more each, got {hidden}")
    sizes = (known.shape[-1], *hidden, 1)

    def rewards(params: Params) -> Float[Array, "s #a"]:
        x = jnp.asarray(known, params["layer_0"]["kernel"].dtype)
        return perceptron(params, x, jnp.tanh)[..., 0]

    return RewardFunction(
        lambda key: perceptron_init(key, sizes, last_scale=0.0, dtype=param_dtype),
        rewards,
        lambda: perceptron_axes(sizes),
    )


def shaped_reward(
    *, rewards: Callable[[], RewardFunction], world: Callable[[], TabularMDP], param_dtype: str = "float32"
) -> RewardFunction:
    """g + discount E h(next) - h: rewards with a free potential `h [states]` of their own, 0 at the end.

    AIRL's form (Fu, Luo & Levine 2018, arXiv:1710.11248), with the mean over the world's outcomes in place of
    the one that came. The whole can be an advantage, as AIRL's game makes it, while g stays a reward of
    states. Params `{"reward": those of g, "potential": [states]}`.
    """
    inner, mdp = rewards(), world()
    transitions, ends = np.asarray(mdp.transitions), np.asarray(mdp.terminal)

    def init(key: PRNGKey) -> Params:
        return {"reward": inner.init(key), "potential": jnp.zeros(len(ends), param_dtype)}

    def whole(params: Params) -> Float[Array, "s #a"]:
        h = jnp.where(ends, 0, params["potential"])
        return inner.rewards(params["reward"]) + mdp.discount * transitions @ h - h[:, None]

    return RewardFunction(init, whole, lambda: {"reward": inner.axes(), "potential": (None,)})


def _features(name: str, features: Callable[[], ArrayLike]) -> np.ndarray:
    """`[s, 1, f]` or `[s, a, f]`."""
    known = np.asarray(features(), np.float64)
    if known.ndim not in (2, 3) or 0 in known.shape or not np.isfinite(known).all():
        raise ValueError(
            f"{name}.features: expected finite [states, features] or [states, actions, features], got shape "
            f"{known.shape}"
        )
    return known[:, None] if known.ndim == 2 else known
