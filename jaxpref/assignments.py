"""`key=value` texts of a command line, and the values that they stand for."""

import ast
import collections.abc
import inspect
import re
import types
import typing
from collections.abc import Sequence
from typing import Any

__all__ = ["assignments_of", "coerce", "is_plain", "written"]


def assignments_of(texts: Sequence[str]) -> dict[str, str]:
    """Keys and values of `key=value` texts.

    Raises:
      ValueError: one is no assignment, or a key is given twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"\S(.*\S)?", key) or key[0] in "{[\"'":
            raise ValueError(f"expected key=value, without spaces around =, got {text!r}")
        if key in pairs:
            raise ValueError(f"{key} is given twice, as {key}={pairs[key]} and {text}; give it once")
        pairs[key] = value
    return pairs


def written(value: Any) -> str:
    """The text that `coerce` reads a plain value from: words as they are where they read as words."""
    if not isinstance(value, str) or value != value.strip() or not value.isprintable():
        return repr(value)
    return value if _read(value) == value else repr(value)


def coerce(text: str, annotation: Any, current: Any, path: str, parts: Sequence[str] = ()) -> Any:
    """Parses `text` as a value of the annotated type, or of the type of `current` where there is no hint.

    Raises:
      ValueError: it is of another type, or `current` is no plain value but has `parts` of its own.
    """
    _check_plain(current, annotation, text, path, parts)
    value = _read(text)
    accepted = _accepted(annotation, current)
    if isinstance(value, list):
        value = tuple(value)
    if not accepted or type(value) in accepted or (value is None and type(None) in accepted):
        return value
    if float in accepted and (type(value) is int or text in ("inf", "-inf")):
        return float(value if type(value) is int else text)
    if str in accepted and not isinstance(value, str) and len(accepted - {type(None)}) == 1:
        return text
    if tuple in accepted:
        return (value,)
    names = " or ".join(sorted("None" if t is type(None) else t.__name__ for t in accepted))
    raise ValueError(f"{path}: expected {names}, got {text!r}")


def _read(text: str) -> Any:
    """A Python literal, true, false or none in any case, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _accepted(annotation: Any, current: Any) -> set[type]:
    """Plain types a leaf accepts; empty means anything."""
    plain = {bool, int, float, str, tuple, type(None)}
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = {typing.get_origin(a) or a for a in typing.get_args(annotation)}
    elif typing.get_origin(annotation) is typing.Literal:
        members = {type(a) for a in typing.get_args(annotation)}
    else:
        members = {typing.get_origin(annotation) or annotation}
    literals = [a for a in typing.get_args(annotation) if typing.get_origin(a) is typing.Literal]
    members |= {type(v) for a in literals for v in typing.get_args(a)}
    accepted = {tuple if m is collections.abc.Sequence else m for m in members}.intersection(plain)
    if accepted:
        return accepted
    return {type(current)} if type(current) in plain - {type(None)} else set()


def _check_plain(current: Any, annotation: Any, text: str, path: str, parts: Sequence[str]) -> None:
    """Raises ValueError where a text stands for what has parts: a function, a dataclass, a tuple of those."""
    emptied = {"()": tuple, "none": type(None)}.get(text.strip().lower())
    if is_plain(current) or emptied in _accepted(annotation, current):
        return
    inside = (
        f"set one of its parts: {', '.join(f'{path}.{part}' for part in parts)}" if parts else "edit the file"
    )
    raise ValueError(f"{path}: {text!r} cannot stand for it; {inside}")


def is_plain(value: Any) -> bool:
    """Whether a value can be written as text."""
    if isinstance(value, tuple | list):
        return all(map(is_plain, value))
    return value in (None, inspect.Parameter.empty) or isinstance(value, bool | int | float | str)
