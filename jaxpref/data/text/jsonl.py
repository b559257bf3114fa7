"""Pairs, scored lists, labelled responses and conversations from files of your own. Needs no TensorFlow.

A file is JSON lines, a JSON array (both may be gzipped) or Parquet. A prompt is a text or a list of turns
(`{"role": ..., "content": ...}`); a text is followed by each response as it stands, with nothing in between.
A last turn of the assistant in a prompt is the beginning of the replies. Where no column has the
prompt, whole conversations say it: all their turns but the last. Records keep the file's order.
Columns of numbers beside the texts become columns of the records; what is not read is in the manifest
(`unread_columns`) and is said, as is all that was cut, dropped or changed.

The readers share these arguments:
  path: The file.
  prompt, system, repeated_prompt, plain_prompt: See `prompts.PromptFields`.
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

from jaxpref.data.records import Records
from jaxpref.data.text.boundary import Drop
from jaxpref.data.text.dialogue import Template
from jaxpref.data.text.encoding import Encoding
from jaxpref.data.text.kept import Texts
from jaxpref.data.text.pairs import PairFields, jsonl_pair
from jaxpref.data.text.prompts import PromptFields
from jaxpref.data.text.reading import Kind, read_records
from jaxpref.data.text.responses import one_answer, scored_list
from jaxpref.data.text.tokenizers import Tokenizer

__all__ = ["jsonl_labelled", "jsonl_lists", "jsonl_messages", "jsonl_pairs"]


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
    plain_prompt: Literal["text", "turn"] = "text",
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
    fields = PairFields(prompt, system, repeated_prompt, plain_prompt, chosen, rejected)

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
    messages: str | None = "messages",
    system: str | None = "system",
    repeated_prompt: Literal["refuse", "remove", "keep"] = "refuse",
    plain_prompt: Literal["text", "turn"] = "text",
    columns: Mapping[str, str] | None = None,
    truncate_prompt: Literal["start", "end", "turns", "drop"] = "start",
    truncate_response: Literal["end", "drop"] = "end",
    add_bos: bool = True,
    add_eos: bool = True,
    template: Callable[[], Template] | None = None,
) -> Records:
    """Lists of scored responses, best first, with the column `scores` [n, k].

    Each row is {"prompt": ..., "responses": [...], "scores": [...]}; a response is a text, a turn, or a whole
    conversation. Shorter lists are filled up with absent
    responses, of no tokens and score 0, which every batch masks. Responses of equal score keep their order.
    Empty responses are left out, and so are rows with fewer than two others. The manifest's `drops` count
    such rows, and the responses left out of the other rows.

    Args:
      num_responses: k, 2 or more; longer lists keep their best-scored responses. By default the length of
        the longest list.
      messages: Name of the column of the conversation so far, for rows that have no prompt.
    """
    if num_responses is not None and num_responses < 2:
        raise ValueError(f"jsonl_lists: expected num_responses of 2 or more, got {num_responses}")
    fields = PromptFields(prompt, system, repeated_prompt, plain_prompt)

    def read(row: dict[str, Any], notes: Counter[str]) -> Texts | Drop:
        return scored_list(row, responses, scores, messages, fields, num_responses, notes)

    named = {"responses": responses, "scores": scores, "messages": messages}
    options = dataclasses.asdict(fields) | named | {"num_responses": num_responses}
    names = fields.names | {name for name in named.values() if name}
    needed = (responses, scores)
    kind = Kind(
        "jsonl_lists", needed, names, fields.asked_for, read, columns, options, "scores", num_responses
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
    messages: str | None = "messages",
    system: str | None = "system",
    repeated_prompt: Literal["refuse", "remove", "keep"] = "refuse",
    plain_prompt: Literal["text", "turn"] = "text",
    columns: Mapping[str, str] | None = None,
    truncate_prompt: Literal["start", "end", "turns", "drop"] = "start",
    truncate_response: Literal["end", "drop"] = "end",
    add_bos: bool = True,
    add_eos: bool = True,
    template: Callable[[], Template] | None = None,
) -> Records:
    """Single responses (k = 1) with the column `labels` [n, 1]: 1 desirable, 0 undesirable.

    Each row is {"prompt": ..., "completion": ..., "label": true}, TRL's unpaired format, or
    {"messages": [...], "label": true}; 1 and 0 may stand for true and false.

    Args:
      completion: Name of the column of the response, or several of which a row has one.
      messages: Name of the column of a conversation whose last turn is the response.
    """
    names = (completion,) if isinstance(completion, str) else tuple(completion)
    fields = PromptFields(prompt, system, repeated_prompt, plain_prompt)

    def read(row: dict[str, Any], notes: Counter[str]) -> Texts | Drop:
        value = row[label]
        asked, replies = one_answer(row, names, messages, fields, notes)
        if not isinstance(value, int) or value not in (0, 1):
            raise ValueError(f"{label}: expected true, false, 1 or 0, got {value!r}")
        return Texts(asked, replies, (0,), 1, [int(value)])

    options = dataclasses.asdict(fields) | {"completion": names, "label": label, "messages": messages}
    kind = Kind(
        "jsonl_labelled",
        (label,),
        {*fields.names, *names, label, *([messages] if messages else [])},
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


def jsonl_messages(
    *,
    path: str,
    tokenizer: Callable[[], Tokenizer],
    prompt_length: int,
    response_length: int,
    messages: str = "messages",
    prompt: str | tuple[str, ...] = "prompt",
    completion: str | tuple[str, ...] = ("completion", "response"),
    system: str | None = "system",
    repeated_prompt: Literal["refuse", "remove", "keep"] = "refuse",
    plain_prompt: Literal["text", "turn"] = "text",
    columns: Mapping[str, str] | None = None,
    truncate_prompt: Literal["start", "end", "turns", "drop"] = "start",
    truncate_response: Literal["end", "drop"] = "end",
    add_bos: bool = True,
    add_eos: bool = True,
    template: Callable[[], Template] | None = None,
) -> Records:
    """Conversations to imitate (k = 1): `{"messages": [...]}`, or `{"prompt": ..., "completion": ...}`.

    The last turn of a conversation is what is learned, and all before it is its prompt: a row for each turn
    of the assistant teaches them all, as each was seen when it was to be written.

    Args:
      messages: Name of the column of the conversations.
      completion: Name of the column of the response, or several of which a row has one.
    """
    names = (completion,) if isinstance(completion, str) else tuple(completion)
    fields = PromptFields(prompt, system, repeated_prompt, plain_prompt)

    def read(row: dict[str, Any], notes: Counter[str]) -> Texts | Drop:
        return Texts(*one_answer(row, names, messages, fields, notes), (0,), 1)

    options = dataclasses.asdict(fields) | {"completion": names, "messages": messages}
    kind = Kind(
        "jsonl_messages", (), {*fields.names, *names, messages}, fields.asked_for, read, columns, options
    )
    return read_records(
        kind,
        path,
        tokenizer(),
        Encoding(
            prompt_length, response_length, truncate_prompt, truncate_response, add_bos, add_eos, template
        ),
    )
