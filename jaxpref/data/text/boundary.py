"""From text to tokens: where the prompt ends, what is cut, what is dropped and why.

The prompt and a response are never tokenised separately, because a tokenizer may join the end of one with the
start of the other. The code tokenises the prompt and every completion (prompt and response), and takes as the
boundary the longest prefix of ids that all of them share: the prompt's tokens are then the same for every
response, and each completion's ids are exactly those of its text.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Literal

from jaxpref.data.records import Example
from jaxpref.data.text.tokenizers.base import Tokenizer, encode_marked

__all__ = ["Drop", "Unwritten", "Written", "encode_example", "encode_written", "prompt_ids", "stable_group"]

IDENTICAL = "identical responses"
WRITTEN_ALIKE = "identical responses once the template has written them"
EMPTY = "empty response"
PROMPT_TOO_LONG = "prompt longer than the budget"
RESPONSE_TOO_LONG = "response longer than the budget"
CUT_TO_IDENTICAL = "identical responses after truncation"
UNSCORED = "no scored token left"
UNEQUAL_PROMPTS = "unequal prompts"

# What was noticed in texts of examples that stay.
BOS_IN_TEXT = "BOS in the text already, none added"
EOS_IN_TEXT = "EOS in the text already, none added"
SPECIAL_INSIDE = "BOS or EOS inside a response"
NO_BOS = "the template writes no BOS, so there is none"


@dataclasses.dataclass(frozen=True)
class Drop:
    """An example that is left out, and counted under its reason."""

    reason: str


class Unwritten(ValueError):
    """A conversation that a template does not write as one can be scored: a row that is left out."""


@dataclasses.dataclass(frozen=True)
class Written:
    """A prompt and its completions as texts.

    Attributes:
      prompt: Up to where a response goes on.
      wholes: The prompt and a response, one for each response, up to and with what ends it.
      contents: What each response says by itself: responses that say nothing, or the same, are of no use.
      ended: For each response, whether a control token that a template wrote ends it, so that no EOS follows.
      bos: The text of BOS that a template wrote in front ("": it wrote none, and none is added); None: BOS is
        the tokenizer's. One that comes at each turn is BOS if it is the tokenizer's (Llama 2).
      notes: What is to be said of it.
    """

    prompt: str
    wholes: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    ended: tuple[bool, ...] = ()
    bos: str | None = None
    notes: tuple[str, ...] = ()


def stable_group(text: str) -> int:
    """A 63-bit hash of a text, the same on every machine and in every version: the start of its sha256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    shortest, rest = sequences[0], sequences[1:]
    for index, token in enumerate(shortest):
        if any(index >= len(other) or other[index] != token for other in rest):
            return index
    return len(shortest)


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The tokens of a prompt that responses are drawn to: BOS in front, once, where the tokenizer has one."""
    ids = encode_marked(tokenizer, prompt)
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return ids if ids[: len(bos)] == bos else bos + ids


def _split_at_boundary(tokenizer: Tokenizer, written: Written) -> tuple[list[int], list[list[int]]] | Drop:
    """The prompt's tokens and those of each response, whole; a `Drop` for empty or identical responses."""
    contents = {content.strip() for content in written.contents}
    if not contents or "" in contents:
        return Drop(EMPTY)
    if len(written.contents) > 1 and len(contents) == 1:
        return Drop(IDENTICAL)
    whole = [encode_marked(tokenizer, text) for text in written.wholes]
    boundary = _common_prefix([encode_marked(tokenizer, written.prompt), *whole])
    tails = [ids[boundary:] for ids in whole]
    if not all(tails):
        return Drop(EMPTY)  # the tokenizer leaves nothing of it (it can strip or normalise)
    if len(tails) > 1 and all(tail == tails[0] for tail in tails):
        return Drop(IDENTICAL if len(set(written.wholes)) > 1 else WRITTEN_ALIKE)
    return whole[0][:boundary], tails


def encode_example(
    tokenizer: Tokenizer,
    prompt: str,
    responses: Sequence[str],
    *,
    prompt_length: int,
    response_length: int,
    truncate_prompt: Literal["start", "end", "drop"] = "start",
    truncate_response: Literal["end", "drop"] = "end",
    add_bos: bool = True,
    add_eos: bool = True,
    group: int | None = None,
) -> Example | Drop:
    """Encodes a prompt with its responses within a budget of tokens, or says why it cannot be used.

    Args:
      prompt_length: The largest number of prompt tokens, BOS included.
      response_length: The largest number of tokens of a response, EOS included.
      truncate_prompt: What is removed from a prompt that is too long: its "start" (the latest turns stay),
        its "end", or the whole example ("drop"). BOS always stays.
      truncate_response: Cut the "end" (such a response gets no EOS, since the text does not end there), or
        "drop" the example.
      add_bos: Put BOS first, where the tokenizer has one and the text does not begin with it.
      add_eos: End each whole response with EOS, which is scored; once, where the text ends with it already
        (white space behind it is left out).
      group: Rows of one group stay on one side of a split; default `stable_group(prompt)`.

    Returns an `Example` whose responses each have at least one scored token, or a `Drop`. Raises
    ValueError for a budget that can hold nothing or an unknown way to truncate.
    """
    return encode_written(
        tokenizer,
        Written(prompt, tuple(prompt + response for response in responses), tuple(responses)),
        prompt_length=prompt_length,
        response_length=response_length,
        truncate_prompt=truncate_prompt,
        truncate_response=truncate_response,
        add_bos=add_bos,
        add_eos=add_eos,
        group=stable_group(prompt) if group is None else group,
    )


def encode_written(
    tokenizer: Tokenizer,
    written: Written,
    *,
    prompt_length: int,
    response_length: int,
    truncate_prompt: Literal["start", "end", "drop"],
    truncate_response: Literal["end", "drop"],
    add_bos: bool,
    add_eos: bool,
    group: int,
) -> Example | Drop:
    """`encode_example` of a prompt and its completions as they are written."""
    if written.bos is None:
        bos = [tokenizer.bos_id] if add_bos and tokenizer.bos_id is not None else []
    else:
        bos = encode_marked(tokenizer, written.bos)
        if written.prompt.count(written.bos) > 1 and bos != [tokenizer.bos_id]:
            bos = []  # what opens each turn, and is only called BOS (SmolLM2's `<|im_start|>`)
    _check(prompt_length, response_length, truncate_prompt, truncate_response, len(bos))
    tokens = _split_at_boundary(tokenizer, written)
    if isinstance(tokens, Drop):
        return tokens
    (head, tails), notes = tokens, list(written.notes)
    if bos and head[: len(bos)] == bos:
        head = head[len(bos) :]
        notes += [BOS_IN_TEXT] if written.bos is None else []
    elif not bos and written.bos is not None and add_bos and tokenizer.bos_id is not None:
        notes.append(NO_BOS)
    room = prompt_length - len(bos)
    if len(head) > room and truncate_prompt == "drop":
        return Drop(PROMPT_TOO_LONG)
    prompt_truncated = len(head) > room
    head = bos + (head[max(len(head) - room, 0) :] if truncate_prompt == "start" else head[:room])

    closed = written.ended or [not add_eos] * len(tails)
    pairs = zip(tails, closed, strict=True)
    whole = [tail if ended or not add_eos else _ended(tokenizer, tail, notes) for tail, ended in pairs]
    cut = [tail[:response_length] for tail in whole]
    responses_truncated = sum(len(tail) > response_length for tail in whole)
    if responses_truncated and truncate_response == "drop":
        return Drop(RESPONSE_TOO_LONG)
    if len(cut) > 1 and all(tail == cut[0] for tail in cut):
        return Drop(CUT_TO_IDENTICAL if responses_truncated else IDENTICAL)
    unscored = 0 if head else 1
    if any(len(tail) <= unscored for tail in cut):
        return Drop(UNSCORED)
    lengths, noticed = [len(tail) for tail in whole], tuple(dict.fromkeys(notes))
    return Example(head, cut, group, unscored, prompt_truncated, responses_truncated, lengths, noticed)


def _ended(tokenizer: Tokenizer, tail: list[int], notes: list[str]) -> list[int]:
    """The tokens of a whole response with EOS at their end, once."""
    eos, inside = tokenizer.eos_id, tail
    if eos in tail:
        last = len(tail) - 1 - tail[::-1].index(eos)
        if not tokenizer.decode(tail[last + 1 :]).strip():
            inside = tail[:last]
            notes.append(EOS_IN_TEXT)
    if {eos, tokenizer.bos_id} & set(inside):
        notes.append(SPECIAL_INSIDE)
    return [*inside, eos]


def _check(prompt_length: int, response_length: int, prompt: str, response: str, bos: int) -> None:
    if prompt_length < max(bos, 0) or response_length < 1:
        raise ValueError(
            f"budget: prompt_length={prompt_length} must hold at least BOS ({bos} token) and "
            f"response_length={response_length} at least 1 token"
        )
    for name, value, known in (
        ("truncate_prompt", prompt, ("start", "end", "drop")),
        ("truncate_response", response, ("end", "drop")),
    ):
        if value not in known:
            raise ValueError(f"{name}: expected one of {known}, got {value!r}")
