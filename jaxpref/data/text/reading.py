"""From the rows of a file to cached records, with what was dropped, cut, noticed and not read. Needs no
TensorFlow."""

import dataclasses
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
from jaxpref.data.text.carried import carry, check_columns
from jaxpref.data.text.encoding import Encoding, encode_texts, fingerprint
from jaxpref.data.text.kept import Kept, Texts
from jaxpref.data.text.responses import holding
from jaxpref.data.text.tokenizers import Tokenizer

__all__ = ["Kind", "read_records"]

_VERSION = 2  # of the rules of this file, jsonl.py and carried.py: raise it when their output changes


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
        kept = _kept(kind, path, tokenizer, encoding)
        metadata = {
            "tokenizer": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "bos_id": tokenizer.bos_id,
            "eos_id": tokenizer.eos_id,
            "pad_id": tokenizer.pad_id,
            "encoding": encoding.description(),
            **kept.manifest(),
            "fingerprint": key,
            "source": {"kind": kind.name, "files": {file.name: file.sha256}, **kind.options},
        }
        try:
            records = carry(_table(kind, kept.examples, kept.values, metadata), kept.beside, kind.columns)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        write_records(records, directory)

    return cached_records(kind.name, key, make)


def _kept(kind: Kind, path: str, tokenizer: Tokenizer, encoding: Encoding) -> Kept:
    kept, rows, progress = Kept(tokenizer), 0, Progress(path, count_rows(path))
    for rows, (_, where, value) in enumerate(read_rows(path), 1):
        try:
            row = _object(value, kind.needed)
            notes = Counter[str]()
            texts = kind.read(row, notes)
            example = _encoded(texts, tokenizer, encoding)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        kept.add(row, kind.names, texts, example, notes, reads_all=encoding.written_in.reads_all)
        if isinstance(example, Example):
            progress.step(rows - len(kept.examples))
    progress.close(rows - len(kept.examples))
    if not kept.examples:
        why = f"every row was dropped: {dict(kept.drops)}" if rows else "the file has no rows"
        raise ValueError(f"{path}: no record is left; {why}")
    if missing := kind.asked_for - kept.seen:
        raise ValueError(
            f"{path}: no row has a column {missing.pop()!r}; the columns are {', '.join(sorted(kept.seen))}"
        )
    return kept


def _encoded(texts: Texts | Drop, tokenizer: Tokenizer, encoding: Encoding) -> Example | Drop:
    if isinstance(texts, Drop):
        return texts
    example = encode_texts(tokenizer, encoding, texts.prompt, texts.responses)
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
