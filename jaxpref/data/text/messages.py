"""Messages: the turns of a conversation, as files have them."""

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = [
    "HH_NAMES",
    "HH_REPLY",
    "Message",
    "check_text",
    "hh_turns",
    "messages_from_json",
    "one_reply",
    "reply",
    "user_turn",
]

Message = Mapping[str, Any]
"""`{"role": ..., "content": ...}` and what else a file says (`tool_calls`, `name`, `reasoning_content`)."""

ROLES = ("system", "developer", "user", "assistant", "tool")
HH_REPLY = "\n\nAssistant:"
HH_NAMES = {"system": "System", "user": "Human", "assistant": "Assistant"}
_HH_ROLES = {name: role for role, name in HH_NAMES.items()}
_HH_TURN = re.compile(r"\n\n(System|Human|Assistant):")


def user_turn(text: str) -> Message:
    """A text as a turn of the user."""
    return {"role": "user", "content": text}


def reply(text: str) -> Message:
    """A text as a turn of the assistant."""
    return {"role": "assistant", "content": text}


def check_text(name: str, text: str) -> None:
    """Raises ValueError for a text that is a list of turns, written as JSON."""
    if text.lstrip()[:2] != "[{":
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return
    if all(isinstance(turn, dict) and "role" in turn for turn in value):
        raise ValueError(f"{name}: turns as JSON inside a text; make them a list of objects in the file")


def one_reply(name: str, value: Any) -> Message:
    """A response that is a text, a turn of the assistant, or a list of one.

    Raises ValueError for anything else.
    """
    if isinstance(value, str):
        check_text(name, value)
        return reply(value)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise ValueError(f"{name}: expected a text or a list of one turn, got {type(value).__name__}")
    turns = messages_from_json(value)
    if [turn["role"] for turn in turns] != ["assistant"]:
        raise ValueError(f"{name}: expected one assistant turn, got {[turn['role'] for turn in turns]}")
    return turns[0]


def hh_turns(text: str) -> list[Message]:
    """The turns of an HH dialogue, white space around them removed; text before the first name is a system
    turn."""
    before, *parts = _HH_TURN.split(text)
    named = zip(parts[::2], parts[1::2], strict=True)
    turns = [("system", before)] if before.strip() else []
    turns += [(_HH_ROLES[name], content) for name, content in named]
    return [{"role": role, "content": content.strip()} for role, content in turns]


def messages_from_json(value: Any) -> list[Message]:
    """Messages from `[{"role": ..., "content": ...}, ...]`, without keys whose value is null.

    A turn of the assistant that only calls tools has the content "", and arguments of tools that are JSON as
    text are the object. Raises ValueError that says which turn is wrong.
    """
    messages = []
    for index, turn in enumerate(value):
        if not isinstance(turn, Mapping) or "role" not in turn or not {"content", "tool_calls"} & turn.keys():
            raise ValueError(f'turn {index}: expected {{"role": ..., "content": ...}}, got {str(turn)[:60]}')
        message = {str(key): part for key, part in turn.items() if part is not None}
        if message.get("tool_calls"):
            message = {"content": "", **message, "tool_calls": _calls(message["tool_calls"])}
        role, content = message.get("role"), message.get("content")
        if role not in ROLES or not isinstance(content, str):
            raise ValueError(
                f"turn {index}: expected a role of {sorted(ROLES)} and a text, got {role!r} and "
                f"{type(content).__name__}"
            )
        messages.append(message)
    return messages


def _calls(given: Any) -> Any:
    """Calls of tools whose arguments are objects."""
    if isinstance(given, list | tuple):
        return [_calls(call) for call in given]
    if not isinstance(given, Mapping):
        return given
    parsed = {"function": _calls(given["function"])} if "function" in given else {}
    arguments = given.get("arguments")
    if isinstance(arguments, str):
        try:
            value = json.loads(arguments)
        except (ValueError, RecursionError):
            value = None
        parsed |= {"arguments": value} if isinstance(value, dict) else {}
    return {**given, **parsed}
