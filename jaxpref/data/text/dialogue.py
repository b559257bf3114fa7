"""Dialogues: messages, and the common plain ways to write them as text.

How a reply is scored follows from how its conversation is written with it and without it (`Written`); where
the two part is found on tokens (`boundary`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from jaxpref.data.text.boundary import Written, prompt_ids
from jaxpref.data.text.messages import HH_NAMES, HH_REPLY, Message, messages_from_json
from jaxpref.data.text.tokenizers.base import Tokenizer, added_texts, encode_marked, marked

__all__ = [
    "Template",
    "Turn",
    "TurnTemplate",
    "chatml_template",
    "conversation_ids",
    "hh_template",
    "own_form",
    "reply_end",
    "turn_template",
    "without_lead",
]

Turn = tuple[str, str]  # (role, content)


class Template(Protocol):
    """How conversations are written as text. Readers take what makes one: `template=chatml_template`."""

    @property
    def fingerprint(self) -> str | None:
        """sha256 (hex) of all that determines the text; None where the code of the function says it."""
        ...

    @property
    def reads_all(self) -> bool:
        """Whether it is given whole messages, rather than role and content alone."""
        ...

    def opened(self, messages: Sequence[Message]) -> Written:
        """A conversation up to where the reply goes on; of no responses.

        A last turn of the assistant is the beginning of the reply (a prefill): the reply goes on right behind
        it, and no second turn is opened.
        """
        ...

    def written(
        self, messages: Sequence[Message], replies: Sequence[Message], added: Sequence[str], *, end: bool
    ) -> Written:
        """A conversation with each of its replies.

        Args:
          added: The texts that the tokenizer reads as one token wherever they stand.
          end: With what ends a reply, rather than without it.

        Raises ValueError for a conversation that cannot be written.
        """
        ...


@dataclasses.dataclass(frozen=True)
class TurnTemplate:
    """A template that writes turns one after the other, and the reply behind them; EOS ends it.

    Attributes:
      write: Maps turns, (role, content), to the text up to the reply of the assistant, and what the reply
        begins with.
    """

    write: Callable[[Sequence[Turn]], tuple[str, str]]
    fingerprint: None = None
    reads_all: bool = False

    def opened(self, messages: Sequence[Message]) -> Written:
        return Written(self._begun(messages)[0])

    def written(
        self, messages: Sequence[Message], replies: Sequence[Message], added: Sequence[str], *, end: bool
    ) -> Written:
        for message in (*messages, *replies):
            if message.get("tool_calls") and not message["content"]:
                raise ValueError(_CALLS)
        text, lead, prefilled = self._begun(messages)
        contents = [message["content"] for message in replies]
        # White space behind a prefill belongs to the reply.
        tails = [lead + (c if prefilled else without_lead(c)).rstrip() for c in contents]
        return Written(text, tuple(text + tail for tail in tails), tuple(contents))

    def _begun(self, messages: Sequence[Message]) -> tuple[str, str, bool]:
        """Text up to the reply, what it starts with, and whether it has been begun."""
        turns = [(message["role"], message["content"]) for message in messages]
        if turns and turns[-1][0] == "assistant":
            text, lead = self.write(turns[:-1])
            return text + lead + turns[-1][1], "", True
        return *self.write(turns), False


_CALLS = (
    "a turn calls tools and says nothing; write it in the model's own template "
    "(template=partial(hf_template, path=...))"
)


def turn_template(*, write: Callable[[Sequence[Turn]], tuple[str, str]]) -> TurnTemplate:
    """The template of a function of your own: `template=partial(turn_template, write=mine)`."""
    return TurnTemplate(write)


def hh_template() -> TurnTemplate:
    """The form of Anthropic HH: "\\n\\nHuman: ...\\n\\nAssistant:"; a reply begins with a space."""
    return TurnTemplate(_hh)


def chatml_template() -> TurnTemplate:
    """ChatML: "<|im_start|>role\\n...<|im_end|>\\n" per turn; the tokenizer's EOS ends the reply."""
    return TurnTemplate(_chatml)


def reply_end(tokenizer: Tokenizer, template: Template) -> int:
    """The token that ends a reply in a template: its own (`<|im_end|>`), or the tokenizer's EOS."""
    question, answer = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi"}
    written = template.written([question], [answer], added_texts(tokenizer), end=True)
    return encode_marked(tokenizer, written.wholes[0])[-1] if any(written.ended) else tokenizer.eos_id


def own_form(messages: Sequence[Message]) -> tuple[str, str]:
    """HH's form up to the reply, and what the reply starts with where it starts with no white space."""
    return hh_template()._begun(messages)[:2]


def _hh(turns: Sequence[Turn]) -> tuple[str, str]:
    unknown = [role for role, _ in turns if role not in HH_NAMES]
    if unknown:
        raise ValueError(
            f"HH's form has no role {unknown[0]!r}; give a template that has, such as the model's own "
            "(template=partial(hf_template, path=...))"
        )
    return "".join(f"\n\n{HH_NAMES[role]}: {content}" for role, content in turns) + HH_REPLY, " "


def _chatml(turns: Sequence[Turn]) -> tuple[str, str]:
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return text + "<|im_start|>assistant\n", ""


def without_lead(reply: str) -> str:
    """A reply without the one space in front that HH's form has; more white space belongs to the reply."""
    return reply[1:] if reply[:1] == " " and not reply[1:2].isspace() else reply


def conversation_ids(tokenizer: Tokenizer, template: Template, messages: Sequence[Message]) -> list[int]:
    """The tokens of a conversation that a reply is drawn to, ready for the model: BOS once, where it belongs.

    A last turn of the assistant is the beginning of the reply. Text in the messages that looks like a control
    token is text. Raises ValueError for messages that the template does not write.
    """
    opened = template.opened(marked(list(messages_from_json(messages)), tokenizer))
    if opened.bos is None:
        return prompt_ids(tokenizer, opened.prompt)
    return encode_marked(tokenizer, opened.prompt)
