"""Trees of dicts: params, their axes and their shapes, as nested dicts or flat by dotted name."""

from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["clashes", "flat", "joined", "nested"]


def flat(tree: Any, *path: str) -> dict[str, Any]:
    """Whatever is no dict in nested dicts, by dotted name: `{"a": {"b": 1}}` is `{"a.b": 1}`."""
    if not isinstance(tree, Mapping):
        return {".".join(path): tree}
    return {name: leaf for key, value in tree.items() for name, leaf in flat(value, *path, key).items()}


def nested(leaves: Mapping[str, Any], names: Collection[str] | None = None) -> dict[str, Any]:
    """Nested dicts of leaves by dotted name: of those in `names`, or of all."""
    tree: dict[str, Any] = {}
    for name in sorted(leaves if names is None else names):
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = leaves[name]
    return tree


def joined(first: Any, second: Any) -> Any:
    """The leaves of both trees; where both have one, that of `second`."""
    if not (isinstance(first, Mapping) and isinstance(second, Mapping)):
        return second
    both = {name: joined(first[name], second[name]) for name in first if name in second}
    return {**first, **second, **both}


def clashes(first: Any, second: Any, *path: str) -> list[str]:
    """Dotted names at which both trees have something and one of the two is no dict."""
    if not (isinstance(first, Mapping) and isinstance(second, Mapping)):
        return [".".join(path)]
    both = [name for name in first if name in second]
    return [name for key in both for name in clashes(first[key], second[key], *path, key)]
