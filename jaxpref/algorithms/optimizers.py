"""Functions that make optimizers and schedules, so that an experiment file can name every number they use.

The learning rate sits in the optimizer state (`optax.inject_hyperparams`), where the update reads it for
the `learning_rate` metric.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxpref.metrics import Mean, Metrics, widened
from jaxpref.types import Params

__all__ = [
    "adamw",
    "after",
    "apply_gradient",
    "constant",
    "during",
    "each_step",
    "gaussian_log_prior",
    "laplace_log_prior",
    "lasting",
    "restarted",
    "rmsprop",
    "warmup_constant",
    "warmup_cosine",
    "warmup_linear",
    "with_prior",
]

logger = logging.getLogger("jaxpref.optimizers")


_updates: ContextVar[int | None] = ContextVar("updates", default=None)


@contextlib.contextmanager
def lasting(updates: int) -> Iterator[None]:
    """Within it, schedules that are built without `num_steps` end after so many updates of an optimizer.

    `experiment.Stage.build` says the stage's, so that its number of steps stands in one place."""
    token = _updates.set(updates)
    try:
        yield
    finally:
        _updates.reset(token)


@contextlib.contextmanager
def during(steps: int) -> Iterator[None]:
    """Within it, an algorithm builds an optimizer that it updates in so many steps of the stage alone. None
    are none, as in a stage that ends before: its schedule then has the length 1."""
    outer = _updates.get()
    token = _updates.set(None if outer is None else max(min(steps, outer), 1))
    try:
        yield
    finally:
        _updates.reset(token)


@contextlib.contextmanager
def after(steps: int) -> Iterator[None]:
    """The same for an optimizer that is updated in all steps of the stage but the first ones."""
    outer = _updates.get()
    with during(0 if outer is None else outer - steps):
        yield


@contextlib.contextmanager
def each_step(updates: int) -> Iterator[None]:
    """Within it, an algorithm builds an optimizer that it updates so many times in each of its steps."""
    outer = _updates.get()
    token = _updates.set(None if outer is None else outer * updates)
    try:
        yield
    finally:
        _updates.reset(token)


def constant(*, value: float) -> optax.Schedule:
    """The same learning rate at every step."""
    _check_rates(value=value)
    return optax.constant_schedule(value)


def warmup_constant(*, peak: float, warmup_steps: int) -> optax.Schedule:
    """Linear rise from 0 over `warmup_steps`, then constant, as the DPO reference code trains."""
    _check_rates(peak=peak)
    _length(warmup_steps, warmup_steps)
    return optax.linear_schedule(0.0, peak, max(warmup_steps, 1))


def warmup_linear(
    *, peak: float, warmup_steps: int, num_steps: int | None = None, end: float = 0.0
) -> optax.Schedule:
    """Linear rise from 0 over `warmup_steps`, then linear fall to `end` at `num_steps`.

    Args:
      peak, end: learning rates, 0 or more.
      num_steps: updates of the optimizer; None: those of the stage. A stage shorter than `warmup_steps` ends
        within the rise.
    """
    _check_rates(peak=peak, end=end)
    length = _length(warmup_steps, num_steps)
    rise = optax.linear_schedule(0.0, peak, max(warmup_steps, 1))
    fall = optax.linear_schedule(peak, end, max(length - warmup_steps, 1))
    return optax.join_schedules([rise, fall], [warmup_steps])


def warmup_cosine(
    *, peak: float, warmup_steps: int, num_steps: int | None = None, end: float = 0.0
) -> optax.Schedule:
    """Linear rise from 0 over `warmup_steps`, then a half cosine to `end` at `num_steps`.

    Args: as for `warmup_linear`.
    """
    _check_rates(peak=peak, end=end)
    length = max(_length(warmup_steps, num_steps), warmup_steps + 1)
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, length, end)


def restarted(*, schedule: Callable[[], optax.Schedule], cycles: int) -> optax.Schedule:
    """`schedule`, begun `cycles` times in the stage: all are as long (rounded up), and it ends with each."""
    if cycles < 1:
        raise ValueError(f"restarted.cycles: expected 1 or more, got {cycles}")
    length = -(-_length(0, None) // cycles)
    with lasting(length):
        one = schedule()
    return lambda count: one(jnp.mod(count, length))


def _length(warmup_steps: int, num_steps: int | None) -> int:
    """`num_steps`, or the updates of the stage."""
    length = _updates.get() if num_steps is None else num_steps
    if length is None:
        raise ValueError(
            "num_steps: this schedule is built outside of a stage (`lasting`), so give num_steps"
        )
    longest = math.inf if num_steps is None else num_steps
    if not 0 <= warmup_steps <= longest:
        raise ValueError(f"warmup_steps: expected 0 to num_steps={longest}, got {warmup_steps}")
    if warmup_steps > length:
        logger.info(
            "learning rate: the stage ends after %d updates, within its warm-up of %d", length, warmup_steps
        )
    return length


def _check_rates(**rates: float) -> None:
    for name, rate in rates.items():
        if not 0 <= rate < math.inf:
            raise ValueError(f"learning rate: expected {name} to be a number of 0 or more, got {rate}")


def _check_optimizer(clip_norm: float | None, **decays: float) -> None:
    for name, decay in decays.items():
        if not 0 <= decay < 1:
            raise ValueError(f"{name}: expected a number in [0, 1), got {decay}")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm: expected a number above 0, or None for no clipping, got {clip_norm}")


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

    _check_optimizer(clip_norm, b1=b1, b2=b2)

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

    _check_optimizer(clip_norm, decay=decay)

    def build(learning_rate):
        return optax.rmsprop(learning_rate, decay=decay, eps=eps, eps_in_sqrt=False)

    return _clipped(_injected(build, schedule), clip_norm)


def _injected(build: Callable[..., Any], schedule: Callable[[], optax.Schedule]) -> Any:
    # In float32: of bfloat16 params the rate would be rounded to bfloat16 (`findings/`).
    return optax.inject_hyperparams(build, hyperparam_dtype=jnp.float32)(learning_rate=schedule())


def _clipped(
    transform: optax.GradientTransformation, clip_norm: float | None
) -> optax.GradientTransformation:
    if clip_norm is not None:
        transform = optax.chain(optax.clip_by_global_norm(clip_norm), transform)
    return _wide(transform)


def _wide(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """Moments, norms and updates in float32 or wider, whatever the params are: of bfloat16 a second moment
    stops where `1 - b2` of a square is below 2^-9 of it."""

    def update(updates, state, params=None):
        return transform.update(widened(updates), state, None if params is None else widened(params))

    return optax.GradientTransformation(lambda params: transform.init(widened(params)), update)


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
    metrics = {"grad_norm": Mean(optax.tree.norm(widened(gradient)), jnp.float32(1))}
    hyperparams = optax.tree.get(opt_state, "hyperparams", {})
    if "learning_rate" in hyperparams:
        metrics["learning_rate"] = Mean(jnp.float32(hyperparams["learning_rate"]), jnp.float32(1))
    return optax.apply_updates(params, updates), opt_state, metrics
