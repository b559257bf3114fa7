"""Jinja templates of strangers, rendered in a sandbox that counts what they do.

A template reads what it is given and writes text. It can neither reach into Python nor change anything, and
its work is counted: a step for each turn of a loop and each call, a character for each that it makes. One
that does more than any chat can need is stopped, after the same step on every machine.
"""

import functools
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxpref.data.text.templates.counting import Counted, Guard

__all__ = ["Refused", "Sandbox"]

WORK = 1_000_000  # steps and characters of one text, beside 100 for each character of its input
SECONDS = 20.0  # after which one text is given up whatever was counted, should a step be slow
_WIDEST = 1_000  # number that a filter may be called with where it is a width or a precision
_METHODS = frozenset(
    re.findall(
        r"\w+",
        "capitalize casefold count endswith find index isalnum isalpha isdecimal isdigit islower isnumeric "
        "isspace istitle isupper lower lstrip partition removeprefix removesuffix rfind rindex rpartition "
        "rsplit rstrip split splitlines startswith strip swapcase title upper",
    )
)
# What draws at random, or makes a text of any length out of a number.
_NO_FILTERS = ("attr", "batch", "center", "filesizeformat", "format", "pprint", "random", "slice", "urlize")
_NO_FILTERS += ("wordwrap", "xmlattr")
_WIDTHS = ("indent", "round", "tojson", "truncate")
_FORMATS = re.compile(r"%[^a-zA-Z%]")


class Refused(jinja2.TemplateError):
    """What a template says by `raise_exception`."""


class _TooMuch(jinja2.TemplateError):
    pass


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of chat templates, as transformers 5.24 sets it up.

    Differs from that in what it counts, and in that filters and methods are not there which draw at random or
    make a text of any length out of a number (`random`, `center`, `format`, ...).
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **functions: Callable[..., Any]):
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Guard, "jinja2.ext.loopcontrols"],
            finalize=jinja2.pass_context(lambda _, value: self.weighed(value)),
            optimized=False,  # no expression is computed while the template is compiled
        )
        self._left, self._until = 0, 0.0
        self._sizes: dict[int, int] = {}  # of the input, by the id of each of its parts
        self.globals = {
            name: self.globals[name] for name in ("range", "dict", "namespace", "joiner", "cycler")
        }
        self.globals.update(functions)
        kept = {name: given for name, given in self.filters.items() if name not in _NO_FILTERS}
        kept |= {"tojson": _tojson, "join": self._join, "replace": self._replace, "sum": _sum}
        self.filters = {name: self._counted(name, function) for name, function in kept.items()}

    def read(self, source: str) -> jinja2.Template:
        """The template of a text. Raises jinja2.TemplateSyntaxError."""
        guard: Any = self.extensions[Guard.identifier]
        tree = Counted(guard).visit(self.parse(source))
        return jinja2.Template.from_code(self, self.compile(tree), self.make_globals(None))

    def render(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        """The text. More may be made where `variables` are longer."""
        self._sizes = {}
        self._left, self._until = sys.maxsize, math.inf
        size = sum(self._measured(value) for value in variables.values())
        self._left, self._until = WORK + 100 * size, time.monotonic() + SECONDS
        return template.render(variables)

    def charge(self, amount: int) -> None:
        """Counts work. Raises where it was too much."""
        self._left -= amount
        if self._left < 0 or time.monotonic() > self._until:
            raise _TooMuch("it does more work than any chat needs: a loop or a text without end")

    def weighed(self, value: Any) -> Any:
        """A value that was made: all of it counts, as often as it stands there."""
        self.charge(len(value) + 1 if type(value) is str else self._size(value, self._left))
        return value

    def _size(self, value: Any, most: int) -> int:
        """Characters and parts of a value, or more than `most`."""
        if isinstance(value, str):
            return len(value) + 1
        if not isinstance(value, dict | list | tuple):
            if isinstance(value, int) and value.bit_length() > 4096:
                raise _TooMuch("it computes with numbers of thousands of digits")
            return 1
        total = self._sizes.get(id(value), 0)
        if not total:
            for part in value.values() if isinstance(value, dict) else value:
                total += self._size(part, most - total)
                if total > most:
                    break
        return total + 1

    def _measured(self, value: Any) -> int:
        """The size of a part of the input, which is remembered as long as the input is there."""
        size = self._size(value, self._left)
        if isinstance(value, dict | list):
            for part in value.values() if isinstance(value, dict) else value:
                self._measured(part)
            self._sizes[id(value)] = size
        return size

    def joined(self, between: str, parts: Iterable[Any]) -> str:
        texts = [str(self.weighed(part)) for part in parts]
        self.charge(len(between) * len(texts) + sum(map(len, texts)))
        return between.join(texts)

    def call(self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        return self.weighed(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*" and isinstance(left, str | list | tuple) | isinstance(right, str | list | tuple):
            some, times = (right, left) if isinstance(left, int) else (left, right)
            self.charge(len(some) * max(times, 0))
        elif operator == "**" and max(abs(left), abs(right)) > _WIDEST:
            raise _TooMuch("it computes with numbers of thousands of digits")
        elif operator == "%" and isinstance(left, str) and _FORMATS.search(left):
            raise _TooMuch("it formats text with a width, which is not rendered here")
        return self.weighed(super().call_binop(context, operator, left, right))

    def getattr(self, obj: Any, attribute: str) -> Any:
        given = self._method(obj, attribute) if attribute in ("join", "replace") else None
        return given or super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        given = self._method(obj, argument) if argument in ("join", "replace") else None
        return given or super().getitem(obj, argument)

    def _method(self, obj: Any, name: str) -> Callable[..., Any] | None:
        """The methods of texts that could make one of any length."""
        if not isinstance(obj, str):
            return None
        if name == "join":
            return lambda parts: self.joined(obj, parts)
        return lambda old, new, count=-1: self._replace(obj, old, new, count)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str | int | float) and attr not in _METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """`format` is not among the methods, so that nothing has to be done about it."""

    def _join(self, value: Any, d: str = "", attribute: Any = None) -> str:
        if attribute is not None:
            value = (self.getitem(part, attribute) for part in value)
        return self.joined(str(d), value)

    def _replace(self, text: Any, old: Any, new: Any, count: int | None = None) -> str:
        text, old, new = str(text), str(old), str(new)
        found = text.count(old) if count is None or count < 0 else min(count, text.count(old))
        self.charge(len(text) + found * len(new))
        return text.replace(old, new, found)

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        first = 2 if hasattr(function, "jinja_pass_arg") else 1

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            numbers = [n for n in (*args[first:], *kwargs.values()) if isinstance(n, int)]
            if name in _WIDTHS and any(abs(n) > _WIDEST for n in numbers):
                raise _TooMuch(f"it calls the filter {name} with a number beyond {_WIDEST:,}")
            self.weighed(args[first - 1])
            return self.weighed(function(*args, **kwargs))

        return counted


def _tojson(
    x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """As transformers has it: nothing is escaped for HTML."""
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _sum(iterable: Iterable[Any], attribute: Any = None, start: float = 0) -> float:
    """Of numbers alone."""
    values = iterable if attribute is None else [part[attribute] for part in iterable]
    return sum(value for value in values if isinstance(value, int | float)) + start
