"""Experiment files: load, override with checks, describe completely. No registry, no YAML, no globals."""

import ast
import dataclasses
import functools
import importlib.machinery
import importlib.util
import inspect
import pathlib
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxpref.experiment import Experiment, Tournament
from jaxpref.functions import name_of

__all__ = [
    "describe",
    "docstring",
    "functions",
    "leaves",
    "load",
    "load_sweep",
    "load_tournament",
    "override",
]


class _Source(importlib.machinery.SourceFileLoader):
    """Compiles what the file holds now. Python's compiled files are found by size and second, so one written
    twice in a second, by a script that tries values, would run as it was the first time."""

    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _module(given: str | pathlib.Path) -> types.ModuleType:
    file = pathlib.Path(given)
    if not file.is_file():
        raise ValueError(
            f"no experiment file {file}; give the path of a Python file such as experiments/quickstart.py"
        )
    name = f"jaxpref_experiment_{file.resolve().as_posix().strip('/').replace('/', '_').removesuffix('.py')}"
    spec = importlib.util.spec_from_file_location(name, file, loader=_Source(name, str(file)))
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its functions must be importable by name for pickling and type hints
    # Files of an experiments folder may import one another, and an ablation the experiment that it varies.
    folder = file.resolve().parent
    for path in (folder.parent, folder) if folder.name == "ablations" else (folder,):
        if str(path) not in sys.path:
            sys.path.insert(0, str(path))
    spec.loader.exec_module(module)
    return module


def _function(path: str, default: str) -> tuple[types.ModuleType, Callable[..., Any]]:
    file, _, name = path.partition(":")
    module = _module(file)
    function = getattr(module, name or default, None)
    if not callable(function):
        offered = sorted(
            n
            for n, v in vars(module).items()
            if not n.startswith("_")
            and getattr(v.func if isinstance(v, functools.partial) else v, "__module__", "")
            == module.__name__
        )
        raise ValueError(f"{file} has no function {name or default!r}; it has {offered}")
    return module, function


def load(path: str, assignments: Sequence[str] = ()) -> Experiment:
    """Builds `experiment(**knobs)` of a file and applies `key=value` assignments.

    A key without a dot is a knob (a parameter of `experiment`); a dotted key edits one leaf of the built
    tree, for example `stages.dpo.algorithm.loss.beta=0.3`.

    Raises:
      ValueError: unknown key (with the valid names) or a value of the wrong type.
    """
    _, function = _function(path, "experiment")
    knobs, edits = {}, {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ValueError(f"expected key=value, got {assignment!r}")
        (edits if "." in key else knobs)[key] = text
    parameters = inspect.signature(function).parameters
    unknown = sorted(knobs.keys() - parameters.keys())
    fields = [f.name for f in dataclasses.fields(Experiment)]
    for key in [k for k in unknown if k in fields]:
        edits[key] = knobs.pop(key)
        unknown.remove(key)
    if unknown:
        raise ValueError(
            f"unknown override {unknown[0]!r}; knobs of {path}: {', '.join(parameters) or 'none'}; "
            f"fields: {', '.join(fields)} (dotted paths reach inside them)"
        )
    hints = _hints(function)
    values = {
        key: coerce(text, hints.get(key, Any), parameters[key].default, key) for key, text in knobs.items()
    }
    built = function(**values)
    if not isinstance(built, Experiment):
        raise ValueError(f"{path}: expected an Experiment, got {type(built).__name__}")
    return override(built, edits)


def load_sweep(path: str, assignments: Sequence[str] = ()) -> list[Experiment]:
    """The experiments of a function `FILE.py:sweep_name`, each with the (dotted) assignments applied."""
    _, function = _function(path, "sweep")
    pairs = dict(a.split("=", 1) for a in assignments if "=" in a)
    knobs = _knobs(function, pairs)
    built = function(**knobs)
    if not isinstance(built, list) or not all(isinstance(e, Experiment) for e in built):
        raise ValueError(f"{path}: expected a function that returns a list of Experiments")
    edits = {k: v for k, v in pairs.items() if k not in knobs}
    return [override(experiment, edits) for experiment in built]


def load_tournament(path: str, assignments: Sequence[str] = ()) -> Tournament | None:
    """What `tournament()` of the file returns, given those assignments that are its knobs; None where the
    file has no such function."""
    file = path.partition(":")[0]
    module = _module(file)
    function = getattr(module, "tournament", None)
    if function is None:
        return None
    built = function(**_knobs(function, dict(a.split("=", 1) for a in assignments if "=" in a)))
    if not isinstance(built, Tournament):
        raise ValueError(f"{file}: expected tournament() to return a Tournament, got {type(built).__name__}")
    return built


def _knobs(function: Callable[..., Any], pairs: Mapping[str, str]) -> dict[str, Any]:
    """Those of `pairs` that are parameters of `function`, as values of their types."""
    parameters, hints = inspect.signature(function).parameters, _hints(function)
    return {
        k: coerce(v, hints.get(k, Any), parameters[k].default, k) for k, v in pairs.items() if k in parameters
    }


def override(experiment: Experiment, edits: Mapping[str, str]) -> Experiment:
    """Applies dotted-path edits given as text; each is checked against the signature and current type."""
    for path, text in edits.items():
        experiment = _set(experiment, path.split("."), text, path)
    return experiment


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):  # shape strings and forward references of other libraries
        return {n: p.annotation for n, p in inspect.signature(function).parameters.items()}


def _children(node: Any) -> dict[str, tuple[Any, Any]]:
    """Editable children of a node: name -> (value, annotation). Values may be `inspect.Parameter.empty`."""
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        hints = _hints(type(node))
        return {f.name: (getattr(node, f.name), hints.get(f.name, Any)) for f in dataclasses.fields(node)}
    if isinstance(node, dict):
        return {str(key): (value, Any) for key, value in node.items()}
    if isinstance(node, tuple):
        names = [getattr(item, "name", None) for item in node]
        keys = [n if isinstance(n, str) else str(i) for i, n in enumerate(names)]
        return {key: (item, Any) for key, item in zip(keys, node, strict=True)}
    function, given = _unwrap(node)
    if function is None:
        return {}
    hints = _hints(function)
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return {n: (v, Any) for n, v in given.items()}
    out = {}
    for q in parameters:
        if q.kind in (q.VAR_POSITIONAL, q.VAR_KEYWORD):
            continue
        if q.name in given or q.default is not q.empty:
            out[q.name] = (given.get(q.name, q.default), hints.get(q.name, Any))
    return out


def _unwrap(node: Any) -> tuple[Callable[..., Any] | None, dict[str, Any]]:
    """A partial's function and keywords (nested partials merged), or a bare function and nothing."""
    given: dict[str, Any] = {}
    while isinstance(node, functools.partial):
        if node.args:
            raise ValueError(f"positional argument in a partial of {node.func}; use keywords")
        given = dict(node.keywords) | given
        node = node.func
    return (node, given) if callable(node) else (None, given)


def _set(node: Any, keys: list[str], text: str, path: str) -> Any:
    children = _children(node)
    key, rest = keys[0], keys[1:]
    if key not in children:
        where = path.rsplit(".".join(keys), 1)[0].rstrip(".") or "the experiment"
        raise ValueError(f"unknown override {path!r}: {where} has {', '.join(children) or 'nothing to set'}")
    current, annotation = children[key]
    value = _set(current, rest, text, path) if rest else coerce(text, annotation, current, path)
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return dataclasses.replace(node, **{key: value})
    if isinstance(node, dict):
        return {**node, key: value}
    if isinstance(node, tuple):
        index = list(children).index(key)
        return (*node[:index], value, *node[index + 1 :])
    return functools.partial(node, **{key: value})


def coerce(text: str, annotation: Any, current: Any, path: str) -> Any:
    """Parses `text` as a value of the annotated type, or of the type of `current` where there is no hint."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
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
    accepted = {m for m in members if m in plain}
    if accepted:
        return accepted
    return {type(current)} if type(current) in plain - {type(None)} else set()


def describe(node: Any) -> Any:
    """Complete JSON-ready description: every argument of every function, library defaults included."""
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if isinstance(node, tuple | list):
        return [describe(item) for item in node]
    if isinstance(node, dict):
        return {str(k): describe(v) for k, v in node.items()}
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {f.name: describe(getattr(node, f.name)) for f in dataclasses.fields(node)}
    function, _ = _unwrap(node)
    if function is None:
        raise ValueError(f"cannot describe {node!r}: use plain values and partials of module-level functions")
    name = getattr(function, "__qualname__", type(function).__name__)
    if "<" in name:
        raise ValueError(f"cannot describe {name}: only module-level functions may appear in an experiment")
    arguments = {key: describe(value) for key, (value, _) in _children(node).items()}
    return {"function": name_of(function), **arguments}


def functions(node: Any) -> list[Callable[..., Any]]:
    """Every function of a tree that `describe` describes."""
    function, _ = _unwrap(node)
    inner = node if isinstance(node, list) else [value for value, _ in _children(node).values()]
    return [*([] if function is None else [function]), *(f for value in inner for f in functions(value))]


def leaves(description: Any, prefix: str = "") -> dict[str, Any]:
    """Flat `dotted.path -> value` view of a description, for diffs and tables."""
    if isinstance(description, dict):
        items = description.items()
    elif isinstance(description, list) and any(isinstance(i, dict | list) for i in description):
        items = [
            (str(item.get("name", i)) if isinstance(item, dict) else str(i), item)
            for i, item in enumerate(description)
        ]
    else:
        return {prefix.rstrip("."): description}
    out: dict[str, Any] = {}
    for key, value in items:
        out |= leaves(value, f"{prefix}{key}.")
    return out


def docstring(path: str) -> str:
    """The module docstring of an experiment file."""
    file = pathlib.Path(path.partition(":")[0])
    return ast.get_docstring(ast.parse(file.read_text())) or ""
