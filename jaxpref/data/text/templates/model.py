"""A model's Jinja template as a `dialogue.Template`.

What is written and what is scored follow from three renderings: the conversation with the generation prompt,
with a mark in place of the reply, and with the reply.
"""

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError

from jaxpref.data.text.boundary import Unwritten, Written
from jaxpref.data.text.messages import Message
from jaxpref.data.text.templates import replies as rules
from jaxpref.data.text.templates.sandbox import Refused, Sandbox

__all__ = ["ModelTemplate"]

_MARK = "\uf8ff\uf8fe\uf8ff"  # private characters, which no template trims or looks for
_EMPTY: Message = {"role": "assistant", "content": ""}


@dataclasses.dataclass(frozen=True, eq=False)
class ModelTemplate:
    """A `dialogue.Template` that renders the Jinja text of a model."""

    fingerprint: str
    where: str
    given: Mapping[str, Any]
    sandbox: Sandbox
    compiled: jinja2.Template
    reads_all: bool = True
    _lock: Any = dataclasses.field(default_factory=threading.Lock)

    @classmethod
    def of(
        cls,
        text: str,
        where: str,
        fingerprint: str,
        given: Mapping[str, Any],
        functions: Mapping[str, Callable[..., Any]],
    ) -> "ModelTemplate":
        """Reads a template. Raises ValueError for a text that is none.

        Args:
          given: What every conversation is rendered with, such as `bos_token` and `tools`.
          functions: What the template may call, beside `raise_exception`.
        """
        sandbox = Sandbox(raise_exception=_refuse, **functions)
        try:
            compiled = sandbox.read(text)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ValueError(f"{where}: not a chat template that can be read: {_explained(error)}") from error
        return cls(fingerprint, where, given, sandbox, compiled)

    def render(self, messages: Sequence[Message], *, generation: bool) -> str:
        """The text of a conversation; `generation`: and the opening of a reply.

        Raises Unwritten where the template refuses the conversation, ValueError where it fails.
        """
        plain = [rules.with_reasoning(message) for message in messages]
        variables = {**self.given, "messages": plain, "add_generation_prompt": generation}
        try:
            with self._lock:
                return self.sandbox.render(self.compiled, variables)
        except Refused as error:
            raise Unwritten(rules.REFUSED.format(str(error)[:100])) from error
        except Exception as error:  # whatever its expressions stumble on
            raise ValueError(f"{self.where}: the chat template fails: {_explained(error)}") from error

    def opened(self, messages: Sequence[Message]) -> Written:
        before, begun = rules.prefill(messages)
        text = self._around(before, begun)[0] if begun else self.render(messages, generation=True)
        bos = self.given.get("bos_token") or ""
        return Written(
            text, bos=bos if text.startswith(bos) else "", notes=tuple(rules.left_out(messages, text))
        )

    def written(
        self, messages: Sequence[Message], replies: Sequence[Message], added: Sequence[str], *, end: bool
    ) -> Written:
        before, begun = rules.prefill(messages)
        opened = self.opened(messages)
        prompt, notes = opened.prompt, list(opened.notes)
        head, close = self._around(before, begun or _EMPTY)
        wholes, ended = [], []
        for reply in replies:
            text = self.render([*before, rules.joined(begun, reply)], generation=False)
            if not text.startswith(prompt.rstrip()):
                raise Unwritten(rules.NOT_A_PREFIX)
            body, whole, closed = rules.closed(text, close, added)
            if body.strip() == head.strip() and rules.content_of(reply).strip():
                raise Unwritten(rules.NO_CALLS if rules.called(reply) else rules.NOTHING)
            notes += rules.said_of(reply, prompt, head, body)
            wholes.append(whole if end else body)
            ended.append(closed)
        if end and not all(ended):
            notes.append(rules.NO_END)
        return dataclasses.replace(
            opened,
            wholes=tuple(wholes),
            contents=tuple(map(rules.content_of, replies)),
            ended=tuple(ended),
            notes=tuple(dict.fromkeys(notes)),
        )

    def _around(self, before: Sequence[Message], begun: Message) -> tuple[str, str]:
        """What is written in front of the text of a reply that has been begun, and what behind it."""
        marked = {**begun, "content": begun["content"] + _MARK}
        head, found, close = self.render([*before, marked], generation=False).rpartition(_MARK)
        if not found:
            raise ValueError(f"{self.where}: the chat template writes nothing of what a turn of text says")
        return head, close


def _refuse(message: Any) -> None:
    raise Refused(str(message))


def _explained(error: Exception) -> str:
    if "strftime_now" in str(error):
        return "it asks for today's date; pass date='2026-01-31' (tokens must not depend on the day)"
    kind = "it reaches into Python: " if isinstance(error, SecurityError) else ""
    name = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
    return f"{kind}{name}{str(error)[:200]}"
