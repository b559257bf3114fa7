"""Short names for several configurations: what they differ in, and no more."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["differing", "labels", "literal"]

_ABSENT = object()


def literal(value: Any) -> str:
    """A value as JSON writes it, which tells 1 from "1", or words for a setting that is not there."""
    return "(not there)" if value is _ABSENT else json.dumps(value, ensure_ascii=False)


def differing(leaves: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Dotted path and each configuration's `literal`, for the leaves (`config.leaves`) that are not the same
    in all."""
    rows = {}
    for path in dict.fromkeys(path for leaf in leaves for path in leaf):
        values = [literal(leaf.get(path, _ABSENT)) for leaf in leaves]
        if len(set(values)) > 1:
            rows[path] = values
    return rows


def labels(leaves: Sequence[Mapping[str, Any]]) -> list[str]:
    """`loss=dpo, beta=0.1`: for each configuration the settings that differ, by the last part of their path,
    or as many parts as make it unique.

    Where a function differs, its arguments are named only as far as configurations cannot be told apart
    without them; of settings that differ together the one of the shortest path is named. Labels are equal, or
    empty, only where nothing differs. Functions are shown without their module and files without their
    folder, as far as that leaves different ones different.
    """
    settings, functions = _settings(differing(leaves))
    # Of one loss and another, beta=0.1 and tau=(not there) say nothing that the names do not.
    below = tuple(f"{function}." for function in functions)
    together: dict[tuple[str, ...], str] = {}
    for path, values in sorted(settings.items(), key=lambda row: row[0].count(".")):
        if not path.startswith(below):
            together.setdefault(tuple(values), path)
    kept = [path for path in settings if path in together.values()]
    arguments = [path for path in settings if path.startswith(below)]
    for path in sorted(arguments, key=lambda path: path.count(".")):
        told = list(zip(*(settings[other] for other in kept), strict=True))
        if len(set(zip(told, settings[path], strict=True))) > len(set(told)):
            kept.append(path)
    shown = []
    for path in kept:
        name, short = _shortest(path, kept), _short(settings[path], "." if path in functions else "/")
        shown.append(
            [
                "" if path in arguments and value == literal(_ABSENT) else f"{name}={text}"
                for value, text in zip(settings[path], short, strict=True)
            ]
        )
    return [", ".join(filter(None, texts)) for texts in zip(*shown, strict=True)] or [""] * len(leaves)


def _settings(rows: Mapping[str, list[str]]) -> tuple[dict[str, list[str]], list[str]]:
    """The rows, each function under the path of its argument and first, and the paths of functions."""
    functions = [path.removesuffix(".function") for path in rows if path.endswith(".function")]
    # An argument may be a function in one configuration and null in another.
    plain = {path: values for path, values in rows.items() if not path.endswith(".function")}
    settings = {}
    for path in functions:
        values = rows[f"{path}.function"]
        other = plain.pop(path, values)
        settings[path] = [b if a == literal(_ABSENT) else a for a, b in zip(values, other, strict=True)]
    return settings | plain, functions


def _shortest(path: str, others: Sequence[str]) -> str:
    """The last parts of a path, as few as no other path ends in."""
    parts = path.split(".")
    for count in range(1, len(parts)):
        name = ".".join(parts[-count:])
        if sum(f".{other}".endswith(f".{name}") for other in others) == 1:
            return name
    return path


def _short(values: Sequence[str], separator: str) -> list[str]:
    """Text without quotation marks, and the last parts of it, as few as keep different values different."""
    texts = [str(json.loads(value)) if value.startswith('"') else None for value in values]
    for count in range(1, max((text.count(separator) + 2 for text in texts if text is not None), default=1)):
        shown = [
            value if text is None else separator.join(text.split(separator)[-count:])
            for value, text in zip(values, texts, strict=True)
        ]
        if len(set(shown)) == len(set(values)):
            return shown
    return list(values)
