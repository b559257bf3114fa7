"""Whether only shapes are asked for: a program is planned for a machine that is not here.

Whoever would then read or draw weights, or values on the host, gives shapes in their place.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

__all__ = ["are_enough", "only"]

_enough: ContextVar[bool] = ContextVar("shapes_are_enough", default=False)


@contextlib.contextmanager
def only() -> Iterator[None]:
    """Within it models are `jax.ShapeDtypeStruct`s, and what the host would compute is zeros."""
    token = _enough.set(True)
    try:
        yield
    finally:
        _enough.reset(token)


def are_enough() -> bool:
    """Whether this runs within `only`."""
    return _enough.get()
