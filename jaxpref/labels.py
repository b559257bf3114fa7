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

    Where a function differs, its arguments are not named too; of settings that differ together the one of the
    shortest path is. Empty where nothing differs.
    """
    rows = differing(leaves)
    functions = [path.removesuffix(".function") for path in rows if path.endswith(".function")]
    # Of one loss and another, beta=0.1 and tau=(not there) say nothing that the names do not.
    below = tuple(f"{function}." for function in functions)
    shown = {f: rows[f"{f}.function"] for f in functions if not f.startswith(below)}
    shown |= {path: values for path, values in rows.items() if not path.startswith(below)}
    together: dict[tuple[str, ...], str] = {}
    for path, values in sorted(shown.items(), key=lambda row: row[0].count(".")):
        together.setdefault(tuple(values), path)
    kept = [path for path in shown if path in together.values()]
    names = [_shortest(path, kept) for path in kept]
    return [
        ", ".join(f"{name}={_plain(shown[path][i])}" for name, path in zip(names, kept, strict=True))
        for i in range(len(leaves))
    ]


def _shortest(path: str, others: Sequence[str]) -> str:
    """The last parts of a path, as few as no other path ends in."""
    parts = path.split(".")
    for count in range(1, len(parts)):
        name = ".".join(parts[-count:])
        if sum(f".{other}".endswith(f".{name}") for other in others) == 1:
            return name
    return path


def _plain(shown: str) -> str:
    """Text without quotation marks, and a function without its module."""
    if not shown.startswith('"'):
        return shown
    text = str(json.loads(shown))
    module, dot, name = text.rpartition(".")
    return name if dot and all(part.isidentifier() for part in [*module.split("."), name]) else text
