"""What the small files beside a tokenizer.json say."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["json_of", "special_tokens"]


def special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens that a folder names (`eos_token`, ...), as texts; forms of transformers 4 and 5.

    `tokenizer_config.json` comes before `special_tokens_map.json`.
    """
    tokens: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        for name, value in json_of(folder / file).items():
            content = value.get("content") if isinstance(value, Mapping) else value
            if name.endswith("_token") and isinstance(content, str):
                tokens[name] = content
    return tokens


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
