"""The chat template that a model comes with, read from its folder or its GGUF file."""

import datetime
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxpref.data.text.templates.sources import template_source
from jaxpref.data.text.tokenizers.base import digest

if TYPE_CHECKING:
    from jaxpref.data.text.templates.model import ModelTemplate

__all__ = ["hf_template"]

VERSION = 2  # of the rules of this package: raise it when they write something else


def hf_template(
    path: str,
    *,
    name: str | None = None,
    date: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    **variables: Any,
) -> "ModelTemplate":
    """The chat template of a model: of a Hugging Face folder, a `.jinja` file, or a GGUF file.

    Read are `chat_template.jinja`, else `chat_template` in `tokenizer_config.json` or `chat_template.json`,
    and the special tokens that `tokenizer_config.json` and `special_tokens_map.json` name. It is rendered as
    transformers 5.24 renders it, but for the date.

    Args:
      name: Of the template, where there are several. By default "tool_use" with tools, and else "default".
      date: Today, as the template is told (YYYY-MM-DD): tokens must not depend on the day. None: it has no
        clock. A template that knows what to write then (Llama 3.2: its own fixed date) writes that; one that
        asks all the same is an error.
      tools: JSON schemas of the tools that the model may call.
      variables: What else the template may be told, such as `enable_thinking=False`.

    Raises ValueError where there is no template, or none that can be read.
    """
    source = template_source(path, name, tools=bool(tools))
    given = {**source.tokens, **variables}
    try:
        content = json.dumps([given, tools], sort_keys=True)
    except TypeError as error:
        raise ValueError(f"hf_template: variables must be plain values ({error})") from error
    fingerprint = digest("chat template", str(VERSION), source.text, content, str(date))
    given |= {"tools": None if tools is None else [dict(tool) for tool in tools], "documents": None}
    clock = {} if date is None else {"strftime_now": _clock(date)}
    from jaxpref.data.text.templates.model import ModelTemplate  # with Jinja, which takes a while to import

    return ModelTemplate.of(source.text, source.where, fingerprint, given, clock)


def _clock(date: str) -> Callable[[str], str]:
    try:
        today = datetime.datetime.strptime(date, "%Y-%m-%d")
    except (TypeError, ValueError) as error:
        raise ValueError(f"hf_template: date: expected YYYY-MM-DD, got {date!r}") from error

    def strftime_now(form: str) -> str:
        if len(form) > 100 or re.search(r"%\W*\d\d", form):
            raise ValueError("strftime_now: a form of a date with a width")
        return today.strftime(form)

    return strftime_now
