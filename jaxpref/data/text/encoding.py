"""How texts become tokens, as one value for cache keys and manifests. Needs no TensorFlow."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, Literal

from jaxpref.data.records import Example
from jaxpref.data.text.boundary import EMPTY, PROMPT_TOO_LONG, Drop, encode_example
from jaxpref.data.text.dialogue import Template, Turn, hh_template, opened
from jaxpref.data.text.tokenizers import Tokenizer
from jaxpref.data.text.tokenizers.base import digest
from jaxpref.functions import code_of, name_of

__all__ = ["RULES", "Encoding", "encode_texts", "fingerprint"]

RULES = 2  # version of boundary, prompts, pairs and dialogue.py: raise it when their output changes


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Budget and policies of `encode_example`, and the template that dialogues are written in.

    `template=None` keeps the data set's own text. `truncate_prompt="turns"` leaves out the oldest turns of a
    dialogue that is too long, behind the system turn, as many as it takes; what does not fit even so is
    dropped, as is a plain text that is too long.
    """

    prompt_length: int
    response_length: int
    truncate_prompt: Literal["start", "end", "turns", "drop"] = "start"
    truncate_response: Literal["end", "drop"] = "end"
    add_bos: bool = True
    add_eos: bool = True
    template: Template | None = None

    def description(self) -> dict[str, Any]:
        """The plain values that determine the tokens, for a manifest or a cache key."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        template = fields.pop("template")
        if template is None:
            return {**fields, "template": None, "encoding_version": RULES}
        # A template of one's own may write another text under the same name: its code counts, and what it
        # makes of a dialogue, in case it reads that from somewhere.
        code = code_of(template)
        own = {"template_code": fingerprint(code=code, sample=_sample(template))} if code else {}
        return {**fields, "template": name_of(template), "encoding_version": RULES, **own}


def _sample(template: Template) -> list[str]:
    """What a template writes for a dialogue with all roles, or that it refuses it."""
    turns = [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "Q")]
    try:
        return list(template(turns))
    except Exception as error:  # a template may know no system turn
        return ["refused", type(error).__name__]


def encode_texts(
    tokenizer: Tokenizer, encoding: Encoding, prompt: str, responses: list[str], turns: str, group: int
) -> Example | Drop:
    """`encode_example` of a row of texts; `turns` is JSON, from which a template writes the prompt.

    Raises ValueError where a template is asked for and the example is plain text.
    """
    dialogue: list[Turn] = [(role, content) for role, content in json.loads(turns)]
    template = encoding.template
    if template is not None:
        if not dialogue:
            raise ValueError(
                f"template: the prompt {prompt[:60]!r} is plain text, not a dialogue; use template=None"
            )
        if not all(response.strip() for response in responses):
            return Drop(EMPTY)
        prompt, lead = opened(dialogue, template)
        prefilled = dialogue[-1][0] == "assistant"  # then white space in front belongs to the reply
        responses = [lead + (r if prefilled else _without_lead(r)).rstrip() for r in responses]

    def encoded(prompt: str, truncate_prompt: Literal["start", "end", "drop"]) -> Example | Drop:
        return encode_example(
            tokenizer,
            prompt,
            responses,
            prompt_length=encoding.prompt_length,
            response_length=encoding.response_length,
            truncate_prompt=truncate_prompt,
            truncate_response=encoding.truncate_response,
            add_bos=encoding.add_bos,
            add_eos=encoding.add_eos,
            group=group,
        )

    if encoding.truncate_prompt != "turns":
        return encoded(prompt, encoding.truncate_prompt)
    example = encoded(prompt, "drop")
    for shorter in _shorter(dialogue):
        if example != Drop(PROMPT_TOO_LONG):
            break
        example = encoded(opened(shorter, template or hh_template)[0], "drop")
        if isinstance(example, Example):
            example = dataclasses.replace(example, prompt_truncated=True)
    return example


def _without_lead(response: str) -> str:
    """A reply without the one space in front that HH's form has; more white space belongs to the reply."""
    return response[1:] if response[:1] == " " and not response[1:2].isspace() else response


def _shorter(dialogue: list[Turn]) -> Iterator[list[Turn]]:
    """The dialogue without its oldest turns, the system's in front apart: from each further turn of the user
    on."""
    head = next((i for i, (role, _) in enumerate(dialogue) if role != "system"), len(dialogue))
    for start in range(head + 1, len(dialogue)):
        if dialogue[start][0] == "user":
            yield [*dialogue[:head], *dialogue[start:]]


def fingerprint(**parts: Any) -> str:
    """sha256 (hex) of plain values: equal arguments, equal key, on every machine."""
    return digest(json.dumps(parts, sort_keys=True))
