"""The protocol of tokenizers: text to ids and back, with no special token added implicitly."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

__all__ = ["MARKS", "Tokenizer", "added_texts", "digest", "encode_marked", "marked"]

MARKS = 0xF0000  # first of the private characters that stand for texts of control tokens
_MARK = re.compile("[\U000f0000-\U000fffff]")


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids in `[0, vocab_size)` and back.

    `encode` adds neither BOS nor EOS (the boundary code does, once, where it knows what was cut), and
    `decode` leaves BOS, EOS and padding out of the text. One that reads some texts as single tokens wherever
    they stand says which (`added`, and among them the `controls`), and has `encode_marked` (see `marked`).
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_id(self) -> int: ...
    @property
    def pad_id(self) -> int: ...
    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of everything that determines the ids of a text."""
        ...

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


def added_texts(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The texts that a tokenizer reads as one token wherever they stand ("<|im_end|>"); most have none."""
    return tuple(getattr(tokenizer, "added", ()))


def marked(value: Any, tokenizer: Tokenizer) -> Any:
    """Plain data in whose texts private characters stand where the tokenizer would read control tokens.

    `encode_marked` writes out what the characters stand for, as text. Raises ValueError where a text holds
    such a character already.
    """
    controls = tuple(getattr(tokenizer, "controls", ()))
    if not controls:
        return value
    marks = {text: chr(MARKS + index) for index, text in enumerate(controls)}
    known = re.compile("|".join(map(re.escape, sorted(controls, key=len, reverse=True))))

    def mark(value: Any) -> Any:
        if isinstance(value, str):
            if _MARK.search(value):
                raise ValueError("a text holds a private character of Unicode (U+F0000 to U+FFFFF)")
            return known.sub(lambda found: marks[found[0]], value)
        if isinstance(value, Mapping):
            return {key: mark(part) for key, part in value.items()}
        return [mark(part) for part in value] if isinstance(value, list | tuple) else value

    return mark(value)


def encode_marked(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text; what `marked` marked in it does not become control tokens."""
    return tokenizer.encode_marked(text) if _MARK.search(text) else tokenizer.encode(text)  # pyright: ignore


def digest(*parts: bytes | str) -> str:
    """sha256 (hex) of the parts, each preceded by its length so that no two lists of parts collide."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()
