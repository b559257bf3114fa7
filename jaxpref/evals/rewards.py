"""Held-out accuracy of the (implicit) rewards of a policy on recorded pairs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxpref.data.loader import Loader
from jaxpref.evals.base import Context, Estimate, Evaluation
from jaxpref.evals.intervals import clustered

__all__ = ["reward_accuracy"]


def reward_accuracy(
    context: Context,
    *,
    records: Callable[[], Any],
    batch_size: int = 16,
    num_prompts: int | None = None,
    name: str = "held-out pairs",
) -> Evaluation:
    """Share of pairs whose chosen response has the higher reward (ties one half), with a 95 % interval that
    treats the pairs of one prompt as one cluster; beside it the "longer response wins" baseline on the very
    same pairs, and the mean margin (nats times the loss's beta)."""
    table = records()
    if num_prompts is not None:
        table = table.take(np.arange(min(num_prompts, len(table))))
    loader = Loader(table, batch_size=context.rows(batch_size), seed=0, shuffle=False)
    margins = []
    for batch in loader.evaluation_batches():
        rewards = context.fetch(context.rewards(context.put(batch)))
        margins.append((rewards[:, 0] - rewards[:, 1])[np.asarray(batch.valid)])
    margin = np.concatenate(margins).astype(np.float64)
    lengths = table.response_lengths
    longer = _wins(lengths[:, 0] - lengths[:, 1])
    return Evaluation(
        name,
        {
            "reward accuracy": _share(clustered(_wins(margin), table.group)),
            "longer-response baseline": _share(clustered(longer, table.group, better="")),
            "reward margin": clustered(margin, table.group),
        },
    )


def _share(estimate: Estimate) -> Estimate:
    """A normal interval of few pairs may leave [0, 1]; a share cannot."""
    return dataclasses.replace(estimate, low=max(estimate.low, 0.0), high=min(estimate.high, 1.0))


def _wins(difference: np.ndarray) -> np.ndarray:
    return np.where(difference > 0, 1.0, np.where(difference == 0, 0.5, 0.0))
