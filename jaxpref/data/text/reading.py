"""From the rows of a file to cached records, with what was dropped, cut, noticed and not read. Needs no
TensorFlow."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpref.data.cache import cached_records
from jaxpref.data.progress import Progress
from jaxpref.data.records import Example, Records
from jaxpref.data.records_io import write_records
from jaxpref.data.sources import count_rows, read_rows, source_of
from jaxpref.data.text.boundary import Drop
from jaxpref.data.text.carried import Beside, carry, check_columns
from jaxpref.data.text.encoding import Encoding, encode_texts, fingerprint
from jaxpref.data.text.prompts import Prompt
from jaxpref.data.text.tokenizers import Tokenizer

__all__ = ["Kind", "Texts", "holding", "read_records"]

PLAIN = "plain text, joined as it stands; other rows are turns"
TURNS = "turns, written in a template"
_VERSION = 2  # of the rules of this file, jsonl.py and carried.py: raise it when their output changes


@dataclasses.dataclass(frozen=True)
class Texts:
    """The texts of a row, and a number for each response."""

    prompt: Prompt
    responses: Sequence[str]
    order: Sequence[int]  # which of the row's responses these are
    given: int  # responses in the row
    values: Sequence[float] = ()
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)  # responses, by reason


@dataclasses.dataclass(frozen=True)
class Kind:
    """What one of the readers makes of a row."""

    name: str
    needed: tuple[str, ...]  # columns that a row must have
    names: set[str]  # all columns that are read as texts and values
    asked_for: set[str]  # those of them that some row must have
    read: Callable[[dict[str, Any], Counter[str]], Texts | Drop]
    columns: Mapping[str, str] | None
    options: dict[str, Any]
    column: str | None = None  # of the values
    num_responses: int | None = None


def read_records(kind: Kind, path: str, tokenizer: Tokenizer, encoding: Encoding) -> Records:
    """The records of a file, made on first use.

    Raises ValueError with file and line for a row that cannot be read, and where no row is left.
    """
    check_columns(kind.columns)
    file = source_of(path)
    key = fingerprint(
        kind=kind.name,
        version=_VERSION,
        sources=[file.sha256],
        tokenizer=tokenizer.fingerprint,
        options=kind.options,
        columns=kind.columns and dict(kind.columns),
        **encoding.description(),
    )

    def make(directory: Path) -> None:
        examples, values, beside, counts = _examples(kind, path, tokenizer, encoding)
        metadata = {
            "tokenizer": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "bos_id": tokenizer.bos_id,
            "eos_id": tokenizer.eos_id,
            "pad_id": tokenizer.pad_id,
            "encoding": encoding.description(),
            **counts,
            "fingerprint": key,
            "source": {"kind": kind.name, "files": {file.name: file.sha256}, **kind.options},
        }
        try:
            records = carry(_table(kind, examples, values, metadata), beside, kind.columns)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        write_records(records, directory)

    return cached_records(kind.name, key, make)


def _examples(
    kind: Kind, path: str, tokenizer: Tokenizer, encoding: Encoding
) -> tuple[list[Example], list[Sequence[float]], list[Beside], dict[str, Any]]:
    """The rows that stay, what stands beside them, and the counts of the manifest."""
    examples: list[Example] = []
    values: list[Sequence[float]] = []
    beside: list[Beside] = []
    counts = {name: Counter[str]() for name in ("drops", "responses_left_out", "truncated", "notes")}
    first: dict[str, Any] = {}
    seen: set[str] = set()
    rows, progress = 0, Progress(path, count_rows(path))
    for rows, (_, where, value) in enumerate(read_rows(path), 1):
        try:
            row = _object(value, kind.needed)
            texts = kind.read(row, counts["notes"])
            example = _encoded(texts, tokenizer, encoding)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        seen |= row.keys()
        if isinstance(example, Drop):
            counts["drops"][example.reason] += 1
            continue
        assert isinstance(texts, Texts)
        first = first or {
            "prompt": tokenizer.decode(list(example.prompt))[-200:],
            "responses": [tokenizer.decode(list(response))[:200] for response in example.responses],
        }
        counts["responses_left_out"].update(texts.left_out)
        counts["truncated"]["prompts"] += example.prompt_truncated
        counts["truncated"]["responses"] += example.responses_truncated
        counts["notes"].update([*example.notes, *_unused_keys(row, kind.names)])
        counts["notes"][TURNS if texts.prompt.turns else PLAIN] += 1
        examples.append(example)
        values.append(texts.values)
        numbers = {name: v for name, v in row.items() if name not in kind.names}
        beside.append(Beside(numbers, texts.given, texts.order))
        progress.step(rows - len(examples))
    progress.close(rows - len(examples))
    if not examples:
        why = f"every row was dropped: {dict(counts['drops'])}" if rows else "the file has no rows"
        raise ValueError(f"{path}: no record is left; {why}")
    if counts["notes"][PLAIN] in (0, len(examples)):  # one form, which the first row shows
        counts["notes"].pop(PLAIN, None)
        counts["notes"].pop(TURNS, None)
    if missing := kind.asked_for - seen:
        raise ValueError(
            f"{path}: no row has a column {missing.pop()!r}; the columns are {', '.join(sorted(seen))}"
        )
    return (
        examples,
        values,
        beside,
        {
            "rows_read": rows,
            "rows_kept": len(examples),
            "responses_kept": sum(len(example.responses) for example in examples),
            "first_row": first,
            **{name: dict(count) for name, count in counts.items()},
        },
    )


def _unused_keys(row: Mapping[str, Any], names: set[str]) -> list[str]:
    """What turns say beside role and content."""
    turns = [turn for name in names if isinstance(row.get(name), list) for turn in row[name]]
    keys = {key for turn in turns if isinstance(turn, dict) for key in turn if turn[key] is not None}
    return [f"a turn has {key!r}, which is not used" for key in sorted(keys - {"role", "content"})]


def _encoded(texts: Texts | Drop, tokenizer: Tokenizer, encoding: Encoding) -> Example | Drop:
    if isinstance(texts, Drop):
        return texts
    prompt, responses = texts.prompt, list(texts.responses)
    turns = json.dumps(prompt.turns)
    example = encode_texts(tokenizer, encoding, prompt.text, responses, turns, prompt.group)
    if isinstance(example, Drop):
        return example
    # Numbers in lists take ten times the memory.
    return dataclasses.replace(
        example,
        prompt=np.array(example.prompt, np.int32),
        responses=[np.array(response, np.int32) for response in example.responses],
    )


def _table(
    kind: Kind, examples: list[Example], values: list[Sequence[float]], metadata: dict[str, Any]
) -> Records:
    k = kind.num_responses or max(len(example.responses) for example in examples)
    filled = [
        dataclasses.replace(e, responses=[*e.responses, *[()] * (k - len(e.responses))]) for e in examples
    ]
    records = Records.from_examples(filled, metadata)
    if kind.column is None:
        return records
    table = np.zeros((len(examples), k), np.int32 if kind.column == "labels" else np.float32)
    for row, given in enumerate(values):
        table[row, : len(given)] = given
    return records.with_column(kind.column, table)


def _object(value: Any, needed: Sequence[str]) -> dict[str, Any]:
    """A row without its empty columns."""
    if not isinstance(value, dict):
        raise ValueError(f"expected an object with {', '.join(needed)}, got {type(value).__name__}")
    row = {name: v for name, v in value.items() if v is not None}
    missing = [name for name in needed if name not in row]
    if missing:
        raise ValueError(f"the object has no {' and no '.join(missing)}; it has {holding(row)}")
    return row


def holding(row: dict[str, Any]) -> str:
    """The names of a row's columns, for messages."""
    return ", ".join(sorted(row)) or "nothing"
