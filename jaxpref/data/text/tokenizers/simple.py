"""Tokenizers that need no file: UTF-8 bytes, and the characters of a small alphabet."""

import dataclasses
from collections.abc import Sequence

from jaxpref.data.text.tokenizers.base import Tokenizer, digest

__all__ = ["bytes_tokenizer", "characters_tokenizer"]

_PAD, _BOS, _EOS, _SPECIALS = 0, 1, 2, 3


@dataclasses.dataclass(frozen=True)
class _Bytes:
    vocab_size: int = 256 + _SPECIALS
    bos_id: int | None = _BOS
    eos_id: int = _EOS
    pad_id: int = _PAD
    fingerprint: str = digest("bytes", "1")

    def encode(self, text: str) -> list[int]:
        return [byte + _SPECIALS for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        # "replace": a sampled response may stop in the middle of a character.
        return bytes(int(i) - _SPECIALS for i in ids if i >= _SPECIALS).decode(errors="replace")


def bytes_tokenizer() -> Tokenizer:
    """UTF-8 bytes: 0 pad, 1 BOS, 2 EOS, then byte `x` at id `x + 3`; 259 ids."""
    return _Bytes()


@dataclasses.dataclass(frozen=True)
class _Characters:
    alphabet: str
    bos_id: int | None = _BOS
    eos_id: int = _EOS
    pad_id: int = _PAD

    @property
    def vocab_size(self) -> int:
        return len(self.alphabet) + _SPECIALS

    @property
    def fingerprint(self) -> str:
        return digest("characters", self.alphabet)

    def encode(self, text: str) -> list[int]:
        ids = [self.alphabet.find(character) for character in text]
        if -1 in ids:
            at = ids.index(-1)
            raise ValueError(
                f"characters_tokenizer: {text[at]!r} at position {at} of {text[:80]!r} is not in the "
                f"alphabet {self.alphabet!r}; add it to the alphabet or clean the text"
            )
        return [i + _SPECIALS for i in ids]

    def decode(self, ids: Sequence[int]) -> str:
        # Ids past the alphabet can be sampled when a model pads its vocabulary to a round size.
        return "".join(
            self.alphabet[i - _SPECIALS] if i < self.vocab_size else "\N{REPLACEMENT CHARACTER}"
            for i in map(int, ids)
            if i >= _SPECIALS
        )


def characters_tokenizer(alphabet: str) -> Tokenizer:
    """One id per character: 0 pad, 1 BOS, 2 EOS, then the characters in the order of `alphabet`.

    Raises ValueError for a repeated character here, and for one outside the alphabet in `encode`.
    """
    repeated = sorted({c for c in alphabet if alphabet.count(c) > 1})
    if repeated or not alphabet:
        problem = f"repeats {''.join(repeated)!r}" if repeated else "is empty"
        raise ValueError(f"characters_tokenizer: the alphabet {problem}; give each character once")
    return _Characters(alphabet)
