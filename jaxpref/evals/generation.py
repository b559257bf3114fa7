"""Samples on held-out prompts, scored by a checker, and their win rate against one stage ago."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxpref.data.loader import Loader
from jaxpref.evals.base import Context, Estimate, Evaluation, TextSample, clustered, proportion
from jaxpref.types import Prompts

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

    With a `checker` (prompt text, response text) -> score, reports the mean score and, where the stage
    before answered the same prompts, the win rate against it (ties one half). Without one it only keeps
    `shown` samples for the report and their mean length (tokens).
    """
    table = records().only(0)
    table = table.take(np.arange(min(num_prompts, len(table))))
    rows = -(-batch_size // context.rows_multiple) * context.rows_multiple
    loader = Loader(table, batch_size=rows, seed=0, shuffle=False)

    @jax.jit
    def sample(params, prompts, key):
        out = context.policy.sample(
            params, prompts, key, max_tokens=max_tokens, temperature=temperature, top_p=top_p
        )
        return out.completions.response_tokens[:, 0], out.completions.response_mask[:, 0]

    tokenizer, samples, lengths = context.tokenizer, [], []
    for index, batch in enumerate(loader.evaluation_batches()):
        key = jax.random.fold_in(jax.random.key(context.seed), index)
        prompts = context.put(Prompts(batch.prompt_tokens, batch.prompt_mask))
        tokens, mask = context.fetch(sample(context.params, prompts, key))
        for row in np.flatnonzero(batch.valid):
            prompt = tokenizer.decode(batch.prompt_tokens[row][batch.prompt_mask[row]].tolist())
            ids = tokens[row][mask[row]].tolist()
            ended = bool(ids) and ids[-1] == tokenizer.eos_id
            response = tokenizer.decode(ids[:-1] if ended else ids)
            score = None if checker is None else float(checker(prompt, response))
            note = "" if ended else "no end of sequence"
            samples.append(TextSample(str(len(samples)), prompt, response, score, note))
            lengths.append(len(ids))

    metrics: dict[str, Estimate] = {}
    groups = np.arange(len(samples))
    if checker is not None:
        scores = np.array([s.score for s in samples])
        binary = np.isin(scores, (0.0, 1.0)).all()
        metrics["checker accuracy" if binary else "checker score"] = (
            proportion(scores.sum(), len(scores)) if binary else clustered(scores, groups)
        )
        before = {s.id: s.score for s in context.baseline(name) if s.score is not None}
        pairs = [(s.score, before[s.id]) for s in samples if s.id in before]
        if pairs:
            new, old = np.array(pairs).T
            wins = np.where(new > old, 1.0, np.where(new == old, 0.5, 0.0))
            metrics["win rate"] = clustered(wins, np.arange(len(wins)))
    metrics["response length"] = clustered(np.array(lengths, float), groups, better="")
    kept = samples if checker is not None else samples[:shown]
    return Evaluation(name, metrics, tuple(kept))
