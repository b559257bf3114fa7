"""Where models keep their chat template, and the texts of the special tokens that it is given."""

from pathlib import Path
from typing import Any, NamedTuple

from jaxpref.data.text.tokenizers.folders import json_of, special_tokens
from jaxpref.data.text.tokenizers.gguf import gguf_fields

__all__ = ["TemplateSource", "has_template", "template_source"]

_LARGEST = 1 << 20  # bytes of a template; real ones have up to 20 KB


class TemplateSource(NamedTuple):
    """The text of a template, where it was found, and special tokens by name (`bos_token`)."""

    text: str
    where: str
    tokens: dict[str, str]


def template_source(path: str, name: str | None, *, tools: bool = False) -> TemplateSource:
    """Finds the template of a folder, a `.jinja` or a GGUF file.

    `name=None`: with `tools` the one called "tool_use", else "default", or the only one. Raises ValueError
    where it is not there.
    """
    file = Path(path)
    if file.is_dir():
        found, tokens = _of_folder(file), special_tokens(file)
    elif file.is_file() and _starts_with(file, b"GGUF"):
        found, tokens = _of_gguf(file)
    elif file.is_file():
        found, tokens = {"default": (str(file), _text(file))}, special_tokens(file.parent)
    else:
        raise ValueError(
            f"hf_template: {path} does not exist; give a model's folder, a .jinja or a GGUF file"
        )
    if not found:
        raise ValueError(
            f"hf_template: {path} has no chat template (no chat_template.jinja, and none in "
            "tokenizer_config.json): a base model, perhaps; use template=chatml_template, or a .jinja file"
        )
    usual = ("tool_use",) * tools + ("default",) + tuple(found) * (len(found) == 1)
    wanted = name or next((known for known in usual if known in found), "")
    if wanted not in found:
        raise ValueError(
            f"hf_template: {path} has the chat templates {sorted(found)}; name one of them (name=...)"
        )
    where, text = found[wanted]
    if len(text) > _LARGEST:
        raise ValueError(f"{where}: a chat template of more than {_LARGEST:,} characters")
    return TemplateSource(text, where, tokens)


def has_template(folder: str) -> bool:
    """Whether a model's folder has a chat template at all; base models have none."""
    return bool(_of_folder(Path(folder)))


def _of_folder(folder: Path) -> dict[str, tuple[str, str]]:
    """Texts by name, each with where it is. Files of their own come before what a configuration says."""
    found: dict[str, tuple[str, str]] = {}
    for file in ("chat_template.json", "tokenizer_config.json"):
        given = json_of(folder / file).get("chat_template")
        for name, text in _named(given, folder / file).items():
            found[name] = (str(folder / file), text)
    for file in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[file.stem] = (str(file), _text(file))
    file = folder / "chat_template.jinja"
    return found | ({"default": (str(file), _text(file))} if file.is_file() else {})


def _named(given: Any, file: Path) -> dict[str, str]:
    if given is None:
        return {}
    if isinstance(given, str):
        return {"default": given}
    entries = [{"name": k, "template": v} for k, v in given.items()] if isinstance(given, dict) else given
    try:
        named = {str(entry["name"]): entry["template"] for entry in entries}
    except (KeyError, TypeError):
        entries, named = [None], {}
    if len(named) != len(entries) or not all(isinstance(text, str) for text in named.values()):
        raise ValueError(f"{file}: chat_template: expected a text, or a list of named ones")
    return named


def _of_gguf(file: Path) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    fields = gguf_fields(str(file))
    found, key = {}, "tokenizer.chat_template"
    for name, value in fields.items():
        if name == key or name.startswith(key + "."):
            found[name.removeprefix(key).lstrip(".") or "default"] = (f"{file}, {name}", str(value))
    pieces, tokens = fields.get("tokenizer.ggml.tokens", []), {}
    for name, kind in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        index = fields.get(f"tokenizer.ggml.{kind}_token_id")
        if index is not None and 0 <= int(index) < len(pieces):
            tokens[f"{name}_token"] = pieces[int(index)]
    return found, tokens


def _starts_with(file: Path, magic: bytes) -> bool:
    with open(file, "rb") as opened:
        return opened.read(len(magic)) == magic


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 text ({error})") from error
