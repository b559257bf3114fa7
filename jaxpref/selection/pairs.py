"""Selectors: `(completions, key, *, ...) -> completions`, a pair out of the k responses to each prompt.

Chosen first. A row that gives no pair becomes padding: fewer than two responses that exist, no difference
in what they are ranked by, or the same tokens. Shapes are static, so selectors run under jit. `by` names the
column that ranks responses (higher is better); None ranks by the mean win rate of `preferences`. What
absent responses hold in a column does not matter.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpref.losses.checks import not_negative
from jaxpref.losses.win_rates import win_rates
from jaxpref.selection.gather import (
    drop_rows,
    same_responses,
    take_responses,
    take_rows,
    values_of,
)
from jaxpref.types import Completions, PRNGKey

__all__ = [
    "best_of",
    "divpo",
    "max_min",
    "max_min_rated",
    "max_random",
    "max_target",
    "random_pair",
    "ranked_pairs",
    "soft_pair",
    "two_samples",
    "two_samples_drawn",
]


def soft_pair(completions: Completions, key: PRNGKey) -> Completions:
    """Two responses in the order they came, with their preferences, for losses of `pair_preferences`.

    Returns:
      The record; rows whose two responses are the same become padding.

    Raises:
      ValueError: the record does not hold two responses, or has no preferences.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens, p = jnp.arange(2).reshape(1, 2, 1), jnp.array([[[0.5, 0.2], [0.8, 0.5]]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0, preferences=p)
      >>> pair = selection.soft_pair(batch, jax.random.key(0))
      >>> print(pair.response_tokens[..., 0], pair.preferences[:, 0, 1])
      [[0 1]] [0.2000]
    """
    del key
    _preference_of_two(completions, "soft_pair")
    return drop_rows(completions, ~same_responses(completions) & completions.valid)


def random_pair(completions: Completions, key: PRNGKey) -> Completions:
    """Two different responses that exist, at random and in random order: not labelled yet.

    For more than two samples to a prompt, before `two_samples` (online BPO, arXiv:2406.12168).

    Returns:
      A record of two responses to each prompt.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens = jnp.array([[[1], [0], [2]]])  # the response in the middle is absent
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] > 0, tokens, tokens > 0)
      >>> print(sorted(selection.random_pair(batch, jax.random.key(0)).response_tokens.ravel().tolist()))
      [1, 2]
    """
    exist = completions.present
    noise = jnp.where(exist, jax.random.uniform(key, exist.shape), -1.0)
    order = jnp.argsort(-noise, axis=1)
    return _pair(completions, order[:, 0], order[:, 1])


def two_samples(completions: Completions, key: PRNGKey, *, break_ties: bool = False) -> Completions:
    """Of two responses, the one that wins with more than one half is chosen: the most likely label.

    Online DPO (arXiv:2402.04792). *Differs from* TRL, where the first response wins ties.

    Args:
      break_ties: by a coin; otherwise tied rows are dropped.

    Returns:
      A record of pairs, chosen first.

    Raises:
      ValueError: the record does not hold two responses, or has no preferences.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens, p = jnp.arange(2).reshape(1, 2, 1), jnp.array([[[0.5, 0.2], [0.8, 0.5]]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0, preferences=p)
      >>> print(selection.two_samples(batch, jax.random.key(0)).response_tokens[..., 0])
      [[1 0]]
    """
    p = _preference_of_two(completions, "two_samples")
    wins = p > 0.5
    if break_ties:
        wins = jnp.where(p == 0.5, jax.random.bernoulli(key, 0.5, p.shape), wins)
    first = jnp.where(wins, 0, 1)
    return _pair(completions, first, 1 - first, (p != 0.5) | break_ties)


def two_samples_drawn(completions: Completions, key: PRNGKey) -> Completions:
    """Of two responses, the first is chosen with probability P(0 beats 1): a label as one rater gives it.

    Returns:
      A record of pairs, chosen first.

    Raises:
      ValueError: the record does not hold two responses, or has no preferences.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens, p = jnp.arange(2).reshape(1, 2, 1), jnp.array([[[0.5, 0.0], [1.0, 0.5]]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0, preferences=p)
      >>> print(selection.two_samples_drawn(batch, jax.random.key(0)).response_tokens[..., 0])
      [[1 0]]
    """
    p = _preference_of_two(completions, "two_samples_drawn")
    # In float32: uniform numbers of bfloat16 are 128, and none of them is below most small probabilities.
    first = jnp.where(jax.random.bernoulli(key, p.astype(jnp.promote_types(p.dtype, jnp.float32))), 0, 1)
    return _pair(completions, first, 1 - first)


def best_of(completions: Completions, key: PRNGKey, *, by: str | None = None) -> Completions:
    """The best response alone, the first one of equals: what best-of-n imitates.

    Returns:
      A record of one response to each prompt.

    Raises:
      ValueError: as `values_of`, if `by` is no column `[b, k]` or there are no preferences.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens, columns = jnp.arange(3).reshape(1, 3, 1), {"scores": jnp.array([[1.0, 3.0, 2.0]])}
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0, columns=columns)
      >>> print(selection.best_of(batch, jax.random.key(0), by="scores").response_tokens[..., 0])
      [[1]]
    """
    del key
    best = _largest(values_of(completions, by), completions.present)
    return take_responses(completions, best[:, None])


def max_min(completions: Completions, key: PRNGKey, *, by: str | None = None) -> Completions:
    """The best response against the worst (iterative DPO, arXiv:2405.07863).

    Returns:
      A record of pairs, chosen first.

    Raises:
      ValueError: as `values_of`, if `by` is no column `[b, k]` or there are no preferences.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens, columns = jnp.arange(3).reshape(1, 3, 1), {"scores": jnp.array([[1.0, 3.0, 2.0]])}
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0, columns=columns)
      >>> print(selection.max_min(batch, jax.random.key(0), by="scores").response_tokens[..., 0])
      [[1 0]]
    """
    del key
    values, exist = values_of(completions, by), completions.present
    best, worst = _largest(values, exist), _largest(-values, exist)
    return _pair(completions, best, worst, _at(values, best) > _at(values, worst))


def max_min_rated(completions: Completions, key: PRNGKey) -> Completions:
    """`max_min` by win rates within the group, which become the column `scores`: what SPPO regresses on.

    Wu et al. 2024, arXiv:2405.00675, as released: the mean of P(i beats j) over all responses to the prompt,
    the response itself (one half) among them.

    Returns:
      A record of pairs, chosen first, with the column `scores` `[b, 2]` in [0, 1].

    Raises:
      ValueError: the record has no preferences.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens, p = jnp.arange(2).reshape(1, 2, 1), jnp.array([[[0.5, 0.1], [0.9, 0.5]]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0, preferences=p)
      >>> print(selection.max_min_rated(batch, jax.random.key(0)).columns["scores"])  # (0.9 + 0.5) / 2
      [[0.7000 0.3000]]
    """
    if completions.preferences is None:
        raise ValueError("max_min_rated: the record has no preferences; judge it first")
    scores = win_rates(completions.preferences, completions.present)
    rated = dataclasses.replace(completions, columns=completions.columns | {"scores": scores})
    return max_min(rated, key, by="scores")


def max_random(completions: Completions, key: PRNGKey, *, by: str | None = None) -> Completions:
    """The best response against any worse one (RLHF workflow, arXiv:2405.07863).

    Returns:
      A record of pairs, chosen first.

    Raises:
      ValueError: as `values_of`, if `by` is no column `[b, k]` or there are no preferences.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens, columns = jnp.arange(3).reshape(1, 3, 1), {"scores": jnp.array([[3.0, 3.0, 2.0]])}
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0, columns=columns)
      >>> print(selection.max_random(batch, jax.random.key(0), by="scores").response_tokens[..., 0])
      [[0 2]]
    """
    values, best, worse = _best(completions, by)
    other = _largest(jax.random.uniform(key, values.shape), worse)
    return _pair(completions, best, other, worse.any(-1))


def max_target(
    completions: Completions, key: PRNGKey, *, by: str | None = "scores", sigmas: float = 2.0
) -> Completions:
    """The best response against the one nearest to mean - sigmas * std of its prompt (arXiv:2502.16825).

    The least reward of n normal samples reaches two standard deviations at about n = 30: for fewer this is
    nearly always `max_min`, for more it leaves the tail out. The standard deviation is the population's,
    over the responses that exist (which one the paper takes is not verified). By a note on the paper, what it
    recommends in place of this is the least of 5 random responses.

    Args:
      sigmas: 0 or more (paper: 2).

    Returns:
      A record of pairs, chosen first.

    Raises:
      ValueError: `sigmas` is below 0; or as `values_of`.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens, columns = jnp.arange(4).reshape(1, 4, 1), {"scores": jnp.array([[1.0, 2.0, 6.0, 3.0]])}
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0, columns=columns)
      >>> pair = selection.max_target(batch, jax.random.key(0), sigmas=0.0)  # the mean is 3
      >>> print(pair.response_tokens[..., 0])
      [[2 3]]
    """
    del key
    not_negative(sigmas=sigmas)
    values, best, worse = _best(completions, by)
    exist = completions.present
    count = jnp.maximum(exist.sum(-1, keepdims=True), 1)
    mean = jnp.where(exist, values, 0).sum(-1, keepdims=True) / count
    variance = (jnp.where(exist, values - mean, 0) ** 2).sum(-1, keepdims=True) / count
    target = mean - sigmas * jnp.sqrt(variance)
    other = _largest(-jnp.abs(values - target), worse)
    return _pair(completions, best, other, worse.any(-1))


def divpo(
    completions: Completions,
    key: PRNGKey,
    *,
    fraction: float = 0.1,
    by: str | None = "scores",
    diversity: str | None = None,
) -> Completions:
    """Diverse preference optimisation: the most diverse good response against the least diverse bad one.

    Lanchantin et al. 2025, arXiv:2501.18101. Good are responses within `fraction` of the prompt's range of
    rewards from the top, bad those as near to the bottom. At fraction 0 this is `max_min` but for ties.
    Responses of equal reward make a pair too: the rarer one is chosen.

    Args:
      fraction: in [0, 0.5], so that no bad response is better than a good one (values from .1 are usual).
      diversity: column, higher is more diverse. None: -log pi(y), of the column `behaviour_logps`.

    Returns:
      A record of pairs, chosen first.

    Raises:
      ValueError: `fraction` is out of its range; or as `values_of`.

    Example:
      >>> from jaxpref.types import Completions
      >>> scores, logps = jnp.array([[10.0, 9.0, 0.0, 1.0]]), jnp.array([[-1.0, -5.0, -9.0, -2.0]])
      >>> tokens, columns = jnp.arange(4).reshape(1, 4, 1), {"scores": scores, "behaviour_logps": logps}
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0, columns=columns)
      >>> print(selection.divpo(batch, jax.random.key(0), fraction=0.2).response_tokens[..., 0])
      [[1 3]]
    """
    del key
    if not 0 <= fraction <= 0.5:
        raise ValueError(f"fraction: expected a number in [0, 0.5], got {fraction}")
    values, exist = values_of(completions, by), completions.present
    diverse = (
        -values_of(completions, "behaviour_logps") if diversity is None else values_of(completions, diversity)
    )
    top = jnp.where(exist, values, -jnp.inf).max(-1, keepdims=True)
    bottom = jnp.where(exist, values, jnp.inf).min(-1, keepdims=True)
    near = fraction * (top - bottom)
    chosen = _largest(diverse, exist & (values >= top - near))
    rejected = _largest(-diverse, exist & (values <= bottom + near))
    return _pair(completions, chosen, rejected)


def ranked_pairs(
    completions: Completions,
    key: PRNGKey,
    *,
    by: str | None = None,
    places: Sequence[tuple[int, int]] | None = None,
) -> Completions:
    """Several pairs of each ranking: `[b, k]` becomes `[b n, 2]`, the n pairs of a prompt next to each other.

    Online self-preferring (arXiv:2405.14103) makes pairs of ranks; their strengths are the preferences here.
    Tied pairs and pairs of absent responses are dropped, so prompts with fewer ties weigh more in a mean.

    Args:
      places: pairs of places in the ranking, from 0, better first; None takes all k (k - 1) / 2.

    Returns:
      A record of `b n` pairs, chosen first.

    Raises:
      ValueError: a place is not in [0, k), or the better place does not come first; or as `values_of`.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens, columns = jnp.arange(3).reshape(1, 3, 1), {"scores": jnp.array([[1.0, 3.0, 2.0]])}
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0, columns=columns)
      >>> pairs = selection.ranked_pairs(batch, jax.random.key(0), by="scores")
      >>> print(pairs.response_tokens[..., 0].tolist())
      [[1, 2], [1, 0], [2, 0]]
    """
    del key
    b, k = completions.response_mask.shape[:2]
    pairs = list(itertools.combinations(range(k), 2) if places is None else places)
    for i, j in pairs:
        if not 0 <= i < j < k:
            raise ValueError(f"places: expected (better, worse) places from 0 to {k - 1}, got {(i, j)}")
    values, exist = values_of(completions, by), completions.present
    order = jnp.argsort(jnp.where(exist, -values, jnp.inf), axis=1, stable=True)
    at = jnp.asarray(pairs, jnp.int32).reshape(-1, 2)
    first, second = (order[:, at[:, side]].reshape(-1) for side in (0, 1))
    rows = jnp.repeat(jnp.arange(b), len(pairs))
    many, values = take_rows(completions, rows), values[rows]
    return _pair(many, first, second, _at(values, first) > _at(values, second))


def _pair(
    completions: Completions,
    chosen: Int[Array, " b"],
    rejected: Int[Array, " b"],
    keep: Bool[Array, " b"] | None = None,
) -> Completions:
    """The two responses, chosen first; rows that are not kept or whose responses are the same are dropped."""
    pair = take_responses(completions, jnp.stack([chosen, rejected], 1))
    distinct = ~same_responses(pair) & pair.valid
    return drop_rows(pair, distinct if keep is None else distinct & keep)


def _best(
    completions: Completions, by: str | None
) -> tuple[Float[Array, "b k"], Int[Array, " b"], Bool[Array, "b k"]]:
    """Values, the best response, and which ones are worse than it."""
    values, exist = values_of(completions, by), completions.present
    best = _largest(values, exist)
    return values, best, exist & (values < _at(values, best)[:, None])


def _largest(values: Float[Array, "b k"], where: Bool[Array, "b k"]) -> Int[Array, " b"]:
    """Index of the largest value of those allowed, the first one of equals."""
    return jnp.argmax(jnp.where(where, values, -jnp.inf), -1)


def _at(values: Float[Array, "b k"], index: Int[Array, " b"]) -> Float[Array, " b"]:
    return jnp.take_along_axis(values, index[:, None], 1)[:, 0]


def _preference_of_two(completions: Completions, name: str) -> Float[Array, " b"]:
    if completions.response_mask.shape[1] != 2:
        raise ValueError(
            f"{name}: expected two responses, got {completions.response_mask.shape[1]}; use random_pair first"
        )
    if completions.preferences is None:
        raise ValueError(f"{name}: the record has no preferences; judge it first")
    return completions.preferences[:, 0, 1]
