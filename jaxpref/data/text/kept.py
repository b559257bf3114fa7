"""The rows of a file that stay, and the account of what became of all of them."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jaxpref.data.records import Example
from jaxpref.data.text.boundary import Drop
from jaxpref.data.text.carried import Beside
from jaxpref.data.text.messages import Message
from jaxpref.data.text.prompts import Prompt
from jaxpref.data.text.tokenizers import Tokenizer

__all__ = ["Kept", "Texts"]

PLAIN = "plain text, joined as it stands; other rows are turns"
TURNS = "turns, written in a template"
ARGUMENTS = "the arguments of a tool call are JSON as text, and are read as the object"


@dataclasses.dataclass(frozen=True)
class Texts:
    """What a row says, and a number for each response."""

    prompt: Prompt
    responses: Sequence[Message]
    order: Sequence[int]  # which of the row's responses these are
    given: int  # responses in the row
    values: Sequence[float] = ()
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)  # responses, by reason


@dataclasses.dataclass
class Kept:
    """What has been read so far."""

    tokenizer: Tokenizer
    examples: list[Example] = dataclasses.field(default_factory=list)
    values: list[Sequence[float]] = dataclasses.field(default_factory=list)
    beside: list[Beside] = dataclasses.field(default_factory=list)
    seen: set[str] = dataclasses.field(default_factory=set)  # names of columns
    drops: Counter[str] = dataclasses.field(default_factory=Counter)
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)  # responses of rows that stay
    truncated: Counter[str] = dataclasses.field(default_factory=Counter)
    notes: Counter[str] = dataclasses.field(default_factory=Counter)

    def add(
        self,
        row: Mapping[str, Any],
        names: set[str],
        texts: Texts | Drop,
        example: Example | Drop,
        notes: Counter[str],
        *,
        reads_all: bool,
    ) -> None:
        """Takes in a row: what was made of it and done to it, and what stands beside the columns `names`.

        `reads_all`: the template is given all that turns say, so that nothing of them is unused.
        """
        self.seen |= row.keys()
        if isinstance(texts, Drop) or isinstance(example, Drop):
            self.drops[example.reason] += 1  # pyright: ignore[reportAttributeAccessIssue]
            return
        self.left_out.update(texts.left_out)
        self.truncated["prompts"] += example.prompt_truncated
        self.truncated["responses"] += example.responses_truncated
        self.notes.update(notes)
        self.notes.update([*example.notes, *_of_turns(row, names, reads_all=reads_all)])
        self.notes[TURNS if texts.prompt.turns else PLAIN] += 1
        self.examples.append(example)
        self.values.append(texts.values)
        numbers = {name: value for name, value in row.items() if name not in names}
        self.beside.append(Beside(numbers, texts.given, texts.order))

    def manifest(self) -> dict[str, Any]:
        """The counts, and the first row as the model reads it."""
        first, notes = self.examples[0], Counter(self.notes)
        if notes[PLAIN] in (0, len(self.examples)):  # one form, which the first row shows
            notes.pop(PLAIN, None)
            notes.pop(TURNS, None)
        return {
            "rows_read": len(self.examples) + self.drops.total(),
            "rows_kept": len(self.examples),
            "responses_kept": sum(len(example.responses) for example in self.examples),
            "first_row": {
                "prompt": self.tokenizer.decode(list(first.prompt))[-200:],
                "responses": [self.tokenizer.decode(list(response))[:200] for response in first.responses],
            },
            "drops": dict(self.drops),
            "responses_left_out": dict(self.left_out),
            "truncated": dict(self.truncated),
            "notes": dict(notes),
        }


def _of_turns(row: Mapping[str, Any], names: set[str], *, reads_all: bool) -> list[str]:
    """What is said of the turns of a row: keys that are not used, and arguments that were text."""
    turns = [turn for name in names if isinstance(row.get(name), list) for turn in row[name]]
    turns = [turn for turn in turns if isinstance(turn, dict)]
    if reads_all:
        calls = [call for turn in turns for call in turn.get("tool_calls") or () if isinstance(call, dict)]
        functions = [call.get("function", call) for call in calls]
        texts = any(isinstance(f, dict) and isinstance(f.get("arguments"), str) for f in functions)
        return [ARGUMENTS] * texts
    keys = {key for turn in turns for key in turn if turn[key] is not None}
    return [f"a turn has {key!r}, which is not used" for key in sorted(keys - {"role", "content"})]
