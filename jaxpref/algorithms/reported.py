"""What is reported of a batch: TRL's metric names, for pairs, labelled responses and lists."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxpref.metrics import Metrics, masked_mean
from jaxpref.types import Completions, Segments

__all__ = ["reward_metrics"]


def reward_metrics(
    rewards: Float[Array, "b k"],
    logps: Float[Array, "b k"] | None,
    batch: Completions | Segments,
    *,
    labelled: bool,
) -> Metrics:
    """`rewards/*` and, where there are log-probs, `logps/*`; none carries a gradient.

    `labelled`: chosen are the responses labelled 1, rejected those labelled 0, and there are no pairs to be
    accurate about. Else, for two responses, response 0 is the chosen one. Longer lists are compared pair by
    pair by their column `scores`, or by their order without one; `rewards/chosen` is of the best response,
    and `rewards/rejected` of the worst. Ties of rewards count one half in accuracies (in TRL as wrong).
    """
    rewards = jax.lax.stop_gradient(rewards)
    logps = None if logps is None else jax.lax.stop_gradient(logps)
    where = batch.mask.any(-1)
    if labelled:
        chosen, rejected = where & (batch.columns["labels"] == 1), where & (batch.columns["labels"] == 0)
        metrics = {
            "rewards/chosen": masked_mean(rewards, chosen),
            "rewards/rejected": masked_mean(rewards, rejected),
        }
        if logps is not None:
            metrics["logps/chosen"] = masked_mean(logps, chosen)
            metrics["logps/rejected"] = masked_mean(logps, rejected)
        return metrics
    if rewards.shape[1] == 1:
        metrics = {"rewards/mean": masked_mean(rewards, where)}
        return metrics if logps is None else metrics | {"logps/mean": masked_mean(logps, where)}
    if rewards.shape[1] == 2:
        best, worst, rows = rewards[:, 0], rewards[:, 1], batch.weights
        accuracies, ordered = _wins(best - worst), rows
    else:
        best, worst, accuracies, ordered, rows = _list(rewards, batch, where)
    metrics = {
        "rewards/chosen": masked_mean(best, rows),
        "rewards/rejected": masked_mean(worst, rows),
        "rewards/margins": masked_mean(best - worst, rows),
        "rewards/accuracies": masked_mean(accuracies, ordered),
    }
    if logps is not None:
        first, last = (logps[:, 0], logps[:, 1]) if rewards.shape[1] == 2 else _ends(logps, batch, where)
        metrics |= {"logps/chosen": masked_mean(first, rows), "logps/rejected": masked_mean(last, rows)}
    return metrics


def _wins(difference: Array) -> Array:
    return jnp.where(difference > 0, 1.0, jnp.where(difference == 0, 0.5, 0.0))


def _scores(batch: Completions | Segments) -> Float[Array, "b k"]:
    b, k = batch.lengths.shape
    return batch.columns.get("scores", jnp.broadcast_to(-jnp.arange(k, dtype=jnp.float32), (b, k)))


def _ends(values: Array, batch: Completions | Segments, where: Bool[Array, "b k"]) -> tuple[Array, Array]:
    """Of the best and of the worst response of each list."""
    scores = _scores(batch)
    best = jnp.argmax(jnp.where(where, scores, -jnp.inf), -1)[:, None]
    worst = jnp.argmin(jnp.where(where, scores, jnp.inf), -1)[:, None]
    return jnp.take_along_axis(values, best, 1)[:, 0], jnp.take_along_axis(values, worst, 1)[:, 0]


def _list(rewards: Array, batch: Completions | Segments, where: Array) -> tuple[Array, ...]:
    scores, rows = _scores(batch), where.sum(-1) >= 2
    better = (scores[:, :, None] > scores[:, None]) & where[:, :, None] & where[:, None]
    return (
        *_ends(rewards, batch, where),
        _wins(rewards[:, :, None] - rewards[:, None]),
        better,
        rows,
    )
