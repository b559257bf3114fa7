"""From one row of a file to the responses it has: scored lists, single ones, and whole conversations."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxpref.data.text.boundary import EMPTY, UNEQUAL_PROMPTS, Drop
from jaxpref.data.text.carried import LARGEST
from jaxpref.data.text.kept import Texts
from jaxpref.data.text.messages import Message, messages_from_json, one_reply
from jaxpref.data.text.prompts import Prompt, PromptFields, asked, asked_in_turns, check_shared

__all__ = ["holding", "one_answer", "scored_list"]

FEW = "fewer than two responses left"
EMPTY_OF_LIST = "empty response of a list"  # these two count responses, of rows that stay
BEYOND = "response beyond num_responses"
TIED = "all scores are equal"
ROUNDED = "scores that differ are equal in float32, and count as ties"
REPEATED = "a list has one response twice"
BEFORE = "earlier turns of the assistant are part of the prompt, and are not learned"


def scored_list(
    row: dict[str, Any],
    responses: str,
    scores: str,
    messages: str | None,
    fields: PromptFields,
    num_responses: int | None,
    notes: Counter[str],
) -> Texts | Drop:
    """The responses of a row, best first; each is a text, a turn, or a whole conversation.

    Raises ValueError that says what is wrong with the row.
    """
    given, numbers = row[responses], row[scores]
    _check_scores(responses, given, scores, numbers)
    sides = [_turns(f"{responses}[{index}]", response) for index, response in enumerate(given)]
    shared = [turns[:-1] for turns in sides]
    if any(turns != shared[0] for turns in shared):
        return Drop(UNEQUAL_PROMPTS)
    prompt = _asked(row, messages, fields, shared[0])
    replies = [
        prompt.following(value) if isinstance(value, str) else turns[-1]
        for value, turns in zip(given, sides, strict=True)
    ]
    texts = [reply["content"].strip() or str(reply.get("tool_calls") or "") for reply in replies]
    order = [i for i in sorted(range(len(numbers)), key=lambda i: -numbers[i]) if texts[i]]
    if len(order) < 2:
        return Drop(FEW if order else EMPTY)
    kept = order[:num_responses]
    stored = {float(np.float32(numbers[i])) for i in kept}
    if len(stored) == 1:
        return Drop(TIED)
    if len({numbers[i] for i in kept}) > len(stored):
        notes[ROUNDED] += 1
    if len({texts[i] for i in kept}) < len(kept):
        notes[REPEATED] += 1
    left_out = Counter({EMPTY_OF_LIST: len(texts) - len(order), BEYOND: len(order) - len(kept)})
    answers = prompt.answered([replies[i] for i in kept], fields, notes)
    return Texts(prompt, answers, kept, len(given), [numbers[i] for i in kept], +left_out)


def one_answer(
    row: dict[str, Any],
    names: Sequence[str],
    messages: str | None,
    fields: PromptFields,
    notes: Counter[str],
) -> tuple[Prompt, list[Message]]:
    """A prompt and the response to it: in one of the columns `names`, or the last turn of a conversation.

    Raises ValueError that says what is wrong with the row.
    """
    given = [name for name in names if name in row]
    if given or messages is None or messages not in row:
        if len(given) != 1:
            raise ValueError(f"expected {' or '.join(names)}, got {' and '.join(given) or holding(row)}")
        prompt = _asked(row, messages, fields, [])
        value, answer = row[given[0]], one_reply(given[0], row[given[0]])
        answer = prompt.following(value) if isinstance(value, str) else answer
        return prompt, prompt.answered([answer], fields, notes)
    if not isinstance(row[messages], list):
        raise ValueError(f"{messages}: expected a list of turns, got {type(row[messages]).__name__}")
    turns = _turns(messages, row[messages])
    prompt = _asked(row, None, fields, turns[:-1])
    if any(turn["role"] == "assistant" for turn in turns[:-1]):
        notes[BEFORE] += 1
    return prompt, [turns[-1]]


def holding(row: dict[str, Any]) -> str:
    """The names of a row's columns, for messages."""
    return ", ".join(sorted(row)) or "nothing"


def _turns(name: str, value: Any) -> list[Message]:
    """A response, or a conversation that ends with one."""
    if not isinstance(value, list) or len(value) == 1:
        return [one_reply(name, value)]
    turns = messages_from_json(value)
    roles = [turn["role"] for turn in turns]
    if roles[-1:] != ["assistant"] or roles[-2:] == ["assistant", "assistant"]:
        raise ValueError(
            f"{name}: expected a conversation that ends with one turn of the assistant, got {roles}"
        )
    return turns


def _asked(
    row: dict[str, Any], messages: str | None, fields: PromptFields, shared: Sequence[Message]
) -> Prompt:
    """The prompt of a row: the turns in front of its responses, its column, or the conversation so far."""
    prompt = asked(row, fields)
    if shared:
        check_shared(row, prompt, shared, fields)
        return asked_in_turns(shared, row, fields)
    if prompt is None and messages in row and isinstance(row[messages], list) and row[messages]:
        return asked_in_turns(messages_from_json(row[messages]), row, fields)
    if prompt is None:
        wanted = " or ".join(fields.prompts)
        raise ValueError(
            f"the object has no {wanted}; it has {holding(row)}; say which column is the prompt "
            "(prompt='question')"
        )
    return prompt


def _check_scores(responses: str, given: Any, scores: str, numbers: Any) -> None:
    for name, value in ((responses, given), (scores, numbers)):
        if not isinstance(value, list):
            raise ValueError(f"{name}: expected a list, got {type(value).__name__}")
    if len(given) != len(numbers):
        raise ValueError(
            f"expected one score per response, got {len(numbers)} scores for {len(given)} responses"
        )
    if len(given) < 2:
        raise ValueError(f"{responses}: expected two or more, got {len(given)}")
    for index, score in enumerate(numbers):
        if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) <= LARGEST:
            raise ValueError(f"{scores}[{index}]: expected a finite number, got {score!r:.40}")
