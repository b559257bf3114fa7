"""Tokenizers run by Hugging Face's `tokenizers` library: a tokenizer.json, or the one inside a GGUF file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpref.data.text.tokenizers.base import Tokenizer, digest

__all__ = ["gguf_tokenizer", "hf_tokenizer"]


class _Wrapped:
    def __init__(self, tokenizer: Any, *, bos_id: int | None, eos_id: int, pad_id: int, fingerprint: str):
        self._tokenizer = tokenizer
        self.vocab_size: int = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.pad_id = pad_id
        self.fingerprint = fingerprint

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            "this tokenizer runs on the `tokenizers` library, which is not installed; "
            "pip install 'jaxpref[hf]'"
        ) from error
    return tokenizers


def hf_tokenizer(
    path: str, *, eos_token: str | None = None, bos_token: str | None = None, pad_token: str | None = None
) -> Tokenizer:
    """Loads a `tokenizer.json`, or the directory of a Hugging Face checkpoint that holds one.

    That file does not say which tokens are BOS, EOS and padding. They are read from `tokenizer_config.json`
    beside it unless given here; where that says `add_bos_token: false` there is no BOS. Padding falls back
    to EOS, which is safe because masks come from lengths. Raises ValueError where there is no EOS or a named
    token is not in the vocabulary.
    """
    library = _library()
    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ValueError(f"hf_tokenizer: no file {file}; give a tokenizer.json or a directory that has one")
    try:
        tokenizer = library.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"hf_tokenizer: {file} is not a tokenizer.json ({error})") from error
    beside = file.with_name("tokenizer_config.json")
    config = json.loads(beside.read_text()) if beside.is_file() else {}

    def identifier(name: str, given: str | None) -> int | None:
        token = given if given is not None else config.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if token is None:
            return None
        token_id = tokenizer.token_to_id(token)
        if token_id is None:
            raise ValueError(f"hf_tokenizer: {name} {token!r} is not in the vocabulary of {file}")
        return token_id

    bos, eos, pad = (
        identifier(name, given)
        for name, given in (("bos_token", bos_token), ("eos_token", eos_token), ("pad_token", pad_token))
    )
    if config.get("add_bos_token") is False and bos_token is None:
        bos = None
    if eos is None:
        raise ValueError(f"hf_tokenizer: {file} does not say which token is EOS; pass eos_token='...'")
    # A file may switch on truncation or padding, which would silently cut or fill texts.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return _Wrapped(
        tokenizer,
        bos_id=bos,
        eos_id=eos,
        pad_id=eos if pad is None else pad,
        fingerprint=digest("hf", file.read_bytes(), repr((bos, eos, pad))),
    )


def gguf_tokenizer(path: str) -> Tokenizer:
    """The byte-level BPE tokenizer stored in a GGUF file's metadata (`tokenizer.ggml.*`).

    Pre-tokenizations: `gpt-2` (GPT-2's split), `smollm` (digits one by one, then GPT-2's split). Control
    tokens such as `<|im_start|>` are recognised in text and left out by `decode`. A file that says
    `add_bos_token: false` has no BOS here, even if it names one: SmolLM2's is `<|im_start|>`, which would
    then come twice in a chat. Raises ValueError for another tokenizer model or pre-tokenization.
    """
    library = _library()
    try:
        import gguf
    except ImportError as error:
        raise ImportError(
            "gguf_tokenizer: the `gguf` package is missing; pip install 'jaxpref[gguf]'"
        ) from error
    if not Path(path).is_file():
        raise ValueError(f"gguf_tokenizer: no file {path}")
    reader = gguf.GGUFReader(path)

    def value(name: str, default: Any = None) -> Any:
        field = reader.get_field(f"tokenizer.ggml.{name}")
        return default if field is None else field.contents()

    model, pre = value("model"), value("pre", "gpt-2")
    if model != "gpt2" or pre not in ("gpt-2", "smollm"):
        raise ValueError(
            f"gguf_tokenizer: {path} holds a {model!r} tokenizer with pre-tokenization {pre!r}; this reads "
            "'gpt2' with 'gpt-2' or 'smollm'. Use the checkpoint's tokenizer.json with hf_tokenizer instead"
        )
    tokens, merges, kinds = value("tokens"), value("merges"), value("token_type")
    tokenizer = library.Tokenizer(
        library.models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ", 1)) for merge in merges],
        )
    )
    splits = [library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    if pre == "smollm":
        splits.insert(0, library.pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence(splits)
    tokenizer.decoder = library.decoders.ByteLevel()
    control = gguf.TokenType.CONTROL
    tokenizer.add_special_tokens([t for t, kind in zip(tokens, kinds, strict=True) if kind == control])
    bos, eos, pad = value("bos_token_id"), value("eos_token_id"), value("padding_token_id")
    bos = None if value("add_bos_token") is False else bos
    if eos is None:
        raise ValueError(f"gguf_tokenizer: {path} does not say which token is EOS")
    return _Wrapped(
        tokenizer,
        bos_id=bos,
        eos_id=eos,
        pad_id=eos if pad is None else pad,
        fingerprint=digest("gguf", pre, "\0".join(tokens), "\0".join(merges), repr((kinds, bos, eos, pad))),
    )
