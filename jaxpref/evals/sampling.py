"""One pass of sampling over held-out prompts, for every evaluator that samples."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jaxpref import keys
from jaxpref.data.loader import Loader
from jaxpref.data.records import Records
from jaxpref.evals.base import Context
from jaxpref.types import Completions, PRNGKey

__all__ = ["Drawn", "draw", "prompts_of", "response_ids", "texts"]


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Samples of one batch as numpy arrays; rows beyond the records have `real` False."""

    completions: Completions
    token_logps: Float[np.ndarray, "b k r"]  # nats, of the policy at temperature 1
    ended: Bool[np.ndarray, "b k"]  # by an end token, which is the last one kept
    real: np.ndarray  # bool [b]


def prompts_of(records: Callable[[], Records], num_prompts: int | None) -> Records:
    """The first `num_prompts` prompts (all: None)."""
    table = records().only(0)
    return table.take(np.arange(len(table) if num_prompts is None else min(num_prompts, len(table))))


def draw(
    context: Context,
    table: Records,
    key: PRNGKey,
    *,
    max_tokens: int,
    num_samples: int = 1,
    temperature: float = 1.0,
    top_p: float | None = None,
    batch_size: int = 64,
) -> Iterator[Drawn]:
    """`num_samples` responses of the context's policy to each prompt, batch by batch in table order.

    The same table, batch size and key give the same noise. Responses that are compared with one another need
    keys of their own, or their win rate is that of dependent samples.
    """
    loader = Loader(table, batch_size=context.rows(batch_size), seed=0, shuffle=False)
    for index, batch in enumerate(loader.evaluation_batches()):
        prompts = context.put(batch.prompts)
        # Not compiled here: a policy's own compiled function serves every evaluation of a run.
        out = context.policy.sample(
            context.params,
            prompts,
            keys.fold(key, index),
            num_samples=num_samples,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
        )
        outputs = out.completions.response_tokens, out.completions.response_mask, out.token_logps, out.ended
        # Numpy arrays where types say jax's: both are arrays to all that takes a record.
        values: list[Any] = [np.asarray(x) for x in context.fetch(outputs)]
        tokens, mask, logps, ended = values
        real = np.asarray(batch.real)
        mask = mask & real[:, None, None]
        drawn = Completions(
            batch.prompt_tokens,
            batch.prompt_mask,
            tokens,
            mask,
            columns=batch.row_columns,
            column_axes=batch.column_axes,
        )
        yield Drawn(drawn, logps, ended & real[:, None], real)


def response_ids(drawn: Drawn, row: int, sample: int) -> list[int]:
    """The tokens of one sample, without the one that ended it."""
    kept = np.asarray(drawn.completions.response_mask[row, sample])
    ids = np.asarray(drawn.completions.response_tokens[row, sample])[kept].tolist()
    return ids[:-1] if drawn.ended[row, sample] else ids


def texts(tokenizer: Any, drawn: Drawn, row: int, sample: int) -> tuple[str, str]:
    """Prompt, and response without its end, of one sample."""
    mask = np.asarray(drawn.completions.prompt_mask[row])
    prompt = tokenizer.decode(np.asarray(drawn.completions.prompt_tokens[row])[mask].tolist())
    return prompt, tokenizer.decode(response_ids(drawn, row, sample))
