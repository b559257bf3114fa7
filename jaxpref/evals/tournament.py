"""Win rates between policies: every pair of them, judged on the same held-out prompts.

`jaxpref tournament` plays `experiment.Tournament`; this module has the parts that do not depend on runs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxpref import keys
from jaxpref.data.records import Records
from jaxpref.evals.base import Context
from jaxpref.evals.intervals import Estimate, clopper_pearson, clustered, exact, share
from jaxpref.evals.sampling import draw
from jaxpref.experiment import Tournament
from jaxpref.types import Completions, Params

__all__ = ["WinRates", "answers", "judged", "win_rates"]

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class WinRates:
    """Results of a tournament; index 0 is the policy that the others are compared with.

    `matrix[i][j]`: P(i beats j), with its Clopper-Pearson interval, or that of `share` where prompts come in
    groups. `overall[i]`: its mean over the other policies. `differences[i][j]`: win rate of i against policy
    0 minus that of j, paired over prompts.
    """

    names: tuple[str, ...]
    matrix: tuple[tuple[Estimate, ...], ...]
    overall: tuple[Estimate, ...]
    differences: tuple[tuple[Estimate, ...], ...]


def answers(context: Context, tournament: Tournament, table: Records, *, stream: int) -> Completions:
    """The samples of one policy to every prompt of the table, as numpy arrays `[n, num_samples, r]`.

    `stream` differs between policies. With shared noise, two responses to a prompt would be dependent, and
    the share of wins would not be P(y beats y') of independent responses.
    """
    parts = [
        jax.tree.map(lambda x, real=drawn.real: np.asarray(x)[real], drawn.completions)
        for drawn in draw(
            context,
            table,
            keys.key(context.seed, None, "tournament", stream),
            max_tokens=tournament.max_tokens,
            num_samples=tournament.num_samples,
            temperature=tournament.temperature,
            top_p=tournament.top_p,
            batch_size=tournament.batch_size,
        )
    ]
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def judged(
    context: Context, tournament: Tournament, players: Sequence[Completions], policies: Mapping[str, Params]
) -> Float[np.ndarray, "n k k"]:
    """P(i beats j) of the `k` players on each prompt, the mean over their samples.

    Sample number s of every player makes one record of `k` responses. Both orders of a pair are averaged, so
    a judge that depends on their order cannot break `P + P^T = 1`.
    """
    judge = tournament.judge()
    compiled = context.compiled(judge) if tournament.compiled else judge
    longest = max(p.response_tokens.shape[-1] for p in players)
    tokens: Any = np.stack([_widened(p.response_tokens, longest) for p in players], 1)  # [n, k, s, r]
    masks: Any = np.stack([_widened(p.response_mask, longest) for p in players], 1)
    first, n = players[0], len(tokens)
    rows = context.rows(min(tournament.batch_size, n))
    total = np.zeros((n, len(players), len(players)))
    for start in range(0, n, rows):
        at = np.arange(start, start + rows)
        real = at < n
        at = np.where(real, at, 0)
        for s in range(tokens.shape[2]):
            record = Completions(
                first.prompt_tokens[at],
                first.prompt_mask[at] & real[:, None],
                tokens[at, :, s],
                masks[at, :, s] & real[:, None, None],
                columns={"example_ids": first.columns["example_ids"][at]},
            )
            preferences = context.fetch(compiled(policies, context.put(record)))
            total[at[real]] += np.asarray(preferences)[real]
    mean = total / tokens.shape[2]
    return (mean + 1 - mean.swapaxes(1, 2)) / 2


def _widened(array: Any, width: int) -> np.ndarray:
    return np.pad(np.asarray(array), ((0, 0), (0, 0), (0, width - array.shape[-1])))


def win_rates(
    names: Sequence[str],
    preferences: Float[np.ndarray, "n k k"],
    groups: Int[np.ndarray, " n"] | None = None,
) -> WinRates:
    """Estimates of a tournament. The number of trials is that of the prompts, however many samples there
    are to each, because the samples of one prompt are no independent trials.

    Args:
      groups: rows of one group are one cluster, and the matrix then has the intervals of `share`; None: each
        row is a group.

    Raises:
      ValueError: there is not one name for each policy.
    """
    n, k, other = preferences.shape
    if not k == other == len(names):
        raise ValueError(f"win_rates: expected [n, k, k] for the {len(names)} names, got {(n, k, other)}")
    groups = np.arange(n) if groups is None else groups
    against_all = (preferences.sum(-1) - 0.5) / max(k - 1, 1)
    return WinRates(
        tuple(names),
        tuple(tuple(_cell(preferences[:, i, j], groups, i == j) for j in range(k)) for i in range(k)),
        tuple(share(against_all[:, i], groups) for i in range(k)),
        tuple(
            tuple(_difference(preferences[:, i, 0], preferences[:, j, 0], groups, i == j) for j in range(k))
            for i in range(k)
        ),
    )


def _difference(first: Array, second: Array, groups: Array, itself: bool) -> Estimate:
    return exact(0.0, len(first)) if itself else clustered(first - second, groups)


def _cell(wins: Array, groups: Array, itself: bool) -> Estimate:
    if itself:  # known, not measured
        return exact(0.5, len(wins), "")
    if len(np.unique(groups)) < len(wins):
        return share(wins, groups)
    # Rounding may leave a sum of probabilities a hair outside.
    return clopper_pearson(float(np.clip(wins.sum(), 0, len(wins))), len(wins))
