"""Optimisation of an objective on responses that the policy draws while it learns.

A loss may name what is known of drawn responses: `win_rates`, `scores`, `behaviour_token_logps` and the other
columns of `types.COLUMNS`, and `values` of a policy with one head output. No gradient flows through mixtures,
judges or selectors.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import optax
from jaxtyping import Array

from jaxpref.algorithms.base import Algorithm, TrainState
from jaxpref.algorithms.collected import enumerator, sampler
from jaxpref.algorithms.collector import Collector, Selector
from jaxpref.algorithms.copies import Rule
from jaxpref.algorithms.inputs import inputs_of
from jaxpref.algorithms.mixtures import Mixtures, alternatives, members
from jaxpref.algorithms.offline import RULES_OF, offline
from jaxpref.algorithms.optimizers import each_step
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
    sample_from: Mixtures,
    max_tokens: int,
    judge: Callable[[], Judge] | None = None,
    scorer: Callable[[], Scorer] | None = None,
    select: Selector | None = None,
    hybrid: bool = False,
    reference: str | None = "initial",
    policies: Mapping[str, Rule] | None = None,
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
    """Draws responses to prompts, has them judged, selects what to learn from, and learns as `offline` does.

    Args:
      loss, optimizer, reference, policies, reward_scale, loss_state, features, microbatches, pair_scan: as in
        `offline`.
      sample_from, max_tokens, temperature, top_k, top_p: as in `collected.sampler`.
      exact: as in `collected.enumerator`, in place of drawing: exact expected gradients for tables.
      judge, scorer: build those of `collector.Collector`. select, hybrid: as there.
      models: models that are not trained, by name, such as "judge"; mixtures and judges may name them.
      epochs, minibatches: passes over what was drawn, and updates in each (PPO: 1 and 8). The schedule of
        the optimizer counts updates; the other policies count steps.
    """
    _check(sample_from, set(policies or ()), set(models or ()), reference, epochs, minibatches)
    learning = {"reference": reference, "policies": policies, "reward_scale": reward_scale}
    learning |= {"loss_state": loss_state, "features": features, "microbatches": microbatches}
    with each_step(epochs * minibatches):
        inner = offline(policy, loss=loss, optimizer=optimizer, pair_scan=pair_scan, **learning)
    warped = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    draw = sampler(policy, sample_from, max_tokens=max_tokens, **warped)
    draw = enumerator(policy, sample_from) if exact else draw
    critic = policy if any(i.base == "behaviour_values" for i in inputs_of(loss)) else None
    judged = (scorer and scorer(), judge and judge())
    return inner._replace(
        step=partial(passes, inner.step, epochs=epochs, minibatches=minibatches),
        flops=lambda batch: len(members(sample_from)) * policy.flops(batch) + epochs * inner.flops(batch),
        collect=Collector(draw, hybrid, critic, *judged, select, _contested(sample_from)),
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

    The other policies move once, at the end. Metrics are merged over all updates.
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
        return update(dataclasses.replace(now, step=state.step, policies=state.policies), part, given[1])

    parts = orders.reshape(epochs * minibatches, -1)
    new, metrics = jax.lax.scan(one, state, (parts, jax.random.split(update_key, len(parts))))
    return new, jax.tree.map(lambda x: x.sum(0), metrics)


def _contested(mixtures: Mixtures) -> bool:
    """Whether the policy's own responses are compared with those of others."""
    own = [mixture == {"policy": 1.0} for one in alternatives(mixtures) for mixture in one]
    return any(own) and not all(own)


def _check(
    mixtures: Mixtures,
    policies: set[str],
    models: set[str],
    reference: str | None,
    epochs: int,
    minibatches: int,
) -> None:
    if epochs < 1 or minibatches < 1:
        raise ValueError(f"online: epochs and minibatches count from 1, got {epochs} and {minibatches}")
    known = {"policy", *policies} | RULES_OF.get(reference or "", {}).keys()
    if known & models:
        raise ValueError(f"models: {sorted(known & models)} are policies of this run; choose other names")
    unknown = sorted(set(members(mixtures)) - known - models)
    if unknown:
        raise ValueError(
            f"sample_from: {unknown} are no policies here; there are {sorted(known | models)}; add them with "
            "policies={...}"
        )
