"""The text of tokens that arrive one after the other."""

from collections.abc import Iterable, Sequence

from jaxpref.data.text.tokenizers.base import Tokenizer

__all__ = ["IncrementalText"]


class IncrementalText:
    """What may be said of a text whose tokens are still arriving; the parts, joined, are its text.

    A character whose bytes are in several tokens is said when it is whole. (What a decoder takes back later
    cannot be unsaid: `tokenizers` 0.23 gives a run of byte tokens as U+FFFD each where its end is cut off,
    and so the part of it that was a character before.)

    Args:
      before: tokens of a text that this one goes on from, which is not said. Some decoders leave out a space
        in front of a text, which belongs to it where another is before.

    Example:
      >>> from jaxpref.data.text.tokenizers import bytes_tokenizer
      >>> text = IncrementalText(bytes_tokenizer())
      >>> [text.push([index]) for index in bytes_tokenizer().encode("né")], text.end()
      (['n', '', 'é'], '')
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(before)
        self._said = tokenizer.decode(self._ids)

    def push(self, ids: Iterable[int]) -> str:
        """Takes the next tokens; returns what can be said now."""
        self._ids += ids
        text = self._tokenizer.decode(self._ids).rstrip("\ufffd")  # of bytes that may become a character
        if not text.startswith(self._said):
            return ""
        new, self._said = text[len(self._said) :], text
        return new

    def end(self, ids: Iterable[int] = ()) -> str:
        """What is left when no more tokens come than these."""
        self._ids += ids
        text = self._tokenizer.decode(self._ids)
        shared = zip(self._said, text, strict=False)
        same = next((i for i, (a, b) in enumerate(shared) if a != b), min(len(self._said), len(text)))
        self._said = text
        return text[same:]
