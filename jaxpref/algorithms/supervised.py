"""Supervised fine-tuning: token negative log-likelihood of the given responses."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxpref import losses
from jaxpref.algorithms.base import NONE, Algorithm, Constants, TrainState, num_tokens
from jaxpref.algorithms.objective import accumulated_gradient
from jaxpref.algorithms.optimizers import apply_gradient
from jaxpref.metrics import Mean, Metrics, weighted_mean
from jaxpref.policies.base import Policy, whole, with_noise
from jaxpref.types import Completions, Params, PRNGKey

__all__ = ["sft"]


def sft(
    policy: Policy, *, optimizer: Callable[[], optax.GradientTransformation], microbatches: int = 1
) -> Algorithm:
    """Maximum likelihood of every response of a record (nats per scored token, over the global batch, each by
    its row's weight).

    To imitate the chosen responses of pairs, give it records of those alone (`data.chosen_only`).
    """
    transform = optimizer()

    def loss(
        params: Params, batch: Completions, key: PRNGKey, constants: Constants
    ) -> tuple[Mean, tuple[Metrics, None]]:
        del key
        logps = policy.token_logps(whole(params, constants), batch).sum(-1)
        lengths = batch.lengths.astype(jnp.float32)
        total = weighted_mean(losses.sft(logps.reshape(-1)), batch.response_weights.reshape(-1)).total
        # A mean over tokens: microbatches and hosts with other numbers of tokens weigh as they should.
        mean = Mean(total, weighted_mean(lengths, batch.response_weights).total)
        metrics = {
            "loss": mean,
            "logps/chosen": weighted_mean(logps, batch.response_weights),
            "response_length": weighted_mean(lengths, batch.response_weights),
            "num_tokens": num_tokens(batch),
        }
        return mean, (metrics, None)

    def init(params: Params, constants: Constants = NONE, key: PRNGKey | None = None) -> TrainState:
        return TrainState(jnp.int32(0), params, transform.init(params), constants=dict(constants))

    def step(state: TrainState, batch: Completions, key: PRNGKey) -> tuple[TrainState, Metrics]:
        def of_part(params: Params, part: Completions, key: PRNGKey):
            return loss(with_noise(policy, params, key), part, key, state.constants)

        gradient, (metrics, _) = accumulated_gradient(
            of_part, state.params, batch, key, microbatches=microbatches
        )
        params, opt_state, more = apply_gradient(transform, state.params, state.opt_state, gradient)
        new = dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state)
        return new, metrics | more

    def evaluate(state: TrainState, batch: Completions, key: PRNGKey) -> Metrics:
        return loss(state.params, batch, key, state.constants)[1][0]

    def rewards(state: TrainState, batch: Completions) -> Float[Array, "b k"]:
        """Log-probs (nats) in place of rewards, which a likelihood does not have."""
        return policy.token_logps(whole(state.params, state.constants), batch).sum(-1)

    def flops(batch: Completions) -> float:
        return (1 + policy.backward) * policy.flops(batch)

    return Algorithm(init, step, evaluate, flops, rewards, parts=microbatches)
