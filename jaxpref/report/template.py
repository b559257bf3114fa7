"""HTML is made by the templates of this folder, and by nothing else.

A template escapes all text that it shows, that of users and our own alike. `Markup` alone is not escaped:
the output of another template, the drawings of `figures`, and the page's style and script.
"""

import functools
from typing import Any

import jinja2
from markupsafe import Markup

from jaxpref.report import figures
from jaxpref.report.markup import clean, interval, seconds, signed, value

__all__ = ["environment", "render"]


def _shown(content: Any) -> Any:
    """What takes the place of a value in a template, before it is escaped."""
    if isinstance(content, Markup | jinja2.Undefined):  # the latter fails by itself, and says its name
        return content
    if not isinstance(content, str | int | float):
        raise TypeError(f"a template shows text and numbers, not {content!r}")
    return clean(content)


@functools.cache
def environment() -> jinja2.Environment:
    """Escapes everything, and fails on a name that it was not given."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxpref.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(color=figures.color, interval=interval, seconds=seconds, signed=signed, value=value)
    return made


def render(template: str, **values: Any) -> Markup:
    """`templates/<template>.html` with these values, without white space around it."""
    return Markup(environment().get_template(f"{template}.html").render(values).strip())
