"""Pairs that need no ranking: recorded and own responses, refinements, steps, and filters by margin."""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxpref.selection.gather import (
    append_responses,
    drop_rows,
    same_responses,
    take_responses,
    values_of,
)
from jaxpref.types import Completions, PRNGKey

__all__ = [
    "hybrid",
    "margin_between",
    "margin_fraction",
    "offline_and_self",
    "refined_vs_original",
    "step_siblings",
    "versus",
]

# Sums over the scored tokens of a response: out of date once fewer tokens are scored.
_SUMS_OF_TOKENS = ("behaviour_logps",)


def hybrid(recorded: Completions, samples: Completions) -> Completions:
    """The recorded pair in front, chosen first, and the policy's own samples behind it.

    HyPO (arXiv:2406.01462) and SPAC (arXiv:2406.04274) learn from both. See `append_responses` for what
    becomes of columns.

    Returns:
      A record of 2 + s responses to each prompt.

    Raises:
      ValueError: `recorded` does not hold two responses; or as `append_responses`.

    Example:
      >>> from jaxpref.types import Completions
      >>> pair, sample = jnp.array([[[5], [6]]]), jnp.array([[[7]]])
      >>> sides = [Completions(t[:, 0], t[:, 0] > 0, t, t > 0) for t in (pair, sample)]
      >>> print(selection.hybrid(*sides).response_tokens[..., 0])
      [[5 6 7]]
    """
    if recorded.response_tokens.shape[1] != 2:
        raise ValueError(
            f"hybrid: expected recorded pairs, got {recorded.response_tokens.shape[1]} responses"
        )
    return append_responses(recorded, samples)


def offline_and_self(completions: Completions, key: PRNGKey, *, sample: int = 2) -> Completions:
    """The recorded chosen response against the policy's own sample: self-play fine-tuning, SPIN.

    Chen et al. 2024, arXiv:2401.01335. Of a `hybrid` record; rows where the policy drew the chosen response
    itself are dropped.

    Args:
      sample: which response is the policy's own (2 after a recorded pair, 1 after a single response).

    Returns:
      A record of pairs, the recorded response first.

    Raises:
      ValueError: `sample` is not in [1, k).

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens = jnp.arange(3).reshape(1, 3, 1)  # chosen, rejected, sample
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0)
      >>> print(selection.offline_and_self(batch, jax.random.key(0)).response_tokens[..., 0])
      [[0 2]]
    """
    del key
    return _fixed_pair(completions, 0, sample, "sample")


def refined_vs_original(
    completions: Completions, key: PRNGKey, *, original: int = 0, refined: int = 1
) -> Completions:
    """A refinement against what it was made from: pairs that differ little (SPaR, arXiv:2412.11605).

    Dropped where nothing was changed, and where `preferences` are given and do not favour the refinement.

    Returns:
      A record of pairs, the refinement first.

    Raises:
      ValueError: `original` and `refined` are not two different responses in [0, k).

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens = jnp.array([[[5], [6]], [[5], [5]]])  # nothing was changed in the second row
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] > 0, tokens, tokens > 0)
      >>> pairs = selection.refined_vs_original(batch, jax.random.key(0))
      >>> print(pairs.response_tokens[0, :, 0], pairs.valid)
      [6 5] [ True False]
    """
    del key
    pair = _fixed_pair(completions, refined, original, "original, refined")
    if pair.preferences is None:
        return pair
    return drop_rows(pair, pair.preferences[:, 0, 1] > 0.5)


def step_siblings(completions: Completions, key: PRNGKey) -> Completions:
    """Leaves the tokens that all responses begin with out of what is scored: siblings of a search tree.

    The preference term of SVPO (arXiv:2406.10858) compares steps after a common prefix. The prefix is still
    read, and its log-probs would cancel in a margin anyway; scoring it would only add noise to what is
    not a difference (likelihood terms, averages by length). Rows are dropped where a response has nothing but
    the prefix. `reference_logps` and `behaviour_logps` are left out, being sums over more tokens; known
    columns of tokens become 0 where nothing is scored any more.

    Returns:
      A record of the same shapes, with fewer tokens scored.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens = jnp.array([[[1, 2, 3], [1, 2, 4]]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] > 0, tokens, tokens > 0)
      >>> print(selection.step_siblings(batch, jax.random.key(0)).response_mask.astype(int).tolist())
      [[[0, 0, 1], [0, 0, 1]]]
    """
    del key
    tokens, mask = completions.response_tokens, completions.response_mask
    equal = ((tokens == tokens[:, :1]) & (mask == mask[:, :1])).all(1)
    shared = jnp.cumprod(equal, -1).astype(bool)
    scored = mask & ~shared[:, None]
    columns = {
        name: jnp.where(scored, value, 0) if completions.axes_of(name) == ("b", "k", "r") else value
        for name, value in completions.columns.items()
        if name not in _SUMS_OF_TOKENS
    }
    left = dataclasses.replace(completions, response_mask=scored, reference_logps=None, columns=columns)
    return drop_rows(left, left.valid)


def versus(completions: Completions, key: PRNGKey, *, num_opponents: int = 1) -> Completions:
    """The first responses, with the column `win_rates`: how often each beats the last `num_opponents` ones.

    What policy gradients against an opponent learn from (Nash-MD, arXiv:2312.00886): the opponents'
    responses are judged and go no further. Opponents that do not exist are left out of the mean.

    Returns:
      A record of k - num_opponents responses, with `win_rates` in [0, 1].

    Raises:
      ValueError: the record has no preferences, or `num_opponents` is not in [1, k - 1].

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens = jnp.arange(3).reshape(1, 3, 1)
      >>> p = jnp.array([[[0.5, 0.6, 0.9], [0.4, 0.5, 0.3], [0.1, 0.7, 0.5]]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0, preferences=p)
      >>> print(selection.versus(batch, jax.random.key(0)).columns["win_rates"])  # against response 2
      [[0.9000 0.3000]]
    """
    del key
    if completions.preferences is None:
        raise ValueError("versus: the record has no preferences; judge it first")
    k = completions.response_mask.shape[1]
    own = k - num_opponents
    if not 0 < own < k:
        raise ValueError(f"versus: expected 1 to {k - 1} opponents among {k} responses, got {num_opponents}")
    there = completions.present[:, None, own:]
    wins = jnp.where(there, completions.preferences[:, :own, own:], 0).sum(-1)
    win_rates = wins / jnp.maximum(there.sum(-1), 1)
    index = jnp.broadcast_to(jnp.arange(own), (len(completions.valid), own))
    kept = take_responses(completions, index)
    return dataclasses.replace(kept, columns=kept.columns | {"win_rates": win_rates})


def margin_between(
    completions: Completions,
    key: PRNGKey,
    *,
    by: str | None = "scores",
    low: float = 0.0,
    high: float = math.inf,
) -> Completions:
    """Drops pairs whose margin |value_0 - value_1| is not in [low, high].

    A large `low` keeps sure pairs (DNO, arXiv:2404.03715, keeps large margins); a small `high` keeps the
    ones that are hard to tell apart. `by` as in `selection.pairs`; an implicit reward is a column like any
    other.

    Returns:
      A record of the same shapes, in which rows that were dropped are padding.

    Raises:
      ValueError: not 0 <= low <= high, or no pairs; or as `values_of`.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens, columns = jnp.ones((2, 2, 1), int), {"scores": jnp.array([[3.0, 1.0], [3.0, 2.5]])}
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] > 0, tokens, tokens > 0, columns=columns)
      >>> print(selection.margin_between(batch, jax.random.key(0), low=1.0).valid)  # margins 2 and 0.5
      [ True False]
    """
    del key
    if not 0 <= low <= high:
        raise ValueError(f"margin_between: expected 0 <= low <= high, got {low} and {high}")
    margins = _margins(completions, by)
    return drop_rows(completions, (margins >= low) & (margins <= high))


def margin_fraction(
    completions: Completions,
    key: PRNGKey,
    *,
    by: str | None = "scores",
    fraction: float = 0.5,
    largest: bool = True,
) -> Completions:
    """Keeps this part of a batch's pairs: those of the largest margins, or of the smallest.

    Largest as in APL (arXiv:2402.08114), smallest as in arXiv:2406.17312. A batch of n valid pairs keeps
    ceil(fraction * n); of equal margins the first. It is a rule about whole batches.

    Args:
      fraction: in (0, 1].

    Returns:
      A record of the same shapes, in which rows that were dropped are padding.

    Raises:
      ValueError: `fraction` is out of its range, or no pairs; or as `values_of`.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens, columns = jnp.ones((2, 2, 1), int), {"scores": jnp.array([[3.0, 1.0], [3.0, 2.5]])}
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] > 0, tokens, tokens > 0, columns=columns)
      >>> print(selection.margin_fraction(batch, jax.random.key(0), largest=False).valid)
      [False  True]
    """
    del key
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: expected a number in (0, 1], got {fraction}")
    margins = _margins(completions, by)
    first = jnp.where(completions.valid, -margins if largest else margins, jnp.inf)
    rank = jnp.argsort(jnp.argsort(first, stable=True))
    # The factor takes back what rounding may add to a whole number.
    kept = jnp.ceil((1 - 1e-6) * fraction * completions.valid.sum())
    return drop_rows(completions, rank < kept)


def _margins(completions: Completions, by: str | None) -> Float[Array, " b"]:
    values = values_of(completions, by)
    if values.shape[1] != 2:
        raise ValueError(f"margins: expected pairs, got {values.shape[1]} responses; select pairs first")
    return jnp.abs(values[:, 0] - values[:, 1])


def _fixed_pair(completions: Completions, chosen: int, rejected: int, names: str) -> Completions:
    b, k = completions.response_mask.shape[:2]
    if chosen == rejected or not 0 <= min(chosen, rejected) <= max(chosen, rejected) < k:
        raise ValueError(f"{names}: expected two responses below {k}, got {chosen} and {rejected}")
    index = jnp.broadcast_to(jnp.asarray([[chosen, rejected]]), (b, 2))
    pair = take_responses(completions, index)
    return drop_rows(pair, ~same_responses(pair) & pair.valid)
