"""64-bit types in a test, on every supported jax (it moved out of `jax.experimental`)."""

import importlib

import jax

__all__ = ["enable_x64"]


def enable_x64(enabled: bool = True):
    """Context manager that turns on 64-bit types; jax moved it out of `jax.experimental`."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(enabled)
    return importlib.import_module("jax.experimental").enable_x64(enabled)
