"""Optimisation of an objective on responses that the policy draws while it learns."""

import dataclasses
from collections.abc import Callable, Mapping
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
    """Draws responses to each prompt of a batch, has them judged, makes training records of them, and takes
    the step that `offline` takes on recorded ones. No gradient flows through draws, judges or builders.

    Args:
      loss, optimizer, reference, bank, reward_scale, loss_state, features, microbatches, pair_scan: as in
        `offline`. A loss may also name what is known of drawn responses: `win_rates`, `scores`,
        `behaviour_token_logps` and the other columns of `types.COLUMNS`, and `values` of a policy with one
        head output.
      draws: who draws each response of a prompt (`algorithms.draws`), such as `({"policy": 1.0},) * 2`.
      max_tokens: longest response; together with the buckets of the stage it fixes the compiled shapes.
      judge: builds a judge, whose `P [b, k, k]` becomes `preferences`.
      scorer: builds a scorer, whose scores `[b, k]` become the column `scores`.
      build: what to learn from out of the k responses (`jaxpref.selection`); by default all of them, in the
        order drawn, or for hybrid records the recorded responses and then those drawn.
      hybrid: put the responses of the records in front of those drawn: HyPO, SPAC, SPIN.
      models: other models that are not trained, by name, such as a trained "judge"; draws and judges may name
      them. temperature, top_k, top_p: of drawing, applied to the mixture. Log-probs are always at temperature
      1. epochs, minibatches: passes over what was drawn, and updates in each (PPO: 1 and 8). The schedule of
      the
        optimizer counts updates; the bank counts steps.
      exact: in place of drawing, take every tuple of responses with its probability: exact expected gradients
        for tabular policies. A batch of b prompts becomes b n^k rows.
    """
    if epochs < 1 or minibatches < 1:
        raise ValueError(f"online: epochs and minibatches count from 1, got {epochs} and {minibatches}")
    inner = offline(
        policy,
        loss=loss,
        optimizer=optimizer,
        reference=reference,
        bank=bank,
        reward_scale=reward_scale,
        loss_state=loss_state,
        features=features,
        microbatches=microbatches,
        pair_scan=pair_scan,
    )
    _check_members(draws, bank or {}, reference, models or {})
    draw = (
        enumerator(policy, draws)
        if exact
        else sampler(policy, draws, max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p)
    )
    critic = policy if any(i.base == "behaviour_values" for i in inputs_of(loss)) else None
    collect = Collector(
        draw,
        hybrid=hybrid,
        critic=critic,
        scorer=scorer and scorer(),
        judge=judge and judge(),
        build=build,
        contested=_contested(draws),
    )

    def step(state: TrainState, batch: Completions, key: PRNGKey) -> tuple[TrainState, Metrics]:
        if epochs == minibatches == 1:
            return inner.step(state, batch, key)
        return passes(inner.step, state, batch, key, epochs=epochs, minibatches=minibatches)

    def flops(batch: Completions) -> float:
        return len(members(draws)) * policy.flops(batch) + epochs * inner.flops(batch)

    loaded = None if not models else lambda: {name: load() for name, load in models.items()}
    # With `exact` a batch has more rows than its records, and only the step knows how many.
    parts = 1 if exact else minibatches * microbatches
    return inner._replace(step=step, flops=flops, collect=collect, constants=loaded, parts=parts)


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


def _check_members(
    draws: Draws, bank: Mapping[str, Rule], reference: str | None, models: Mapping[str, Any]
) -> None:
    known = {"policy", *bank, *models} | ({"initial"} if reference == "initial" else set())
    unknown = sorted(set(members(draws)) - known)
    if unknown:
        raise ValueError(
            f"draws: {unknown} are not in the bank, which has {sorted(known)}; add them with bank={{...}}"
        )
