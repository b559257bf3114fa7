"""How texts become tokens, as one value for cache keys and manifests. Needs no TensorFlow."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from jaxpref.data.records import Example
from jaxpref.data.text.boundary import PROMPT_TOO_LONG, Drop, Unwritten, Written, encode_written
from jaxpref.data.text.dialogue import Template, hh_template, own_form, without_lead
from jaxpref.data.text.messages import Message
from jaxpref.data.text.prompts import Prompt
from jaxpref.data.text.tokenizers.base import Tokenizer, added_texts, digest, marked
from jaxpref.functions import code_of, name_of

__all__ = ["RULES", "Encoding", "encode_texts", "fingerprint"]

RULES = 4  # version of boundary, prompts, pairs and dialogue.py: raise it when their output changes
CONTROL_TEXT = "the text of a control token in a turn, which stays text"


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Budget and policies of `encode_example`, and what makes the template that dialogues are written in.

    `template=None` keeps the data set's own text, and writes turns in HH's form. `truncate_prompt="turns"`
    leaves out the oldest turns of a dialogue that is too long, behind the system turn, as many as it takes;
    what does not fit even so is dropped, as is a plain text that is too long.
    """

    prompt_length: int
    response_length: int
    truncate_prompt: Literal["start", "end", "turns", "drop"] = "start"
    truncate_response: Literal["end", "drop"] = "end"
    add_bos: bool = True
    add_eos: bool = True
    template: Callable[[], Template] | None = None

    @functools.cached_property
    def written_in(self) -> Template:
        """The template, made once."""
        return (self.template or hh_template)()

    def description(self) -> dict[str, Any]:
        """The plain values that determine the tokens, for a manifest or a cache key."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        template = fields.pop("template")
        if template is None:
            return {**fields, "template": None, "encoding_version": RULES}
        return {**fields, "template": name_of(template), "encoding_version": RULES, **self._content()}

    def _content(self) -> dict[str, str]:
        """What tells a template from another one of its name: its content, or its code.

        A function of one's own may write another text under the same name: its code counts, and what it makes
        of a dialogue, in case it reads that from somewhere.
        """
        template = self.written_in
        if template.fingerprint is not None:
            return {"template_content": template.fingerprint}
        code = code_of(self.template)  # pyright: ignore[reportArgumentType]
        return {"template_code": fingerprint(code=code, sample=_sample(template))} if code else {}


def _sample(template: Template) -> list[str]:
    """What a template writes for a dialogue with all roles, or that it refuses it."""
    roles = {"system": "S", "user": "U", "assistant": "A"}
    turns = [{"role": role, "content": content} for role, content in [*roles.items(), ("user", "Q")]]
    try:
        written = template.written(turns, [{"role": "assistant", "content": "R"}], (), end=True)
    except Exception as error:  # a template may know no system turn
        return ["refused", type(error).__name__]
    return [written.prompt, *written.wholes]


def encode_texts(
    tokenizer: Tokenizer, encoding: Encoding, prompt: Prompt, replies: Sequence[Message]
) -> Example | Drop:
    """The tokens of a prompt and of the replies to it, or why they are left out.

    In a template, what a turn says is text, whatever it looks like: it never becomes a control token. Raises
    ValueError where a template is asked for and the prompt is plain text.
    """
    turns, notes = list(prompt.turns), ()
    if encoding.template is not None:
        if not turns:
            raise ValueError(
                f"template: the prompt {(prompt.text or '')[:60]!r} is plain text, not a dialogue; use "
                "template=None"
            )
        if prompt.text is not None:  # HH's own form, in which a reply begins with a space
            replies = [{**r, "content": without_lead(r["content"]).rstrip()} for r in replies]
        said = [turns, list(replies)]
        turns, replies = marked(said, tokenizer)
        notes = (CONTROL_TEXT,) * (said != [turns, replies])

    def encoded(turns: list[Message], truncate_prompt: Literal["start", "end", "drop"]) -> Example | Drop:
        try:
            written = _written(tokenizer, encoding, prompt, turns, replies)
        except Unwritten as error:
            return Drop(str(error))
        return encode_written(
            tokenizer,
            dataclasses.replace(written, notes=(*notes, *written.notes)),
            prompt_length=encoding.prompt_length,
            response_length=encoding.response_length,
            truncate_prompt=truncate_prompt,
            truncate_response=encoding.truncate_response,
            add_bos=encoding.add_bos,
            add_eos=encoding.add_eos,
            group=prompt.group,
        )

    if encoding.truncate_prompt != "turns":
        return encoded(turns, encoding.truncate_prompt)
    example = encoded(turns, "drop")
    for shorter in _shorter(turns):
        if example != Drop(PROMPT_TOO_LONG):
            break
        example = encoded(shorter, "drop")
        if isinstance(example, Example):
            example = dataclasses.replace(example, prompt_truncated=True)
    return example


def _written(
    tokenizer: Tokenizer, encoding: Encoding, prompt: Prompt, turns: list[Message], replies: Sequence[Message]
) -> Written:
    template = encoding.written_in
    if encoding.template is not None:
        return template.written(turns, replies, added_texts(tokenizer), end=encoding.add_eos)
    contents = [reply["content"] for reply in replies]
    if prompt.text is None:
        opened, lead = own_form(turns)
        tails = [c if c[:1].isspace() else lead + c for c in contents]
    else:
        whole = len(turns) == len(prompt.turns)
        opened, tails = prompt.text if whole else own_form(turns)[0], contents
    return Written(opened, tuple(opened + tail for tail in tails), tuple(contents))


def _shorter(dialogue: list[Message]) -> Iterator[list[Message]]:
    """The dialogue without its oldest turns, the system's in front apart: from each further turn of the user
    on."""
    roles = [message["role"] for message in dialogue]
    head = next((i for i, role in enumerate(roles) if role not in ("system", "developer")), len(roles))
    for start in range(head + 1, len(dialogue)):
        if roles[start] == "user":
            yield [*dialogue[:head], *dialogue[start:]]


def fingerprint(**parts: Any) -> str:
    """sha256 (hex) of plain values: equal arguments, equal key, on every machine."""
    return digest(json.dumps(parts, sort_keys=True))
