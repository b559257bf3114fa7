"""Tokenizers run by Hugging Face's `tokenizers` library: a tokenizer.json with the files beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxpref.data.text.tokenizers.base import Tokenizer, digest
from jaxpref.data.text.tokenizers.folders import further_tokens, json_of, special_tokens
from jaxpref.data.text.tokenizers.wrapped import Wrapped, library

__all__ = ["hf_tokenizer"]

_GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes that go by the post-processor alone


def hf_tokenizer(
    path: str, *, eos_token: str | None = None, bos_token: str | None = None, pad_token: str | None = None
) -> Tokenizer:
    """Loads a `tokenizer.json`, or the directory of a Hugging Face checkpoint that holds one.

    Whether BOS comes in front of a text is what that file's post-processor does, as in transformers 5: a
    `bos_token` that is only named (SmolLM2's `<|im_start|>`) does not. Classes of Llama and Gemma in
    transformers 4 go by `add_bos_token` instead. Where the two contradict each other it is an error, unless
    `bos_token` is given ("" for none).

    EOS and padding are those that `tokenizer_config.json` or `special_tokens_map.json` names, unless given
    here. Padding falls back to EOS, which is safe because masks come from lengths. What only these files make
    a token of its own is one, as in transformers (`added_tokens_decoder`, `extra_special_tokens`, and named
    tokens that the vocabulary has). Raises ValueError where there is no EOS or a named token is not in the
    vocabulary.
    """
    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    tokenizers = library()
    if not file.is_file():
        raise ValueError(f"hf_tokenizer: no file {file}; give a tokenizer.json or a directory that has one")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"hf_tokenizer: {file} is not a tokenizer.json ({error})") from error
    config, named = json_of(file.with_name("tokenizer_config.json")), special_tokens(file.parent)
    added = _add(tokenizer, config, named, file)

    def identifier(name: str, given: str | None) -> int | None:
        token = named.get(name) if given is None else given
        if not token:
            return None
        token_id = tokenizer.token_to_id(token)
        if token_id is None:
            raise ValueError(f"hf_tokenizer: {name} {token!r} is not in the vocabulary of {file}")
        return token_id

    eos, pad = identifier("eos_token", eos_token), identifier("pad_token", pad_token)
    bos = _bos(tokenizer, config, file) if bos_token is None else identifier("bos_token", bos_token)
    if eos is None:
        raise ValueError(f"hf_tokenizer: {file} does not say which token is EOS; pass eos_token='...'")
    return Wrapped(
        tokenizer,
        bos_id=bos,
        eos_id=eos,
        pad_id=eos if pad is None else pad,
        fingerprint=digest("hf", file.read_bytes(), repr((bos, eos, pad)), *([repr(added)] if added else [])),
    )


def _bos(tokenizer: Any, config: Mapping[str, Any], file: Path) -> int | None:
    """The token that is put in front of texts."""
    plain, whole = (tokenizer.encode("a", add_special_tokens=flag).ids for flag in (False, True))
    front = whole[: whole.index(plain[0])] if plain and plain[0] in whole else []
    if len(front) > 1:
        raise ValueError(
            f"hf_tokenizer: {file} puts {len(front)} tokens in front of a text; say which one is BOS "
            "(bos_token='...')"
        )
    asked = config.get("add_bos_token")
    if asked is not None and bool(asked) != bool(front) and config.get("tokenizer_class") not in _GENERIC:
        raise ValueError(
            f"hf_tokenizer: {file} {'puts' if front else 'does not put'} BOS in front of a text, and "
            f"tokenizer_config.json says add_bos_token={json.dumps(asked)}; say which it is "
            "(bos_token='...', or '' for none)"
        )
    return front[0] if front else None


def _add(
    tokenizer: Any, config: Mapping[str, Any], named: Mapping[str, str], file: Path
) -> list[tuple[int, str]]:
    """Adds the tokens that only the files beside `tokenizer.json` have, and returns them."""
    known, given = tokenizer.get_added_tokens_decoder(), config.get("added_tokens_decoder") or {}
    try:
        entries = sorted((int(index), dict(token)) for index, token in given.items())
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file.with_name('tokenizer_config.json')}: added_tokens_decoder: {error}"
        ) from error
    added = []
    for index, token in entries:
        if index in known and known[index].content == token.get("content"):
            continue
        fields = {
            key: token[key]
            for key in ("lstrip", "rstrip", "single_word", "normalized", "special")
            if key in token
        }
        content = str(token.get("content"))
        tokenizer.add_tokens([library().AddedToken(content, **fields)])
        if tokenizer.token_to_id(content) != index:
            raise ValueError(
                f"hf_tokenizer: tokenizer_config.json says that {content!r} is token {index}, and with "
                f"{file} it is {tokenizer.token_to_id(content)}: the files are of different tokenizers"
            )
        added.append((index, content))
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    in_vocabulary = {text for text in named.values() if tokenizer.token_to_id(text) is not None}
    for content in [*sorted(in_vocabulary - known), *further_tokens(file.parent)]:
        if content not in known:
            tokenizer.add_special_tokens([library().AddedToken(content, special=True, normalized=False)])
            added.append((tokenizer.token_to_id(content), content))
    return added
