"""Optimisation of an objective on responses that the policy draws while it learns.

A loss may name what is known of drawn responses: `win_rates`, `scores`, `behaviour_token_logps` and the other
columns of `types.COLUMNS`, and `values` of a policy with one head output. No gradient flows through draws,
judges or builders.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import optax
from jaxtyping import Array

from jaxpref.algorithms.bank import Rule
from jaxpref.algorithms.base import Algorithm, TrainState
from jaxpref.algorithms.collected import enumerator, sampler
from jaxpref.algorithms.collector import Builder, Collector
from jaxpref.algorithms.draws import Draws, alternatives, members
from jaxpref.algorithms.inputs import inputs_of
from jaxpref.algorithms.offline import offline
from jaxpref.judges import Judge, Scorer
from jaxpref.metrics import Metrics
from jaxpref.policies.base import Model, Policy
from jaxpref.types import Completions, PRNGKey

__all__ = ["online", "passes"]


def online(
    policy: Policy,
    *,
    loss: Callable[..., Any],
    optimizer: Callable[[], optax.GradientTransformation],
    draws: Draws,
    max_tokens: int,
    judge: Callable[[], Judge] | None = None,
    scorer: Callable[[], Scorer] | None = None,
    build: Builder | None = None,
    hybrid: bool = False,
    reference: str | None = "initial",
    bank: Mapping[str, Rule] | None = None,
    models: Mapping[str, Callable[[], Model]] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    epochs: int = 1,
    minibatches: int = 1,
    exact: bool = False,
    reward_scale: float | None = None,
    loss_state: Callable[[], Any] | None = None,
    features: Callable[..., Any] | None = None,
    microbatches: int = 1,
    pair_scan: bool = False,
) -> Algorithm:
    """Draws responses to each prompt of a batch, has them judged, builds records, and learns as `offline`
    does.

    Args:
      loss, optimizer, reference, bank, reward_scale, loss_state, features, microbatches, pair_scan: as in
        `offline`.
      draws, max_tokens, temperature, top_k, top_p: as in `collected.sampler`.
      exact: as in `collected.enumerator`, in place of drawing: exact expected gradients for tables.
      judge, scorer: build those of `collector.Collector`. build, hybrid: as there.
      models: models that are not trained, by name, such as "judge"; draws and judges may name them.
      epochs, minibatches: passes over what was drawn, and updates in each (PPO: 1 and 8). The schedule of
        the optimizer counts updates; the bank counts steps.
    """
    _check(draws, {*(bank or ()), *(models or ())}, reference, epochs, minibatches)
    learning = {"loss_state": loss_state, "features": features, "microbatches": microbatches}
    learning |= {"reference": reference, "bank": bank, "reward_scale": reward_scale, "pair_scan": pair_scan}
    inner = offline(policy, loss=loss, optimizer=optimizer, **learning)
    drawing = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    draw = enumerator(policy, draws) if exact else sampler(policy, draws, **drawing)
    critic = policy if any(i.base == "behaviour_values" for i in inputs_of(loss)) else None
    judged = (scorer and scorer(), judge and judge())
    return inner._replace(
        step=partial(passes, inner.step, epochs=epochs, minibatches=minibatches),
        flops=lambda batch: len(members(draws)) * policy.flops(batch) + epochs * inner.flops(batch),
        collect=Collector(draw, hybrid, critic, *judged, build, _contested(draws)),
        constants=None if not models else partial(_loaded, models),
        # With `exact` a batch has more rows than its records, and only the step knows how many.
        parts=1 if exact else minibatches * microbatches,
    )


def _loaded(models: Mapping[str, Callable[[], Model]]) -> dict[str, Model]:
    return {name: load() for name, load in models.items()}


def passes(
    update: Callable[[TrainState, Completions, PRNGKey], tuple[TrainState, Metrics]],
    state: TrainState,
    batch: Completions,
    key: PRNGKey,
    *,
    epochs: int,
    minibatches: int,
) -> tuple[TrainState, Metrics]:
    """`epochs` passes of `update` over a batch, each in an order of its own and in `minibatches` equal parts.

    The bank moves once, at the end. Metrics are merged over all updates.
    """
    if epochs == minibatches == 1:
        return update(state, batch, key)
    rows = batch.mask.shape[0]
    if rows % minibatches:
        raise ValueError(f"minibatches={minibatches} does not divide a batch of {rows} rows")
    order_key, update_key = jax.random.split(key)
    orders = jax.vmap(lambda k: jax.random.permutation(k, rows))(jax.random.split(order_key, epochs))

    def one(now: TrainState, given: tuple[Array, PRNGKey]) -> tuple[TrainState, Metrics]:
        part = jax.tree.map(lambda x: x[given[0]], batch)
        return update(dataclasses.replace(now, step=state.step, bank=state.bank), part, given[1])

    parts = orders.reshape(epochs * minibatches, -1)
    new, metrics = jax.lax.scan(one, state, (parts, jax.random.split(update_key, len(parts))))
    return new, jax.tree.map(lambda x: x.sum(0), metrics)


def _contested(draws: Draws) -> bool:
    """Whether the policy's own responses meet those of others."""
    own = [draw == {"policy": 1.0} for one in alternatives(draws) for draw in one]
    return any(own) and not all(own)


def _check(draws: Draws, others: set[str], reference: str | None, epochs: int, minibatches: int) -> None:
    if epochs < 1 or minibatches < 1:
        raise ValueError(f"online: epochs and minibatches count from 1, got {epochs} and {minibatches}")
    known = {"policy", *others} | ({"initial"} if reference == "initial" else set())
    unknown = sorted(set(members(draws)) - known)
    if unknown:
        raise ValueError(
            f"draws: {unknown} are not in the bank, which has {sorted(known)}; add them with bank={{...}}"
        )
