"""Text that is said as its tokens arrive."""

import pytest

from jaxpref.data.text.tokenizers import bytes_tokenizer, characters_tokenizer, llama2c_tokenizer
from jaxpref.data.text.tokenizers.incremental import IncrementalText

TEXT = "naïve 好好 🙂🙂\n\n  x"


def _said(tokenizer, ids, at_once=1):
    text = IncrementalText(tokenizer)
    parts = [text.push(ids[i : i + at_once]) for i in range(0, len(ids), at_once)]
    return parts, text.end()


class _Pieces:
    """A decoder as those of SentencePiece models in `tokenizers`: of a run of byte tokens that is no text,
    each is U+FFFD."""

    def decode(self, ids):
        try:
            return bytes(ids).decode()
        except UnicodeDecodeError:
            return "\ufffd" * len(ids)


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_no_part_has_half_a_character(data_root, at_once):
    llama2c = llama2c_tokenizer(str(data_root / "stories260K" / "tok512.bin"))
    for tokenizer, ids in (
        (bytes_tokenizer(), bytes_tokenizer().encode(TEXT)),
        (llama2c, llama2c.encode(TEXT)),
        (_Pieces(), list(TEXT.encode())),
    ):
        parts, rest = _said(tokenizer, ids, at_once)
        assert "".join(parts) == TEXT
        assert rest == ""
        assert "\ufffd" not in "".join(parts)


def test_what_is_cut_off_or_wrong_is_said_at_the_end():
    tokenizer = bytes_tokenizer()
    parts, rest = _said(tokenizer, tokenizer.encode("a🙂")[:-1])
    assert parts == ["a", "", "", ""]
    assert rest == "\ufffd"
    wrong = [*tokenizer.encode("a"), 0x80 + 3, *tokenizer.encode("b")]
    assert _said(tokenizer, wrong) == (["a", "", "\ufffdb"], "")
    outside = [*characters_tokenizer("ab").encode("ab"), 99]
    assert _said(characters_tokenizer("ab"), outside) == (["a", "b", ""], "\ufffd")


def test_what_a_decoder_takes_back_stays_said():
    parts, rest = _said(_Pieces(), [*"好".encode(), 0xE5])
    assert parts == ["", "", "好", ""]
    assert rest == "\ufffd" * 4


def test_a_text_that_goes_on_keeps_its_space(data_root):
    llama2c = llama2c_tokenizer(str(data_root / "stories260K" / "tok512.bin"))
    ids = llama2c.encode("Once upon a time")
    at = len(llama2c.encode("Once upon"))
    text = IncrementalText(llama2c, ids[:at])
    assert text.push(ids[at:]) + text.end() == " a time"
    assert IncrementalText(llama2c).end(ids[at:]) == "a time"
