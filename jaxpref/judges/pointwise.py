"""Judges that compare a property of each single response: its score, or its class in a table of wins."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpref.judges.base import Judge, Policies, Scorer
from jaxpref.judges.scorers import rule_scorer
from jaxpref.losses.checks import positive
from jaxpref.losses.preference_model import bradley_terry_preferences, check_preferences
from jaxpref.types import Completions

__all__ = ["bradley_terry_judge", "matrix_judge", "ordering_judge", "rule_judge"]


def bradley_terry_judge(scorer: Scorer, *, temperature: float = 1.0) -> Judge:
    """sigmoid((score_i - score_j) / temperature).

    Args:
      temperature: above 0, in the unit of the scores.

    Returns:
      A judge.

    Raises:
      ValueError: `temperature` is not above 0.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens = jnp.array([[[5, 6], [7, 0]]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] > 0, tokens, tokens > 0)
      >>> judge = judges.bradley_terry_judge(judges.rule_scorer(lambda batch: batch.lengths))
      >>> print(judge({}, batch)[0])  # sigmoid(2 - 1)
      [[0.5000 0.7311]
       [0.2689 0.5000]]
    """
    positive(temperature=temperature)

    def judge(policies: Policies, completions: Completions) -> Float[Array, "b k k"]:
        return bradley_terry_preferences(scorer(policies, completions), temperature=temperature)

    return judge


def ordering_judge(scorer: Scorer) -> Judge:
    """The response with the higher score wins for sure; equal scores are a tie (one half).

    Returns:
      A judge whose probabilities are 0, 1/2 and 1.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens = jnp.array([[[5, 6], [7, 0]]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] > 0, tokens, tokens > 0)
      >>> print(judges.ordering_judge(judges.rule_scorer(lambda batch: batch.lengths))({}, batch)[0])
      [[0.5000 1.0000]
       [0.0000 0.5000]]
    """

    def judge(policies: Policies, completions: Completions) -> Float[Array, "b k k"]:
        scores = jnp.asarray(scorer(policies, completions))
        greater = (scores[:, :, None] > scores[:, None]).astype(jnp.float32)
        return (greater + 1 - greater.swapaxes(1, 2)) / 2

    return judge


def rule_judge(rule: Callable[[Completions], Float[Array, "b k"]]) -> Judge:
    """`ordering_judge` of a rule that needs no policy.

    Returns:
      A judge whose probabilities are 0, 1/2 and 1.

    Example:
      >>> from jaxpref.types import Completions
      >>> tokens = jnp.array([[[5, 6], [7, 0]]])
      >>> batch = Completions(tokens[:, 0], tokens[:, 0] > 0, tokens, tokens > 0)
      >>> print(judges.rule_judge(lambda batch: -batch.lengths)({}, batch)[0])  # shorter is better
      [[0.5000 0.0000]
       [1.0000 0.5000]]
    """
    return ordering_judge(rule_scorer(rule))


def matrix_judge(kind: Callable[[Completions], Int[Array, "b k"]], table: Sequence[Sequence[float]]) -> Judge:
    """P(i beats j) = table[kind_i][kind_j]: a game whose actions are kinds of responses, cycles allowed.

    Args:
      kind: which kind each response is, from 0. A number beyond the table counts as its last kind.
      table: a preference matrix `[n, n]`: P + P^T = 1.

    Returns:
      A judge.

    Raises:
      ValueError: `table` is no preference matrix.

    Example:
      >>> from jaxpref.types import Completions
      >>> beats = [[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]]  # rock, paper, scissors
      >>> judge = judges.matrix_judge(lambda batch: batch.response_tokens[..., 0], beats)
      >>> tokens = jnp.array([[[2], [1]]])  # scissors and paper
      >>> print(judge({}, Completions(tokens[:, 0], tokens[:, 0] > 0, tokens, tokens > 0))[0])
      [[0.5000 1.0000]
       [0.0000 0.5000]]
    """
    wins = jnp.asarray(table, jnp.float32)
    check_preferences(wins)

    def judge(policies: Policies, completions: Completions) -> Float[Array, "b k k"]:
        del policies
        kinds = jnp.clip(jnp.asarray(kind(completions)), 0, wins.shape[0] - 1)
        return wins[kinds[:, :, None], kinds[:, None]]

    return judge
