"""Supervised fine-tuning: token negative log-likelihood of the given responses."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxpref import losses
from jaxpref.algorithms.base import Algorithm, TrainState, num_tokens
from jaxpref.algorithms.update import accumulated_gradient, apply_gradient
from jaxpref.metrics import Mean, Metrics, masked_mean
from jaxpref.policies.base import Policy
from jaxpref.types import Completions, Params, PRNGKey

__all__ = ["sft"]


def sft(
    policy: Policy, *, optimizer: Callable[[], optax.GradientTransformation], microbatches: int = 1
) -> Algorithm:
    """Maximum likelihood of every response of a record (nats per scored token, over the global batch).

    To imitate the chosen responses of pairs, give it records of those alone (`data.chosen_only`).
    """
    transform = optimizer()

    def loss(params: Params, batch: Completions) -> tuple[Mean, tuple[Metrics, None]]:
        token_logps = policy.token_logps(params, batch)
        tokens = batch.mask.sum().astype(jnp.float32)
        nll = losses.sft(token_logps.sum(-1).reshape(-1)).sum()
        # A mean over tokens: microbatches and hosts with other numbers of tokens weigh as they should.
        mean = Mean(nll, tokens)
        lengths = batch.lengths
        metrics = {
            "loss": mean,
            "logps/chosen": masked_mean(token_logps.sum(-1), lengths > 0),
            "response_length": masked_mean(lengths.astype(jnp.float32), lengths > 0),
            "num_tokens": num_tokens(batch),
        }
        return mean, (metrics, None)

    def init(params: Params) -> TrainState:
        return TrainState(jnp.int32(0), params, transform.init(params))

    def step(state: TrainState, batch: Completions, key: PRNGKey) -> tuple[TrainState, Metrics]:
        del key
        gradient, (metrics, _) = accumulated_gradient(loss, state.params, batch, microbatches)
        params, opt_state, more = apply_gradient(transform, state.params, state.opt_state, gradient)
        return TrainState(state.step + 1, params, opt_state), metrics | more

    def evaluate(state: TrainState, batch: Completions, key: PRNGKey) -> Metrics:
        del key
        return loss(state.params, batch)[1][0]

    def rewards(state: TrainState, batch: Completions) -> Float[Array, "b k"]:
        """A likelihood has no reward of its own: the log-prob (nats) stands in."""
        return policy.token_logps(state.params, batch).sum(-1)

    return Algorithm(init, step, evaluate, lambda batch: 3 * policy.flops(batch), rewards, parts=microbatches)
