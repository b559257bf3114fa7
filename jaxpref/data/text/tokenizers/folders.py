"""What the small files beside a tokenizer.json say."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["further_tokens", "json_of", "special_tokens"]


def special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens that a folder names (`eos_token`, ...), as texts.

    As in transformers 4 and 5: those of `tokenizer_config.json`, in place of which `special_tokens_map.json`
    stands where that file has no `added_tokens_decoder`.
    """
    config = json_of(folder / "tokenizer_config.json")
    tokens = _named(config)
    return (
        tokens
        if "added_tokens_decoder" in config
        else tokens | _named(json_of(folder / "special_tokens_map.json"))
    )


def further_tokens(folder: Path) -> list[str]:
    """Special tokens without a name of their own: `additional_special_tokens`, `extra_special_tokens`."""
    config = json_of(folder / "tokenizer_config.json")
    files = [config] + [json_of(folder / "special_tokens_map.json")] * ("added_tokens_decoder" not in config)
    found: list[str] = []
    for given in files:
        for name in ("additional_special_tokens", "extra_special_tokens"):
            value = given.get(name) or []
            entries = value.values() if isinstance(value, Mapping) else value
            texts = [entry.get("content") if isinstance(entry, Mapping) else entry for entry in entries]
            found += [text for text in texts if isinstance(text, str) and text not in found]
    return found


def _named(given: Mapping[str, Any]) -> dict[str, str]:
    texts = {name: v.get("content") if isinstance(v, Mapping) else v for name, v in given.items()}
    return {name: text for name, text in texts.items() if name.endswith("_token") and isinstance(text, str)}


def json_of(file: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is no file. Raises ValueError for anything else."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file}: expected a JSON object, got {type(value).__name__}")
    return value
