"""64-bit types in a test."""

import contextlib
from collections.abc import Iterator

import jax

__all__ = ["enable_x64"]


@contextlib.contextmanager
def enable_x64(enabled: bool = True) -> Iterator[None]:
    """Turns on 64-bit types in every thread: `jax.enable_x64` does so in its own, and a `pure_callback` of a
    compiled function that runs in another one sees float32."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", enabled)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)
