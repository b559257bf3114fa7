"""How different the responses of a policy to one prompt are from one another."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from jaxpref.evals.base import Context, Evaluation
from jaxpref.evals.intervals import share
from jaxpref.evals.sampling import draw, prompts_of, response_ids

__all__ = ["distinct", "diversity", "edit_similarity", "unique_share"]

Tokens = Sequence[int]


def distinct(responses: Sequence[Tokens], n: int) -> float:
    """distinct-n (Li et al. 2016, arXiv:1510.03055): different n-grams over all n-grams, in (0, 1]; NaN if
    no response has n tokens. It falls with length, so compare it at equal lengths."""
    grams = [tuple(r[i : i + n]) for r in responses for i in range(len(r) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def edit_similarity(first: Tokens, second: Tokens) -> float:
    """1 - Levenshtein distance / longer length, in [0, 1]; two empty sequences are equal (1)."""
    if not len(first) or not len(second):
        return float(len(first) == len(second))
    target = np.asarray(second)
    at = np.arange(len(second) + 1)
    row = at.copy()
    for i, token in enumerate(first, start=1):
        # Deletions and substitutions at once; insertions chain along the row: a running minimum.
        best = np.concatenate([[i], np.minimum(row[1:] + 1, row[:-1] + (target != token))])
        row = np.minimum.accumulate(best - at) + at
    return 1 - float(row[-1]) / max(len(first), len(second))


def unique_share(responses: Sequence[Tokens]) -> float:
    """Different responses over responses, in (0, 1]."""
    return len({tuple(r) for r in responses}) / len(responses)


def diversity(
    context: Context,
    *,
    records: Callable[[], Any],
    max_tokens: int,
    num_samples: int = 4,
    temperature: float = 1.0,
    top_p: float | None = None,
    batch_size: int = 64,
    num_prompts: int = 100,
    name: str = "diversity",
) -> Evaluation:
    """Means over prompts of distinct-1, distinct-2, the similarity of pairs and the share of unique
    responses, among `num_samples` responses to each prompt. Sequences are tokens, EOS left out.

    Raises:
      ValueError: `num_samples` is less than 2.
    """
    if num_samples < 2:
        raise ValueError(f"diversity.num_samples: expected 2 or more to compare, got {num_samples}")
    table, rows = prompts_of(records, num_prompts), []
    drawing = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p}
    for drawn in draw(
        context, table, context.key(name), num_samples=num_samples, batch_size=batch_size, **drawing
    ):
        for row in np.flatnonzero(drawn.real):
            rows += [[response_ids(drawn, int(row), sample) for sample in range(num_samples)]]
    values = {
        "distinct-1": [distinct(r, 1) for r in rows],
        "distinct-2": [distinct(r, 2) for r in rows],
        "similarity of pairs": [
            float(np.mean([edit_similarity(a, b) for a, b in combinations(r, 2)])) for r in rows
        ],
        "unique responses": [unique_share(r) for r in rows],
    }
    metrics = {}
    for key, scores in values.items():
        there = np.isfinite(scores)
        metrics[key] = share(np.asarray(scores)[there], table.group[there], better="")
    return Evaluation(name, metrics)
