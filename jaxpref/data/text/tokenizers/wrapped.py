"""A tokenizer of Hugging Face's `tokenizers` library as a `Tokenizer`."""

import functools
import json
import re
from collections.abc import Sequence
from typing import Any

from jaxpref.data.text.tokenizers.base import MARKS

__all__ = ["Wrapped", "library"]

_RENAMED = (
    0x100000  # first of the private characters that control tokens are called by where they are written
)


class Wrapped:
    """A tokenizer of the library, as a `Tokenizer`.

    Attributes:
      added: Texts that become one token wherever they stand, normal tokens among them ("<think>").
      controls: Those of `added` that are control tokens ("<|im_end|>").
    """

    def __init__(self, tokenizer: Any, *, bos_id: int | None, eos_id: int, pad_id: int, fingerprint: str):
        # A file may switch on truncation or padding, which would silently cut or fill texts.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.vocab_size: int = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.pad_id = pad_id
        self.fingerprint = fingerprint
        known = tokenizer.get_added_tokens_decoder()
        self.added: tuple[str, ...] = tuple(known[i].content for i in sorted(known))
        self.controls: tuple[str, ...] = tuple(known[i].content for i in sorted(known) if known[i].special)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def encode_marked(self, text: str) -> list[int]:
        """The ids of a text in which private characters stand for texts of control tokens (`base.marked`).

        Control tokens that are written out are tokens, as in `encode`; what is marked is text.
        """
        known = re.compile("|".join(map(re.escape, sorted(self.controls, key=len, reverse=True))))
        names = {control: chr(_RENAMED + i) for i, control in enumerate(self.controls)}
        text = known.sub(lambda found: names[found[0]], text)
        marks = {MARKS + i: control for i, control in enumerate(self.controls)}
        return self._renamed.encode(text.translate(marks), add_special_tokens=False).ids

    @functools.cached_property
    def _renamed(self) -> Any:
        """The same tokenizer, in which each control token is called by a private character."""
        names = {control: chr(_RENAMED + i) for i, control in enumerate(self.controls)}
        state = json.loads(self._tokenizer.to_str())
        for token in state["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        model = state["model"]
        if isinstance(model.get("vocab"), dict):
            model["vocab"] = {names.get(text, text): index for text, index in model["vocab"].items()}
        elif "vocab" in model:
            model["vocab"] = [[names.get(text, text), *score] for text, *score in model["vocab"]]
        model |= (
            {"unk_token": names.get(model["unk_token"], model["unk_token"])} if "unk_token" in model else {}
        )
        state["post_processor"] = None
        renamed = library().Tokenizer.from_str(json.dumps(state))
        wrong = [
            c for c, name in names.items() if renamed.token_to_id(name) != self._tokenizer.token_to_id(c)
        ]
        if wrong:
            raise ValueError(f"tokenizer: {wrong[0]!r} in a text cannot be told from the control token")
        return renamed


def library() -> Any:
    """The package `tokenizers`. Raises ImportError that says how to install it."""
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            "this tokenizer runs on the `tokenizers` library, which is not installed; "
            "pip install 'jaxpref[hf]'"
        ) from error
    return tokenizers
