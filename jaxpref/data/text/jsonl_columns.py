"""Scored lists and labelled responses from JSON-lines files. Needs no TensorFlow.

A prompt is a text or a list of turns, a response a text or a list of one assistant turn. `group` (a text or
number) overrides what `split` keeps together, which by default is the prompt.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxpref.data.cache import cached_records
from jaxpref.data.records import Example, Records
from jaxpref.data.records_io import write_records
from jaxpref.data.sources import json_lines, source_of
from jaxpref.data.text.boundary import EMPTY, Drop, stable_group
from jaxpref.data.text.dialogue import Template, hh_template, turns_from_json
from jaxpref.data.text.encoding import Encoding, encode_texts, fingerprint
from jaxpref.data.text.tokenizers import Tokenizer

__all__ = ["jsonl_labelled", "jsonl_lists"]

_VERSION = 1  # of the rules of this file: raise it when its output changes
_LARGEST = float(np.finfo(np.float32).max)

FEW = "fewer than two responses left"
EMPTY_OF_LIST = "empty response of a list"  # these two count responses, of rows that stay
BEYOND = "response beyond num_responses"


@dataclasses.dataclass(frozen=True)
class _Line:
    """The content of a line: texts, and a number for each response."""

    prompt: str
    responses: Sequence[str]
    values: Sequence[float]
    turns: str  # JSON; of plain text an empty list
    group: int
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)  # responses, by reason


def jsonl_lists(
    *,
    path: str,
    tokenizer: Callable[[], Tokenizer],
    prompt_length: int,
    response_length: int,
    num_responses: int | None = None,
    truncate_prompt: Literal["start", "end", "drop"] = "start",
    truncate_response: Literal["end", "drop"] = "end",
    add_bos: bool = True,
    add_eos: bool = True,
    template: Template | None = None,
) -> Records:
    """Lists of scored responses, best first, with the column `scores` [n, k].

    Each line is {"prompt": ..., "responses": [...], "scores": [...]}. Shorter lists are filled up with absent
    responses, of no tokens and score 0, which every batch masks. Responses of equal score keep their order.
    Empty responses are left out, and so are rows with fewer than two others. The manifest's `drops` count
    such rows, and the responses left out of the other rows.

    Args:
      num_responses: k, 2 or more; longer lists keep their best-scored responses. By default the length of
        the longest list.

    Raises ValueError with file and line number for a line that cannot be read.
    """
    if num_responses is not None and num_responses < 2:
        raise ValueError(f"jsonl_lists: expected num_responses of 2 or more, got {num_responses}")
    encoding = Encoding(
        prompt_length, response_length, truncate_prompt, truncate_response, add_bos, add_eos, template
    )

    def read(row: Any) -> _Line | Drop:
        return _list_line(row, num_responses)

    def table(examples: list[Example], values: list[Sequence[float]], metadata: dict[str, Any]) -> Records:
        k = num_responses or max((len(e.responses) for e in examples), default=0)
        scores = np.zeros((len(examples), k), np.float32)
        for row, given in enumerate(values):
            scores[row, : len(given)] = given
        filled = [
            dataclasses.replace(e, responses=[*e.responses, *[()] * (k - len(e.responses))]) for e in examples
        ]
        return Records.from_examples(filled, metadata).with_column("scores", scores)

    return _cached("jsonl_lists", path, tokenizer(), encoding, read, table, {"num_responses": num_responses})


def jsonl_labelled(
    *,
    path: str,
    tokenizer: Callable[[], Tokenizer],
    prompt_length: int,
    response_length: int,
    truncate_prompt: Literal["start", "end", "drop"] = "start",
    truncate_response: Literal["end", "drop"] = "end",
    add_bos: bool = True,
    add_eos: bool = True,
    template: Template | None = None,
) -> Records:
    """Single responses (k = 1) with the column `labels` [n, 1]: 1 desirable, 0 undesirable.

    Each line is {"prompt": ..., "completion": ..., "label": true}, TRL's unpaired format; `response` may
    stand for `completion`, and 1 and 0 for true and false.

    Raises ValueError with file and line number for a line that cannot be read.
    """
    encoding = Encoding(
        prompt_length, response_length, truncate_prompt, truncate_response, add_bos, add_eos, template
    )

    def table(examples: list[Example], values: list[Sequence[float]], metadata: dict[str, Any]) -> Records:
        labels = np.array(values, np.int32).reshape(-1, 1)
        return Records.from_examples(examples, metadata).with_column("labels", labels)

    return _cached("jsonl_labelled", path, tokenizer(), encoding, _labelled_line, table, {})


def _cached(
    kind: str,
    path: str,
    tokenizer: Tokenizer,
    encoding: Encoding,
    read: Callable[[Any], _Line | Drop],
    table: Callable[[list[Example], list[Sequence[float]], dict[str, Any]], Records],
    options: dict[str, Any],
) -> Records:
    file = source_of(path)
    key = fingerprint(
        kind=kind,
        version=_VERSION,
        sources=[file.sha256],
        tokenizer=tokenizer.fingerprint,
        **options,
        **encoding.description(),
    )

    def make(directory: Path) -> None:
        examples: list[Example] = []
        values: list[Sequence[float]] = []
        drops: Counter[str] = Counter()
        truncated: Counter[str] = Counter()
        rows_read = 0
        for encoded in _encoded(path, tokenizer, encoding, read):
            rows_read += 1
            if isinstance(encoded, Drop):
                drops[encoded.reason] += 1
                continue
            line, example = encoded
            drops.update(line.left_out)
            truncated["prompts"] += example.prompt_truncated
            truncated["responses"] += example.responses_truncated
            examples.append(example)
            values.append(line.values)
        if not examples:
            raise ValueError(f"{path}: no line is left to make records of; dropped: {dict(drops) or 'none'}")
        metadata = {
            "tokenizer": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "bos_id": tokenizer.bos_id,
            "eos_id": tokenizer.eos_id,
            "pad_id": tokenizer.pad_id,
            "encoding": encoding.description(),
            "rows_read": rows_read,
            "drops": dict(drops),
            "truncated": dict(truncated),
            "fingerprint": key,
            "source": {"kind": kind, "files": {file.name: file.sha256}, **options},
        }
        write_records(table(examples, values, metadata), directory)

    return cached_records(kind, key, make)


def _encoded(
    path: str, tokenizer: Tokenizer, encoding: Encoding, read: Callable[[Any], _Line | Drop]
) -> Iterator[tuple[_Line, Example] | Drop]:
    for number, row in json_lines(path):
        try:
            line = read(row)
            if not isinstance(line, Drop):
                texts = (line.prompt, list(line.responses), line.turns, line.group)
                example = encode_texts(tokenizer, encoding, *texts)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        if isinstance(line, Drop):
            yield line
        else:
            yield example if isinstance(example, Drop) else (line, example)


def _list_line(row: Any, num_responses: int | None) -> _Line | Drop:
    _check_keys(row, "prompt", "responses", "scores")
    responses, scores = row["responses"], row["scores"]
    for name, value in (("responses", responses), ("scores", scores)):
        if not isinstance(value, list):
            raise ValueError(f"{name}: expected a list, got {type(value).__name__}")
    if len(responses) != len(scores):
        raise ValueError(
            f"expected one score per response, got {len(scores)} scores for {len(responses)} responses"
        )
    if len(responses) < 2:
        raise ValueError(f"responses: expected two or more, got {len(responses)}")
    for index, score in enumerate(scores):
        if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) <= _LARGEST:
            raise ValueError(f"scores[{index}]: expected a finite number, got {score!r}")
    texts = [_text(f"responses[{index}]", response) for index, response in enumerate(responses)]
    order = [i for i in sorted(range(len(scores)), key=lambda i: -scores[i]) if texts[i].strip()]
    if len(order) < 2:
        return Drop(FEW if order else EMPTY)
    kept = order[:num_responses]
    left_out = Counter({EMPTY_OF_LIST: len(texts) - len(order), BEYOND: len(order) - len(kept)})
    return _line(row, [texts[i] for i in kept], [scores[i] for i in kept], +left_out)


def _labelled_line(row: Any) -> _Line:
    given = [name for name in ("completion", "response") if isinstance(row, dict) and name in row]
    _check_keys(row, "prompt", *(given or ["completion"]), "label")
    if len(given) == 2:
        raise ValueError("expected completion or response, got both")
    label = row["label"]
    if not isinstance(label, int) or label not in (0, 1):
        raise ValueError(f"label: expected true, false, 1 or 0, got {label!r}")
    return _line(row, [_text(given[0], row[given[0]])], [int(label)], Counter())


def _check_keys(row: Any, *names: str) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"expected an object with {', '.join(names)}, got {type(row).__name__}")
    missing = [name for name in names if name not in row]
    if missing:
        raise ValueError(f"the object has no {' and no '.join(missing)}; it has {sorted(row)}")


def _text(name: str, value: Any) -> str:
    if isinstance(value, list):
        turns = turns_from_json(value)
        if [role for role, _ in turns] != ["assistant"]:
            raise ValueError(f"{name}: expected one assistant turn, got {[role for role, _ in turns]}")
        return turns[0][1]
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a text or a list of one turn, got {type(value).__name__}")
    return value


def _line(row: dict, responses: list[str], values: list[float], left_out: Counter[str]) -> _Line:
    prompt, turns = row["prompt"], []
    if isinstance(prompt, list):
        turns = turns_from_json(prompt)
        if not turns:
            raise ValueError("prompt: expected a text or a list of turns, got an empty list")
        first = next((content.strip() for role, content in turns if role == "user"), turns[0][1])
        prompt, lead = hh_template(turns)
        responses = [lead + response if response.strip() else "" for response in responses]
    elif isinstance(prompt, str):
        first = prompt
    else:
        raise ValueError(f"prompt: expected a text or a list of turns, got {type(prompt).__name__}")
    group = stable_group(str(row["group"]) if "group" in row else first)
    return _Line(prompt, responses, values, json.dumps(turns), group, left_out)
