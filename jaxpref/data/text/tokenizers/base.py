"""The protocol of tokenizers: text to ids and back, with no special token added implicitly."""

import hashlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

__all__ = ["Tokenizer", "digest"]


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids in `[0, vocab_size)` and back.

    `encode` adds neither BOS nor EOS (the boundary code does, once, where it knows what was cut), and
    `decode` leaves BOS, EOS and padding out of the text.
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


def digest(*parts: bytes | str) -> str:
    """sha256 (hex) of the parts, each preceded by its length so that no two lists of parts collide."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()
