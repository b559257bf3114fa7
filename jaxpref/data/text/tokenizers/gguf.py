"""The tokenizer inside a GGUF file (`tokenizer.ggml.*`), and the files of a folder that say the same."""

import json
from pathlib import Path
from typing import Any

from jaxpref.data.text.tokenizers.base import Tokenizer, digest
from jaxpref.data.text.tokenizers.wrapped import Wrapped, library

__all__ = ["gguf_fields", "gguf_tokenizer", "gguf_tokenizer_files"]

_CONTROL, _USER_DEFINED = 3, 4  # kinds of tokens in `tokenizer.ggml.token_type`


def gguf_tokenizer(path: str) -> Tokenizer:
    """The byte-level BPE tokenizer stored in a GGUF file's metadata (`tokenizer.ggml.*`).

    Pre-tokenizations: `gpt-2` (GPT-2's split), `smollm` (digits one by one, then GPT-2's split). Control
    tokens such as `<|im_start|>` are recognised in text and left out by `decode`. A file that says
    `add_bos_token: false` has no BOS here, even if it names one: SmolLM2's is `<|im_start|>`, which would
    then come twice in a chat. Raises ValueError for another tokenizer model or pre-tokenization.
    """
    return _loaded(gguf_fields(path), path)


def _loaded(fields: dict[str, Any], path: str) -> Wrapped:
    tokenizer = _tokenizer(fields, path)
    bos, eos, pad = (fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "padding"))
    bos = None if fields.get("tokenizer.ggml.add_bos_token") is False else bos
    if eos is None:
        raise ValueError(f"gguf_tokenizer: {path} does not say which token is EOS")
    pre, tokens, merges, kinds = _parts(fields)
    return Wrapped(
        tokenizer,
        bos_id=bos,
        eos_id=eos,
        pad_id=eos if pad is None else pad,
        fingerprint=digest("gguf", pre, "\0".join(tokens), "\0".join(merges), repr((kinds, bos, eos, pad))),
    )


def gguf_tokenizer_files(path: str) -> dict[str, str]:
    """The tokenizer of a GGUF file as files of a folder: name -> text.

    `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json` are read alike by transformers
    4.57 and 5.24 and by `hf_tokenizer`; `chat_template.jinja` is there if the file has a template. Raises
    ValueError as `gguf_tokenizer`.
    """
    fields = gguf_fields(path)
    loaded, tokenizer = _loaded(fields, path), _tokenizer(fields, path)
    _, tokens, _, _ = _parts(fields)
    bos = tokens[loaded.bos_id] if loaded.bos_id is not None else None
    if bos is not None:
        tokenizer.post_processor = library().processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, loaded.bos_id)]
        )
    named = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        index = fields.get(f"tokenizer.ggml.{key}_token_id")
        if index is not None:
            named[f"{name}_token"] = tokens[index]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        "add_bos_token": bos is not None,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(index): {
                "content": token.content,
                "lstrip": token.lstrip,
                "normalized": token.normalized,
                "rstrip": token.rstrip,
                "single_word": token.single_word,
                "special": token.special,
            }
            for index, token in sorted(tokenizer.get_added_tokens_decoder().items())
        },
    }
    files = {
        "tokenizer.json": tokenizer.to_str(pretty=True),
        "tokenizer_config.json": _text(config),
        "special_tokens_map.json": _text(named),
    }
    template = fields.get("tokenizer.chat_template")
    return files | ({"chat_template.jinja": str(template)} if template else {})


def gguf_fields(path: str) -> dict[str, Any]:
    """The metadata of a GGUF file. Raises ImportError without the package, ValueError for another file."""
    try:
        import gguf
    except ImportError as error:
        raise ImportError("GGUF files are read by the package `gguf`; pip install 'jaxpref[gguf]'") from error
    if not Path(path).is_file():
        raise ValueError(f"gguf_tokenizer: no file {path}")
    try:
        reader = gguf.GGUFReader(path)
    except Exception as error:  # the reader raises whatever its parsing stumbles on
        raise ValueError(
            f"{path}: not a GGUF file that can be read ({type(error).__name__}: {error})"
        ) from error
    return {name: field.contents() for name, field in reader.fields.items() if name.startswith("tokenizer.")}


def _parts(fields: dict[str, Any]) -> tuple[str, list[str], list[str], list[int]]:
    """Pre-tokenization, tokens, merges and kinds of tokens."""
    tokens, merges, kinds = (fields[f"tokenizer.ggml.{name}"] for name in ("tokens", "merges", "token_type"))
    return fields.get("tokenizer.ggml.pre", "gpt-2"), tokens, merges, kinds


def _tokenizer(fields: dict[str, Any], path: str) -> Any:
    """The library's tokenizer."""
    tokenizers = library()
    model, kind = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "gpt-2")
    if model != "gpt2" or kind not in ("gpt-2", "smollm"):
        raise ValueError(
            f"gguf_tokenizer: {path} holds a {model!r} tokenizer with pre-tokenization {kind!r}; this reads "
            "'gpt2' with 'gpt-2' or 'smollm'. Use the checkpoint's tokenizer.json with hf_tokenizer instead"
        )
    pre, tokens, merges, kinds = _parts(fields)
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ", 1)) for merge in merges],
        )
    )
    splits = [tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    if pre == "smollm":
        splits.insert(0, tokenizers.pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(splits)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([t for t, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL])
    tokenizer.add_tokens([t for t, kind in zip(tokens, kinds, strict=True) if kind == _USER_DEFINED])
    return tokenizer


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
