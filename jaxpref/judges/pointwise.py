"""Judges that compare what each response is by itself: its score, or its class in a table of wins."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpref.judges.base import Bank, Judge, Scorer
from jaxpref.judges.scorers import rule_scorer
from jaxpref.losses.checks import positive
from jaxpref.losses.preference_model import bradley_terry_preferences, check_preferences
from jaxpref.types import Completions

__all__ = ["bradley_terry_judge", "matrix_judge", "ordering_judge", "rule_judge"]


def bradley_terry_judge(scorer: Scorer, *, temperature: float = 1.0) -> Judge:
    """sigmoid((score_i - score_j) / temperature)."""
    positive(temperature=temperature)

    def judge(bank: Bank, completions: Completions) -> Float[Array, "b k k"]:
        return bradley_terry_preferences(scorer(bank, completions), temperature=temperature)

    return judge


def ordering_judge(scorer: Scorer) -> Judge:
    """The response with the higher score wins for sure; equal scores are a tie (one half)."""

    def judge(bank: Bank, completions: Completions) -> Float[Array, "b k k"]:
        scores = jnp.asarray(scorer(bank, completions))
        greater = (scores[:, :, None] > scores[:, None]).astype(jnp.float32)
        return (greater + 1 - greater.swapaxes(1, 2)) / 2

    return judge


def rule_judge(rule: Callable[[Completions], Float[Array, "b k"]]) -> Judge:
    """`ordering_judge` of a rule that needs no policy."""
    return ordering_judge(rule_scorer(rule))


def matrix_judge(kind: Callable[[Completions], Int[Array, "b k"]], table: Sequence[Sequence[float]]) -> Judge:
    """P(i beats j) = table[kind_i][kind_j]: a game whose actions are kinds of responses, cycles allowed.

    Args:
      kind: which row of the table each response is, from 0. An id beyond the table counts as its last row.
      table: a preference matrix `[n, n]`: P + P^T = 1.
    """
    wins = jnp.asarray(table, jnp.float32)
    check_preferences(wins)

    def judge(bank: Bank, completions: Completions) -> Float[Array, "b k k"]:
        del bank
        kinds = jnp.clip(jnp.asarray(kind(completions)), 0, wins.shape[0] - 1)
        return wins[kinds[:, :, None], kinds[:, None]]

    return judge
