"""What the responses of a row answer: its prompt, out of the columns that hold it."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from jaxpref.data.text.boundary import stable_group
from jaxpref.data.text.dialogue import HH_REPLY, Turn, hh_template, hh_turns, opened, turns_from_json

__all__ = ["Prompt", "PromptFields", "asked", "asked_in_turns", "one_reply"]

REMOVED = "the prompt was repeated in the responses, and removed there"
ECHOED = "each response begins with the user's last turn, and keeps it"


@dataclasses.dataclass(frozen=True)
class PromptFields:
    """Where a row keeps its prompt.

    Attributes:
      prompt: Name of the column of the prompt (a text or a list of turns), or of several whose texts are
        joined by a blank line; None where rows have none, and the prompt is what their responses have in
        common.
      system: Name of the column of a system turn in front of the prompt; None: there is none to be read.
      repeated_prompt: What becomes of a prompt (a text) that every response of its row begins with: "refuse"
        such rows, "remove" it from the responses, or "keep" it there.
    """

    prompt: str | tuple[str, ...] | None = "prompt"
    system: str | None = "system"
    repeated_prompt: Literal["refuse", "remove", "keep"] = "refuse"

    def __post_init__(self) -> None:
        if self.repeated_prompt not in ("refuse", "remove", "keep"):
            raise ValueError(
                f'repeated_prompt: expected "refuse", "remove" or "keep", got {self.repeated_prompt!r}'
            )

    @property
    def prompts(self) -> tuple[str, ...]:
        """Names of the columns that make the prompt."""
        return (self.prompt,) if isinstance(self.prompt, str) else tuple(self.prompt or ())

    @property
    def names(self) -> set[str]:
        """Every column that is read for the prompt."""
        return {*self.prompts, "group"} | ({self.system} if self.system else set())

    @property
    def asked_for(self) -> set[str]:
        """Columns that some row must have: the further ones of a prompt, and what is named otherwise than by
        default."""
        return {*self.prompts[1:]} | {name for name in (self.system,) if name and name != "system"}


class Prompt(NamedTuple):
    """A prompt as text, what each reply starts with, and the turns that the text is written from."""

    text: str
    lead: str
    turns: tuple[Turn, ...]  # empty for plain text
    group: int  # rows of one group stay on one side of a split

    def answered(self, responses: Sequence[str], fields: PromptFields, notes: Counter[str]) -> list[str]:
        """The responses as they follow the prompt's text.

        Raises ValueError where all of them begin with the prompt, and it is not said what that means.
        """
        begin = next((text for text in self._beginnings() if all(r.startswith(text) for r in responses)), "")
        if begin:
            if fields.repeated_prompt == "refuse":
                raise ValueError(
                    f"each response begins with what its prompt ends with ({_short(begin)}); pass "
                    "repeated_prompt='remove' to take it off, or 'keep' if it belongs to the responses"
                )
            if fields.repeated_prompt == "remove":
                notes[REMOVED] += 1
                responses = [response[len(begin) :] for response in responses]
        asked = self.turns[-1][1].strip() if self.turns and self.turns[-1][0] == "user" else ""
        if asked and all(response.startswith(asked) for response in responses):
            # In a conversation that may well be the reply ("Hello" to "Hello"), so it is said, no more.
            notes[ECHOED] += 1
        return [self._led(response) if response.strip() else "" for response in responses]

    def _led(self, response: str) -> str:
        return response if response[0].isspace() else self.lead + response

    def _beginnings(self) -> list[str]:
        """What a reply would repeat: the plain text, or the turn of the assistant that it goes on from."""
        if not self.turns:
            text = self.text
        elif self.turns[-1][0] == "assistant":
            text = self.turns[-1][1]
        else:
            return []
        return [text, text.strip()] if text.strip() else []


def asked(row: dict[str, Any], fields: PromptFields) -> Prompt | None:
    """The prompt of a row; None where the row has no column of one (of several: not the first).

    A text beside a system turn is the user's turn. Raises ValueError for what is neither text nor turns.
    """
    given = [row[name] for name in fields.prompts if name in row]
    if not given or fields.prompts[0] not in row:
        return None
    if any(isinstance(value, list) for value in given) and len(given) > 1:
        raise ValueError(
            f"{' and '.join(fields.prompts)}: several columns of a prompt must be texts, not turns"
        )
    for name, value in zip((n for n in fields.prompts if n in row), given, strict=True):
        if not isinstance(value, str | list):
            raise ValueError(f"{name}: expected a text or a list of turns, got {type(value).__name__}")
        if value == []:
            raise ValueError(f"{name}: expected a text or a list of turns, got an empty list")
    if isinstance(given[0], list):
        return asked_in_turns(turns_from_json(given[0]), row, fields)
    text = "\n\n".join(part for part in given if part) if len(given) > 1 else given[0]
    if _system(row, fields):
        turns = hh_turns(text.removesuffix(HH_REPLY)) if text.endswith(HH_REPLY) else [("user", text)]
        return asked_in_turns(turns, row, fields)
    return Prompt(text, "", (), _group(row, text))


def asked_in_turns(turns: Sequence[Turn], row: dict[str, Any], fields: PromptFields) -> Prompt:
    """The prompt that consists of these turns, behind the row's system turn if it has one.

    Raises ValueError where the turns have another system turn already.
    """
    system = _system(row, fields)
    if system and turns[:1] != [("system", system)]:
        if any(role == "system" for role, _ in turns):
            raise ValueError(
                f"{fields.system}: the turns have a system turn of their own; leave one out, or pass "
                "system=None"
            )
        turns = [("system", system), *turns]  # said by its column, which is not among the unread ones
    text, lead = opened(turns, hh_template)
    first = next((content.strip() for role, content in turns if role == "user"), text)
    return Prompt(text, lead, tuple(turns), _group(row, first))


def one_reply(name: str, value: Any) -> str:
    """The text of a response that is a text, or a list of one assistant turn.

    Raises ValueError for anything else.
    """
    if isinstance(value, list):
        turns = turns_from_json(value)
        if [role for role, _ in turns] != ["assistant"]:
            raise ValueError(f"{name}: expected one assistant turn, got {[role for role, _ in turns]}")
        return turns[0][1]
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a text or a list of one turn, got {type(value).__name__}")
    return value


def _system(row: dict[str, Any], fields: PromptFields) -> str:
    value = row.get(fields.system, "") if fields.system else ""
    if not isinstance(value, str):
        raise ValueError(f"{fields.system}: expected a text, got {type(value).__name__}")
    return value


def _group(row: dict[str, Any], text: str) -> int:
    return stable_group(str(row["group"]) if "group" in row else text)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
