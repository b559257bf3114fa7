"""Functions that make optimizers and schedules, so that an experiment file can name every number they use.

The learning rate sits in the optimizer state (`optax.inject_hyperparams`), where the update reads it for
the `learning_rate` metric.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxpref.metrics import Mean, Metrics
from jaxpref.types import Params

__all__ = [
    "adamw",
    "apply_gradient",
    "constant",
    "gaussian_log_prior",
    "laplace_log_prior",
    "restarted",
    "rmsprop",
    "warmup_constant",
    "warmup_cosine",
    "warmup_linear",
    "with_prior",
]


def constant(*, value: float) -> optax.Schedule:
    """The same learning rate at every step."""
    return optax.constant_schedule(value)


def warmup_constant(*, peak: float, warmup_steps: int) -> optax.Schedule:
    """Linear rise from 0 over `warmup_steps`, then constant, as the DPO reference code trains."""
    _check(warmup_steps, warmup_steps)
    return optax.linear_schedule(0.0, peak, max(warmup_steps, 1))


def warmup_linear(*, peak: float, warmup_steps: int, num_steps: int, end: float = 0.0) -> optax.Schedule:
    """Linear rise from 0 over `warmup_steps`, then linear fall to `end` at `num_steps`."""
    _check(warmup_steps, num_steps)
    rise = optax.linear_schedule(0.0, peak, max(warmup_steps, 1))
    fall = optax.linear_schedule(peak, end, max(num_steps - warmup_steps, 1))
    return optax.join_schedules([rise, fall], [warmup_steps])


def warmup_cosine(*, peak: float, warmup_steps: int, num_steps: int, end: float = 0.0) -> optax.Schedule:
    """Linear rise from 0 over `warmup_steps`, then a half cosine to `end` at `num_steps`."""
    _check(warmup_steps, num_steps)
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, max(num_steps, warmup_steps + 1), end)


def restarted(*, schedule: Callable[[], optax.Schedule], every: int) -> optax.Schedule:
    """`schedule`, started again after every `every` updates: each phase has one of its own."""
    if every < 1:
        raise ValueError(f"restarted: every must be at least 1 update, got {every}")
    one = schedule()
    return lambda count: one(jnp.mod(count, every))


def _check(warmup_steps: int, num_steps: int) -> None:
    if not 0 <= warmup_steps <= num_steps:
        raise ValueError(f"warmup_steps: expected 0 to num_steps={num_steps}, got {warmup_steps}")


def adamw(
    *,
    schedule: Callable[[], optax.Schedule],
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter, arXiv:1711.05101) after clipping by global norm.

    Weight decay applies to all parameters, norms included; it is 0 by default as in TRL's DPO.
    """

    def build(learning_rate):
        return optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)

    return _clipped(_injected(build, schedule), clip_norm)


def rmsprop(
    *,
    schedule: Callable[[], optax.Schedule],
    decay: float = 0.99,
    eps: float = 1e-8,
    clip_norm: float | None = 10.0,
) -> optax.GradientTransformation:
    """RMSprop with PyTorch's defaults and clipping at 10, as the DPO reference code trains."""

    def build(learning_rate):
        return optax.rmsprop(learning_rate, decay=decay, eps=eps, eps_in_sqrt=False)

    return _clipped(_injected(build, schedule), clip_norm)


def _injected(build: Callable[..., Any], schedule: Callable[[], optax.Schedule]) -> Any:
    # In float32: of bfloat16 params the rate would be rounded to bfloat16 (`findings/`).
    return optax.inject_hyperparams(build, hyperparam_dtype=jnp.float32)(learning_rate=schedule())


def _clipped(
    transform: optax.GradientTransformation, clip_norm: float | None
) -> optax.GradientTransformation:
    if clip_norm is None:
        return transform
    return optax.chain(optax.clip_by_global_norm(clip_norm), transform)


def with_prior(
    *,
    optimizer: Callable[[], optax.GradientTransformation],
    log_prior: Callable[[Any], Array],
    count: float,
) -> optax.GradientTransformation:
    """The maximum a posteriori estimate: adds the gradient of -log_prior(params) / count to that of the loss.

    A loss that is a mean over `count` terms of a log-likelihood then falls as the log-posterior / count does.
    The reported loss stays the likelihood's.

    Args:
      log_prior: of the params, up to a constant, nats: `gaussian_log_prior`, `laplace_log_prior` or yours.
      count: terms the loss is a mean over: all steps of the demonstrations for `sft`, rows for most others.
    """
    if not count > 0:
        raise ValueError(f"with_prior.count: expected the number of terms of the loss, got {count}")
    inner = optimizer()

    def update(updates, state, params=None):
        slope = jax.grad(lambda p: log_prior(p) / count)(params)
        return inner.update(jax.tree.map(jnp.subtract, updates, slope), state, params)

    return optax.GradientTransformation(inner.init, update)


def gaussian_log_prior(params: Any, *, scale: float = 1.0) -> Array:
    """Independent normal params with standard deviation `scale`, up to a constant, nats."""
    return -sum((jnp.square(x / scale).sum() for x in jax.tree.leaves(params)), jnp.zeros(())) / 2


def laplace_log_prior(params: Any, *, scale: float = 1.0) -> Array:
    """Independent Laplace params with scale `scale` (mean absolute value), up to a constant, nats."""
    return -sum((jnp.abs(x / scale).sum() for x in jax.tree.leaves(params)), jnp.zeros(()))


def apply_gradient(
    optimizer: optax.GradientTransformation, params: Params, opt_state: optax.OptState, gradient: Params
) -> tuple[Params, optax.OptState, Metrics]:
    """Optimizer update; adds `grad_norm` (before any clipping) and `learning_rate` where it is injected."""
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    metrics = {"grad_norm": Mean(optax.tree.norm(gradient), jnp.float32(1))}
    hyperparams = optax.tree.get(opt_state, "hyperparams", {})
    if "learning_rate" in hyperparams:
        metrics["learning_rate"] = Mean(jnp.float32(hyperparams["learning_rate"]), jnp.float32(1))
    return optax.apply_updates(params, updates), opt_state, metrics
