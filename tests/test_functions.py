"""What the code of one's own functions is told by: all that changes what they return, and nothing else."""

import functools
import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxpref import losses
from jaxpref.functions import code_of, name_of

BEFORE = '''
"""A module."""

import functools
import math

import numpy as np

SCALE = 2.0
START = 3.0
WEIGHTS = np.array([1.0, 2.0])
NAMES = {"one", "two", "three", "four"}
UNUSED = 1.0


class Curve:
    """A curve."""

    def at(self, x):
        return helper(x)


def helper(x):
    return x * SCALE


def plain(x, *, beta=0.1):
    """Says what it does."""
    return helper(x) * beta + math.pi


def with_class(x):
    return Curve().at(x)


half = functools.partial(plain, beta=0.5)


def with_partial(x):
    return half(x)


def shifted(x, by=START):
    return x + by


def weighed(x):
    return x * WEIGHTS


def named(x):
    return x in NAMES


class Steeper(Curve):
    def steep(self, x):
        return 2 * self.at(x)


def inherited(x):
    return Steeper().at(x)


@functools.lru_cache
def kept(x):
    return [helper(y) for y in x]


def made(power):
    return lambda x: x**power
'''


@pytest.fixture
def digests(tmp_path, monkeypatch):
    """`(change, name) -> code_of(that function)` of the module above with one text replaced by another."""
    count = iter(range(100))

    def of(old: str, new: str, name: str) -> dict[str, str]:
        assert old in BEFORE
        path = tmp_path / str(next(count)) / "own_functions.py"
        path.parent.mkdir()
        path.write_text(BEFORE.replace(old, new))
        spec = importlib.util.spec_from_file_location("own_functions", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "own_functions", module)
        spec.loader.exec_module(module)
        return code_of(getattr(module, name))

    return of


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("plain", "* beta + math.pi", "* beta - math.pi", "plain"),
        ("plain", "x * SCALE", "x + SCALE", "helper"),
        ("plain", "SCALE = 2.0", "SCALE = 3.0", "SCALE"),
        ("with_class", "SCALE = 2.0", "SCALE = 3.0", "SCALE"),
        ("with_class", "return helper(x)\n\n\ndef helper", "return -helper(x)\n\n\ndef helper", "Curve"),
        ("with_partial", "* beta + math.pi", "* beta - math.pi", "plain"),
        ("shifted", "START = 3.0", "START = 4.0", "shifted(by)"),
        ("weighed", "[1.0, 2.0]", "[1.0, 2.5]", "WEIGHTS"),
        ("named", '"two", "three"', '"three"', "NAMES"),
        ("inherited", "x * SCALE", "x + SCALE", "helper"),
        ("kept", "helper(y) for", "-helper(y) for", "kept"),
        ("kept", "x * SCALE", "x + SCALE", "helper"),
        ("made", "x**power", "x * power", "made"),
    ],
)
def test_what_changes_a_result_is_named(digests, name, old, new, said):
    before, after = digests(old, old, name), digests(old, new, name)
    assert before.keys() == after.keys()
    assert [key for key in before if before[key] != after[key]] == [f"own_functions.{said}"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Says what it does."""', '"""Says it in other words."""'),
        ("return x * SCALE", "# a comment\n    return (x\n            * SCALE)"),
        ("UNUSED = 1.0", "UNUSED = 7.0"),
        ('"""A module."""', "\n\n\n"),
    ],
)
def test_what_changes_no_result_does_not_count(digests, old, new):
    assert digests(old, old, "plain") == digests(old, new, "plain") != {}


def test_values_of_the_function_around_count():
    def made(power):
        return lambda x: x**power

    assert code_of(made(2)) == code_of(made(2)) != code_of(made(3))


def test_the_code_is_the_same_in_every_process(tmp_path):
    """Sets of texts have another order in each."""
    (tmp_path / "own_functions.py").write_text(BEFORE)
    script = (
        "import own_functions; from jaxpref.functions import code_of; print(code_of(own_functions.named))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1
    assert "own_functions.NAMES" in said.pop()


def test_functions_of_packages_do_not_count():
    assert code_of(losses.dpo, np.mean, functools.partial(losses.dpo), len, functools.reduce) == {}
    held = [code_of(functools.partial(losses.dpo, beta=beta)) for beta in (1.0, 1.0, 2.0)]
    assert held[0] == held[1] != held[2]
    assert held[0].keys() == {"jaxpref.losses.pairwise.dpo(beta)"}
    assert name_of(losses.dpo) == "jaxpref.losses.pairwise.dpo"
