"""Offline preference optimisation: any pairwise loss on recorded pairs."""

import inspect
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxpref.algorithms.base import Algorithm, TrainState, num_tokens
from jaxpref.algorithms.inputs import bind, check_loss, pairwise_inputs
from jaxpref.algorithms.update import accumulated_gradient, apply_gradient
from jaxpref.metrics import Mean, Metrics, masked_mean
from jaxpref.policies.base import Policy
from jaxpref.types import Completions, Params, PRNGKey

__all__ = ["offline", "pair_metrics"]


def pair_metrics(
    logps: Float[Array, "b 2"],
    reference_logps: Float[Array, "b 2"] | None,
    batch: Completions,
    reward_scale: float,
) -> Metrics:
    """TRL's metric names. Rewards are `reward_scale * (logps - reference_logps)` in nats, or
    `reward_scale * logps` with no reference; ties count one half in accuracies (TRL counts them as wrong).
    """
    rewards = _rewards(logps, reference_logps, reward_scale)
    margins = rewards[:, 0] - rewards[:, 1]
    accuracies = jnp.where(margins > 0, 1.0, jnp.where(margins == 0, 0.5, 0.0))
    columns = {
        "rewards/chosen": rewards[:, 0],
        "rewards/rejected": rewards[:, 1],
        "rewards/margins": margins,
        "rewards/accuracies": accuracies,
        "logps/chosen": logps[:, 0],
        "logps/rejected": logps[:, 1],
    }
    return {name: masked_mean(jax.lax.stop_gradient(x), batch.valid) for name, x in columns.items()}


def _rewards(
    logps: Float[Array, "b k"], reference_logps: Float[Array, "b k"] | None, scale: float
) -> Float[Array, "b k"]:
    return scale * (logps if reference_logps is None else logps - reference_logps)


def offline(
    policy: Policy,
    *,
    loss: Callable[..., Float[Array, " b"]],
    optimizer: Callable[[], optax.GradientTransformation],
    reference: Literal["initial", "batch"] | None = "initial",
    reward_scale: float | None = None,
    microbatches: int = 1,
    pair_scan: bool = False,
) -> Algorithm:
    """Minimises the mean of `loss` over recorded pairs.

    Args:
      loss: a pairwise loss; its parameters without default name what it is fed (`algorithms.inputs`).
      optimizer: builds the optax transformation.
      reference: "initial": a frozen copy of the starting params, run every step. "batch": the column
        `reference_logps` of the records (`jaxpref prepare` writes it). None: a reference-free loss.
      reward_scale: factor of the reported rewards; by default the loss's own `beta`, or 1 if it has none.
      microbatches: equal parts of the batch, accumulated exactly.
      pair_scan: take the gradient of the unembedding in the forward pass, a few pairs at a time: the same
        numbers with logits of a few pairs only. For policies that offer it (transformers do).
    """
    if reference not in ("initial", "batch", None):
        raise ValueError(f"reference: expected 'initial', 'batch' or None, got {reference!r}")
    check_loss(loss, reference=reference)
    if pair_scan and policy.summed_loss is None:
        raise ValueError("pair_scan: this policy has no summed_loss; leave it out")
    transform = optimizer()
    scale = _beta(loss) if reward_scale is None else reward_scale

    def mean_loss(
        token_logps: Float[Array, "b 2 r"], data: tuple[Float[Array, "b 2"] | None, Completions]
    ) -> Mean:
        reference_logps, batch = data
        inputs = pairwise_inputs(token_logps.sum(-1), reference_logps, batch)
        return masked_mean(bind(loss, inputs), batch.valid)

    def forward(
        params: Params, batch: Completions, reference_logps: Float[Array, "b 2"] | None
    ) -> tuple[Mean, Metrics]:
        data = (reference_logps, batch)
        if pair_scan and policy.summed_loss is not None:
            total, logps = policy.summed_loss(params, batch, lambda *a: mean_loss(*a).total, data)
            mean = Mean(total, batch.valid.sum().astype(jnp.float32))
        else:
            logps = policy.token_logps(params, batch)
            mean = mean_loss(logps, data)
        logps = logps.sum(-1)
        metrics = {"loss": mean, "num_tokens": num_tokens(batch)}
        return mean, metrics | pair_metrics(logps, reference_logps, batch, scale)

    def reference_of(reference_params: Params | None, batch: Completions) -> Float[Array, "b 2"] | None:
        if reference == "initial":
            return jax.lax.stop_gradient(policy.token_logps(reference_params, batch).sum(-1))
        if reference == "batch" and batch.reference_logps is None:
            raise ValueError(
                "reference='batch' but the records have no column reference_logps; write it with "
                "`jaxpref prepare FILE records=DIR --reference`, or set reference='initial'"
            )
        return batch.reference_logps if reference == "batch" else None

    def against(reference_params: Params | None):
        return lambda params, batch: forward(params, batch, reference_of(reference_params, batch))

    def init(params: Params) -> TrainState:
        # The copy is real: `step` donates the state, and a donated buffer must not appear twice.
        frozen = jax.tree.map(jnp.copy, params) if reference == "initial" else None
        return TrainState(jnp.int32(0), params, transform.init(params), frozen)

    def step(state: TrainState, batch: Completions, key: PRNGKey) -> tuple[TrainState, Metrics]:
        del key
        loss_of_part = against(state.reference_params)
        gradient, metrics = accumulated_gradient(loss_of_part, state.params, batch, microbatches)
        params, opt_state, more = apply_gradient(transform, state.params, state.opt_state, gradient)
        return TrainState(state.step + 1, params, opt_state, state.reference_params), metrics | more

    def evaluate(state: TrainState, batch: Completions, key: PRNGKey) -> Metrics:
        del key
        return against(state.reference_params)(state.params, batch)[1]

    def rewards(state: TrainState, batch: Completions) -> Float[Array, "b k"]:
        logps = policy.token_logps(state.params, batch).sum(-1)
        return _rewards(logps, reference_of(state.reference_params, batch), scale)

    passes = 4 if reference == "initial" else 3
    return Algorithm(init, step, evaluate, lambda batch: passes * policy.flops(batch), rewards)


def _beta(loss: Callable[..., Any]) -> float:
    parameter = inspect.signature(loss).parameters.get("beta")
    return 1.0 if parameter is None else float(parameter.default)
