"""Every public function of these rooms says what it returns and shows an example that runs."""

import ast
import doctest
import importlib
import inspect
import logging
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpref

ROOT = Path(jaxpref.__file__).parent
ROOMS = ("losses", "kernels", "planning", "judges", "selection")
FILES = sorted(f for room in ROOMS for f in (ROOT / room).rglob("*.py") if f.name != "__init__.py")
NUMBER = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?")


def module_of(file: Path) -> str:
    return "jaxpref." + ".".join(file.relative_to(ROOT).with_suffix("").parts)


def public_functions(file: Path) -> list[str]:
    """Functions of the file that its `__all__` names."""
    tree = ast.parse(file.read_text())
    lists = [
        n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"
    ]
    names = {name for value in lists for name in ast.literal_eval(value)}
    return [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in names]


class Numbers(doctest.OutputChecker):
    """Numbers agree to the digits that are written; white space does not count."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        if super().check_output(want, got, optionflags):
            return True
        texts = [
            re.sub(r"\s+", "", NUMBER.sub("#", re.sub(r"(?<=[\[(,])\s+", "", text))) for text in (want, got)
        ]
        wanted, given = NUMBER.findall(want), NUMBER.findall(got)
        if texts[0] != texts[1] or len(wanted) != len(given):
            return False
        return all(abs(float(w) - float(g)) <= unit(w) for w, g in zip(wanted, given, strict=True))


def unit(number: str) -> float:
    """Half of the last digit that is written; next to nothing for whole numbers, such as numpy's `4.`."""
    mantissa, _, exponent = number.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    return 0.501 * 10.0 ** (int(exponent or 0) - decimals) if decimals else 1e-4


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_functions_say_what_they_return_and_show_it(file):
    module = importlib.import_module(module_of(file))
    for name in public_functions(file):
        text = inspect.getdoc(getattr(module, name)) or ""
        where = f"{module.__name__}.{name}"
        assert "Returns:" in text, (
            f"{where}: its docstring does not say what it returns. Add a part 'Returns:' with shape, unit "
            "and range, such as '[b] nats, 0 or more'"
        )
        assert ">>>" in text, (
            f"{where}: its docstring shows no example. Add a part 'Example:' of about three lines, '>>> "
            f"print(...)' and what it prints; jnp, np, jax, partial and {', '.join(ROOMS)} need no import"
        )


def _examples(files):
    """Those of one module in three always, the others with -m exhaustive."""
    rest = pytest.mark.exhaustive
    return [pytest.param(f, marks=rest if i % 3 else (), id=module_of(f)) for i, f in enumerate(files)]


@pytest.mark.parametrize("file", _examples(FILES))
def test_examples_run(file, monkeypatch):
    # A run in this process may have left a handler that prints.
    monkeypatch.setattr(logging.getLogger("jaxpref"), "handlers", [])
    module = importlib.import_module(module_of(file))
    known = {"jax": jax, "jnp": jnp, "np": np, "partial": partial}
    known |= {room: importlib.import_module(f"jaxpref.{room}") for room in ROOMS}
    runner = doctest.DocTestRunner(Numbers(), optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=known):
        wrong: list[str] = []
        runner.run(test, out=wrong.append, clear_globs=False)
        assert not wrong, f"{test.name}: its example prints something else\n" + "".join(wrong)


def test_numbers_agree_to_the_digits_written():
    same = partial(Numbers().check_output, optionflags=0)
    assert same("[0.693 1.0]\n", "[0.6931472 1.       ]\n")
    assert not same("[0.693]\n", "[0.6939]\n")
    assert not same("[4.]\n", "[4.01]\n")
    assert not same("[1 2]\n", "[1 2 3]\n")
    assert not same("(2,)\n", "[2,]\n")
