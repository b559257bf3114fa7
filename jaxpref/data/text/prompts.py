"""What the responses of a row answer: its prompt, out of the columns that hold it."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from jaxpref.data.text.boundary import stable_group
from jaxpref.data.text.dialogue import own_form, without_lead
from jaxpref.data.text.messages import (
    HH_REPLY,
    Message,
    check_text,
    hh_turns,
    messages_from_json,
    reply,
    user_turn,
)

__all__ = [
    "Prompt",
    "PromptFields",
    "asked",
    "asked_in_turns",
    "check_shared",
]

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
      plain_prompt: What a prompt is that is a text: a "text", which responses follow as it stands, or a
        "turn" of the user, which a template can write.
    """

    prompt: str | tuple[str, ...] | None = "prompt"
    system: str | None = "system"
    repeated_prompt: Literal["refuse", "remove", "keep"] = "refuse"
    plain_prompt: Literal["text", "turn"] = "text"

    def __post_init__(self) -> None:
        if self.plain_prompt not in ("text", "turn"):
            raise ValueError(f'plain_prompt: expected "text" or "turn", got {self.plain_prompt!r}')
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


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What responses answer: a text of its own, the turns that it is written from, or both.

    Rows of one `group` stay on one side of a split.
    """

    text: str | None  # None: it is written from the turns
    turns: tuple[Message, ...]  # empty for plain text
    group: int

    @property
    def begun(self) -> bool:
        """Whether the last turn is the beginning of the replies."""
        return bool(self.turns) and self.turns[-1]["role"] == "assistant"

    def following(self, text: str) -> Message:
        """A text as a reply. In a dialogue, the one space that joins texts is no part of it."""
        return reply(without_lead(text) if self.turns and not self.begun else text)

    def answered(
        self, responses: Sequence[Message], fields: PromptFields, notes: Counter[str]
    ) -> list[Message]:
        """The responses as they follow the prompt.

        Raises ValueError where all of them begin with the prompt, and it is not said what that means.
        """
        texts = [response["content"] for response in responses]
        begin = next((text for text in self._beginnings() if all(r.startswith(text) for r in texts)), "")
        if begin:
            if fields.repeated_prompt == "refuse":
                raise ValueError(
                    f"each response begins with what its prompt ends with ({_short(begin)}); pass "
                    "repeated_prompt='remove' to take it off, or 'keep' if it belongs to the responses"
                )
            if fields.repeated_prompt == "remove":
                notes[REMOVED] += 1
                texts = [text[len(begin) :] for text in texts]
        asked = self.turns[-1]["content"].strip() if self.turns and self.turns[-1]["role"] == "user" else ""
        if asked and all(text.startswith(asked) for text in texts):
            # In a conversation that may well be the reply ("Hello" to "Hello"), so it is said, no more.
            notes[ECHOED] += 1
        return [{**response, "content": text} for response, text in zip(responses, texts, strict=True)]

    def _beginnings(self) -> list[str]:
        """What a reply would repeat: the plain text, or the turn of the assistant that it goes on from."""
        if not self.turns:
            text = self.text or ""
        elif self.begun:
            text = self.turns[-1]["content"]
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
        if isinstance(value, str):
            check_text(name, value)
        if value == []:
            raise ValueError(f"{name}: expected a text or a list of turns, got an empty list")
    if isinstance(given[0], list):
        return asked_in_turns(messages_from_json(given[0]), row, fields)
    text = "\n\n".join(part for part in given if part) if len(given) > 1 else given[0]
    if _system(row, fields) or fields.plain_prompt == "turn":
        dialogue = text.endswith(HH_REPLY)
        turns = hh_turns(text.removesuffix(HH_REPLY)) if dialogue else [user_turn(text)]
        return asked_in_turns(turns, row, fields)
    return Prompt(text, (), _group(row, text))


def asked_in_turns(turns: Sequence[Message], row: dict[str, Any], fields: PromptFields) -> Prompt:
    """The prompt that consists of these turns, behind the row's system turn if it has one.

    Raises ValueError where the turns have another system turn already.
    """
    system = _system(row, fields)
    if system and [(turn["role"], turn["content"]) for turn in turns[:1]] != [("system", system)]:
        if any(turn["role"] == "system" for turn in turns):
            raise ValueError(
                f"{fields.system}: the turns have a system turn of their own; leave one out, or pass "
                "system=None"
            )
        # Said by its column, which is not among the unread ones.
        turns = [{"role": "system", "content": system}, *turns]
    first = next((turn["content"].strip() for turn in turns if turn["role"] == "user"), None)
    return Prompt(None, tuple(turns), _group(row, own_form(turns)[0] if first is None else first))


def check_shared(
    row: dict[str, Any], prompt: Prompt | None, shared: Sequence[Message], fields: PromptFields
) -> None:
    """Raises ValueError where a prompt beside whole conversations says what these do not."""
    if prompt is None:
        return
    given = [row[name] for name in fields.prompts if name in row]
    if isinstance(given[0], list):
        turns = messages_from_json(given[0])
        known = [*shared[: len(turns)]] == turns
    else:
        contents = {turn["content"].strip() for turn in shared}
        known = all(text.strip() in contents for text in given)
    if not known:
        raise ValueError(
            "the prompt is not what the responses begin with (they share the turns "
            f"{[turn['role'] for turn in shared]}); leave one of them out"
        )


def _system(row: dict[str, Any], fields: PromptFields) -> str:
    value = row.get(fields.system, "") if fields.system else ""
    if not isinstance(value, str):
        raise ValueError(f"{fields.system}: expected a text, got {type(value).__name__}")
    return value


def _group(row: dict[str, Any], text: str) -> int:
    return stable_group(str(row["group"]) if "group" in row else text)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
