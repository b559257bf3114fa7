"""Syntax of functions and classes as a text that is the same in every version of Python.

Comments, layout and docstrings leave no trace in it.
"""

import ast
import functools
import inspect
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["imports_of", "normalised", "of_class", "of_function"]

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_LEFT_OUT = {"ctx", "kind", "type_comment", "lineno", "col_offset", "end_lineno", "end_col_offset"}


def normalised(node: Any) -> str:
    """A tree as nested text: names of nodes and of fields that hold something, and values.

    Fields that a version of Python adds are empty where they are not used; adjacent texts of a formatted
    string are joined, which versions do or do not.
    """
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if name not in _LEFT_OUT)
        held = (
            f"{name}={normalised(_plainer(node, name, value))}" for name, value in fields if _holds(value)
        )
        return f"{type(node).__name__}({' '.join(held)})"
    if isinstance(node, list):
        return f"[{' '.join(map(normalised, node))}]"
    return f"{type(node).__name__}:{node!a}"


def of_function(function: types.FunctionType) -> str | None:
    """Of a function or lambda; of all lambdas that begin in its line. None where there is no source."""
    found = _nodes_of(function)
    return " ".join(map(normalised, found)) or None


def of_class(given: type) -> str | None:
    """Of a class; None where there is no source."""
    module = sys.modules.get(given.__module__)
    tree = None if module is None else _tree_of(module)
    if tree is None:
        return None
    path = [part for part in given.__qualname__.split(".") if part != "<locals>"]
    return " ".join(map(normalised, _named(tree, path))) or None


def imports_of(function: types.FunctionType) -> Iterator[tuple[str, str, str | None]]:
    """Imports in its body: the name that is bound, the module (with leading dots), what is taken from it."""
    for root in _nodes_of(function):
        for node in ast.walk(root):
            if isinstance(node, ast.Import):
                for name in node.names:
                    yield name.asname or name.name.partition(".")[0], name.name, None
            elif isinstance(node, ast.ImportFrom):
                for name in node.names:
                    yield name.asname or name.name, "." * node.level + (node.module or ""), name.name


def _holds(value: Any) -> bool:
    return value is not None and value != []


def _plainer(node: ast.AST, name: str, value: Any) -> Any:
    """Without a docstring; texts of a formatted string joined."""
    if name == "body" and isinstance(node, _Function | ast.ClassDef) and ast.get_docstring(node) is not None:
        return value[1:] or [ast.Pass()]
    if not isinstance(node, ast.JoinedStr):
        return value
    joined: list[Any] = []
    for part in value:
        if isinstance(part, ast.Constant) and joined and isinstance(joined[-1], ast.Constant):
            joined[-1] = ast.Constant(str(joined[-1].value) + str(part.value))
        elif not isinstance(part, ast.Constant) or part.value:
            joined.append(part)
    return joined


def _nodes_of(function: types.FunctionType) -> list[ast.AST]:
    tree, code = _tree_of(function), function.__code__
    if tree is None:
        return []
    lines = ((node, _first_line(node)) for node in ast.walk(tree))
    kind: Any = ast.Lambda if code.co_name == "<lambda>" else _Function
    found = [node for node, line in lines if isinstance(node, kind) and line == code.co_firstlineno]
    return [n for n in found if isinstance(n, ast.Lambda) or getattr(n, "name", None) == code.co_name]


def _first_line(node: ast.AST) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min([getattr(node, "lineno", 0), *(d.lineno for d in decorators)])


def _named(tree: ast.AST, path: list[str]) -> Sequence[ast.AST]:
    """Classes of a dotted name; several where one replaces the other."""
    found: Sequence[ast.AST] = [tree]
    for index, name in enumerate(path):
        last = index == len(path) - 1
        inside = (node for root in found for node in _definitions(root) if node.name == name)
        found = [node for node in inside if isinstance(node, ast.ClassDef) or not last]
    return found


def _definitions(root: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Classes and functions that are defined right below, whatever branches they stand in."""
    for node in ast.iter_child_nodes(root):
        if isinstance(node, ast.ClassDef | _Function):
            yield node
        else:
            yield from _definitions(node)


def _tree_of(given: Any) -> ast.AST | None:
    """The file that a function is in, or a module is."""
    try:
        return _parsed("".join(inspect.findsource(given)[0]))
    except (OSError, TypeError, SyntaxError):
        return None


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> ast.AST:
    return ast.parse(text)
