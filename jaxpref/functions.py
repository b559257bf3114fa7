"""What functions outside this package do, as fingerprints: a name stays when the body changes.

A description names functions. Those of this package are told apart by its version and by the versions of
its rules; those of an experiment file or of a module of your own are not, so caches and resumed runs compare
their code as well.
"""

import ast
import functools
import hashlib
import inspect
import pathlib
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

__all__ = ["code_of", "name_of"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def name_of(function: Any) -> str:
    """`module.qualname`; an experiment file has the module name `experiments.FILE` wherever it lies."""
    while isinstance(function, functools.partial):
        function = function.func
    return f"{_module_name(function)}.{getattr(function, '__qualname__', type(function).__name__)}"


def code_of(*functions: Callable[..., Any]) -> dict[str, str]:
    """SHA-256 (hex) of the code of functions, and of what they use, by name.

    Functions and classes count which neither this package, nor the standard library, nor an installed package
    has; so do the plain module-level values and arrays that these read (`module.NAME`). Partials count by
    what they hold. Comments, layout and docstrings do not count.
    """
    found: dict[str, set[str]] = {}
    seen: set[int] = set()
    for function in functions:
        _visit(function, found, seen)
    # Several lambdas of a module share one name.
    return {name: _digest(*sorted(parts)) for name, parts in sorted(found.items())}


def _visit(value: Any, found: dict[str, set[str]], seen: set[int]) -> None:
    if isinstance(value, functools.partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            _visit(part, found, seen)
        return
    function = inspect.unwrap(value) if callable(value) else None
    if not isinstance(function, types.FunctionType | type) or id(function) in seen:
        return
    if not _own(getattr(function, "__module__", None) or ""):
        return
    seen.add(id(function))
    found.setdefault(name_of(function), set()).add(_digest(_text(function)))
    members = [function]
    if isinstance(function, type):
        members = list(vars(function).values())
        for base in function.__bases__:
            _visit(base, found, seen)
    for member in members:
        unwrapped = inspect.unwrap(member) if callable(member) else getattr(member, "fget", None)
        if isinstance(unwrapped, types.FunctionType):
            for used, content in _used(unwrapped):
                if (said := _said(content)) is not None:
                    name = f"{_module_name(function)}.{used}"
                    found.setdefault(name, set()).add(_digest(said))
                else:
                    _visit(content, found, seen)


def _used(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function reads from its module, from modules there, and from the function around it."""
    names = set(_names(function.__code__))
    for name in sorted(names & function.__globals__.keys()):
        value = function.__globals__[name]
        if isinstance(value, types.ModuleType):
            if not _own(value.__name__):
                continue
            yield from ((f"{name}.{n}", vars(value)[n]) for n in sorted(names & vars(value).keys()))
        else:
            yield name, value
    parameters = inspect.signature(function).parameters.values()
    given = ((q.name, q.default) for q in parameters if q.default is not q.empty)
    yield from ((f"{function.__qualname__}({name})", value) for name, value in given)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not set yet
            continue


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _said(value: Any) -> str | None:
    """A plain value or an array as text, the same in every process; None for anything else."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, dict):
        value, kind = [part for pair in value.items() for part in pair], "dict"
    elif isinstance(value, tuple | list | set | frozenset):
        kind = type(value).__name__
    elif hasattr(value, "__array__") and not callable(value):
        array = np.ascontiguousarray(value)
        content = hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()
        return f"{array.dtype} {array.shape} {content}" if array.dtype != object else None
    else:
        return None
    parts = [_said(part) for part in value]
    if None in parts:
        return None
    # A set of texts has another order in every process.
    said = sorted(map(str, parts)) if isinstance(value, set | frozenset) else parts
    return f"{kind}({', '.join(map(str, said))})"


def _own(module: str) -> bool:
    """Whether a module of this name is of the user's, and no package's."""
    top = module.partition(".")[0]
    if top == "jaxpref" or top in sys.stdlib_module_names - {"__main__"}:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or not {"site-packages", "dist-packages"} & set(pathlib.Path(file).parts)


def _text(function: Any) -> str:
    """Source in one layout, without comments and docstrings; where there is none, what was compiled."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        code = getattr(function, "__code__", None)
        return repr(function) if code is None else _compiled(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _compiled(code: types.CodeType) -> str:
    parts = [_compiled(c) if isinstance(c, types.CodeType) else _said(c) for c in code.co_consts]
    return repr((code.co_code, code.co_names, code.co_varnames, parts))


def _module_name(function: Any) -> str:
    module = getattr(function, "__module__", None) or ""
    if module.startswith("jaxpref_experiment_"):
        return "experiments." + module.rsplit("_experiments_", 1)[-1]
    return module


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
