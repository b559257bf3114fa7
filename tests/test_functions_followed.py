"""Where a function may find what it uses: each such place is followed, and what changed there is named."""

import importlib
import pathlib
import sys

import pytest
from launch import TINY

from jaxpref.config import load
from jaxpref.functions import code_of, name_of

FILES = {
    "own_package/__init__.py": "",
    "own_package/sub.py": """
LEVEL = 1.0


def g(x):
    return x * LEVEL


def taken(x):
    return x + 1
""",
    "own_package/late.py": """
def called(x):
    return x - 1
""",
    "own_places.py": """
import dataclasses
import enum
import functools

import numpy as np

import own_package.sub
from own_package import sub as other_name

RATE = 0.5


def g(x, scale=1.0):
    return x * scale


def first(x):
    return x + 10


def second(x):
    return x + 20


h = functools.partial(g, scale=1.5)
TABLE = {"one": first, "two": second}
STEPS = [first, (second, 3)]
alias = first


@dataclasses.dataclass(frozen=True)
class Settings:
    rate: float
    curve: object = None

    def at(self, x):
        return self.rate * x


class Plain:
    def __init__(self, power):
        self.power = power

    def __call__(self, x):
        return x**self.power


class Mode(enum.Enum):
    FAST = 1
    SLOW = 2


settings = Settings(rate=2.5, curve=Plain(3))
plain = Plain(7)
mode = Mode.FAST


def around(function):
    @functools.wraps(function)
    def wrapper(x):
        return function(x) + RATE

    return wrapper


class Makers:
    @classmethod
    def of_class(cls, x):
        return first(x)

    @staticmethod
    def of_none(x):
        return second(x)

    @functools.cached_property
    def kept(self):
        return g(1)


def with_partial(x):
    return h(x)


def with_dict(x):
    return TABLE["one"](x)


def with_list(x):
    return STEPS[0](x)


def with_alias(x):
    return alias(x)


def with_module(x):
    return own_package.sub.g(x)


def with_other_name(x):
    return other_name.g(x)


def with_import(x):
    from own_package.sub import taken

    return taken(x)


def with_late_module(x):
    import own_package.late as late

    return late.called(x)


def with_dataclass(x):
    return settings.at(x)


def with_object(x):
    return plain(x)


def with_enum(x):
    return mode


def with_makers(x):
    return Makers.of_class(x)


@around
def decorated(x):
    return x
""",
}


@pytest.fixture
def codes(tmp_path, monkeypatch):
    """`(name, file, old, new) -> code_of(function)` of the files above with one text replaced by another."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    count = iter(range(9))

    def of(name: str, file: str, old: str, new: str) -> dict[str, str]:
        root = tmp_path / str(next(count))
        for path, text in FILES.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            assert path != file or old in text
            (root / path).write_text(text.replace(old, new) if path == file else text)
        for known in [m for m in sys.modules if m.startswith("own_p")]:
            del sys.modules[known]
        with monkeypatch.context() as patch:
            patch.syspath_prepend(root)
            importlib.invalidate_caches()
            return code_of(getattr(importlib.import_module("own_places"), name))

    yield of
    for known in [m for m in sys.modules if m.startswith("own_p")]:
        del sys.modules[known]


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("with_partial", "scale=1.5", "scale=2.5", "own_places.h(scale)"),
        ("with_partial", "partial(g, scale=1.5)", "partial(first, scale=1.5)", "own_places.h"),
        ("with_dict", "x + 10", "x + 11", "own_places.first"),
        ("with_dict", '"one": first, "two": second', '"one": second, "two": first', "own_places.TABLE[one]"),
        ("with_list", "x + 20", "x + 21", "own_places.second"),
        ("with_list", "(second, 3)", "(second, 4)", "own_places.STEPS[1][1]"),
        ("with_alias", "alias = first", "alias = second", "own_places.alias"),
        ("with_dataclass", "rate=2.5", "rate=3.5", "own_places.settings.rate"),
        ("with_dataclass", "self.rate * x", "self.rate + x", "own_places.Settings"),
        ("with_dataclass", "Plain(3)", "Plain(4)", "own_places.settings.curve.power"),
        ("with_object", "Plain(7)", "Plain(8)", "own_places.plain.power"),
        ("with_object", "x**self.power", "x * self.power", "own_places.Plain"),
        ("with_enum", "Mode.FAST", "Mode.SLOW", "own_places.mode"),
        ("with_makers", "x + 10", "x + 11", "own_places.first"),
        ("with_makers", "x + 20", "x + 21", "own_places.second"),
        ("with_makers", "x * scale", "x + scale", "own_places.g"),
        ("decorated", "function(x) + RATE", "function(x) - RATE", "own_places.decorated"),
        ("decorated", "RATE = 0.5", "RATE = 0.6", "own_places.RATE"),
    ],
)
def test_what_is_found_in_the_module_is_followed(codes, name, old, new, said):
    before, after = (codes(name, "own_places.py", old, text) for text in (old, new))
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert said in changed
    assert any(before[key] != after.get(key, before[key]) for key in before), "a run that resumes sees it"


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "said"),
    [
        ("with_module", "sub", "x * LEVEL", "x + LEVEL", "own_package.sub.g"),
        ("with_module", "sub", "LEVEL = 1.0", "LEVEL = 2.0", "own_package.sub.LEVEL"),
        ("with_other_name", "sub", "x * LEVEL", "x + LEVEL", "own_package.sub.g"),
        ("with_import", "sub", "x + 1", "x + 2", "own_package.sub.taken"),
        ("with_late_module", "late", "x - 1", "x - 2", "own_package.late.called"),
    ],
)
def test_what_is_found_in_other_modules_is_followed(codes, name, file, old, new, said):
    before, after = (codes(name, f"own_package/{file}.py", old, text) for text in (old, new))
    assert before.keys() == after.keys()
    assert [key for key in before if before[key] != after[key]] == [said]


def test_what_is_not_used_does_not_count(codes):
    before = codes("with_import", "own_package/sub.py", "x * LEVEL", "x * LEVEL")
    assert before == codes("with_import", "own_package/sub.py", "x * LEVEL", "x")


EXPERIMENT = """
import tiny


def mine(x):
    return x


def experiment():
    return tiny.experiment()
"""


@pytest.mark.parametrize(
    ("place", "name"),
    [("a/own.py", "own"), ("b/c/own.py", "own"), ("experiments/own.py", "own"),
     ("x/experiments/ablations/own.py", "ablations_own"), ("my_experiments_of/own.py", "own")],
)  # fmt: skip
def test_an_experiment_file_has_one_name_wherever_it_lies(tmp_path, monkeypatch, place, name):
    monkeypatch.syspath_prepend(pathlib.Path(TINY).parent)
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(EXPERIMENT)
    load(str(path))
    module = next(m for m in sys.modules.values() if getattr(m, "__file__", None) == str(path))
    assert name_of(module.mine) == f"experiments.{name}.mine"
    assert list(code_of(module.mine)) == [f"experiments.{name}.mine"]
