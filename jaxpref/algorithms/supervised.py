"""Supervised fine-tuning: token negative log-likelihood of the given responses."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxpref import losses
from jaxpref.algorithms.base import NONE, Algorithm, Constants, TrainState, num_tokens
from jaxpref.algorithms.members import average_of, each_member, learner_of, started
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
    transform, learning = optimizer(), learner_of(policy)

    def loss(
        params: Params, batch: Completions, key: PRNGKey, constants: Constants
    ) -> tuple[Mean, tuple[Metrics, None]]:
        del key
        logps = learning.token_logps(whole(params, constants), batch).sum(-1)
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
        return TrainState(jnp.int32(0), params, started(policy, transform, params), constants=dict(constants))

    def step(state: TrainState, batch: Completions, key: PRNGKey) -> tuple[TrainState, Metrics]:
        def of_part(params: Params, part: Completions, key: PRNGKey):
            return loss(with_noise(learning, params, key), part, key, state.constants)

        def update(params: Params, opt_state: optax.OptState):
            gradient, (metrics, carried) = accumulated_gradient(
                of_part, params, batch, key, microbatches=microbatches
            )
            params, opt_state, more = apply_gradient(transform, params, opt_state, gradient)
            return params, opt_state, carried, metrics | more

        params, opt_state, _, metrics = each_member(policy, update, state.params, state.opt_state)
        new = dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state)
        return new, metrics

    def evaluate(state: TrainState, batch: Completions, key: PRNGKey) -> Metrics:
        return loss(average_of(policy, state.params), batch, key, state.constants)[1][0]

    def rewards(state: TrainState, batch: Completions) -> Float[Array, "b k"]:
        """Log-probs (nats) in place of rewards, which a likelihood does not have."""
        return policy.token_logps(whole(state.params, state.constants), batch).sum(-1)

    def flops(batch: Completions) -> float:
        size = 1 if policy.members is None else policy.members.size
        return size * (1 + policy.backward) * policy.flops(batch)

    return Algorithm(init, step, evaluate, flops, rewards, parts=microbatches)
