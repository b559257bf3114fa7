"""How texts become tokens, as one value for cache keys and manifests. Needs no TensorFlow."""

import dataclasses
import json
from typing import Any, Literal

from jaxpref.data.records import Example
from jaxpref.data.text.boundary import Drop, encode_example
from jaxpref.data.text.dialogue import Template
from jaxpref.data.text.tokenizers import Tokenizer
from jaxpref.data.text.tokenizers.base import digest

__all__ = ["Encoding", "encode_texts", "fingerprint"]

_VERSION = 1  # of the rules in boundary.py, pairs.py and dialogue.py: raise it when their output changes


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Budget and policies of `encode_example`, and the template that dialogues are written in.

    `template=None` keeps the data set's own text.
    """

    prompt_length: int
    response_length: int
    truncate_prompt: Literal["start", "end", "drop"] = "start"
    truncate_response: Literal["end", "drop"] = "end"
    add_bos: bool = True
    add_eos: bool = True
    template: Template | None = None

    def description(self) -> dict[str, Any]:
        """The plain values that determine the tokens, for a manifest or a cache key."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        template = fields.pop("template")
        name = None if template is None else f"{template.__module__}.{template.__qualname__}"
        return {**fields, "template": name, "encoding_version": _VERSION}


def encode_texts(
    tokenizer: Tokenizer, encoding: Encoding, prompt: str, responses: list[str], turns: str, group: int
) -> Example | Drop:
    """`encode_example` for TFDS builders; `turns` is JSON, from which a template writes the prompt.

    Raises ValueError where a template is asked for and the example is plain text.
    """
    if encoding.template is not None:
        dialogue = [(role, content) for role, content in json.loads(turns)]
        if not dialogue:
            raise ValueError(
                f"template: the prompt {prompt[:60]!r} is plain text, not a dialogue; use template=None"
            )
        if not all(response.strip() for response in responses):
            return Drop("empty response")
        prompt, lead = encoding.template(dialogue)
        responses = [lead + response.strip() for response in responses]
    return encode_example(
        tokenizer,
        prompt,
        responses,
        prompt_length=encoding.prompt_length,
        response_length=encoding.response_length,
        truncate_prompt=encoding.truncate_prompt,
        truncate_response=encoding.truncate_response,
        add_bos=encoding.add_bos,
        add_eos=encoding.add_eos,
        group=group,
    )


def fingerprint(**parts: Any) -> str:
    """sha256 (hex) of plain values: equal arguments, equal key, on every machine."""
    return digest(json.dumps(parts, sort_keys=True))
