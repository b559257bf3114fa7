"""Records with other responses, or other rows: everything that belongs to a response goes with it.

A column belongs to responses if one of its axes is `k`, and to their tokens if the next one is `r`: by
`types.COLUMNS`, or as declared with the column (`Completions.axes_of`).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpref.types import OF_FIRST_TWO, Completions

__all__ = [
    "append_responses",
    "drop_rows",
    "same_responses",
    "take_responses",
    "take_rows",
    "values_of",
]


def take_responses(completions: Completions, index: Int[Array, "b n"]) -> Completions:
    """The responses `index` of each row, in that order: tokens, log-probs, preferences and columns alike.

    Columns that say how responses 0 and 1 compare, `margins` and `pair_preferences`, are left out.

    Returns:
      A record of n responses to each prompt.

    Example:
      >>> from jaxpref.types import OF_FIRST_TWO, Completions
      >>> tokens = jnp.arange(3).reshape(1, 3, 1)  # one prompt with three responses
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0)
      >>> print(selection.take_responses(batch, jnp.array([[2, 0]])).response_tokens[..., 0])
      [[2 0]]
    """

    def taken(array: Array) -> Array:
        places = index.reshape(*index.shape, *[1] * (array.ndim - 2))
        return jnp.take_along_axis(array, places, 1)

    preferences = completions.preferences
    if preferences is not None:
        preferences = jnp.take_along_axis(taken(preferences), index[:, None], 2)
    columns = {
        name: taken(value) if _of_responses(name, completions) else value
        for name, value in completions.columns.items()
        if name not in OF_FIRST_TWO
    }
    reference_logps = completions.reference_logps
    return dataclasses.replace(
        completions,
        response_tokens=taken(completions.response_tokens),
        response_mask=taken(completions.response_mask),
        reference_logps=None if reference_logps is None else taken(reference_logps),
        preferences=preferences,
        columns=columns,
    )


def take_rows(completions: Completions, rows: Int[Array, " n"]) -> Completions:
    """Some rows, in the order given; a row may come more than once.

    Returns:
      A record of n rows.

    Example:
      >>> from jaxpref.types import OF_FIRST_TWO, Completions
      >>> tokens = jnp.arange(2).reshape(2, 1, 1)  # two prompts with one response each
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0)
      >>> print(selection.take_rows(batch, jnp.array([1, 1, 0])).response_tokens.ravel())
      [1 1 0]
    """
    return jax.tree.map(lambda array: array[rows], completions)


def drop_rows(completions: Completions, keep: Bool[Array, " b"]) -> Completions:
    """Rows that are not kept become padding: their `response_mask` is False. Shapes stay.

    Returns:
      A record of the same shapes.

    Example:
      >>> from jaxpref.types import OF_FIRST_TWO, Completions
      >>> tokens = jnp.arange(2).reshape(2, 1, 1)  # two prompts with one response each
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] >= 0, tokens, tokens >= 0)
      >>> print(selection.drop_rows(batch, jnp.array([True, False])).valid)
      [ True False]
    """
    mask = completions.response_mask & keep[:, None, None]
    return dataclasses.replace(completions, response_mask=mask)


def append_responses(first: Completions, second: Completions) -> Completions:
    """The responses of `first`, then those of `second`, to the prompts of `first`: `[b, k + l, ...]`.

    Responses are padded to the longer of the two. What only one side knows of its responses
    (`reference_logps`, columns) is left out. So are `preferences`, since nobody compared the two sides; those
    between responses 0 and 1 of `first` stay, as the column `pair_preferences`. Columns of rows are those of
    `first`, then those that only `second` has.

    Returns:
      A record of k + l responses to each prompt.

    Raises:
      ValueError: the two have different numbers of rows.

    Example:
      >>> from jaxpref.types import OF_FIRST_TWO, Completions
      >>> one, two = jnp.array([[[1, 2]]]), jnp.array([[[3]]])  # responses of two tokens and of one
      >>> sides = [Completions(t[:, 0], t[:, 0] > 0, t, t > 0) for t in (one, two)]
      >>> print(selection.append_responses(*sides).response_tokens.tolist())
      [[[1, 2], [3, 0]]]
    """
    if len(first.prompt_tokens) != len(second.prompt_tokens):
        raise ValueError(
            f"append_responses: expected the same prompts, got {len(first.prompt_tokens)} rows and "
            f"{len(second.prompt_tokens)}"
        )
    r = max(first.response_tokens.shape[2], second.response_tokens.shape[2])
    first, second = _widened(first, r), _widened(second, r)

    def both(one: Array | None, other: Array | None) -> Array | None:
        return None if one is None or other is None else jnp.concatenate([one, other], 1)

    columns = {}
    for name in [*first.columns, *(n for n in second.columns if n not in first.columns)]:
        sides = [side for side in (first, second) if name in side.columns]
        if not any(_of_responses(name, side) for side in sides):
            columns[name] = sides[0].columns[name]
        elif all(_of_responses(name, side) for side in sides) and len(sides) == 2:
            columns[name] = both(*(side.columns[name] for side in sides))
    if first.preferences is not None and first.preferences.shape[1] > 1:
        columns["pair_preferences"] = first.preferences[:, 0, 1]
    return Completions(
        first.prompt_tokens,
        first.prompt_mask,
        jnp.concatenate([first.response_tokens, second.response_tokens], 1),
        jnp.concatenate([first.response_mask, second.response_mask], 1),
        both(first.reference_logps, second.reference_logps),
        None,
        columns,
        tuple(sorted({*first.column_axes, *second.column_axes})),
    )


def same_responses(completions: Completions, i: int = 0, j: int = 1) -> Bool[Array, " b"]:
    """Which rows have the same scored tokens in responses i and j.

    Returns:
      `[b]`, True where they are the same.

    Example:
      >>> from jaxpref.types import OF_FIRST_TWO, Completions
      >>> tokens = jnp.array([[[5], [5]], [[5], [6]]])
      >>> print(selection.same_responses(Completions(tokens[:, 0], tokens[:, 0] > 0, tokens, tokens > 0)))
      [ True False]
    """
    mask, tokens = completions.response_mask, completions.response_tokens
    differ = (mask[:, i] != mask[:, j]) | (mask[:, i] & (tokens[:, i] != tokens[:, j]))
    return ~differ.any(-1)


def _of_responses(name: str, completions: Completions) -> bool:
    return "k" in completions.axes_of(name)


def _widened(completions: Completions, r: int) -> Completions:
    """Responses, and what belongs to each of their tokens, padded to `r` tokens."""
    more = r - completions.response_tokens.shape[2]
    if more == 0:
        return completions

    def padded(array: Array) -> Array:
        return jnp.pad(array, [(0, 0), (0, 0), (0, more)] + [(0, 0)] * (array.ndim - 3))

    columns = {
        name: padded(value) if completions.axes_of(name)[1:3] == ("k", "r") else value
        for name, value in completions.columns.items()
    }
    return dataclasses.replace(
        completions,
        response_tokens=padded(completions.response_tokens),
        response_mask=padded(completions.response_mask),
        columns=columns,
    )


def values_of(completions: Completions, by: str | None) -> Float[Array, "b k"]:
    """How good each response is: the column `by`, or its mean win rate against the other ones that exist.

    Args:
      by: name of a column `[b, k]`; None takes the mean over j != i of `preferences[:, i, j]`.

    Returns:
      `[b, k]`, higher is better; win rates lie in [0, 1]. What it holds for absent responses does not matter.

    Raises:
      ValueError: the record has no such column, or one of another shape, or no preferences.

    Example:
      >>> from jaxpref.selection.gather import values_of
      >>> from jaxpref.types import OF_FIRST_TWO, Completions
      >>> tokens, p = jnp.ones((1, 2, 1), int), jnp.array([[[0.5, 0.9], [0.1, 0.5]]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] > 0, tokens, tokens > 0, preferences=p)
      >>> print(values_of(batch, None))
      [[0.9000 0.1000]]
    """
    if by is not None:
        if by not in completions.columns:
            raise ValueError(
                f"by={by!r}: the record has no such column, it has {sorted(completions.columns)}; None takes "
                "win rates of its preferences"
            )
        values = completions.columns[by]
        if values.shape != completions.response_mask.shape[:2]:
            raise ValueError(
                f"by={by!r}: expected one value a response {completions.response_mask.shape[:2]}, got "
                f"{values.shape}"
            )
        return values
    if completions.preferences is None:
        raise ValueError(
            "the record has no preferences: judge it first, or set by to a column such as scores"
        )
    exist = completions.present
    others = exist[:, None, :] & ~jnp.eye(exist.shape[1], dtype=bool)[None]
    wins = jnp.where(others, completions.preferences, 0).sum(-1)
    return wins / jnp.maximum(others.sum(-1), 1)
