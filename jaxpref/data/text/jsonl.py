"""Pairs, scored lists and labelled responses from files of your own. Needs no TensorFlow.

A file is JSON lines, a JSON array (both may be gzipped) or Parquet. A prompt is a text or a list of turns
(`{"role": ..., "content": ...}`); a text is followed by each response as it stands, with nothing in between.
A last turn of the assistant in a prompt is the beginning of the replies. Records keep the file's order.
Columns of numbers beside the texts become columns of the records; what is not read is in the manifest
(`unread_columns`) and is said, as is all that was cut, dropped or changed.

The readers share these arguments:
  path: The file.
  prompt, system, repeated_prompt: See `prompts.PromptFields`.
  columns: Name -> axes of the columns to take, `{"margin": "b"}`; None takes every column that is numbers in
    all rows (`carried.carry`).
  prompt_length, response_length, truncate_prompt, truncate_response, add_bos, add_eos, template: See
    `encoding.Encoding` and `boundary.encode_example`.

They raise ValueError with file and line for a row that cannot be read, and where no row is left.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from jaxpref.data.records import Records
from jaxpref.data.text.boundary import EMPTY, Drop
from jaxpref.data.text.carried import LARGEST
from jaxpref.data.text.dialogue import Template
from jaxpref.data.text.encoding import Encoding
from jaxpref.data.text.kept import Texts
from jaxpref.data.text.pairs import PairFields, jsonl_pair
from jaxpref.data.text.prompts import Prompt, PromptFields, asked, one_reply
from jaxpref.data.text.reading import Kind, holding, read_records
from jaxpref.data.text.tokenizers import Tokenizer

__all__ = ["jsonl_labelled", "jsonl_lists", "jsonl_pairs"]


FEW = "fewer than two responses left"
EMPTY_OF_LIST = "empty response of a list"  # these two count responses, of rows that stay
BEYOND = "response beyond num_responses"
TIED = "all scores are equal"
ROUNDED = "scores that differ are equal in float32, and count as ties"
REPEATED = "a list has one response twice"


def jsonl_pairs(
    *,
    path: str,
    tokenizer: Callable[[], Tokenizer],
    prompt_length: int,
    response_length: int,
    prompt: str | tuple[str, ...] | None = "prompt",
    chosen: str = "chosen",
    rejected: str = "rejected",
    system: str | None = "system",
    repeated_prompt: Literal["refuse", "remove", "keep"] = "refuse",
    columns: Mapping[str, str] | None = None,
    truncate_prompt: Literal["start", "end", "turns", "drop"] = "start",
    truncate_response: Literal["end", "drop"] = "end",
    add_bos: bool = True,
    add_eos: bool = True,
    template: Callable[[], Template] | None = None,
) -> Records:
    """Pairs, chosen first: `{"prompt": ..., "chosen": ..., "rejected": ...}` in each row.

    `pairs.jsonl_pair` says what a row may be; `prompt=None`: rows have no prompt, it is what both begin with.
    """
    fields = PairFields(prompt, system, repeated_prompt, chosen, rejected)

    def read(row: dict[str, Any], notes: Counter[str]) -> Texts | Drop:
        pair = jsonl_pair(row, fields, notes)
        if isinstance(pair, Drop):
            return pair
        return Texts(pair.prompt, (pair.chosen, pair.rejected), (0, 1), 2)

    options = dataclasses.asdict(fields)
    kind = Kind("jsonl_pairs", (chosen, rejected), fields.names, fields.asked_for, read, columns, options)
    return read_records(
        kind,
        path,
        tokenizer(),
        Encoding(
            prompt_length, response_length, truncate_prompt, truncate_response, add_bos, add_eos, template
        ),
    )


def jsonl_lists(
    *,
    path: str,
    tokenizer: Callable[[], Tokenizer],
    prompt_length: int,
    response_length: int,
    num_responses: int | None = None,
    prompt: str | tuple[str, ...] = "prompt",
    responses: str = "responses",
    scores: str = "scores",
    system: str | None = "system",
    repeated_prompt: Literal["refuse", "remove", "keep"] = "refuse",
    columns: Mapping[str, str] | None = None,
    truncate_prompt: Literal["start", "end", "turns", "drop"] = "start",
    truncate_response: Literal["end", "drop"] = "end",
    add_bos: bool = True,
    add_eos: bool = True,
    template: Callable[[], Template] | None = None,
) -> Records:
    """Lists of scored responses, best first, with the column `scores` [n, k].

    Each row is {"prompt": ..., "responses": [...], "scores": [...]}. Shorter lists are filled up with absent
    responses, of no tokens and score 0, which every batch masks. Responses of equal score keep their order.
    Empty responses are left out, and so are rows with fewer than two others. The manifest's `drops` count
    such rows, and the responses left out of the other rows.

    Args:
      num_responses: k, 2 or more; longer lists keep their best-scored responses. By default the length of
        the longest list.
    """
    if num_responses is not None and num_responses < 2:
        raise ValueError(f"jsonl_lists: expected num_responses of 2 or more, got {num_responses}")
    fields = PromptFields(prompt, system, repeated_prompt)

    def read(row: dict[str, Any], notes: Counter[str]) -> Texts | Drop:
        return _list(row, responses, scores, fields, num_responses, notes)

    options = dataclasses.asdict(fields) | {"responses": responses, "scores": scores}
    options["num_responses"] = num_responses
    needed = (responses, scores)
    kind = Kind(
        "jsonl_lists",
        needed,
        {*fields.names, *needed},
        fields.asked_for,
        read,
        columns,
        options,
        "scores",
        num_responses,
    )
    return read_records(
        kind,
        path,
        tokenizer(),
        Encoding(
            prompt_length, response_length, truncate_prompt, truncate_response, add_bos, add_eos, template
        ),
    )


def jsonl_labelled(
    *,
    path: str,
    tokenizer: Callable[[], Tokenizer],
    prompt_length: int,
    response_length: int,
    prompt: str | tuple[str, ...] = "prompt",
    completion: str | tuple[str, ...] = ("completion", "response"),
    label: str = "label",
    system: str | None = "system",
    repeated_prompt: Literal["refuse", "remove", "keep"] = "refuse",
    columns: Mapping[str, str] | None = None,
    truncate_prompt: Literal["start", "end", "turns", "drop"] = "start",
    truncate_response: Literal["end", "drop"] = "end",
    add_bos: bool = True,
    add_eos: bool = True,
    template: Callable[[], Template] | None = None,
) -> Records:
    """Single responses (k = 1) with the column `labels` [n, 1]: 1 desirable, 0 undesirable.

    Each row is {"prompt": ..., "completion": ..., "label": true}, TRL's unpaired format; 1 and 0 may stand
    for true and false.

    Args:
      completion: Name of the column of the response, or several of which a row has one.
    """
    names = (completion,) if isinstance(completion, str) else tuple(completion)
    fields = PromptFields(prompt, system, repeated_prompt)

    def read(row: dict[str, Any], notes: Counter[str]) -> Texts | Drop:
        given = [name for name in names if name in row]
        if len(given) != 1:
            raise ValueError(f"expected {' or '.join(names)}, got {' and '.join(given) or holding(row)}")
        value = row[label]
        if not isinstance(value, int) or value not in (0, 1):
            raise ValueError(f"{label}: expected true, false, 1 or 0, got {value!r}")
        asked_of = _asked(row, fields)
        replies = asked_of.answered([one_reply(given[0], row[given[0]])], fields, notes)
        return Texts(asked_of, replies, (0,), 1, [int(value)])

    options = dataclasses.asdict(fields) | {"completion": names, "label": label}
    kind = Kind(
        "jsonl_labelled",
        (label,),
        {*fields.names, *names, label},
        fields.asked_for,
        read,
        columns,
        options,
        "labels",
    )
    return read_records(
        kind,
        path,
        tokenizer(),
        Encoding(
            prompt_length, response_length, truncate_prompt, truncate_response, add_bos, add_eos, template
        ),
    )


def _list(
    row: dict[str, Any],
    responses: str,
    scores: str,
    fields: PromptFields,
    num_responses: int | None,
    notes: Counter[str],
) -> Texts | Drop:
    given, numbers = row[responses], row[scores]
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
    replies = [one_reply(f"{responses}[{index}]", response) for index, response in enumerate(given)]
    texts = [reply["content"] for reply in replies]
    prompt = _asked(row, fields)
    order = [i for i in sorted(range(len(numbers)), key=lambda i: -numbers[i]) if texts[i].strip()]
    if len(order) < 2:
        return Drop(FEW if order else EMPTY)
    kept = order[:num_responses]
    stored = {float(np.float32(numbers[i])) for i in kept}
    if len(stored) == 1:
        return Drop(TIED)
    if len({numbers[i] for i in kept}) > len(stored):
        notes[ROUNDED] += 1
    if len({texts[i].strip() for i in kept}) < len(kept):
        notes[REPEATED] += 1
    left_out = Counter({EMPTY_OF_LIST: len(texts) - len(order), BEYOND: len(order) - len(kept)})
    answers = prompt.answered([replies[i] for i in kept], fields, notes)
    return Texts(prompt, answers, kept, len(given), [numbers[i] for i in kept], +left_out)


def _asked(row: dict[str, Any], fields: PromptFields) -> Prompt:
    prompt = asked(row, fields)
    if prompt is None:
        wanted = " or ".join(fields.prompts)
        raise ValueError(
            f"the object has no {wanted}; it has {holding(row)}; say which column is the prompt "
            "(prompt='question')"
        )
    return prompt
