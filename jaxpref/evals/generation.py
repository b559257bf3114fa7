"""Samples on held-out prompts, scored by a checker, and their win rate against where the stage began."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxpref.evals.base import Context, Estimate, Evaluation, TextSample
from jaxpref.evals.intervals import clustered, share
from jaxpref.evals.sampling import draw, prompts_of, texts

__all__ = ["generation"]


def generation(
    context: Context,
    *,
    records: Callable[[], Any],
    max_tokens: int,
    checker: Callable[[str, str], float] | None = None,
    temperature: float = 0.0,
    top_p: float | None = None,
    batch_size: int = 64,
    num_prompts: int = 200,
    shown: int = 12,
    name: str = "generation",
) -> Evaluation:
    """Answers the first `num_prompts` prompts of `records`.

    With a `checker` (prompt text, response text) -> score, reports the mean score and, where the policy
    answered the same prompts when the stage began, the win rate against that (ties one half). Without one it
    only keeps `shown` samples for the report and their mean length (tokens). Rows of one group (a prompt that
    occurs twice) are one cluster in all intervals.
    """
    samples: list[TextSample] = []
    lengths: list[int] = []
    table = prompts_of(records, num_prompts)
    drawing = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p}
    for batch in draw(context, table, context.key(name), batch_size=batch_size, **drawing):
        for row in map(int, np.flatnonzero(batch.real)):
            prompt, response = texts(context.tokenizer, batch, row, 0)
            score = None if checker is None else float(checker(prompt, response))
            note = "" if batch.ended[row, 0] else "no end of sequence"
            samples.append(TextSample(str(len(samples)), prompt, response, score, note))
            lengths.append(int(batch.completions.response_mask[row, 0].sum()))

    metrics: dict[str, Estimate] = {}
    groups = table.group
    if checker is not None:
        scores = np.array([s.score for s in samples])
        binary = np.isin(scores, (0.0, 1.0)).all()
        metrics["checker accuracy" if binary else "checker score"] = (
            share(scores, groups) if binary else clustered(scores, groups)
        )
        before = {s.id: s.score for s in context.baseline(name) if s.score is not None}
        both = [i for i, s in enumerate(samples) if s.id in before]
        if both:
            new, old = scores[both], np.array([before[samples[i].id] for i in both])
            wins = np.where(new > old, 1.0, np.where(new == old, 0.5, 0.0))
            metrics["win rate"] = share(wins, groups[both])
    metrics["response length"] = clustered(np.array(lengths, float), groups, better="")
    kept = samples if checker is not None else samples[:shown]
    return Evaluation(name, metrics, tuple(kept))
