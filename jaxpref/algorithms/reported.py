"""Metrics of a batch of pairs, labelled responses or lists, under TRL's names."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpref.algorithms.inputs import Input
from jaxpref.metrics import Metrics, weighted_mean
from jaxpref.types import Completions, Segments

__all__ = [
    "Labels",
    "agreement",
    "data_order",
    "ends",
    "first_two",
    "labels_of",
    "reported",
    "reward_metrics",
]

Labels = Literal["index", "scores", "preferences"]  # where the data say which response is better


def reported(
    rewards: Float[Array, "b k"],
    logps: Float[Array, "b k"] | None,
    batch: Completions | Segments,
    inputs: Sequence[Input],
) -> Metrics:
    """`reward_metrics` as they are meant for a loss with these inputs.

    A loss that names chosen and rejected responses is about those two, whose order is that of the data
    (`labels_of`) all the same. Drawn responses have an order only where the loss names it.
    """
    rewards = jax.lax.stop_gradient(rewards)
    logps = None if logps is None else jax.lax.stop_gradient(logps)
    bases, sides = {i.base for i in inputs}, {i.response for i in inputs} - {None}
    if "labels" in bases:
        return _labelled(rewards, logps, batch)
    if "drawn" in batch.columns and not sides and not any(i.sampled for i in inputs):
        return {"rewards/mean": weighted_mean(rewards, batch.response_weights)}
    if sides or any(i.sampled for i in inputs):
        rewards, logps, batch = rewards[:, :2], None if logps is None else logps[:, :2], first_two(batch)
    labels = "scores" if "scores" in bases and not sides else labels_of(batch)
    return reward_metrics(rewards, logps, batch, labels=labels)


def reward_metrics(
    rewards: Float[Array, "b k"],
    logps: Float[Array, "b k"] | None,
    batch: Completions | Segments,
    *,
    labels: Labels | None = None,
) -> Metrics:
    """`rewards/*` and, where there are log-probs, `logps/*` of the batch, each row by its weight.

    `rewards/chosen` is of the response that the data say is best, `rewards/rejected` of the worst, and
    `rewards/accuracies` the share of pairs that the rewards order as the data do. Ties of rewards count one
    half (in TRL as wrong). Ties of the data count one half where there are two responses, and are not
    compared in longer lists.

    Args:
      labels: where the data's order is; by default `labels_of` the batch.
    """
    if rewards.shape[1] == 1:
        given = {"rewards/mean": rewards} | ({} if logps is None else {"logps/mean": logps})
        return {name: weighted_mean(value, batch.response_weights) for name, value in given.items()}
    order = data_order(batch, labels or labels_of(batch))
    (best, worst), rows = ends(rewards, batch, order), batch.weights
    metrics = {
        "rewards/chosen": weighted_mean(best, rows),
        "rewards/rejected": weighted_mean(worst, rows),
        "rewards/margins": weighted_mean(best - worst, rows),
        "rewards/accuracies": weighted_mean(*agreement(rewards, batch, order)),
    }
    if logps is not None:
        first, last = ends(logps, batch, order)
        metrics |= {"logps/chosen": weighted_mean(first, rows), "logps/rejected": weighted_mean(last, rows)}
    return metrics


def data_order(batch: Completions | Segments, labels: Labels) -> Float[Array, "b k k"]:
    """1 where response i is better than j in the data, 0 where it is worse, one half for ties."""
    b, k = batch.mask.shape[:2]
    if labels == "preferences" and batch.preferences is not None:
        return _wins(batch.preferences - 0.5)
    scores = -jnp.arange(k, dtype=jnp.float32)
    scores = batch.columns["scores"] if labels == "scores" else jnp.broadcast_to(scores, (b, k))
    return _wins(scores[:, :, None] - scores[:, None])


def agreement(
    rewards: Float[Array, "b k"], batch: Completions | Segments, order: Float[Array, "b k k"]
) -> tuple[Float[Array, "b k k"], Float[Array, "b k k"]]:
    """Whether rewards order each pair of responses as the data do, and the weight of each pair in a mean."""
    wins = _wins(rewards[:, :, None] - rewards[:, None])
    both = batch.present[:, :, None] & batch.present[:, None]
    compared = both & (order == 1)
    if rewards.shape[1] == 2:
        tied = (order == 0.5) & both & jnp.triu(jnp.ones((2, 2), bool), 1)[None]
        wins, compared = jnp.where(tied, 0.5, wins), compared | tied
    return wins, compared * batch.weights[:, None, None]


def _labelled(rewards: Array, logps: Array | None, batch: Completions | Segments) -> Metrics:
    """Chosen are the responses labelled 1, rejected those labelled 0: there are no pairs to be accurate
    about."""
    labels, metrics = batch.columns["labels"], {}
    for side, label in (("chosen", 1), ("rejected", 0)):
        weights = batch.response_weights * (labels == label)
        metrics[f"rewards/{side}"] = weighted_mean(rewards, weights)
        if logps is not None:
            metrics[f"logps/{side}"] = weighted_mean(logps, weights)
    return metrics


def labels_of(batch: Completions | Segments) -> Labels:
    """Where the data's order is, if no loss says so: `preferences`, else `scores` of lists, else the
    index."""
    if batch.preferences is not None:
        return "preferences"
    return "scores" if "scores" in batch.columns and batch.mask.shape[1] > 2 else "index"


def first_two(batch: Completions | Segments) -> Completions | Segments:
    names = ("response_tokens", "response_mask") if isinstance(batch, Completions) else ("step_mask",)
    first = {name: getattr(batch, name)[:, :2] for name in names}
    if batch.preferences is not None:
        first["preferences"] = batch.preferences[:, :2, :2]
    return dataclasses.replace(batch, **first)


def _wins(difference: Array) -> Array:
    return jnp.where(difference > 0, 1.0, jnp.where(difference == 0, 0.5, 0.0))


def ends(values: Array, batch: Completions | Segments, order: Array) -> tuple[Array, Array]:
    """Of the best and of the worst response of each row by the data: most and fewest wins among those
    present."""
    won = jnp.where(batch.present[:, None], order, 0).sum(-1)
    best = jnp.argmax(jnp.where(batch.present, won, -jnp.inf), -1)[:, None]
    worst = jnp.argmin(jnp.where(batch.present, won, jnp.inf)[:, ::-1], -1)[:, None]
    worst = values.shape[1] - 1 - worst
    return jnp.take_along_axis(values, best, 1)[:, 0], jnp.take_along_axis(values, worst, 1)[:, 0]
