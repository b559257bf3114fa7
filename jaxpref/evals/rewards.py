"""How well the (implicit) rewards of a policy order recorded pairs and lists."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpref.algorithms.reported import agreement, data_order, ends, first_two, labels_of
from jaxpref.data.loader import Loader
from jaxpref.evals.base import Context, Evaluation
from jaxpref.evals.intervals import clustered, difference, known, share
from jaxpref.types import Completions, Segments

__all__ = ["list_agreement", "reward_accuracy"]


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
    very same pairs, by tokens before any response was cut (column `full_lengths`, where the data cut some),
    and the mean margin (nats times the loss's beta). Rows count by their weight, and a pair with an absent
    response not at all.

    The better response of two is the one that the column `preferences` says, else the first. Of longer lists
    with `preferences` or `scores` every pair that the data order is one (equal scores are none), and the
    margin is that of best and worst; of longer lists without either the first two responses are compared.
    `list_agreement` looks at lists as a whole.
    """
    table = _first(records, num_prompts)
    right, longer, margin, pairs, rows = _measured(context, table, batch_size, _compared)
    return Evaluation(
        name,
        {
            "reward accuracy": share(right, table.group, weights=pairs),
            "longer-response baseline": share(longer, table.group, weights=pairs, better=""),
            # Of no direction: it grows with beta, and margins of two losses do not compare.
            "reward margin": difference(margin, table.group, weights=rows, better=""),
        },
    )


def list_agreement(
    context: Context,
    *,
    records: Callable[[], Any],
    batch_size: int = 16,
    num_prompts: int | None = None,
    name: str = "held-out lists",
) -> Evaluation:
    """How the rewards rank whole lists that the column `scores` ranks; absent responses are left out.

    - `Kendall tau-b`: mean over lists, in [-1, 1], with ties of scores and of rewards corrected for (Kendall
      1945); 0 where the rewards of a list are all equal.
    - `top-1 agreement`: share of lists whose highest reward is of a response with the highest score. Several
      equal highest rewards count as a draw among them.
    - `top-1 at chance`: what a response drawn from the list would have; exact where all lists have the same.

    Lists whose scores are all equal rank nothing and are not counted. Intervals take the rows of one group as
    a cluster, and rows count by their weight.

    Raises:
      ValueError: there is no column `scores`.
    """
    table = _first(records, num_prompts)
    if "scores" not in table.columns:
        raise ValueError(
            f"{name}: list_agreement needs a column scores [n, k]; of pairs, use reward_accuracy"
        )
    tau, top, chance, rows = _measured(context, table, batch_size, _ranked)
    metrics = {
        "Kendall tau-b": clustered(tau, table.group, weights=rows),
        "top-1 agreement": share(top, table.group, weights=rows),
        "top-1 at chance": known(chance, table.group, weights=rows, better=""),
    }
    return Evaluation(name, metrics)


def _first(records: Callable[[], Any], num_prompts: int | None) -> Any:
    table = records()
    return table if num_prompts is None else table.take(np.arange(min(num_prompts, len(table))))


def _measured(
    context: Context, table: Any, batch_size: int, measure: Callable[..., tuple[Array, ...]]
) -> list[np.ndarray]:
    """What `measure` says of the rewards of each row, in the order of the table."""
    loader = Loader(table, batch_size=context.rows(batch_size), seed=0, shuffle=False)
    parts = []
    for batch in loader.evaluation_batches():
        rewards = jnp.asarray(context.fetch(context.rewards(context.put(batch))))
        parts.append([np.asarray(x, np.float64) for x in measure(rewards, batch)])
    return [np.concatenate(part)[: len(table)] for part in zip(*parts, strict=True)]


def _ranked(rewards: Float[Array, "b k"], batch: Completions | Segments) -> tuple[Array, ...]:
    """Kendall's tau-b, agreement about the best response, that of chance, and the weight, of each row."""
    there, scores = batch.present, batch.columns["scores"]
    both = there[:, :, None] & there[:, None]
    by_reward, by_score = (
        jnp.where(both, jnp.sign(x[:, :, None] - x[:, None]), 0) for x in (rewards, scores)
    )
    untied = jnp.abs(by_reward).sum((1, 2)) * jnp.abs(by_score).sum((1, 2))
    tau = (by_reward * by_score).sum((1, 2)) / jnp.sqrt(jnp.where(untied > 0, untied, 1))
    # In a list the best are those that lose to none of those present.
    first, best = (there & (x >= 0).all(2) for x in (by_reward, by_score))
    top = (first & best).sum(1) / jnp.maximum(first.sum(1), 1)
    ordered = jnp.abs(by_score).sum((1, 2)) > 0
    return tau, top, best.sum(1) / jnp.maximum(there.sum(1), 1), jnp.where(ordered, batch.weights, 0)


def _compared(rewards: Float[Array, "b k"], batch: Completions | Segments) -> tuple[Array, ...]:
    """For each row the share of its pairs that rewards, and lengths, order as the data do, and the margin of
    best and worst; with the weights of the shares (its pairs together) and of the margin."""
    if batch.preferences is None and "scores" not in batch.columns:
        rewards, batch = rewards[:, :2], first_two(batch)  # what is behind a pair is something else
    order = data_order(batch, labels_of(batch))
    right, weights = agreement(rewards, batch, order)
    lengths = batch.columns.get("full_lengths", batch.lengths)[:, : rewards.shape[1]]
    longer, _ = agreement(jnp.asarray(lengths, jnp.float32), batch, order)
    pairs = weights.sum((1, 2))
    total = jnp.where(pairs > 0, pairs, 1)
    best, worst = ends(rewards, batch, order)
    right, longer = ((x * weights).sum((1, 2)) / total for x in (right, longer))
    return right, longer, best - worst, pairs, batch.weights
