"""What a template made of a reply and the turns before it: how the reply ends, and what was left out."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxpref.data.text.messages import Message

__all__ = ["called", "closed", "content_of", "joined", "left_out", "prefill", "said_of", "with_reasoning"]

# Why a row is left out.
REFUSED = "the template refuses it: {}"
NOT_A_PREFIX = "not prefix-stable: the template opens a reply with other text than it writes in front of one"
NOTHING = "the template writes nothing of a reply"
NO_CALLS = "the template leaves out tool calls"  # a note where they are in front of the reply
# What is said of rows that stay.
NO_END = "the template ends no reply, so EOS follows"
OPENED = "the template writes {!r} in front of a reply, which is scored"
CHANGED = "the template leaves out or changes part of a reply"
CHANGED_BEFORE = "the template leaves out or changes part of an earlier turn"

_REASONING = ("reasoning_content", "thinking", "reasoning")


def prefill(messages: Sequence[Message]) -> tuple[Sequence[Message], Message | None]:
    """The messages before the reply, and the beginning of the reply if there is one."""
    if messages and messages[-1]["role"] == "assistant":
        return messages[:-1], messages[-1]
    return messages, None


def joined(begun: Message | None, reply: Message) -> Message:
    return reply if begun is None else {**begun, **reply, "content": begun["content"] + reply["content"]}


def closed(text: str, close: str, added: Sequence[str]) -> tuple[str, str, bool]:
    """A conversation without what ends its reply; with it, but for what stands behind; and whether it is one
    of the tokenizer's `added` tokens that ends it."""
    token = re.compile("|".join(map(re.escape, sorted(added, key=len, reverse=True))) or "(?!)")
    if text.endswith(close):
        body = text.removesuffix(close)
        found = token.search(close)
        return body, body + (close[: found.end()] if found else close.rstrip()), found is not None
    # A reply that ends otherwise than a text does, such as one that calls a tool.
    last = next(iter(reversed([*token.finditer(text)])), None)
    if last is None or text[last.end() :].strip():
        return text.rstrip(), text.rstrip(), False
    return text[: last.start()], text[: last.end()], True


def left_out(messages: Sequence[Message], text: str) -> list[str]:
    """Notes of what a template did not write of the turns before the reply."""
    squeezed, notes = _squeezed(text), []
    for message in messages:
        content = message["content"]
        forms = (content, json.dumps(content, ensure_ascii=False)[1:-1])
        if not any(_squeezed(form) in squeezed for form in forms):
            notes.append(CHANGED_BEFORE)
        notes += _of_calls(message, text)
    return notes


def said_of(reply: Message, prompt: str, head: str, body: str) -> list[str]:
    """Notes of what a template did with a reply.

    Args:
      prompt: What a reply is opened with.
      head: What is written in front of the text of a reply.
      body: A conversation without what ends its reply.
    """
    opened = prompt if head.startswith(prompt) else prompt.rstrip()
    between, said = head[len(opened) :], body[len(prompt.rstrip()) :]
    notes = [OPENED.format(between)] if between.strip() and body.startswith(head) else []
    notes += [CHANGED] * (_squeezed(reply["content"]) not in _squeezed(prompt[-20:] + said))
    return notes + _of_calls(reply, said)


def _of_calls(message: Message, text: str) -> list[str]:
    return [NO_CALLS] * any(str(call.get("name", "")) not in text for call in called(message))


def called(message: Message) -> list[Mapping[str, Any]]:
    """The calls of tools in a turn: objects with a name and arguments."""
    given = message.get("tool_calls")
    calls = given if isinstance(given, list | tuple) else ()
    named = [call.get("function", call) for call in calls if isinstance(call, Mapping)]
    return [call for call in named if isinstance(call, Mapping)]


def content_of(reply: Message) -> str:
    """All that a reply says, for comparison."""
    said = [reply[key] for key in ("tool_calls", *_REASONING) if reply.get(key)]
    return reply["content"] + (json.dumps(said, sort_keys=True, default=str) if said else "")


def _squeezed(text: str) -> str:
    return "".join(text.split())


def with_reasoning(message: Message) -> dict[str, Any]:
    """A message whose reasoning stands under each name that templates read, as in transformers 5.24."""
    given = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    return dict(message) if given is None else {"thinking": given, **message, "reasoning_content": given}
