"""What kind of preference data a file holds, from the names of its columns."""

import itertools
from typing import Literal

from jaxpref.data.sources import read_rows, source_of

__all__ = ["DataKind", "recognised"]

DataKind = Literal["pairs", "lists", "labelled", "messages"]

_ROWS = 64  # that are looked at: a column may be empty in the first ones
_FORMS = (
    "pairs have chosen and rejected, lists responses and scores, labelled responses a label beside messages "
    "or a completion, conversations messages, or prompt and completion"
)


def recognised(path: str) -> DataKind:
    """The kind of data in a file: which of `jsonl_pairs`, `jsonl_lists`, `jsonl_labelled` and
    `jsonl_messages` reads it with its default names.

    The first that fits counts, so a file with chosen, rejected and messages is one of pairs. Raises
    ValueError that lists the columns where none fits.
    """
    names: set[str] = set()
    source_of(path)
    for _, where, row in itertools.islice(read_rows(path), _ROWS):
        if not isinstance(row, dict):
            raise ValueError(f"{where}: expected an object with columns, got {type(row).__name__}")
        names |= {name for name, value in row.items() if value is not None}
    if not names:
        raise ValueError(f"{path}: no rows, or no columns in them")
    answer = bool(names & {"completion", "response"})
    if {"chosen", "rejected"} <= names:
        return "pairs"
    if {"responses", "scores"} <= names:
        return "lists"
    if "label" in names and ("messages" in names or answer):
        return "labelled"
    if "messages" in names or ("prompt" in names and answer):
        return "messages"
    raise ValueError(
        f"{path}: not the columns of preference data: {', '.join(sorted(names))}; {_FORMS}. Rename the "
        "columns, or use a reader with their names (jaxpref/data/README.md)"
    )
