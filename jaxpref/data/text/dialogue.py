"""Dialogues: turns, and the two common ways to write them as text."""

import re
from collections.abc import Callable, Sequence
from typing import Any

__all__ = [
    "HH_REPLY",
    "Template",
    "Turn",
    "chatml_template",
    "hh_template",
    "hh_turns",
    "opened",
    "turns_from_json",
]

Turn = tuple[str, str]  # (role, content), role one of "system", "user", "assistant"

Template = Callable[[Sequence[Turn]], tuple[str, str]]
"""Maps turns to (prompt text up to the assistant's reply, text that the reply starts with)."""

HH_REPLY = "\n\nAssistant:"
_HH_NAMES = {"system": "System", "user": "Human", "assistant": "Assistant"}
_HH_ROLES = {name: role for role, name in _HH_NAMES.items()}
_HH_TURN = re.compile(r"\n\n(System|Human|Assistant):")


def hh_template(turns: Sequence[Turn]) -> tuple[str, str]:
    """The form of Anthropic HH: "\\n\\nHuman: ...\\n\\nAssistant:"; a reply begins with a space."""
    return "".join(f"\n\n{_HH_NAMES[role]}: {content}" for role, content in turns) + HH_REPLY, " "


def chatml_template(turns: Sequence[Turn]) -> tuple[str, str]:
    """ChatML: "<|im_start|>role\\n...<|im_end|>\\n" per turn; the tokenizer's EOS ends the reply."""
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return text + "<|im_start|>assistant\n", ""


def opened(turns: Sequence[Turn], template: Template) -> tuple[str, str]:
    """A dialogue up to where the reply goes on, and what the reply starts with there.

    A last turn of the assistant is the beginning of the reply (a prefill): the reply goes on right behind it,
    and no second turn is opened.
    """
    if turns and turns[-1][0] == "assistant":
        text, lead = template(turns[:-1])
        return text + lead + turns[-1][1], ""
    return template(turns)


def hh_turns(text: str) -> list[Turn]:
    """The turns of an HH dialogue, white space around them removed; text before the first name is a system
    turn."""
    before, *parts = _HH_TURN.split(text)
    system = [("system", before.strip())] if before.strip() else []
    named = zip(parts[::2], parts[1::2], strict=True)
    return system + [(_HH_ROLES[name], content.strip()) for name, content in named]


def turns_from_json(value: Any) -> list[Turn]:
    """Turns from `[{"role": ..., "content": ...}, ...]`; raises ValueError that says which turn is wrong."""
    turns = []
    for index, turn in enumerate(value):
        if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
            raise ValueError(f'turn {index}: expected {{"role": ..., "content": ...}}, got {str(turn)[:60]}')
        role, content = turn["role"], turn["content"]
        if role not in _HH_NAMES or not isinstance(content, str):
            raise ValueError(
                f"turn {index}: expected a role of {sorted(_HH_NAMES)} and a text, got {role!r} and "
                f"{type(content).__name__}"
            )
        turns.append((role, content))
    return turns
