"""What functions outside this package do, as fingerprints: a name stays when the body changes.

A description names functions. Those of this package are told apart by its version and by the versions of
its rules; those of an experiment file or of a module of your own are not, so caches and resumed runs compare
their code as well.
"""

import dataclasses
import enum
import functools
import hashlib
import importlib
import importlib.util
import inspect
import pathlib
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from jaxpref import syntax

__all__ = ["code_of", "name_of"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_Used = tuple[str, Any]  # a name, and what it stands for


def name_of(function: Any) -> str:
    """`module.qualname`; an experiment file has the module name `experiments.FILE` wherever it lies."""
    while isinstance(function, functools.partial):
        function = function.func
    return f"{_module_name(function)}.{getattr(function, '__qualname__', type(function).__name__)}"


def code_of(*functions: Callable[..., Any]) -> dict[str, str]:
    """SHA-256 (hex) of the code of functions, and of what they use, by name.

    Functions and classes count which neither this package, nor the standard library, nor an installed
    package has, wherever a function finds them: in its module or another one of the user's, in imports of
    its body, in the function around it, in containers, partials, and the fields of objects. So do the plain
    values and arrays there (`module.NAME`). Comments, layout and docstrings do not count, nor does the
    version of Python, but for functions without source.
    """
    walk = _Walk()
    for function in functions:
        walk.visit(name_of(function), function)
    # Several lambdas of a module share one name.
    return {name: _digest(*sorted(parts)) for name, parts in sorted(walk.found.items())}


class _Walk:
    """Goes through what functions use; `found` has digests by name."""

    def __init__(self) -> None:
        self.found: dict[str, set[str]] = {}
        self._seen: dict[int, Any] = {}  # the objects too: an id is given again when its object is gone

    def visit(self, name: str, value: Any) -> None:
        if (said := _said(value)) is not None:
            self._note(name, said)
        elif isinstance(value, functools.partial):
            self._note_which(name, value.func)
            self.visit(name_of(value), value.func)
            held = {**dict(enumerate(value.args)), **value.keywords}
            self._visit_held(f"{name}(", ")", held.items())
        elif isinstance(value, types.MethodType):
            self.visit(name_of(value), value.__func__)
            self.visit(name, value.__self__)
        elif isinstance(value, type) or hasattr(value, "__wrapped__") or inspect.isfunction(value):
            self._visit_code(value)
        elif id(value) not in self._seen:
            self._seen[id(value)] = value
            self._visit_object(name, value)

    def _note(self, name: str, said: str) -> None:
        self.found.setdefault(name, set()).add(_digest(said))

    def _note_which(self, name: str, value: Any) -> None:
        """A function behind another name or in a place: another one there is a change."""
        qualname = getattr(value, "__qualname__", None)
        if qualname is not None and name != name_of(value):
            self._note(name, f"which {qualname}")

    def _visit_held(self, before: str, after: str, held: Iterable[tuple[Any, Any]]) -> None:
        for key, value in held:
            name = f"{before}{key if isinstance(key, str) else _place(key)}{after}"
            if _said(key) is None:
                self.visit(name, key)
            self._note_which(name, value)
            self.visit(name, value)

    def _visit_object(self, name: str, value: Any) -> None:
        """A container, or an object of the user's class or of any dataclass."""
        kind = type(value)
        if isinstance(value, dict):
            self._visit_held(f"{name}[", "]", value.items())
        elif isinstance(value, list | tuple):
            self._visit_held(f"{name}[", "]", enumerate(value))
        elif isinstance(value, set | frozenset):
            self._visit_held(f"{name}[", "]", ((_place(item), item) for item in sorted(value, key=_place)))
        elif isinstance(value, enum.Enum):
            self._note(name, f"{kind.__qualname__}.{value.name}")
            self.visit(name_of(kind), kind)
        elif _own(kind.__module__) or dataclasses.is_dataclass(value):
            self._note(name, f"of {kind.__qualname__}")
            self.visit(name_of(kind), kind)
            self._visit_held(f"{name}.", "", sorted(_fields(value).items()))

    def _visit_code(self, value: Any) -> None:
        """A function or class, with what its decorators put around it and what all of these use."""
        while value is not None and id(value) not in self._seen:
            self._seen[id(value)] = value
            if isinstance(value, type):
                self._visit_class(value)
            elif isinstance(value, types.FunctionType) and _own_function(value):
                self._note(name_of(value), syntax.of_function(value) or _compiled(value.__code__))
                self._visit_used(value, _module_name(value))
            value = getattr(value, "__wrapped__", None)

    def _visit_class(self, value: type) -> None:
        if not _own(value.__module__):
            return
        name = name_of(value)
        self._note(name, syntax.of_class(value) or value.__qualname__)
        for base in value.__bases__:
            self.visit(name_of(base), base)
        for key, member in vars(value).items():
            functions = _functions_in(member)
            for function in functions:
                generated = function.__code__.co_filename.startswith("<")  # the source of the class says it
                if getattr(function, "__wrapped__", None) or function.__module__ != value.__module__:
                    self.visit(f"{name}.{key}", function)
                elif _own_function(function) and not generated:
                    self._visit_used(function, _module_name(value))
            if not functions and not (key.startswith("_") and key.endswith("_")):
                self._note_which(f"{name}.{key}", member)
                self.visit(f"{name}.{key}", member)

    def _visit_used(self, function: types.FunctionType, module: str) -> None:
        for used, content in _used(function):
            self._note_own(f"{module}.{used}", content)
            self.visit(f"{module}.{used}", content)

    def _note_own(self, name: str, value: Any) -> None:
        if (inspect.isfunction(value) or isinstance(value, type)) and _own(value.__module__ or ""):
            self._note_which(name, value)


def _place(value: Any) -> str:
    return _said(value) or getattr(value, "__qualname__", type(value).__qualname__)


def _fields(value: Any) -> dict[str, Any]:
    """What an object holds, without what `cached_property` keeps there."""
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if hasattr(value, f.name)}
    slots = [n for k in type(value).__mro__ for n in np.atleast_1d(vars(k).get("__slots__", ())).tolist()]
    held = getattr(value, "__dict__", {}) | {n: getattr(value, n) for n in slots if hasattr(value, n)}
    kept = functools.cached_property
    return {n: v for n, v in held.items() if not isinstance(getattr(type(value), n, None), kept)}


def _functions_in(member: Any) -> list[types.FunctionType]:
    """The functions of a method, property, class method, ..., each as it was written."""
    if isinstance(member, property):
        given = (member.fget, member.fset, member.fdel)
        return [function for part in given for function in _functions_in(part)]
    if isinstance(member, classmethod | staticmethod):
        member = member.__func__
    elif isinstance(member, functools.cached_property):
        member = member.func
    while not isinstance(member, types.FunctionType | type) and hasattr(member, "__wrapped__"):
        member = member.__wrapped__
    return [member] if isinstance(member, types.FunctionType) else []


def _used(function: types.FunctionType) -> Iterator[_Used]:
    """What a function reads from its module, from modules there, and from the function around it."""
    names = set(_names(function.__code__))
    bound = {name: function.__globals__[name] for name in names & function.__globals__.keys()}
    for name, value in sorted((bound | _imported(function)).items()):
        yield from _in_modules(name, value, names, set())
    parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    given = ((q.name, q.default) for q in parameters if q.default is not q.empty)
    yield from ((f"{function.__qualname__}({name})", value) for name, value in given)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not set yet
            continue


def _in_modules(name: str, value: Any, names: set[str], seen: set[str]) -> Iterator[_Used]:
    """A value; or, of a module of the user's, what a function that reads `names` can mean of it."""
    if not isinstance(value, types.ModuleType):
        yield name, value
    elif _own(value.__name__) and value.__name__ not in seen:
        for inner in sorted(names & vars(value).keys()):
            yield from _in_modules(f"{name}.{inner}", vars(value)[inner], names, seen | {value.__name__})


def _imported(function: types.FunctionType) -> dict[str, Any]:
    """What imports in the body of a function bind, of modules of the user's; they are imported for that."""
    found: dict[str, Any] = {}
    package = function.__globals__.get("__package__") or ""
    for bound, module, attribute in syntax.imports_of(function):
        try:
            full = importlib.util.resolve_name(module, package)
            if not _own_import(full):
                continue
            value = importlib.import_module(full)
            if attribute is None:
                found[bound] = sys.modules[bound] if bound == full.partition(".")[0] else value
            elif hasattr(value, attribute):
                found[bound] = getattr(value, attribute)
            else:
                found[bound] = importlib.import_module(f"{full}.{attribute}")
        except ImportError:  # it may be guarded, or never run
            continue
    return found


def _own_import(module: str) -> bool:
    """Whether a module that may not be imported yet is of the user's."""
    top = module.partition(".")[0]
    if top == "jaxpref" or top in sys.stdlib_module_names:
        return False
    if top in sys.modules:
        return _own(top)
    spec = importlib.util.find_spec(top)
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or ())]
    return spec is not None and all(_own_file(place) for place in places)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _said(value: Any) -> str | None:
    """A plain value or an array as text, the same in every process; None for anything else."""
    if isinstance(value, enum.Enum):
        return None
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, dict):
        value, kind = [part for pair in value.items() for part in pair], "dict"
    elif isinstance(value, tuple | list | set | frozenset):
        kind = type(value).__name__
    elif hasattr(value, "__array__") and not callable(value):
        array = np.ascontiguousarray(value)
        if array.dtype == object:
            return None
        content = hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()
        return f"{array.dtype} {array.shape} {content}"
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
    files = [getattr(sys.modules.get(name), "__file__", None) for name in (module, top)]
    return all(file is None or _own_file(file) for file in files)


def _own_file(file: str) -> bool:
    return not {"site-packages", "dist-packages"} & set(pathlib.Path(file).parts)


def _own_function(function: types.FunctionType) -> bool:
    """By its module, and by its file: decorators of packages give what they make the user's module name."""
    where = function.__globals__.get("__name__") or ""
    return _own(function.__module__ or "") and _own(where) and _own_file(function.__code__.co_filename)


def _compiled(code: types.CodeType) -> str:
    parts = [_compiled(c) if isinstance(c, types.CodeType) else _said(c) for c in code.co_consts]
    return repr((code.co_code, code.co_names, code.co_varnames, parts))


def _module_name(function: Any) -> str:
    module = getattr(function, "__module__", None) or ""
    if not module.startswith("jaxpref_experiment_"):
        return module
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return "experiments." + module.rsplit("_experiments_", 1)[-1]
    parts = pathlib.Path(file).resolve().with_suffix("").parts
    last = max(
        (index for index, part in enumerate(parts[:-1]) if part == "experiments"), default=len(parts) - 2
    )
    return "experiments." + "_".join(parts[last + 1 :])


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
