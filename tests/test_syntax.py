"""The text of a syntax tree: the same in every version of Python, another one for other code."""

import ast
import hashlib
import importlib.util
import sys

import pytest

from jaxpref.syntax import normalised, of_class, of_function

SOURCE = '''
import os.path as where
from math import pi, sqrt as root


@where.curdir.join
async def waits(a, /, b: int = 3, *rest, key: str | None = "é\\u2028", **more) -> list[int]:
    """A docstring that does not count."""
    async with a as c, b:
        await c
    async for x in rest:
        yield x
    total = 0.1 + 1e300j - 10**40
    return


class Shape(dict, metaclass=type):
    """Another one."""

    sides: int = 4
    label = f"a" "b" f"{pi!r:>{10}}" 'c' f"{root(2):.3f}{{}}"
    again = f"{pi=}" + rb"\\x".decode() if pi > 3 <= 4 is not None else ...

    def area(self, *, scale=lambda v=(1, [2], {3: 4}, {5}): v if v else not v):
        try:
            del self[1:2, ...]
        except* (KeyError, ValueError) as error:
            raise RuntimeError from error
        else:
            assert scale, "no"
        finally:
            global pi
        while (n := len(self)) > 0:
            n -= 1
            if n == 2: continue
            else: break
        match n:
            case [1, *rest] | {"k": 2, **rest} if rest: pass
            case Shape(sides=4) as s: return s
            case _: return {**self, "x": [y async for y in n if y for z in y]}
        return (yield from [*self]) and self @ self
'''

# Checked by hand on Python 3.11, 3.12, 3.13.
GOLDEN = "cd91d435aca814046a7d0b97e1663ff0b0f97722b38cfbc49f4e921c547dbf84"


def test_the_text_is_the_same_in_every_version():
    tree = ast.parse(SOURCE)
    assert hashlib.sha256(normalised(tree).encode("ascii")).hexdigest() == GOLDEN


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("A docstring that does not count.", "In other words."),
        ("n -= 1\n", "n -= 1  # less\n\n"),
        ('f"a" "b" f"{pi', 'f"ab{pi'),
        ("(1, [2], {3: 4}, {5})", "(1, [2],\n {3: 4}, {5},)"),
    ],
)
def test_layout_does_not_count(old, new):
    assert old in SOURCE
    assert normalised(ast.parse(SOURCE)) == normalised(ast.parse(SOURCE.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new"),
    [("n -= 1", "n += 1"), ("0.1", "0.2"), ("/, b", "b"), (":.3f", ":.4f"), ("!r", "!s"), ("=4)", "='4')"),
     ("await c", "c"), ("{{}}", "{{ }}"), ("as root", "as other"), ('"no"', 'b"no"')],
)  # fmt: skip
def test_other_code_has_another_text(old, new):
    assert old in SOURCE
    assert normalised(ast.parse(SOURCE)) != normalised(ast.parse(SOURCE.replace(old, new)))


LAMBDAS = """
one, two = lambda x: x + 1, lambda x: x + 2
many = dict(
    a=lambda x: x - 1,
    b=lambda x: x - 2,
)


class Outer:
    class Inner:
        y = 1


class Inner:
    y = 2
"""


def test_functions_and_classes_are_found_in_their_file(tmp_path, monkeypatch):
    path = tmp_path / "own_lambdas.py"
    path.write_text(LAMBDAS)
    spec = importlib.util.spec_from_file_location("own_lambdas", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "own_lambdas", module)
    spec.loader.exec_module(module)
    a, b = of_function(module.many["a"]), of_function(module.many["b"])
    assert "Sub" in a
    assert "Sub" in b
    assert a != b
    assert (
        of_function(module.one)
        == of_function(module.two)
        == " ".join(normalised(ast.parse(f"lambda x: x + {n}", mode="eval").body) for n in (1, 2))
    )
    assert "int:1" in of_class(module.Outer.Inner)
    assert "int:2" not in of_class(module.Outer.Inner)
    assert "int:2" in of_class(module.Inner)
    assert "int:1" not in of_class(module.Inner), "a class of this name inside of another is another"
    assert of_function(eval("lambda x: x")) is None
