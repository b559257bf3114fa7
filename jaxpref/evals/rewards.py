"""Held-out accuracy of the (implicit) rewards of a policy on recorded pairs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpref.algorithms.reported import agreement, data_order, ends, first_two, labels_of
from jaxpref.data.loader import Loader
from jaxpref.evals.base import Context, Estimate, Evaluation
from jaxpref.evals.intervals import clustered
from jaxpref.types import Completions, Segments

__all__ = ["reward_accuracy"]


def reward_accuracy(
    context: Context,
    *,
    records: Callable[[], Any],
    batch_size: int = 16,
    num_prompts: int | None = None,
    name: str = "held-out pairs",
) -> Evaluation:
    """Share of pairs that the rewards order as the data do (ties of either one half), with a 95 % interval
    that treats the pairs of one prompt as one cluster; beside it the "longer response wins" baseline on the
    very same pairs, and the mean margin (nats times the loss's beta). Rows count by their weight.

    The better response of two is the one that the column `preferences` says, else the first. Of longer lists
    (`scores`, or their order) every pair that the data order is one, and the margin is that of best and
    worst."""
    table = records()
    if num_prompts is not None:
        table = table.take(np.arange(min(num_prompts, len(table))))
    loader = Loader(table, batch_size=context.rows(batch_size), seed=0, shuffle=False)
    parts = []
    for batch in loader.evaluation_batches():
        rewards = jnp.asarray(context.fetch(context.rewards(context.put(batch))))
        parts.append([np.asarray(x, np.float64) for x in _compared(rewards, batch)])
    columns = [np.concatenate(part)[: len(table)] for part in zip(*parts, strict=True)]
    right, longer, margin, pairs, rows = columns
    return Evaluation(
        name,
        {
            "reward accuracy": _share(clustered(right, table.group, weights=pairs)),
            "longer-response baseline": _share(clustered(longer, table.group, weights=pairs, better="")),
            "reward margin": clustered(margin, table.group, weights=rows),
        },
    )


def _compared(rewards: Float[Array, "b k"], batch: Completions | Segments) -> tuple[Array, ...]:
    """For each row the share of its pairs that rewards, and lengths, order as the data do, and the margin of
    best and worst; with the weights of the shares (its pairs together) and of the margin."""
    if batch.preferences is None and "scores" not in batch.columns:
        rewards, batch = rewards[:, :2], first_two(batch)  # what is behind a pair is something else
    order = data_order(batch, labels_of(batch))
    right, weights = agreement(rewards, batch, order)
    longer, _ = agreement(batch.lengths.astype(jnp.float32), batch, order)
    pairs = weights.sum((1, 2))
    total = jnp.where(pairs > 0, pairs, 1)
    best, worst = ends(rewards, batch, order)
    right, longer = ((x * weights).sum((1, 2)) / total for x in (right, longer))
    return right, longer, best - worst, pairs, batch.weights


def _share(estimate: Estimate) -> Estimate:
    """A normal interval of few pairs may leave [0, 1]; a share cannot."""
    return dataclasses.replace(estimate, low=max(estimate.low, 0.0), high=min(estimate.high, 1.0))
