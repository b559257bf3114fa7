"""Experiment files: load, override with checks, describe completely. No registry, no YAML, no globals."""

import ast
import dataclasses
import functools
import importlib.machinery
import importlib.util
import inspect
import json
import os
import pathlib
import sys
import traceback
import types
import typing
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from jaxpref.assignments import assignments_of, coerce, is_plain
from jaxpref.experiment import Experiment, Tournament
from jaxpref.functions import name_of

__all__ = [
    "arguments",
    "describe",
    "docstring",
    "functions",
    "leaves",
    "load",
    "load_sweep",
    "load_tournament",
    "override",
    "settable",
]

_FIELDS = [field.name for field in dataclasses.fields(Experiment)]


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
            f"no experiment file {file}{' (a folder)' if file.is_dir() else ''}; give the path of a Python "
            "file such as experiments/quickstart.py"
        )
    if file.suffix != ".py":
        raise ValueError(f"{file} is not a Python file; give the path of one (NAME.py)")
    name = f"jaxpref_experiment_{file.resolve().as_posix().strip('/').replace('/', '_').removesuffix('.py')}"
    spec = importlib.util.spec_from_file_location(name, file, loader=_Source(name, str(file)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its functions must be importable by name for pickling and type hints
    # Files of an experiments folder may import one another, and an ablation the experiment that it varies.
    folder = file.resolve().parent
    for path in (folder.parent, folder) if folder.name == "ablations" else (folder,):
        if str(path) not in sys.path:
            sys.path.insert(0, str(path))
    _called(str(file), spec.loader.exec_module, module)
    return module


def _called(where: str, function: Callable[..., Any], *arguments: Any, **knobs: Any) -> Any:
    """`function(*arguments, **knobs)`, code of the experiment file `where`.

    Raises:
      ValueError: whatever it raised, as one line that names the last line of that file on the way there.
    """
    try:
        return function(*arguments, **knobs)
    except Exception as error:
        if os.environ.get("JAXPREF_TRACEBACK"):
            raise
        file, line = where, None
        if isinstance(error, SyntaxError):
            file, line = error.filename or where, error.lineno
        else:
            ours = pathlib.Path(where).resolve()
            frames = traceback.extract_tb(error.__traceback__)
            lines = [f.lineno for f in frames if pathlib.Path(f.filename).resolve() == ours]
            line = lines[-1] if lines else None
        if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
            raise  # it says itself what is wrong
        reason = str(error.msg if isinstance(error, SyntaxError) else error) or "no message"
        at = f", line {line}" if line else ""
        raise ValueError(
            f"{file}{at}: {type(error).__name__}: {' '.join(reason.split())}; fix the file "
            "(JAXPREF_TRACEBACK=1 shows the whole traceback)"
        ) from error


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
    pairs = assignments_of(assignments)
    knobs = _knobs(function, {key: text for key, text in pairs.items() if "." not in key})
    edits = {key: text for key, text in pairs.items() if key not in knobs}
    parameters = inspect.signature(function).parameters
    unknown = sorted(key for key in edits if "." not in key and key not in _FIELDS)
    if unknown:
        raise ValueError(
            f"unknown override {unknown[0]!r}; knobs of {path}: {', '.join(parameters) or 'none'}; "
            f"fields: {', '.join(_FIELDS)} (dotted paths reach inside them)"
        )
    built = _built(path, function, knobs)
    if not isinstance(built, Experiment):
        raise ValueError(
            f"{path}: expected {_name(function)}() to return an Experiment, got {built!r:.100}; "
            "does it end with `return`, and is it the function you mean (FILE.py:function)?"
        )
    return override(built, edits)


def load_sweep(path: str, assignments: Sequence[str] = ()) -> list[Experiment]:
    """The experiments of a function `FILE.py:sweep_name`, each with the assignments applied.

    A key is a knob of that function, else a field or dotted path of every experiment.

    Raises:
      ValueError: as for `load`, or a key is a knob of the file's `experiment` and not of the sweep: as a
        field it would be less than what it is there (`seed` of the run, and not of its data).
    """
    module, function = _function(path, "sweep")
    pairs = assignments_of(assignments)
    knobs = _knobs(function, pairs)
    edits = {key: text for key, text in pairs.items() if key not in knobs}
    for key, text in edits.items():
        if _means_more(path.partition(":")[0], getattr(module, "experiment", None), key, text):
            raise ValueError(
                f"{key} is a knob of experiment() that changes more than the field {key}, and "
                f"{_name(function)}() has none of that name (it has "
                f"{', '.join(inspect.signature(function).parameters) or 'none'}); give {_name(function)} a "
                f"parameter {key} that it hands on"
            )
    built = _built(path, function, knobs)
    if not isinstance(built, list) or not built or not all(isinstance(e, Experiment) for e in built):
        raise ValueError(
            f"{path}: expected {_name(function)}() to return a list of Experiments, one or more, got "
            f"{type(built).__name__}{' without any' if built == [] else ''}; `jaxpref train` takes one alone"
        )
    members = [override(experiment, edits) for experiment in built]
    texts = [json.dumps(describe(member), sort_keys=True) for member in members]
    twin = next((i for i, text in enumerate(texts) if text in texts[:i]), None)
    if twin is not None:
        said = f"{' '.join(assignments)} erases what differs between them" if edits else "change one of them"
        raise ValueError(f"{path}: runs {texts.index(texts[twin]) + 1} and {twin + 1} are the same; {said}")
    return members


def _means_more(file: str, function: Any, key: str, text: str) -> bool:
    """Whether a knob of `function` does anything else than set the field of its name; taken to be so where
    the function has knobs without default."""
    if not callable(function) or key not in inspect.signature(function).parameters:
        return False
    if _missing(function):
        return True
    as_knob: Any = _called(file, function, **_knobs(function, {key: text}))
    plain: Any = _called(file, function)
    return key not in _FIELDS or describe(as_knob) != describe(override(plain, {key: text}))


def _name(function: Callable[..., Any]) -> str:
    return name_of(function).rpartition(".")[2]


def _missing(function: Callable[..., Any], knobs: Container[str] = ()) -> list[str]:
    """Parameters that have no default and are not given."""
    return [
        q.name
        for q in inspect.signature(function).parameters.values()
        if q.default is q.empty and q.kind not in (q.VAR_POSITIONAL, q.VAR_KEYWORD) and q.name not in knobs
    ]


def _built(path: str, function: Callable[..., Any], knobs: Mapping[str, Any]) -> Any:
    missing = _missing(function, knobs)
    if missing:
        raise ValueError(
            f"{path}: {_name(function)}() has no default for {missing[0]}; give {missing[0]}=VALUE"
        )
    return _called(path.partition(":")[0], function, **knobs)


def load_tournament(path: str, assignments: Sequence[str] = ()) -> Tournament | None:
    """What `tournament()` of the file returns, given those assignments that are its knobs; None where the
    file has no such function."""
    file = path.partition(":")[0]
    module = _module(file)
    function = getattr(module, "tournament", None)
    if function is None:
        return None
    built = _called(file, function, **_knobs(function, assignments_of(assignments)))
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
        names = [_children(item).get("name", (None,))[0] for item in node]
        return {key: (item, Any) for key, item in zip(_item_keys(names), node, strict=True)}
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


def _item_keys(names: Sequence[Any]) -> list[str]:
    """Keys of the items of a tuple: their names, or the index of one that has none of its own."""
    return [
        name if isinstance(name, str) and "." not in name and names.count(name) == 1 else str(i)
        for i, name in enumerate(names)
    ]


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
    if rest:
        value = _set(current, rest, text, path)
    else:
        parts = () if is_plain(current) else tuple(_children(current))
        value = coerce(text, annotation, current, path, parts)
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return dataclasses.replace(node, **{key: value})
    if isinstance(node, dict):
        return {**node, key: value}
    if isinstance(node, tuple):
        index = list(children).index(key)
        return (*node[:index], value, *node[index + 1 :])
    return functools.partial(node, **{key: value})


def settable(node: Any, prefix: str = "") -> dict[str, Any]:
    """Flat `dotted.path -> value` of all that an override can set to a value."""
    out: dict[str, Any] = {}
    for key, (value, _) in _children(node).items():
        plain = is_plain(value) and "." not in key
        out |= {f"{prefix}{key}": value} if plain else settable(value, f"{prefix}{key}.")
    return out


def describe(node: Any, path: str = "") -> Any:
    """Complete JSON-ready description: every argument of every function, library defaults included.

    Raises:
      ValueError: something in it has no description; `path`, where `node` is, says what.
    """
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if isinstance(node, tuple | list):
        names = _item_keys([_children(item).get("name", (None,))[0] for item in node])
        return [describe(item, f"{path}.{name}") for name, item in zip(names, node, strict=True)]
    if isinstance(node, dict):
        return {str(k): describe(v, f"{path}.{k}") for k, v in node.items()}
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {f.name: describe(getattr(node, f.name), f"{path}.{f.name}") for f in dataclasses.fields(node)}
    where = path.lstrip(".") or "the experiment"
    function, _ = _unwrap(node)
    if function is None:
        raise ValueError(
            f"{where}: cannot describe {node!r:.100}; use plain values and partials of module-level functions"
        )
    name = getattr(function, "__qualname__", type(function).__name__)
    if "<" in name:
        raise ValueError(
            f"{where}: cannot describe {name}; only module-level functions may appear in an experiment, so "
            "write it as one of the file (with partial for its arguments)"
        )
    arguments = {key: describe(value, f"{path}.{key}") for key, (value, _) in _children(node).items()}
    return {"function": name_of(function), **arguments}


def functions(node: Any) -> list[Callable[..., Any]]:
    """Every function of a tree that `describe` describes."""
    function, _ = _unwrap(node)
    inner = node if isinstance(node, list) else [value for value, _ in _children(node).values()]
    return [*([] if function is None else [function]), *(f for value in inner for f in functions(value))]


def arguments(node: Any, name: str) -> list[Any]:
    """Values of all arguments of this name in a tree that `describe` describes, defaults included."""
    inner: dict[Any, Any] = (
        dict(enumerate(node)) if isinstance(node, list) else {k: v for k, (v, _) in _children(node).items()}
    )
    own = [inner[name]] if name in inner else []
    return [*own, *(found for value in inner.values() for found in arguments(value, name))]


def leaves(description: Any, prefix: str = "") -> dict[str, Any]:
    """Flat `dotted.path -> value` view of a description, for diffs and tables."""
    if isinstance(description, dict):
        items = description.items()
    elif isinstance(description, list) and any(isinstance(i, dict | list) for i in description):
        names = [item.get("name") if isinstance(item, dict) else None for item in description]
        items = zip(_item_keys(names), description, strict=True)
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
