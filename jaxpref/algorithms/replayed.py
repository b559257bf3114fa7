"""Experience replay: any algorithm, with further updates on records of earlier steps."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxpref.algorithms.base import Algorithm, TrainState
from jaxpref.metrics import Metrics, merge
from jaxpref.policies.base import Policy
from jaxpref.selection import draw, empty_replay, push
from jaxpref.types import Completions, Params, PRNGKey

__all__ = ["replayed"]


def replayed(
    policy: Policy,
    *,
    algorithm: Callable[..., Algorithm],
    capacity: int,
    prompt_length: int,
    response_length: int,
    num_responses: int = 2,
    updates: int = 1,
    microbatches: int = 1,
) -> Algorithm:
    """`algorithm`, with `updates` more updates after each step, each on a batch from a ring buffer.

    The buffer is part of the state (saved, resumed bit for bit) and holds tokens, masks and weights, pairs
    with the chosen response first: log-probs and win rates of a row have changed since it was drawn. So it
    serves losses of pairs, whose reference is one of the other policies: old pairs are compared with the
    present anchor, as in the released code of online BPO (arXiv:2406.12168). Empty places have weight 0.

    Args:
      algorithm: such as a partial of `online`; its loss may name log-probs and lengths only.
      capacity: rows kept, at least a batch.
      prompt_length, response_length: tokens of the longest prompt and response of the stage.
    """
    inner = algorithm(policy, microbatches=microbatches)

    def init(params: Params, *more: Any) -> TrainState:
        prompts = jnp.zeros((1, prompt_length), jnp.int32)
        responses = jnp.zeros((1, num_responses, response_length), jnp.int32)
        columns = {"weights": jnp.zeros(1)}
        empty = Completions(prompts, prompts > 0, responses, responses > 0, columns=columns)
        return dataclasses.replace(inner.init(params, *more), memory=empty_replay(empty, capacity))

    def kept(batch: Completions) -> Completions:
        return Completions(
            _padded("prompt_length", batch.prompt_tokens, prompt_length),
            _padded("prompt_length", batch.prompt_mask, prompt_length),
            _padded("response_length", batch.response_tokens, response_length),
            _padded("response_length", batch.response_mask, response_length),
            columns={"weights": batch.response_weights.max(-1)},
        )

    def step(state: TrainState, batch: Completions, key: PRNGKey) -> tuple[TrainState, Metrics]:
        fresh_key, *keys = jax.random.split(key, 1 + updates)
        rows = len(batch.prompt_tokens)
        buffer = push(state.memory, kept(batch))
        new, metrics = inner.step(state, batch, fresh_key)
        for old_key in keys:
            draw_key, step_key = jax.random.split(old_key)
            # The other policies move once a step, at its end.
            held = dataclasses.replace(new, step=state.step, policies=state.policies)
            new, old = inner.step(held, draw(buffer, draw_key, rows), step_key)
            shared = metrics.keys() & old.keys()
            metrics = metrics | merge({n: metrics[n] for n in shared}, {n: old[n] for n in shared})
        return dataclasses.replace(new, memory=buffer), metrics

    return inner._replace(
        init=init, step=step, flops=lambda batch: inner.flops(batch) + updates * 3 * policy.flops(batch)
    )


def _padded(name: str, array: Array, length: int) -> Array:
    width = array.shape[-1]
    if width > length:
        raise ValueError(
            f"replayed.{name}: a batch has {width} tokens and the buffer room for {length}; give the stage's "
            "largest bucket"
        )
    return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, length - width)])
