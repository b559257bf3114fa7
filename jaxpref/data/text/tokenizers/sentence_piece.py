"""SentencePiece models: load one, train one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpref.data.text.tokenizers.base import Tokenizer, digest

__all__ = ["sentencepiece_tokenizer", "train_sentencepiece"]


class _SentencePiece:
    def __init__(self, processor: Any, model: bytes):
        self._processor = processor
        self.vocab_size: int = processor.vocab_size()
        self.bos_id: int | None = processor.bos_id() if processor.bos_id() >= 0 else None
        self.eos_id: int = processor.eos_id()
        self.pad_id: int = processor.pad_id() if processor.pad_id() >= 0 else 0
        self.fingerprint = digest("sentencepiece", model)

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        # Ids past the vocabulary can be sampled when a model pads its vocabulary to a round size.
        return self._processor.decode([i for i in map(int, ids) if i < self.vocab_size])


def sentencepiece_tokenizer(path: str) -> Tokenizer:
    """Loads a SentencePiece model file; it must define EOS. Raises ValueError otherwise."""
    import sentencepiece

    if not Path(path).is_file():
        raise ValueError(
            f"sentencepiece_tokenizer: no file {path}; give a .model file, or train one (train_sentencepiece)"
        )
    model = Path(path).read_bytes()
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise ValueError(f"sentencepiece_tokenizer: {path} is not a SentencePiece model ({error})") from error
    if processor.eos_id() < 0:
        raise ValueError(f"sentencepiece_tokenizer: {path} defines no EOS; train it with an eos_id")
    return _SentencePiece(processor, model)


def train_sentencepiece(
    inputs: Sequence[str], output: str, *, vocab_size: int, model_type: str = "bpe", max_sentences: int = 0
) -> str:
    """Trains a model on text files (one sentence a line) and writes `output` (a `.model` file).

    0 pad, 1 BOS, 2 EOS, 3 unknown; bytes are the fallback, so that no text is unknown, and text is kept as
    it is (no Unicode or white-space folding), so that `decode(encode(text)) == text`. `max_sentences`: use
    a random sample of that many lines (0: all). Returns `output`.
    """
    import io

    import sentencepiece

    missing = [name for name in inputs if not Path(name).is_file()]
    if missing or not inputs:
        raise ValueError(f"train_sentencepiece: expected text files, missing: {missing or 'no inputs given'}")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            input=",".join(inputs),
            model_writer=model,
            vocab_size=vocab_size,
            model_type=model_type,
            input_sentence_size=max_sentences,
            shuffle_input_sentence=bool(max_sentences),
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            # Without this a newline is folded away, and dialogues are made of newlines.
            user_defined_symbols=["\n"],
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            minloglevel=2,
        )
    except RuntimeError as error:  # sentencepiece reports every problem this way, e.g. a vocabulary too big
        raise ValueError(f"train_sentencepiece: vocab_size={vocab_size} failed: {error}") from error
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(f"{output}.tmp")
    temporary.write_bytes(model.getvalue())
    temporary.replace(output)
    return output
