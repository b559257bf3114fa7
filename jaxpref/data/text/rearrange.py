"""Records made of other records. Tokens are copied only where a sequence changes.

labelled         pairs to single responses labelled 1 or 0 (KTO, BCO and other unpaired methods)
joint            the prompt becomes part of what is scored (DOVE)
goal_relabelled  each pair twice, with either score as the goal (reward-augmented data)
"""

import dataclasses
from collections.abc import Callable
from types import MappingProxyType

import numpy as np

from jaxpref.data.records import Example, Records, concatenate
from jaxpref.data.text.tokenizers import Tokenizer

__all__ = ["goal_relabelled", "joint", "labelled"]


def labelled(*, records: Callable[[], Records]) -> Records:
    """Makes each response of a pair a row of its own, with the column `labels`, int32 [n, 1]: 1 if chosen.

    Row 2 i is the chosen response of pair i and row 2 i + 1 the rejected one, so that both labels occur
    throughout the table even without shuffling. A split by group keeps both on one side.
    """
    pairs = records()
    if pairs.k != 2:
        raise ValueError(f"labelled: expected pairs, got {pairs.k} responses to a prompt")
    sides = [pairs.only(i) for i in (0, 1)]
    order = np.arange(2 * len(pairs)).reshape(2, -1).T.ravel()
    table = dataclasses.replace(
        sides[0],
        **{
            name: np.concatenate([getattr(side, name) for side in sides])
            for name in (
                "prompt_starts",
                "prompt_lengths",
                "response_starts",
                "response_lengths",
                "unscored",
                "group",
            )
        },
        columns=MappingProxyType(
            {n: np.concatenate([side.columns[n] for side in sides]) for n in sides[0].columns}
        ),
        metadata=MappingProxyType({**pairs.metadata, "rearranged": "labelled"}),
    )
    labels = np.repeat([1, 0], len(pairs)).astype(np.int32)[:, None]
    return table.with_column("labels", labels).take(order)


def joint(*, records: Callable[[], Records]) -> Records:
    """Moves prompts into the responses, and scores all of it but the first token (which nothing predicts).

    Log-probs of such records are joint ones of prompt and response, as DOVE (arXiv:2404.00530) compares
    them; pairs whose prompts differ may then be compared too. Rows without a prompt stay as they are, and
    so do absent responses of lists. The columns `reference_logps` and `full_lengths` are dropped, as they
    cover responses alone."""
    table = records()
    examples = []
    for row in range(len(table)):
        prompt = table.prompt(row).tolist()
        first, rest = prompt[:1], prompt[1:]
        given = [table.response(row, j).tolist() for j in range(table.k)]
        responses = [rest + response if response else [] for response in given]
        unscored = 0 if len(first) else int(table.unscored[row, 0])
        examples.append(Example(first, responses, int(table.group[row]), unscored))
    made = Records.from_examples(examples, {**table.metadata, "rearranged": "joint"})
    of_responses = ("reference_logps", "full_lengths")
    columns = {name: values for name, values in table.columns.items() if name not in of_responses}
    return dataclasses.replace(made, columns=MappingProxyType(columns))


def goal_relabelled(
    *,
    records: Callable[[], Records],
    tokenizer: Callable[[], Tokenizer],
    goal: str = "Answer with a quality of {score:.1f}.\n",
) -> Records:
    """Reward-augmented pairs (arXiv:2410.08067): the goal is written in front of the prompt.

    Each pair with column `scores` occurs twice: with the chosen response's score as the goal and the chosen
    response preferred, and with the rejected response's score as the goal and the rejected one preferred.
    Pairs of equal scores are left out. All columns are dropped: under a goal, the score no longer measures
    how good a response is.

    Differs from the released script, whose branch for prompts without a system message writes the goal
    but never swaps the responses.

    Args:
      goal: text with `{score}`; its tokens follow BOS where the prompt starts with one.
    """
    table, encoder = records(), tokenizer()
    if "scores" not in table.columns or table.k != 2:
        raise ValueError("goal_relabelled: expected pairs with a column scores [n, 2]")
    scores = np.asarray(table.columns["scores"])
    if (scores[:, 0] < scores[:, 1]).any():
        row = int(np.flatnonzero(scores[:, 0] < scores[:, 1])[0])
        raise ValueError(f"goal_relabelled: row {row} has a chosen response of a lower score, {scores[row]}")
    kept = table.take(scores[:, 0] > scores[:, 1])
    scores = np.asarray(kept.columns["scores"])

    def under_goal(first: int) -> Records:
        examples = []
        for row in range(len(kept)):
            prompt = kept.prompt(row).tolist()
            bos = 1 if prompt and prompt[0] == encoder.bos_id else 0
            aim = encoder.encode(goal.format(score=scores[row, first]))
            responses = [kept.response(row, j).tolist() for j in (first, 1 - first)]
            examples.append(Example(prompt[:bos] + aim + prompt[bos:], responses, int(kept.group[row])))
        return Records.from_examples(examples, {**kept.metadata, "rearranged": "goal_relabelled"})

    return concatenate([under_goal(0), under_goal(1)])
