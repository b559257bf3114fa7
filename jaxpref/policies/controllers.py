"""Controllers: a small network from an observation to an action, or to a distribution of actions."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpref.policies.base import Policy, answers_no_prompts, categorical
from jaxpref.policies.perceptron import (
    checked_sizes,
    perceptron,
    perceptron_axes,
    perceptron_flops,
    perceptron_init,
)
from jaxpref.types import Params, PRNGKey, Segments

__all__ = ["categorical_controller", "deterministic_controller", "gaussian_controller"]

LIMIT = 1 - 1e-5  # of actions: a tanh never reaches 1, and a recorded action of 1 would ask it to


def gaussian_controller(
    *,
    observation_size: int,
    action_size: int,
    hidden: Sequence[int] = (256, 256),
    initial_log_std: float = -0.5,
    log_std_range: tuple[float, float] = (-5.0, 2.0),
) -> Policy:
    """A normal distribution about tanh(MLP(observation)), with a width learnt for each coordinate.

    The width is the same in all states, and is clipped to `log_std_range`. Recorded actions are clipped to
    [-1, 1] (to within 1e-5), and so are those that `act` returns; log-probs are those of the normal
    distribution without the clipping.

    Args:
      observation_size, action_size: lengths of the vectors.
      hidden: widths of the hidden layers (ReLU).
    """
    low, high = log_std_range
    if not low <= initial_log_std <= high:
        raise ValueError(f"initial_log_std: expected a number in [{low}, {high}], got {initial_log_std}")

    def log_std(params: Params) -> Float[Array, " a"]:
        return jnp.clip(params["log_std"], low, high)

    def logps(params: Params, means: Array, actions: Array) -> Array:
        widths = jnp.broadcast_to(log_std(params), means.shape)
        squares = ((actions - means) * jnp.exp(-widths)) ** 2
        return (-0.5 * squares - widths - 0.5 * math.log(2 * math.pi)).sum(-1)

    def act(params: Params, means: Array, key: PRNGKey | None) -> Array:
        if key is None:
            return means
        return means + jnp.broadcast_to(jnp.exp(log_std(params)), means.shape) * jax.random.normal(
            key, means.shape
        )

    return _vectors(
        (observation_size, *hidden, action_size),
        logps,
        act,
        lambda: {"log_std": jnp.full(action_size, initial_log_std, jnp.float32)},
    )


def deterministic_controller(
    *, observation_size: int, action_size: int, hidden: Sequence[int] = (256, 256)
) -> Policy:
    """The action tanh(MLP(observation)), with log pi = -|mu - a|^2: no factor one half and no constant.

    The actor of the released code of contrastive preference learning (arXiv:2310.13639). Its "log-probs" are
    those of a normal distribution of variance one half, up to a constant. Its actions have no noise, with or
    without a key.

    Differs from that code, which drops units out while it trains: a policy here is a function of params and
    batch alone.

    Args:
      observation_size, action_size: lengths of the vectors. hidden: widths of the hidden layers (ReLU).
    """

    def logps(params: Params, means: Array, actions: Array) -> Array:
        return -((means - actions) ** 2).sum(-1)

    return _vectors((observation_size, *hidden, action_size), logps, lambda params, means, key: means, dict)


def categorical_controller(
    *, observation_size: int, actions: int, hidden: Sequence[int] = (64, 64)
) -> Policy:
    """A softmax over numbered actions, with logits MLP(observation).

    Args:
      observation_size: length of an observation. actions: how many there are.
      hidden: widths of the hidden layers (ReLU).
    """
    sizes = checked_sizes((observation_size, *hidden, actions))

    def token_logps(params: Params, batch: Segments) -> Float[Array, "b k t"]:
        logps = jax.nn.log_softmax(perceptron(params, batch.observations), -1)
        chosen = jnp.take_along_axis(logps, batch.actions[..., None], -1)[..., 0]
        return jnp.where(batch.mask, chosen, 0)

    def act(params: Params, observations: Array, key: PRNGKey | None) -> Array:
        logits = perceptron(params, observations)
        return logits.argmax(-1) if key is None else categorical(key, logits)

    return _controller(sizes, token_logps, act, dict, vocab_size=actions)


def _vectors(
    sizes: tuple[int, ...],
    logps: Callable[[Params, Array, Array], Array],
    acted: Callable[[Params, Array, PRNGKey | None], Array],
    more: Callable[[], dict[str, Array]],
) -> Policy:
    """A policy of vectors out of what follows tanh(MLP)."""
    sizes = checked_sizes(sizes)

    def means(params: Params, observations: Array) -> Array:
        return jnp.tanh(perceptron(params, observations))

    def token_logps(params: Params, batch: Segments) -> Float[Array, "b k t"]:
        actions = jnp.clip(batch.actions, -LIMIT, LIMIT)
        if actions.shape[-1] != sizes[-1]:
            raise ValueError(f"controller: actions of {actions.shape[-1]} numbers, expected {sizes[-1]}")
        return jnp.where(batch.mask, logps(params, means(params, batch.observations), actions), 0)

    def act(params: Params, observations: Array, key: PRNGKey | None) -> Array:
        return jnp.clip(acted(params, means(params, observations), key), -LIMIT, LIMIT)

    return _controller(sizes, token_logps, act, more, vocab_size=0)


def _controller(
    sizes: tuple[int, ...],
    token_logps: Callable[[Params, Segments], Array],
    act: Callable[[Params, Array, PRNGKey | None], Array],
    more: Callable[[], dict[str, Array]],
    *,
    vocab_size: int,
) -> Policy:
    def init(key: PRNGKey) -> Params:
        return perceptron_init(key, sizes) | more()

    def axes() -> Any:
        return perceptron_axes(sizes) | {name: (None,) * value.ndim for name, value in more().items()}

    products = perceptron_flops(sizes)
    return Policy(
        init,
        token_logps,
        sample=answers_no_prompts,
        axes=axes,
        flops=lambda batch: products * float(np.prod(np.shape(batch.step_mask))),
        vocab_size=vocab_size,
        act=act,
    )
