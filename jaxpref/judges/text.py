"""Scores computed on the host by a check of decoded text, whatever devices hold the tokens."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxpref import shapes
from jaxpref.data.text.tokenizers import Tokenizer
from jaxpref.judges.base import Policies, Scorer
from jaxpref.packing import real
from jaxpref.sampling import EndIds, end_ids
from jaxpref.types import Completions

__all__ = ["rows_on_host", "text_scorer"]

_Span = tuple[int, int]


def rows_on_host(function: Callable[[Completions], np.ndarray], completions: Completions) -> Array:
    """`function` of numpy rows, run by each process on the rows that its own devices hold.

    What several devices of a process hold is computed once. Reads values: outside jit.

    Args:
      function: rows of the record, as numpy, to an array `[rows, n]`; each row by itself.

    Returns:
      `[b, n]`, laid out over devices like `completions.prompt_tokens`.

    Raises:
      ValueError: under jit; where an axis other than the rows is split over devices; for a result of another
        shape.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens = jnp.array([[[5], [7]]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] > 0, tokens, tokens > 0)
      >>> print(judges.rows_on_host(lambda rows: np.maximum(rows.response_tokens[..., 0], 6), batch))
      [[6 7]]
    """
    leaves = jax.tree.leaves(completions)
    if shapes.are_enough():
        return jax.numpy.zeros(completions.response_tokens.shape[:2])
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        raise ValueError("rows_on_host: got traced arrays; call it outside jit, it reads values on the host")
    b = completions.prompt_tokens.shape[0]
    if not all(isinstance(leaf, jax.Array) for leaf in leaves):
        return jax.numpy.asarray(_checked(function, jax.tree.map(np.asarray, completions), b))
    anchor = completions.prompt_tokens
    spans = {shard.device: _rows(shard, anchor.shape) for shard in anchor.addressable_shards}
    results: dict[_Span, np.ndarray] = {}
    for span in spans.values():
        if span not in results:
            part = jax.tree.map(lambda leaf, span=span: _local(leaf, span), completions)
            results[span] = _checked(function, part, span[1] - span[0])
    pieces = [jax.device_put(results[span], device) for device, span in spans.items()]
    shape = (b, *next(iter(results.values())).shape[1:])
    return jax.make_array_from_single_device_arrays(shape, anchor.sharding, pieces)


def _rows(shard: Any, shape: tuple[int, ...]) -> _Span:
    rows, *rest = shard.index
    if any(s.indices(n)[:2] != (0, n) for s, n in zip(rest, shape[1:], strict=True)):
        raise ValueError("rows_on_host: expected arrays that are split over devices by rows alone")
    return rows.indices(shape[0])[:2]


def _local(leaf: jax.Array, span: _Span) -> np.ndarray:
    for shard in leaf.addressable_shards:
        start, stop = _rows(shard, leaf.shape)
        if start <= span[0] and span[1] <= stop:
            return np.asarray(shard.data)[span[0] - start : span[1] - start]
    raise ValueError(f"rows_on_host: rows {span[0]} to {span[1]} of a column are on other processes")


def _checked(function: Callable[[Completions], np.ndarray], part: Completions, rows: int) -> np.ndarray:
    result = np.asarray(function(part))
    if result.ndim != 2 or len(result) != rows:
        raise ValueError(f"rows_on_host: expected a result of shape ({rows}, n), got {result.shape}")
    return result


def text_scorer(check: Callable[[str, str], float], tokenizer: Tokenizer, *, eos_id: EndIds = None) -> Scorer:
    """`check(prompt text, response text)` of every response, on the host; absent responses score 0.

    Text leaves out special tokens, the end of sequence among them. Not under jit.

    Args:
      eos_id: what ends a response, one id or several; None: the tokenizer's own.

    Returns:
      A scorer, in the unit of the check.

    Raises:
      ValueError: (when it scores) a check that gives no finite number; or as `rows_on_host`.

    Example:
      >>> from jaxpref.data.text.tokenizers import characters_tokenizer
      >>> from jaxpref.types import Completions
      >>> tokenizer = characters_tokenizer("ab")
      >>> tokens = np.array([[tokenizer.encode("ab"), tokenizer.encode("bb")]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0)
      >>> print(judges.text_scorer(lambda prompt, response: response.count("b"), tokenizer)({}, batch))
      [[1.0000 2.0000]]
    """

    ends = end_ids(tokenizer.eos_id if eos_id is None else eos_id)

    def scores(part: Completions) -> np.ndarray:
        values = np.zeros(part.response_mask.shape[:2], np.float32)
        said = np.asarray(real(part.response_mask))
        for i, j in np.argwhere(part.response_mask.any(-1)):
            prompt = tokenizer.decode(part.prompt_tokens[i][part.prompt_mask[i]].tolist())
            ids = part.response_tokens[i, j][said[i, j]].tolist()
            text = tokenizer.decode(ids[:-1] if ids[-1] in ends else ids)
            values[i, j] = _number(check(prompt, text), prompt, text)
        return values

    def scorer(policies: Policies, completions: Completions) -> Float[Array, "b k"]:
        del policies
        return rows_on_host(scores, completions)

    return scorer


def _number(value: Any, prompt: str, text: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise ValueError(
            f"text_scorer: expected a finite number from the check, got {value!r} for the response "
            f"{text[:80]!r} to {prompt[-80:]!r}"
        )
    return number
